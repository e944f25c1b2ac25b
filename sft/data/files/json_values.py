"""JSON: an object a line, or objects over several lines, one after another or in an array."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import IO, Any

from sft.data.json_text import DECODER, LONG_INTEGER, UnusableJSON
from sft.errors import BadInput

Rows = Iterator[tuple[int, Any]]
"""Rows with their numbers; a `BadInput` in place of one that cannot be read."""

BLOCK = 1 << 20
"""Bytes that are read at once of JSON that is not one object a line."""

NULS = "holds NUL bytes: the file is damaged, or was not written to its end"

NEAR = 24
"""Characters before the end of what is read, within which an error may come from the cut."""


def lines(stream: IO[bytes], where: Callable[[int], str]) -> Rows:
    """One JSON value a line; lines that are blank are skipped. `where` names a line."""
    for number, line in enumerate(stream, start=1):
        if not line.isspace():
            yield number, _parsed(line, number, where)


def _parsed(line: bytes, number: int, where: Callable[[int], str]) -> Any:
    if b"\0" in line:
        return BadInput(f"{where(number)}: {NULS}")
    try:
        value = DECODER.decode(line.rstrip(b"\r\n").decode("utf-8"))
        escaped = b"\\ud" in line or b"\\uD" in line
        return _whole(value, where(number)) if escaped else value
    except UnicodeDecodeError as error:
        return BadInput(f"{where(number)}: not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return BadInput(f"{where(number)}: not JSON: {_reason(error)} at column {error.colno}")
    except RecursionError:
        return BadInput(f"{where(number)}: not a conversation: nested too deeply")
    except UnusableJSON as error:
        return BadInput(f"{where(number)}: {error}")
    except ValueError:
        return BadInput(f"{where(number)}: {LONG_INTEGER}")


def _whole(value: Any, where: str) -> Any:
    """`value`, or what is wrong with it: an escape may be half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return BadInput(f"{where}: holds half of a surrogate pair, which is not text")
    return value


def _reason(error: json.JSONDecodeError) -> str:
    return error.msg.removesuffix(" at")


def values(stream: IO[bytes], path: Any, *, array: bool) -> Rows:
    """The items of a JSON array, or values one after another, numbered from 1.

    Little more than one value is in memory at once. Raises `BadInput` that names the line: behind
    what is no JSON no further value can be found.
    """
    text = _Text(stream, path, "array" if array else "object")
    number = 0
    if array:
        text.skip("[")
    while True:
        if array and number and text.peek() == ",":
            text.skip(",")
        elif array and number and text.peek() not in ("]", ""):
            raise text.error("Expecting ',' delimiter", 0)
        if text.peek() == "" and not array:
            return
        if text.peek() == "]" and array:
            break
        number += 1
        found = text.value()
        if isinstance(found, UnusableJSON):
            found = BadInput(f"{path} item {number}: {found}")
        yield number, found
    text.skip("]")
    if text.peek():
        raise text.error("Extra data", 0)


class _Text:
    """The text of a stream from the next value on."""

    def __init__(self, stream: IO[bytes], path: Any, whole: str):
        self._stream, self._path = stream, path
        self._whole = whole  # what the file may end within, for messages
        self._text, self._start, self._size = "", 0, BLOCK
        self._line, self._column = 1, 0  # in front of the text
        self._ended = False
        self._characters = codecs.getincrementaldecoder("utf-8")()

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            for index in range(self._start, len(self._text)):
                if self._text[index] not in " \t\r\n":
                    self._start = index
                    return self._text[index]
            self._start = len(self._text)
            if not self._more():
                return ""

    def skip(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"Expecting '{character}'", 0)
        self._start += 1

    def value(self) -> Any:
        """The next value, or the `UnusableJSON` that says what is wrong with it."""
        self._size = BLOCK
        self.peek()
        decoder: json.JSONDecoder = DECODER
        unusable: UnusableJSON | None = None
        while True:
            try:
                found, end = decoder.raw_decode(self._text, self._start)
            except json.JSONDecodeError as error:
                unterminated = error.msg.startswith("Unterminated")
                near = error.pos >= len(self._text) - NEAR
                if (near or unterminated) and self._more():
                    continue
                cut = unterminated or error.pos >= len(self._text.rstrip())
                within = f": the file ends within the {self._whole}, as if cut off" if cut else ""
                raise self.error(_reason(error), error.pos - self._start, within) from None
            except RecursionError:
                raise self.error("nested too deeply", 0) from None
            except UnusableJSON as error:
                unusable, decoder = error, json.JSONDecoder()  # which finds where it ends
                continue
            except ValueError:
                line = self._line + self._text.count("\n", 0, self._start)
                raise BadInput(f"{self._path} line {line}: {LONG_INTEGER}") from None
            if end == len(self._text) and self._more():  # 12 may go on as 123
                continue
            self._start = end
            return unusable or found

    def _more(self) -> bool:
        """Read on; twice as much each time that one value asks for it."""
        if self._ended:
            return False
        read = self._stream.read(self._size)
        self._size *= 2
        self._ended = not read
        try:
            more = self._characters.decode(read, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._line + self._text.count("\n") + read.count(b"\n", 0, error.start)
            raise BadInput(f"{self._path} line {line}: not UTF-8: {error.reason}") from None
        self._line += self._text.count("\n", 0, self._start)
        last = self._text.rfind("\n", 0, self._start)
        self._column = self._start - last - 1 if last >= 0 else self._column + self._start
        self._text, self._start = self._text[self._start :] + more, 0
        return not self._ended

    def error(self, reason: str, offset: int, more: str = "") -> BadInput:
        """What is wrong so many characters on, by its line and column."""
        at = self._start + offset
        line = self._line + self._text.count("\n", 0, at)
        last = self._text.rfind("\n", 0, at)
        column = at - last if last >= 0 else self._column + at + 1
        return BadInput(f"{self._path} line {line}: not JSON: {reason} at column {column}{more}")

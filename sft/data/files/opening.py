"""A file as bytes of UTF-8: unpacked, and without a byte order mark, whatever its name says."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sft.errors import BadInput

COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
"""By the bytes that a file begins with."""

ARCHIVES = {
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by their byte order marks; that of UTF-32 begins with that of UTF-16."""

HEAD = 1 << 16
"""Bytes of the beginning that are looked at to find out what a file is."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedReader, str | None]]:
    """The file's bytes, unpacked, and the name of its compression. Raises `BadInput`."""
    with as_it_is(path) as raw:
        head = raw.peek(8)
        for magic, what in ARCHIVES.items():
            if head.startswith(magic):
                raise BadInput(
                    f"dataset.path: {path} is {what}; unpack it, or save it as CSV or JSON lines"
                )
        compression = next(
            (name for magic, name in COMPRESSIONS.items() if head[: len(magic)] == magic), None
        )
        try:
            with _unpacked(raw, compression) as stream:
                yield stream, compression
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if compression is None:
                raise BadInput(f"dataset.path: {path} cannot be read: {error}") from None
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadInput(
                f"dataset.path: {path} is damaged or cut off: as {compression}: {reason}"
            ) from None


def as_it_is(path: Path) -> io.BufferedReader:
    """The file's bytes, packed or not. Raises `BadInput`."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise BadInput(f"dataset.path: there is no file {path}") from None
    except OSError as error:
        raise BadInput(f"dataset.path: {path} cannot be read: {error.strerror}") from None


@contextmanager
def _unpacked(raw: io.BufferedReader, compression: str | None) -> Iterator[io.BufferedReader]:
    if compression is None:
        yield raw
        return
    stream: Any
    if compression == "gzip":
        stream = gzip.GzipFile(fileobj=raw)
    elif compression == "zstd":
        import pyarrow

        # It tells a file that is cut off from one that ends; the package zstandard does not.
        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
    elif compression == "bzip2":
        stream = bz2.BZ2File(raw)
    else:
        stream = lzma.LZMAFile(raw)
    with io.BufferedReader(stream, HEAD) as buffered:
        yield buffered


def as_utf8(stream: io.BufferedReader, path: Path) -> tuple[IO[bytes], str | None]:
    """`stream` behind its byte order mark, as UTF-8, and the encoding if it was another.

    Lines that end with a carriage return alone end with a line feed.
    """
    recoded, encoding = _recoded(stream, path)
    head = recoded.peek(HEAD).rstrip(b"\r")  # behind the last one there may be a line feed
    if b"\r" in head and b"\n" not in head:
        return io.BufferedReader(_LineFeeds(recoded), HEAD), encoding
    return recoded, encoding


def _recoded(stream: io.BufferedReader, path: Path) -> tuple[io.BufferedReader, str | None]:
    head = stream.peek(4)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            if encoding == "utf-8":
                stream.read(len(mark))
                return stream, None
            return io.BufferedReader(_Recoded(stream, encoding, path), HEAD), encoding.upper()
    return stream, None


class _Recoded(io.RawIOBase):
    """Bytes of another encoding as UTF-8."""

    def __init__(self, stream: IO[bytes], encoding: str, path: Path):
        self._stream, self._encoding, self._path = stream, encoding, path
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            read = self._stream.read(HEAD)
            try:
                # Half of a surrogate pair is said later, with its line.
                text = self._decoder.decode(read, final=not read)
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"dataset.path: {self._path} is not {self._encoding.upper()}, as its byte "
                    f"order mark says: {error.reason}"
                ) from None
            self._left = text.encode("utf-8", "surrogatepass")
            if not read:
                break
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class _LineFeeds(io.RawIOBase):
    """Bytes with line feeds in place of carriage returns."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._stream.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(read)] = read
        return len(read)

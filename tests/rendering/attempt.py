"""One form of a conversation held against the sequences that a renderer made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.rendering.forms import Form, without_end
from tests.rendering.words import (
    double_encoded,
    lost,
    missing,
    normal,
    pieces,
    said_in,
    short,
    spellings,
    split,
)

if TYPE_CHECKING:
    from tests.rendering.oracle import Oracle

DEVIATIONS = {
    "next marker": "the end of the turn, which the template writes only with the next turn",
    "history": "an earlier turn is written otherwise once the answer follows it",
    "border": "a token would reach over the border of prompt and answer; the text is the same",
    "opened block": "the prompt opens a block of thought that the finished turn shows otherwise",
    "as text": "control tokens in the content are text",
}
QUESTION = {"role": "user", "content": "Hi."}
CLOSED = re.compile(r"</think>\s*\Z")
OPENED = re.compile(r"<think>\s*\Z")


@dataclass
class Verdict:
    """What is wrong with the sequences of a conversation, and how they deviate."""

    faults: list[str] = field(default_factory=list)
    deviations: set[str] = field(default_factory=set)


class Attempt:
    """One form of a conversation held against the sequences."""

    def __init__(self, oracle: Oracle, messages, tools, form: Form, sequences, stops):
        self.oracle, self.data, self.tools = oracle, messages, tools
        # A marker that data already end with is no word.
        self.messages = [without_end(message, form.cut) for message in messages]
        self.form, self.sequences, self.stops = form, sequences, stops
        self.verdict = Verdict()
        self.claimed = [[False] * len(s.tokens) for s in sequences]
        self.starts: dict[int, list[tuple[int, int]]] = {}  # answer: (sequence, start)

    def fault(self, words: str) -> None:
        self.verdict.faults.append(words)

    def check(self, wanted: list[int]) -> Verdict:
        for j in wanted:
            self.starts[j] = self.find(j)
        for j in wanted:
            self.check_answer(j)
        for number, sequence in enumerate(self.sequences):
            self.check_sequence(number, sequence)
        if self.form.hidden and not self.verdict.faults:
            self.verdict.deviations.add("as text")
        return self.verdict

    def restored(self, text: str | None) -> str | None:
        for word, marker in self.form.hidden.items():
            text = text and text.replace(word, marker)
        return text

    def prompt(self, j: int) -> str | None:
        return self.oracle.text(self.form.messages[:j], self.tools, prompt=True) if j else None

    def find(self, j: int) -> list[tuple[int, int]]:
        """Where the answer is trained: behind the tokens of its prompt."""
        written = self.prompt(j)
        found = []
        if written is not None and not self.form.hidden:
            tokens = self.oracle.encode(written)
            start = len(tokens)
            for number, sequence in enumerate(self.sequences):
                if sequence.tokens[:start] == tokens and any(sequence.trained[start : start + 1]):
                    found.append((number, start))
            return found
        text = self.restored(written)
        for number, sequence in enumerate(self.sequences):
            for start in run_starts(sequence.trained):
                before = self.oracle.decode(sequence.tokens[:start])
                if text is not None and before == normal(text):
                    found.append((number, start))
                elif text is None and self.begins_here(j, sequence, start, before):
                    found.append((number, start))
        return found

    def begins_here(self, j: int, sequence: Any, start: int, before: str) -> bool:
        """Without a prompt (nothing was said before): the words, and what is written before."""
        whole = self.restored(self.oracle.text(self.form.messages[: j + 1], self.tools))
        said = self.oracle.decode(sequence.tokens[start:])
        # Its words or, if the template writes those behind them, its calls.
        places = [said.find(normal(piece)) for piece in pieces(self.messages[j]) or [""]]
        behind = [part.strip() for m in self.messages[j:] for part in split(m)]
        return (
            whole is not None
            and normal(whole).startswith(before)
            and any(0 <= place < 40 for place in places)
            and not any(len(p) > 3 and normal(p) in before for p in behind)
        )

    def check_answer(self, j: int) -> None:
        found, where = self.starts[j], f"message {j + 1}"
        words = pieces(self.messages[j])
        if not found and not words:
            return  # an empty answer may be left out
        if len(found) != 1:
            ways = "behind the prompt that it is sampled behind"
            self.fault(f"{where} is trained {len(found)} times {ways}")
        for number, start in found:
            sequence = self.sequences[number]
            others = [
                s for k, at in self.starts.items() for n, s in at if n == number and s > start
            ]
            end = start
            while end < len(sequence.trained) and sequence.trained[end] and end not in others:
                end += 1
            self.claimed[number][start:end] = [True] * (end - start)
            before = self.oracle.decode(sequence.tokens[max(0, start - 8) : start])
            self.check_span(j, sequence.tokens[start:end], before)
            if self.form.hidden:
                self.check_control(j, sequence.tokens[:start], sequence.tokens[start:end])

    def check_span(self, j: int, tokens: list[int], before: str) -> None:
        where, message = f"message {j + 1}", self.messages[j]
        text = self.oracle.decode(tokens)
        for piece in missing(message, text):
            self.fault(f"{where}: {short(piece)} is not trained in {short(text)}")
        if double_encoded(message, text):
            self.fault(f"{where}: arguments are encoded twice in {short(text)}")
        rest = text
        for piece in sorted(pieces(message), key=len, reverse=True):
            for spelled in spellings(piece):
                rest = rest.replace(spelled, " ")
        rest = self.oracle.markers.sub(" ", rest)
        foreign = set(re.findall(r"\w+", rest)) - self.oracle.structure
        known = {call.get("id") for call in message.get("tool_calls") or []}
        names = {call["function"]["name"] for call in message.get("tool_calls") or []}
        if message.get("tool_calls"):
            foreign = {w for w in foreign - known - names if len(w) > 3}
            foreign &= {w for m in self.messages if m is not message for p in pieces(m)
                        for w in re.findall(r"\w+", p)}  # fmt: skip
        if foreign:
            self.fault(f"{where}: trains {sorted(foreign)}, which are not its words: {short(text)}")
        self.check_end(j, tokens, text)
        if OPENED.search(before) and "</think>" not in text:
            self.fault(f"{where}: goes on within the <think> that its prompt opens: {short(text)}")
        again = text.lstrip().startswith("<think>") and not words_begin_so(message)
        if again and before.rstrip().endswith(("<think>", "</think>")):
            self.fault(f"{where}: opens <think> once more than its prompt does: {short(text)}")

    def check_control(self, j: int, before: list[int], tokens: list[int]) -> None:
        """That control tokens are the template's own: those in the words are text."""
        oracle = self.oracle
        prompt = self.prompt(j)
        due = before if prompt is None else oracle.encode(prompt)
        rest = oracle.decode(tokens)
        for piece in sorted(pieces(self.messages[j]), key=len, reverse=True):
            rest = rest.replace(normal(piece), " ")
        due = [*due, *oracle.encode(rest)]
        ids = {oracle.added[token] for token in oracle.control}
        ours = [token for token in (*before, *tokens) if token in ids]
        if ours != [token for token in due if token in ids]:
            shown = [oracle.decode([token]) for token in ours]
            self.fault(f"message {j + 1}: control tokens in the content are tokens: {shown}")

    def check_end(self, j: int, tokens: list[int], text: str) -> None:
        where = f"message {j + 1}"
        if self.stops and isinstance(self.stops[0], str):
            inside = text
            ended = [stop for stop in self.stops if text.endswith(stop)]
            inside = text.removesuffix(ended[0]) if ended else text
            if not ended:
                self.fault(f"{where}: its end {short(text[-20:])} is none of {self.stops}")
            elif any(stop in inside for stop in self.stops):
                self.fault(f"{where}: sampling would stop within it: {short(text)}")
            return
        names = [self.oracle.decode([stop]) for stop in self.stops]
        if tokens[-1] not in self.stops:
            self.fault(f"{where}: its end {short(text[-20:])} is none of the stops {names}")
        if any(token in self.stops for token in tokens[:-1]):
            self.fault(f"{where}: sampling would stop ({names}) within it: {short(text)}")

    def check_sequence(self, number: int, sequence: Any) -> None:
        oracle, tokens = self.oracle, sequence.tokens
        stray = [
            token
            for token, yes, claimed in zip(
                tokens, sequence.trained, self.claimed[number], strict=True
            )
            if yes and not claimed
        ]
        if stray:
            self.fault(f"trains {short(oracle.decode(stray))}, which is no answer where it stands")
        inside = [
            (start, j) for j, at in self.starts.items() for n, start in at if n == number
        ]  # fmt: skip
        if not inside:
            if not stray:
                self.fault(f"a sequence trains nothing: {short(oracle.decode(tokens))}")
            return
        start, j = max(inside)
        text = oracle.decode(tokens)
        gone = lost(self.messages, self.tools, j, text)
        for words in gone + oracle.unwritten(self.form.messages, self.tools, j):
            self.fault(f"{words} is lost")
        self.compare(j, start, tokens, text)

    def compare(self, j: int, start: int, tokens: list[int], text: str) -> None:
        """The tokens beside those of the template."""
        oracle = self.oracle
        written = oracle.text(self.form.messages[: j + 1], self.tools)
        if written is None:
            return self.fault(f"the template refuses what message {j + 1} was made of")
        theirs = oracle.encode(written)
        whole = normal(self.restored(written) or "")
        rest = oracle.decode(theirs[len(tokens) :])
        if not self.form.hidden and theirs[: len(tokens)] == tokens and not said_in(
            rest, self.messages[j]
        ):  # fmt: skip
            return None
        if whole.startswith(text):
            if not self.form.hidden:
                self.verdict.deviations.add("border")
            return None
        if text.startswith(whole) or text.startswith(whole.rstrip()):
            if text[len(whole) :] in oracle.next_markers or (
                text[len(whole.rstrip()) :] in oracle.next_markers
            ):
                self.verdict.deviations.add("next marker")
                return None
        if OPENED.search(oracle.text([QUESTION], [], prompt=True) or ""):
            theirs = oracle.continued(self.data, self.tools, j)
            if theirs and not any(one.startswith(oracle.decode(tokens[start:])) for one in theirs):
                self.fault(
                    f"message {j + 1} goes on otherwise than the template does: ours "
                    f"{short(oracle.decode(tokens[start:]))}, theirs {short(theirs[0])}"
                )
            self.verdict.deviations.add("opened block")
            return None
        said = oracle.decode(tokens[start:])
        for marker in oracle.next_markers:
            said = said.removesuffix(marker)
        # Without any question, some templates take an answer for an old one: as if it were asked.
        asked = oracle.text([QUESTION, *self.form.messages[: j + 1]], self.tools)
        asked = normal(self.restored(asked) or "")
        if any(one.rstrip().endswith(said.strip()) for one in (whole, asked)):
            self.verdict.deviations.add("history")
            return None
        at = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), 0)
        self.fault(
            f"differs from the template's text at {at}: ours {short(text[at : at + 60])}, "
            f"theirs {short(whole[at : at + 60])}"
        )


def words_begin_so(message: dict[str, Any]) -> bool:
    """Whether `<think>` is a word of the data there, and not the beginning of a thought."""
    return split(message)[1].lstrip().startswith("<think>")


def run_starts(trained: list[bool]) -> list[int]:
    return [i for i, yes in enumerate(trained) if yes and (not i or not trained[i - 1])]

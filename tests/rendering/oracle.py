"""What training on a conversation must show: worked out from its data and `apply_chat_template`.

Nothing of the renderer is used here. `check` takes the sequences that a renderer made of a
conversation and says what is wrong with them, in a sentence each:

- each trained message is trained once, behind exactly the tokens that it would be sampled behind;
- what is trained there are its words, its reasoning and its calls, and the end of its turn, at
  which sampling stops; nothing else is trained;
- every message before it and every tool stands in the sequence;
- the tokens are those of `apply_chat_template`, but for the deviations in `DEVIATIONS`.

A template may want a conversation in another form than the data has (thoughts as a field or in the
text, arguments as JSON text): `forms` are those in which a renderer may hand it over.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DEVIATIONS = {
    "next marker": "the end of the turn, which the template writes only with the next turn",
    "history": "an earlier turn is written otherwise once the answer follows it",
    "border": "a token would reach over the border of prompt and answer; the text is the same",
    "opened block": "the prompt opens a block of thought that the finished turn shows otherwise",
    "as text": "control tokens in the content are text",
}
THINK = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)
OPENED = re.compile(r"<think>\s*\Z")
TAG = re.compile(r"</?\w+>")
NEXT = {"role": "user", "content": "Next."}
MESSAGE_FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass
class Verdict:
    """What is wrong with the sequences of a conversation, and how they deviate."""

    faults: list[str] = field(default_factory=list)
    deviations: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Form:
    """A conversation as a template may be given it."""

    name: str
    messages: list[dict[str, Any]]
    hidden: dict[str, str]
    """What stands in the messages in place of control tokens: they are to be text."""
    control: bool
    """Whether control tokens are left in the content."""


def pieces(message: dict[str, Any]) -> list[str]:
    """The words of a message, in order: reasoning, content, names and arguments of calls.

    >>> pieces({"content": "<think>Hm.</think>Yes.", "role": "assistant"})
    ['Hm.', 'Yes.']
    """
    thought, content = split(message)
    found = [thought, content]
    for call in message.get("tool_calls") or []:
        found += [call["function"]["name"], *leaves(call["function"]["arguments"])]
    return [piece.strip() for piece in found if piece.strip()]


def split(message: dict[str, Any]) -> tuple[str, str]:
    """Reasoning and content of a message."""
    content = message["content"]
    if message["role"] == "assistant" and not message.get("reasoning_content"):
        if found := THINK.match(content):
            return found[1], found[2]
    return message.get("reasoning_content") or "", content


def leaves(value: Any) -> Iterator[str]:
    """Keys and values of arguments, as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def position(piece: str, text: str) -> int:
    """Where `piece` stands in `text`, as it is or as JSON writes it; -1 if nowhere."""
    spellings = [piece, *(json.dumps(piece, ensure_ascii=ascii)[1:-1] for ascii in (False, True))]
    spellings += {"true": ["True"], "false": ["False"], "null": ["None"]}.get(piece, [])
    # HTML's escapes: Jinja's own `tojson` writes them.
    spellings += [piece.replace("'", "\\u0027").replace("<", "\\u003c").replace(">", "\\u003e")]
    found = [at for one in map(normal, spellings) if (at := text.find(one)) >= 0]
    return min(found, default=-1)


def trained(messages: list[dict[str, Any]], train_on_what: str) -> list[int]:
    """The numbers of the messages that are to be trained."""
    answers = [
        i
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight", 1) != 0
    ]
    if train_on_what == "last_assistant_message":
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        return [i for i in answers if i == last]
    assert train_on_what == "all_assistant_messages"
    return answers


class Oracle:
    """Checks what a renderer made with a tokenizer, its template and the template's arguments."""

    def __init__(self, tokenizer: Any, kwargs: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.kwargs = kwargs or {}
        self.added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.control = {token for token in self.added if token in special or not TAG.match(token)}
        longest = sorted((t for t in self.added if t.strip()), key=len, reverse=True)
        self.markers = re.compile("|".join(map(re.escape, [*longest, "<think>", "</think>"])))

    # What the template writes

    def text(self, messages: list[dict], tools: list[dict], prompt: bool = False) -> str | None:
        """What the template writes; None if it refuses."""
        try:
            return self.tokenizer.apply_chat_template(
                copy.deepcopy(messages),
                tools=copy.deepcopy(tools) or None,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.kwargs,
            )
        except Exception:  # a template raises whatever it likes
            return None

    def encode(self, text: str) -> list[int]:
        """As `apply_chat_template` encodes what its template wrote."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return normal(text)

    # In which forms a conversation may be handed to the template

    def forms(self, messages: list[dict[str, Any]]) -> Iterator[Form]:
        seen: list[Any] = []
        for thought in ("", "as a field", "in the text", "as thinking"):
            for detail in ("", "null", "absent", "text", "text, null", "parts"):
                for role in ("", "system"):
                    for marker in ("", "hidden"):
                        made, hidden = [], {}
                        for message in messages:
                            one = _with_thought(message, thought)
                            if role and one["role"] == "developer":
                                one["role"] = role
                            if marker:
                                self._hide(one, hidden)
                            made.append(_with_calls(one, detail))
                        if made not in seen:
                            seen.append(made)
                            yield Form(
                                f"{thought} {detail} {role} {marker}".strip(),
                                made,
                                hidden,
                                bool(self.control & set(self._typed(made))),
                            )

    def _typed(self, messages: list[dict[str, Any]]) -> list[str]:
        texts = [text for m in messages for text in _texts(m)]
        return [found for text in texts for found in self.markers.findall(text)]

    def _hide(self, message: dict[str, Any], hidden: dict[str, str]) -> None:
        """Put words in place of all that looks like a control token, but a leading thought's."""
        ends = {token for token in self.stop_markers if message["role"] == "assistant"}
        content = message.get("content") or ""
        if cut := next((end for end in ends if content.rstrip().endswith(end)), None):
            content = message["content"] = content.rstrip().removesuffix(cut)
        begun = THINK.match(content) if message["role"] == "assistant" else None

        def word(match: re.Match[str]) -> str:
            inside = f"HIDDEN{len(hidden)}MARKER"
            hidden[inside] = match[0]
            return inside

        def change(text: str) -> str:
            return self.markers.sub(word, text)

        if begun and not message.get("reasoning_content"):
            inner, behind = content[begun.start(1) : begun.end(1)], content[begun.end(1) + 8 :]
            message["content"] = f"<think>{change(inner)}</think>{change(behind)}"
        elif content:
            message["content"] = change(content)
        for key in MESSAGE_FIELDS:
            if message.get(key):
                message[key] = change(message[key])
        if calls := message.get("tool_calls"):
            written = change(json.dumps(calls, ensure_ascii=False))
            message["tool_calls"] = json.loads(written)

    @functools.cached_property
    def stop_markers(self) -> frozenset[str]:
        """The control tokens that the template writes behind the words of an answer."""
        words = "Standinwords"
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": words}]
        after = (self.text(said, []) or "").partition(words)[2]
        found = self.markers.match(after.strip())
        return frozenset({found[0]} if found else ()) | {self.tokenizer.eos_token or "</s>"}

    @functools.cached_property
    def structure(self) -> frozenset[str]:
        """The words that the template itself writes within an answer, and behind it."""
        found: set[str] = set()
        for fields in ({}, {"reasoning_content": "Thought."}, {"thinking": "Thought."}):
            said = {"role": "assistant", "content": "Standin.", **fields}
            prompt = self.text([{"role": "user", "content": "Hi."}], [], prompt=True) or ""
            whole = self.text([{"role": "user", "content": "Hi."}, said, NEXT], []) or ""
            start = len(os.path.commonprefix([prompt, whole]))
            found |= set(re.findall(r"\w+", whole[start:]))
        return frozenset(found - {"Standin", "Thought", "Next"})

    # What a renderer made of it

    def check(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        sequences: list[Any],
        stops: list[int] | list[str],
        train_on_what: str = "all_assistant_messages",
    ) -> Verdict:
        """Compare the sequences with what the conversation's data ask for."""
        best: Verdict | None = None
        wanted = trained(messages, train_on_what)
        for form in self.forms(messages):
            if form.control:
                continue  # a control token that somebody typed would be one
            attempt = _Attempt(self, messages, tools, form, sequences, stops)
            verdict = attempt.check(wanted)
            if best is None or len(verdict.faults) < len(best.faults):
                best = verdict
            if not best.faults:
                break
        assert best is not None
        return best

    def prompts(self, messages: list[dict], tools: list[dict]) -> list[str]:
        """What the template writes as the prompt behind `messages`, in any of their forms."""
        texts = []
        for form in self.forms(messages):
            if not form.control and (text := self.text(form.messages, tools, prompt=True)):
                for word, marker in form.hidden.items():
                    text = text.replace(word, marker)
                texts.append(normal(text))
        return texts

    def could_be_trained(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], train_on_what: str
    ) -> bool:
        """Whether the template's own text, taken as it stands, serves: then no row is refused."""
        if any(not pieces(messages[j]) for j in trained(messages, train_on_what)):
            return False  # whether an empty answer is trained is a matter of taste
        for form in self.forms(messages):
            if (
                not form.control
                and "parts" not in form.name
                and all(
                    self._serves(form, messages, tools, j) for j in trained(messages, train_on_what)
                )
            ):
                return True
        return False

    def _serves(self, form: Form, messages: list, tools: list, j: int) -> bool:
        prompt = self.text(form.messages[:j], tools, prompt=True) if j else None
        whole = self.text(form.messages[: j + 1], tools)
        if not prompt or not whole or not whole.startswith(prompt):
            return False
        for word, marker in form.hidden.items():
            prompt, whole = prompt.replace(word, marker), whole.replace(word, marker)
        said = normal(whole[len(prompt) :])
        if missing(messages[j], said) or double_encoded(messages[j], said):
            return False
        last = pieces(messages[j])[-1]
        behind = said[max(said.rfind(normal(last)), 0) + len(normal(last)) :]
        return self.markers.search(behind) is not None and not lost(messages, tools, j, whole)


class _Attempt:
    """One form of a conversation held against the sequences."""

    def __init__(self, oracle: Oracle, messages, tools, form: Form, sequences, stops):
        self.oracle, self.messages, self.tools = oracle, messages, tools
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
        first = normal((pieces(self.messages[j]) or [""])[0])
        behind = [p for m in self.messages[j:] for p in pieces(m)]
        return (
            whole is not None
            and normal(whole).startswith(before)
            and 0 <= said.find(first) < 40
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
            self.check_span(j, sequence.tokens[start:end], self.oracle.decode(
                sequence.tokens[max(0, start - 8) : start]
            ))  # fmt: skip

    def check_span(self, j: int, tokens: list[int], before: str) -> None:
        where, message = f"message {j + 1}", self.messages[j]
        text = self.oracle.decode(tokens)
        for piece in missing(message, text):
            self.fault(f"{where}: {short(piece)} is not trained in {short(text)}")
        if double_encoded(message, text):
            self.fault(f"{where}: arguments are encoded twice in {short(text)}")
        rest = text
        for piece in sorted(pieces(message), key=len, reverse=True):
            rest = rest.replace(normal(piece), " ")
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
        if OPENED.search(before) and text.lstrip().startswith("<think>"):
            self.fault(f"{where}: opens <think> again, which its prompt opens: {short(text)}")

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
        for words in lost(self.messages, self.tools, j, text):
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
        if self.form.hidden:
            ids = set(oracle.added.values())
            ours = [token for token in tokens if token in ids]
            if ours != [token for token in theirs if token in ids][: len(ours)]:
                plain = [oracle.decode([token]) for token in ours]
                self.fault(f"control tokens in the content are tokens: {plain}")
        if whole.startswith(text):
            if not self.form.hidden:
                self.verdict.deviations.add("border")
            return None
        if text.startswith(whole) or text.startswith(whole.rstrip()):
            follows = [m["role"] for m in self.messages[j + 1 : j + 2]]
            calls = bool(self.messages[j].get("tool_calls"))
            for role in (*follows, "tool" if calls else "user"):
                follower = {**NEXT, "role": role}
                longer = oracle.text([*self.form.messages[: j + 1], follower], self.tools)
                if longer and normal(self.restored(longer) or "").startswith(text):
                    self.verdict.deviations.add("next marker")
                    return None
        if OPENED.search(oracle.decode(tokens[max(0, start - 8) : start])):
            self.verdict.deviations.add("opened block")
            return None
        if whole.rstrip().endswith(oracle.decode(tokens[start:]).strip()):
            self.verdict.deviations.add("history")
            return None
        at = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), 0)
        self.fault(
            f"differs from the template's text at {at}: ours {short(text[at : at + 60])}, "
            f"theirs {short(whole[at : at + 60])}"
        )


def missing(message: dict[str, Any], text: str) -> list[str]:
    """The words of a message that `text` lacks; reasoning and content in their order."""
    gone = [piece for piece in pieces(message) if position(piece, text) < 0]
    thought, content = (normal(part.strip()) for part in split(message))
    if not gone and thought and content and text.find(content) < text.find(thought):
        gone.append(thought)
    return gone


def double_encoded(message: dict[str, Any], text: str) -> bool:
    """Whether arguments are JSON text within JSON."""
    return any(
        f'\\"{key}\\"' in text
        for call in message.get("tool_calls") or []
        for key in call["function"]["arguments"]
    )


def lost(messages: list[dict], tools: list[dict], j: int, text: str) -> list[str]:
    """What was said before message `j`, and the tools, as far as `text` lacks them."""
    text, gone = normal(text), []
    for number, message in enumerate(messages[:j], start=1):
        words = pieces(message)
        if split(message)[0].strip():
            words = words[1:]  # templates drop earlier thoughts: those have sequences of their own
        gone += [f"message {number}: {short(p)}" for p in words if position(p, text) < 0]
    for tool in tools:
        function = tool["function"]
        for words in (function["name"], function.get("description", "")):
            if position(words, text) < 0:
                gone.append(f"tool {short(words)}")
    return gone


def said_in(rest: str, message: dict[str, Any]) -> bool:
    """Whether words of the message stand in what a sequence leaves out."""
    return any(piece in rest for piece in pieces(message) if len(piece) > 3)


def run_starts(trained: list[bool]) -> list[int]:
    return [i for i, yes in enumerate(trained) if yes and (not i or not trained[i - 1])]


def short(text: str, length: int = 70) -> str:
    shown = repr(text)
    return shown if len(shown) <= length else f"{shown[: length // 2]} … {shown[-length // 2 :]}"


def _texts(message: dict[str, Any]) -> Iterator[str]:
    content = message.get("content") or ""
    content = content if isinstance(content, str) else content[0]["text"]
    if message["role"] == "assistant" and (found := THINK.match(content)):
        yield from (found[1], found[2])
    else:
        yield content
    yield from (message[key] for key in MESSAGE_FIELDS if message.get(key))
    for call in message.get("tool_calls") or []:
        arguments = call["function"]["arguments"]
        yield from [arguments] if isinstance(arguments, str) else leaves(arguments)


def _with_thought(message: dict[str, Any], how: str) -> dict[str, Any]:
    message = {k: v for k, v in copy.deepcopy(message).items() if k not in ("weight", "trainable")}
    thought, content = split(message)
    if not how or message["role"] != "assistant" or not thought:
        return message
    message.pop("reasoning_content", None)
    if how == "in the text":
        return {**message, "content": f"<think>\n{thought.strip()}\n</think>\n\n{content.lstrip()}"}
    name = "thinking" if how == "as thinking" else "reasoning_content"
    return {**message, name: thought.strip(), "content": content.lstrip("\n")}


def _with_calls(message: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "parts":
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    if not message.get("tool_calls"):
        return message
    message = copy.deepcopy(message)
    if how.startswith("text"):
        for call in message["tool_calls"]:
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if "null" in how and not message["content"]:
        message["content"] = None
    if how == "absent" and not message["content"]:
        del message["content"]
    return message

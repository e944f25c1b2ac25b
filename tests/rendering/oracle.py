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
import os
import re
from collections.abc import Iterator
from typing import Any

from tests.rendering.attempt import CLOSED, Attempt, Verdict
from tests.rendering.forms import Form, forms, typed, without_end
from tests.rendering.words import (
    double_encoded,
    lost,
    missing,
    normal,
    pieces,
    spellings,
    split,
    trained,
)

TAGS = re.compile("</?think>")
TAG = re.compile(r"</?\w+>")
NOWHERE = "Zzquaxly"
NEXT = {"role": "user", "content": "Next."}


class Oracle:
    """Checks what a renderer made with a tokenizer, its template and the template's arguments."""

    def __init__(self, tokenizer: Any, kwargs: dict[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.kwargs = kwargs or {}
        self.added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        # No white space (of which U+2581 is SentencePiece's), and no tag.
        words = {token for token in self.added if token.strip("\u2581 \t\r\n")}
        others = {token for token in words if not TAG.fullmatch(token)}
        self.control = special | others
        longest = sorted((t for t in self.added if t.strip()), key=len, reverse=True)
        self.markers = re.compile("|".join(map(re.escape, [*longest, "<think>", "</think>"])))

    # What the template writes

    def text(self, messages: list[dict], tools: list[dict], prompt: bool = False) -> str | None:
        """What the template writes; None if it refuses."""
        try:
            if any(message.get("content", "") is None for message in messages):
                return self._with_nulls(messages, tools, prompt)
            return self.tokenizer.apply_chat_template(
                copy.deepcopy(messages),
                tools=copy.deepcopy(tools) or None,
                tokenize=False,
                add_generation_prompt=prompt,
                **self.kwargs,
            )
        except Exception:  # a template raises whatever it likes
            return None

    def _with_nulls(self, messages: list[dict], tools: list[dict], prompt: bool) -> str:
        """As transformers wrote it up to version 4: since then it takes nulls out of messages,
        which DeepSeek V3's template asks for."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = self.tokenizer.get_chat_template(tools=tools or None)
        return _compile_jinja_template(template).render(
            messages=copy.deepcopy(messages),
            tools=copy.deepcopy(tools) or None,
            add_generation_prompt=prompt,
            **{**self.tokenizer.special_tokens_map, **self.kwargs},
        )

    def encode(self, text: str) -> list[int]:
        """As `apply_chat_template` encodes what its template wrote."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, tokens: list[int]) -> str:
        text = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return normal(text)

    # In which forms a conversation may be handed to the template

    def forms(self, messages: list[dict[str, Any]]) -> Iterator[Form]:
        """In which forms the template may be given a conversation: no control token in any."""
        knows = "developer" in self.tokenizer.get_chat_template()
        for form in forms(messages, self.markers, self.stop_markers):
            if not knows and any(message["role"] == "developer" for message in form.messages):
                continue  # templates take an unknown role for whatever they like
            if not self.control & typed(form.messages, self.markers):
                yield form

    @functools.cached_property
    def stop_markers(self) -> list[str]:
        """The control token that the template writes behind an answer, and the end of the text."""
        words = "Standinwords"
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": words}]
        after = (self.text(said, []) or "").partition(words)[2]
        found = self.markers.match(after.strip())
        return [*([found[0]] if found else ()), self.tokenizer.eos_token or "</s>"]

    @functools.cached_property
    def has_field(self) -> bool:
        """Whether the template takes thoughts as a field alone: tags are words to it."""
        template = self.tokenizer.get_chat_template()
        return "</think>" not in template and bool(re.search("thinking|reasoning", template))

    @functools.cached_property
    def structure(self) -> frozenset[str]:
        """The words that the template itself writes within an answer, and behind it."""
        found: set[str] = set()
        for fields in ({}, {"reasoning_content": "Thought."}, {"thinking": "Thought."}):
            said = [NEXT, {"role": "assistant", "content": "Standin.", **fields}]
            prompt = self.text(said[:1], [], prompt=True) or ""
            for messages in (said, [*said, NEXT]):
                whole = self.text(messages, []) or ""
                start = len(os.path.commonprefix([prompt, whole]))
                found |= set(re.findall(r"\w+", whole[start:]))
        return frozenset(found - {"Standin", "Thought", "Next"})

    @functools.cached_property
    def next_markers(self) -> frozenset[str]:
        """What the template writes behind an answer only once somebody speaks next."""
        said = [NEXT, {"role": "assistant", "content": "Standin."}]
        last, found = self.text(said, []) or "", set()
        for role in ("user", "tool", "assistant", "system"):
            longer = self.text([*said, {**NEXT, "role": role}], []) or ""
            rest = longer.removeprefix(last) if longer.startswith(last) else ""
            marker = self.markers.search(rest)
            found.add(rest[: marker.end()] if marker else rest.partition("Next.")[0].rstrip())
        return frozenset(found - {""})

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
            attempt = Attempt(self, messages, tools, form, sequences, stops)
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
            if text := self.text(form.messages, tools, prompt=True):
                for word, marker in form.hidden.items():
                    text = text.replace(word, marker)
                texts.append(normal(text))
        return texts

    def continued(self, messages: list[dict], tools: list[dict], j: int) -> list[str]:
        """What the template writes of message `j` behind its prompt, in the forms with all words
        of it; none if it does not go on from its prompt."""
        found = []
        for form in self.forms(messages[: j + 1]):
            prompt = self.text(form.messages[:j], tools, prompt=True) if j else None
            whole = self.text(form.messages, tools)
            if prompt and whole and whole.startswith(prompt):
                for word, marker in form.hidden.items():
                    prompt, whole = prompt.replace(word, marker), whole.replace(word, marker)
                said = normal(whole[len(prompt) :])
                if not missing(without_end(messages[j], form.cut), said):
                    found.append(said)
        return found

    def could_be_trained(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        stops: list[int] | list[str],
        train_on_what: str,
    ) -> bool:
        """Whether the template's own text, taken as it stands, serves: then no row is refused."""
        if any(not pieces(messages[j]) for j in trained(messages, train_on_what)):
            return False  # whether an empty answer is trained is a matter of taste
        wanted = trained(messages, train_on_what)
        if any(TAGS.search(split(m)[1]) for m in messages if m["role"] == "assistant"):
            return False  # words that quote the tags may be refused: never are they cut
        return any(
            all(self._serves(form, messages, tools, j, stops) for j in wanted)
            for form in self.forms(messages)
            # Such templates are not made for text, or not for thoughts.
            if "parts" not in form.name and "in the text" not in form.name
            if form.thinks or not self.has_field
        )

    def _serves(self, form: Form, messages: list, tools: list, j: int, stops: list) -> bool:
        prompt = self.text(form.messages[:j], tools, prompt=True) if j else None
        whole = self.text(form.messages[: j + 1], tools)
        if not prompt or not whole or not whole.startswith(prompt):
            return False
        for word, marker in form.hidden.items():
            prompt, whole = prompt.replace(word, marker), whole.replace(word, marker)
        said = normal(whole[len(prompt) :])
        message = without_end(messages[j], form.cut)
        if CLOSED.search(prompt) and said.lstrip().startswith("<think>"):
            return False  # a second block of thought
        if missing(message, said) or double_encoded(message, said):
            return False
        words = [max(said.rfind(one) + len(one) for one in spellings(p)) for p in pieces(message)]
        inside, behind = said[: max(words)], said[max(words) :]
        early = self._ends_early(inside, stops)
        ended = self.markers.search(behind) is not None
        gone = lost(messages, tools, j, whole) or self.unwritten(form.messages, tools, j)
        return ended and not early and not gone

    def unwritten(self, messages: list[dict], tools: list[dict], j: int) -> list[str]:
        """Which messages before `j`, and which tools, the template leaves out, whatever they say:
        their words or names are replaced by a word that stands nowhere else."""

        def is_written(messages: list[dict], tools: list[dict]) -> bool:
            prompt = self.text(messages[:j], tools, prompt=True)  # some write it there alone
            whole = self.text(messages[: j + 1], tools)
            return any(text is None or NOWHERE in text for text in (prompt, whole))

        gone = []
        for number, message in enumerate(messages[:j]):
            for what, other in _renamed(message):
                if not is_written([*messages[:number], other, *messages[number + 1 :]], tools):
                    gone.append(f"message {number + 1}: its {what}")
        for number, tool in enumerate(tools):
            other = {**tool, "function": {**tool["function"], "name": NOWHERE}}
            if not is_written(messages, [*tools[:number], other, *tools[number + 1 :]]):
                gone.append(f"tool {number + 1}")
        return gone

    def _ends_early(self, inside: str, stops: list[int] | list[str]) -> bool:
        """Whether sampling would stop before all was said."""
        names = [stop if isinstance(stop, str) else self.decode([stop]) for stop in stops]
        return any(name in inside for name in names)


def _renamed(message: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The message with other words, and with other names of what it calls."""
    content = message.get("content") or ""
    if isinstance(content, str) and content.strip():
        yield "words", {**message, "content": content + NOWHERE}
    elif isinstance(content, list):
        yield "words", {**message, "content": [{"type": "text", "text": NOWHERE}]}
    if calls := message.get("tool_calls"):
        functions = [{**call["function"], "name": NOWHERE} for call in calls]
        renamed = [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]
        yield "calls", {**message, "tool_calls": renamed}

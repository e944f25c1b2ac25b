"""Rendering with a chat template, exactly as the service will prompt the model.

A trained answer stands behind the tokens of its own prompt: what the template writes for the
messages before it with `add_generation_prompt`. Most templates write an earlier answer the same
way once more messages follow; then one sequence serves all answers of a conversation. Some
rewrite it (Qwen3 drops its thinking): that answer gets a sequence of its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sft.chat import carries_loss
from sft.errors import BadInput
from sft.renderers import Messages, Rendered
from sft.segments import SegmentEncoder
from sft.spans import render_spans


@dataclass
class Turn:
    """A trained answer: its prompt, and what the template writes behind it."""

    conversation: int
    prompt_text: str
    answer_text: str
    num_bytes: int
    prompt: list[int]
    answer: list[int]


class TemplateRenderer:
    """A `Renderer` over a tokenizer and its chat template (or `template` in place of it)."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None,
        kwargs: dict[str, Any],
        stop: list[str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.kwargs = kwargs
        self._stop = stop
        self.encode = SegmentEncoder(tokenizer)
        """What the template wrote is all there is: nothing is added to it."""
        markers = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        self.markers = tuple(sorted(markers, key=len, reverse=True))

    def render(self, messages: Messages, train_on_what: str) -> list[Rendered]:
        return self.render_batch([messages], train_on_what)[0]

    def render_batch(
        self, conversations: list[Messages], train_on_what: str
    ) -> list[list[Rendered]]:
        trained = [carries_loss(messages, train_on_what) for messages in conversations]
        by_answer = [
            all(m["role"] == "assistant" for m, yes in zip(messages, flags, strict=True) if yes)
            for messages, flags in zip(conversations, trained, strict=True)
        ]
        rendered: list[list[Rendered]] = [[] for _ in conversations]
        for turns in self._turns(conversations, trained, by_answer):
            rendered[turns[0].conversation] = _fewest(turns)
        for number, (messages, flags) in enumerate(zip(conversations, trained, strict=True)):
            if not by_answer[number]:
                rendered[number] = [render_spans(self, messages, flags, train_on_what)]
        return rendered

    def _turns(
        self, conversations: list[Messages], trained: list[list[bool]], wanted: list[bool]
    ) -> list[list[Turn]]:
        """The trained answers of the `wanted` conversations, grouped by conversation."""
        places = [
            (number, index)
            for number, flags in enumerate(trained)
            if wanted[number]
            for index, yes in enumerate(flags)
            if yes and index > 0  # an answer to nothing has no prompt
        ]
        prompts = self.texts([conversations[n][:i] for n, i in places], prompt=True)
        wholes = self.texts([conversations[n][: i + 1] for n, i in places])
        answers = [
            self._answer(prompt, whole, conversations[n][i]["content"])
            for (n, i), prompt, whole in zip(places, prompts, wholes, strict=True)
        ]
        tokens = self.encode([*prompts, *answers])
        groups: dict[int, list[Turn]] = {}
        for k, (number, _) in enumerate(places):
            turn = Turn(
                number,
                prompts[k],
                answers[k],
                len(self.without_marker(answers[k]).encode()),
                tokens[k],
                tokens[len(places) + k],
            )
            groups.setdefault(number, []).append(turn)
        return list(groups.values())

    def _answer(self, prompt: str, whole: str, content: str) -> str:
        """What the model is to write behind `prompt`: the answer and the end of its turn."""
        if whole.startswith(prompt):
            return self.up_to_marker(whole[len(prompt) :])
        # The generation prompt opens something that the finished turn does not show (a block of
        # thinking): the answer's own words follow it.
        start = whole.rfind(content.strip())
        if start < 0:
            raise BadInput("the chat template does not show the answer's own words")
        return self.up_to_marker(whole[start:])

    def up_to_marker(self, text: str) -> str:
        """`text` without the white space that a template writes behind the end of a turn."""
        stripped = text.rstrip()
        return stripped if stripped.endswith(self.markers) else text

    def without_marker(self, text: str) -> str:
        """`text` without the marker that ends its turn."""
        for marker in self.markers:
            if text.endswith(marker):
                return text[: -len(marker)]
        return text

    def texts(self, conversations: list[Messages], *, prompt: bool = False) -> list[str]:
        """Each conversation as the template writes it. Raises `BadInput` where it refuses one."""
        import jinja2

        if not conversations:
            return []
        try:
            return self.tokenizer.apply_chat_template(
                conversations,
                chat_template=self.template,
                add_generation_prompt=prompt,
                tokenize=False,
                **self.kwargs,
            )
        except jinja2.TemplateError as error:
            raise BadInput(f"the chat template refuses the conversation: {error}") from error

    def generation_prompt(self, messages: Messages) -> list[int]:
        return self.encode(self.texts([messages], prompt=True))[0]

    def stop_sequences(self) -> list[int] | list[str]:
        if self._stop is not None:
            return list(self._stop)
        question = {"role": "user", "content": "a"}
        turn = self.render([question, {"role": "assistant", "content": "b"}], "all_messages")
        stops = {self.tokenizer.eos_token_id}
        last = turn[0].tokens[max(i for i, yes in enumerate(turn[0].trained) if yes)]
        if self.tokenizer.decode([last]).strip() in self.markers:
            stops.add(last)
        return sorted(stop for stop in stops if stop is not None)

    def fingerprint(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        parts = [
            self.template or self.tokenizer.chat_template,
            self.kwargs,
            backend.to_str() if backend is not None else self.tokenizer.name_or_path,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _fewest(turns: list[Turn]) -> list[Rendered]:
    """The fewest sequences in which each answer stands behind its own prompt, in order.

    The sequence of an answer holds every earlier one that the template still writes as it was
    sampled. Going from the last answer to the first and making a sequence for each that no later
    one holds gives the fewest: what holds an answer also holds all that its own sequence does.
    """
    sequences: list[Rendered] = []
    covered: set[int] = set()
    for index in reversed(range(len(turns))):
        if index in covered:
            continue
        turn = turns[index]
        tokens = [*turn.prompt, *turn.answer]
        trained = [False] * len(turn.prompt) + [True] * len(turn.answer)
        num_bytes = turn.num_bytes
        for earlier in (k for k in range(index) if k not in covered):
            other = turns[earlier]
            start, end = len(other.prompt), len(other.prompt) + len(other.answer)
            if (
                turn.prompt_text.startswith(other.prompt_text)
                and turn.prompt[:start] == other.prompt
                and turn.prompt[start:end] == other.answer
            ):
                trained[start:end] = [True] * len(other.answer)
                covered.add(earlier)
                num_bytes += other.num_bytes
        sequences.append(Rendered(tokens, trained, num_bytes))
    return sequences[::-1]

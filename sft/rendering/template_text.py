"""Conversations as the text that a chat template writes, and the place of an answer in it."""

from __future__ import annotations

import functools
import os
import re
from typing import Any

from sft.errors import BadInput
from sft.rendering.base import Messages

STAND_IN = "STANDIN0WORDS"
"""Written in place of a message's words, to find where a template puts them."""


class TemplateText:
    """A tokenizer's chat template (or `template` in place of it) with its arguments."""

    def __init__(self, tokenizer: Any, template: str | None, kwargs: dict[str, Any]):
        self.tokenizer = tokenizer
        self.kwargs = dict(kwargs)
        self.template = tokenizer.get_chat_template(template, tools=self.kwargs.get("tools"))
        added = sorted((token for token in tokenizer.get_added_vocab() if token), key=len)
        self.marker = re.compile("|".join(map(re.escape, reversed(added))) or "(?!)")
        special = sorted({*tokenizer.all_special_tokens} - {""}, key=len)
        self._special = re.compile("|".join(map(re.escape, reversed(special))) or "(?!)")

    def write(self, messages: Messages, *, prompt: bool = False) -> str:
        """What `apply_chat_template(messages, add_generation_prompt=prompt)` writes.

        Raises `BadInput` if the template refuses the conversation.
        """
        import jinja2

        try:
            if self._compiled is not None and all(map(_is_plain, messages)):
                return self._compiled({"messages": messages, "add_generation_prompt": prompt})
            return self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                add_generation_prompt=prompt,
                tokenize=False,
                **self.kwargs,
            )
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise BadInput(f"the chat template refuses the conversation: {reason}") from error

    @functools.cached_property
    def _compiled(self) -> Any:
        """The compiled template, for messages that are role and text: several times as fast."""
        from transformers.utils import chat_template_utils

        if any(not isinstance(value, str | int | float) for value in self.kwargs.values()):
            return None  # tools, documents: transformers prepares them
        compiled = chat_template_utils._compile_jinja_template(self.template)
        names = {
            **compiled.globals,
            "tools": None,
            "documents": None,
            **self.tokenizer.special_tokens_map,
            **self.kwargs,
        }

        def write(variables: dict[str, Any]) -> str:
            # As compiled.render, which would copy the globals at every call.
            context = compiled.new_context({**names, **variables}, shared=True)
            return "".join(compiled.root_render_func(context))

        return write

    def prompt(self, messages: Messages, index: int) -> str:
        """What the service is prompted with for message `index`."""
        if index:
            return self.write(messages[:index], prompt=True)
        # Nothing can be asked for: the header of a first message, as the template writes it.
        return self.place(messages[:1], 0)[0]

    def answer(self, messages: Messages, index: int, prompt: str) -> str:
        """What the model is to write behind `prompt`: the words of message `index`, end of turn.

        Most templates go on from the prompt. Raises `BadInput` if nothing that the template writes
        continues its own generation prompt.
        """
        whole = self.write(messages[: index + 1])
        if not whole.startswith(prompt):
            return self.up_to_end(self._rewritten(messages, index, prompt, whole))
        return self.up_to_end(whole[len(prompt) :])

    def _rewritten(self, messages: Messages, index: int, prompt: str, whole: str) -> str:
        """The answer in `whole`, which does not go on from `prompt`.

        Two things may differ. The history may be written in another way once the answer follows;
        and the generation prompt may open or close a block (of thinking, say) that the finished
        turn shows in another way. The answer is what stands behind the same close, or else its
        words as the template writes them.
        """
        before, _ = self.place(messages[: index + 1], index)
        history = self.write(messages[:index]) if index else ""
        header = prompt.removeprefix(history)
        start = _start_of_header(header, before)
        turn = whole[start:]
        common = len(os.path.commonprefix([turn, header]))
        left, rest = header[common:], turn[common:]
        if whole[:start] == before[:start] and common:
            if not left:
                return rest
            if left.strip() and left in rest:
                return rest.partition(left)[2]
        if before and whole.startswith(before):
            return whole[len(before) :]
        raise BadInput(
            f"message {index + 1}: the chat template does not write it behind its own generation "
            f"prompt (which ends with {prompt[-40:]!r}); model.chat_template_kwargs may change that"
        )

    def place(self, messages: Messages, index: int) -> tuple[str, str]:
        """What is written before and behind the words of message `index`; ("", "") if not there."""
        instead = {**messages[index], "content": STAND_IN}
        whole = self.write([*messages[:index], instead, *messages[index + 1 :]])
        before, found, after = whole.partition(STAND_IN)
        return (before, after) if found else ("", "")

    def words(self, messages: Messages, index: int) -> tuple[str, str] | None:
        """What is written before the words of message `index`, and the words with their marker.

        The shortest beginning of the conversation that shows them is taken: some templates write a
        system prompt only within the first question. None: the template leaves the message out.
        Raises `BadInput` if the template refuses the message.
        """
        refusal = None
        for end in range(index + 1, len(messages) + 1):
            try:
                before, after = self.place(messages[:end], index)
                whole = self.write(messages[:end])
            except BadInput as error:
                refusal = error
                continue
            if before and whole.startswith(before) and whole.endswith(after):
                marker = self.marker.match(after)
                end = len(whole) - len(after) + (marker.end() if marker else 0)
                return before, whole[len(before) : end]
        if refusal is not None and index + 1 == len(messages):
            raise refusal
        return None

    def up_to_end(self, text: str) -> str:
        """The answer that `text` begins with, up to and with the marker that ends its turn."""
        found = text.rfind(self.end_of_turn) if self.end_of_turn else -1
        if found >= 0:
            return text[: found + len(self.end_of_turn)]
        specials = list(self._special.finditer(text))
        return text.rstrip() if specials and not text[specials[-1].end() :].strip() else text

    @functools.cached_property
    def end_of_turn(self) -> str:
        """What stands behind an answer's words, up to a marker; "" if there is no marker."""
        answer = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": STAND_IN}]
        try:
            after = self.place(answer, 1)[1]
        except BadInput:
            return ""
        marker = self.marker.search(after)
        return after[: marker.end()] if marker else ""


def _start_of_header(header: str, text: str) -> int:
    """The last index in `text` of the longest beginning of `header` that `text` holds."""
    for length in range(len(header), 0, -1):
        if (start := text.rfind(header[:length])) >= 0:
            return start
    return len(text)


def _is_plain(message: dict[str, Any]) -> bool:
    return message.keys() <= {"role", "content", "trainable"} and None not in message.values()

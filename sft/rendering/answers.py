"""Where a message stands in what a chat template writes: its prompt, and its words behind it."""

from __future__ import annotations

import functools
import os
import re

from sft.errors import BadInput
from sft.rendering.ends import Ends
from sft.rendering.habits import QUESTION
from sft.rendering.missing.lost_words import Lost
from sft.rendering.prepared import Prepared
from sft.rendering.template_text import STAND_IN, TemplateText

OPENS = re.compile(r"<think>\n*\Z")
CLOSED = re.compile(r"<think>\s*</think>\s*\Z")
NO_REASONING = (
    "message {}: the prompt opens a block of thinking, and the message has no reasoning; set "
    "model.chat_template_kwargs to what turns thinking off, or dataset.on_lost=train to train an "
    "empty block"
)


class Answers:
    """Finds messages in the text of a template."""

    def __init__(self, text: TemplateText, ends: Ends, empty_blocks: bool = False):
        self.text, self.ends = text, ends
        self.empty_blocks = empty_blocks
        """Whether an answer without reasoning closes the block that its prompt opens."""

    def prompt(self, chat: Prepared, index: int) -> str:
        """What the service is prompted with for message `index`."""
        if index:
            return self.text.write(chat.messages[:index], chat.variables, prompt=True)
        # Nothing can be asked for: the header of a first message, as the template writes it.
        whole = self.text.write(chat.messages[:1], chat.variables)
        try:
            header = self.text.write([], chat.variables, prompt=True)
        except BadInput:
            header = ""
        before = self.text.place(chat.messages[:1], 0, chat.variables)[0]
        if header and whole.startswith(header) and header.endswith(self._asked):
            return header
        at = before.rfind(self._asked) if self._asked else -1
        return before if at < 0 else before[: at + len(self._asked)]

    def answer(self, chat: Prepared, index: int, prompt: str) -> str:
        """What the model is to write behind `prompt`: the words of message `index`, end of turn.

        Most templates go on from the prompt. Raises `BadInput` if nothing that the template writes
        continues its own generation prompt.
        """
        whole = self.text.write(chat.messages[: index + 1], chat.variables)
        following = chat.messages[index + 1]["role"] if index + 1 < len(chat.messages) else None
        message = chat.messages[index]
        opened = OPENS.search(prompt)
        if whole.startswith(prompt):
            written = self.ends.whole(whole[len(prompt) :], message, following)
            if CLOSED.search(prompt) and written.lstrip().startswith("<think>"):
                if not self.empty_blocks:
                    raise Lost(f"message {index + 1}", "its reasoning", chat.reasoning(index))
            if not opened or chat.reasoning(index).strip() in written:
                return written
        if opened:
            return self._thinking(chat, index, prompt, following)
        rest = self._rewritten(chat, index, prompt, whole)
        return self.ends.whole(rest, message, following)

    def moves_words(self, chat: Prepared, index: int, words: str) -> bool:
        """Whether an answer's words, beside a call, stand behind another header than usual."""
        said = chat.said[index]
        if not said.get("tool_calls") or not said["content"].strip() or chat.reasoning(index):
            return False
        before, found, _ = words.partition(said["content"].strip())
        return bool(found) and before.strip() != self._usual_header.strip()

    @functools.cached_property
    def _asked(self) -> str:
        """What the template writes behind a question to ask for an answer, up to a block that it
        opens or closes; "" if that cannot be told."""
        try:
            said = self.text.write([QUESTION])
            asked = self.text.write([QUESTION], prompt=True)
        except BadInput:
            return ""
        header = asked.removeprefix(said) if asked.startswith(said) else ""
        return header.partition("<think>")[0]

    @functools.cached_property
    def _usual_header(self) -> str:
        """What stands between the prompt and the words of a plain answer."""
        try:
            prompt = self.text.write([QUESTION], prompt=True)
            whole = self.text.write([QUESTION, {"role": "assistant", "content": STAND_IN}])
        except BadInput:
            return ""
        return whole.removeprefix(prompt).partition(STAND_IN)[0] if whole.startswith(prompt) else ""

    def _thinking(self, chat: Prepared, index: int, prompt: str, following: str | None) -> str:
        """An answer in a form that the template has for prompts alone: `prompt` opens the block.

        The block is closed as it was opened: on a line of its own, or on the same one.
        """
        said = {**chat.messages[index], "content": chat.said[index]["content"]}
        messages = [*chat.messages[:index], said]
        before, after = self.text.place(messages, index, chat.variables)
        whole = self.text.write(messages, chat.variables)
        if not before or not whole.startswith(before):
            raise BadInput(f"message {index + 1}: the chat template does not show its words")
        words = self.ends.whole(whole[len(before) :], messages[index], following)
        if inline := chat.inline.get(index):
            block = inline.lstrip()
            opening = prompt[prompt.rindex("<think>") :]
            block = block.removeprefix(opening if block.startswith(opening) else "<think>")
            return block + words[len(whole) - len(before) - len(after) :]
        line = "\n" if prompt.endswith("\n") else ""
        if reasoning := chat.reasoning(index).strip("\n"):
            return f"{reasoning}{line}</think>{2 * line}{words.lstrip(chr(10))}"
        if before.endswith("</think>"):  # the template's own empty block
            return f"</think>{words}"
        if self.empty_blocks:
            return f"{line}</think>{2 * line}{words}"
        raise BadInput(NO_REASONING.format(index + 1))

    def _rewritten(self, chat: Prepared, index: int, prompt: str, whole: str) -> str:
        """The answer in `whole`, which does not go on from `prompt`.

        Two things may differ. The history may be written in another way once the answer follows;
        and the generation prompt may open or close a block (of thinking, say) that the finished
        turn shows in another way. The answer is what stands behind the same close, or else its
        words as the template writes them.
        """
        messages = chat.messages[: index + 1]
        before, _ = self.text.place(messages, index, chat.variables)
        history = self.text.write(messages[:index], chat.variables) if index else ""
        header = prompt.removeprefix(history)
        if behind := self._behind_the_last(chat, index, whole):
            return behind
        start = len(history) if before.startswith(history) else _start_of_header(header, before)
        turn = whole[start:]
        common = len(os.path.commonprefix([turn, header]))
        left, rest = header[common:], turn[common:]
        if (
            whole[:start] == before[:start]
            and common
            and not self._begins_before(chat, index, start)
        ):
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

    def _behind_the_last(self, chat: Prepared, index: int, whole: str) -> str:
        """The answer, if both it and the prompt go on alike behind the message before; else "".

        For templates that write what comes first (tools, earlier thinking) elsewhere or not at all
        later on.
        """
        if not index or not chat.said[index - 1]["content"].strip():
            return ""
        messages = chat.messages
        _, asked = self.text.place(messages[:index], index - 1, chat.variables, prompt=True)
        _, behind = self.text.place(messages[: index + 1], index - 1, chat.variables)
        if not asked or not behind.startswith(asked) or not whole.endswith(behind):
            return ""
        return behind[len(asked) :]

    def _begins_before(self, chat: Prepared, index: int, start: int) -> bool:
        """Whether the turn at `start` holds the message before too: some templates join two."""
        if not index or chat.messages[index - 1]["role"] != "assistant":
            return False
        before, _ = self.text.place(chat.messages[: index + 1], index - 1, chat.variables)
        return len(before) >= start

    def words(self, chat: Prepared, index: int) -> tuple[str, str] | None:
        """What is written before the words of message `index`, and the words with their marker.

        The shortest beginning of the conversation that shows them is taken: some templates write a
        system prompt only within the first question. None: the template leaves the message out.
        Raises `BadInput` if the template refuses the message.
        """
        refusal, written = None, False
        for end in range(index + 1, len(chat.messages) + 1):
            try:
                before, after = self.text.place(chat.messages[:end], index, chat.variables)
                whole = self.text.write(chat.messages[:end], chat.variables)
            except BadInput as error:
                refusal = error
                continue
            written = True
            if before and whole.startswith(before) and whole.endswith(after):
                marker = self.ends.marker.match(after)
                stop = len(whole) - len(after) + (marker.end() if marker else 0)
                return before, whole[len(before) : stop]
        if refusal is not None and not written:
            raise refusal
        return None


def _start_of_header(header: str, text: str) -> int:
    """The last index in `text` of the longest beginning of `header` that `text` holds."""
    for length in range(len(header), 0, -1):
        if (start := text.rfind(header[:length])) >= 0:
            return start
    return len(text)

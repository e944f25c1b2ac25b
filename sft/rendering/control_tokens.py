"""Control tokens that stand in somebody's words: they are text, not tokens.

A typed `<|im_end|>` must not end a turn. In the words of a message, `BREAK` is put within every
control token before the chat template sees it; `Encoder` takes it out again and encodes what stood
there as ordinary text.
"""

from __future__ import annotations

import re
import string
from typing import Any

from sft.errors import BadInput

CONTROL_TOKENS = ("as_text", "refuse", "as_tokens")
"""What becomes of them: text; the row is refused; tokens, as the chat template alone would do.

Tags of thinking that an answer quotes are text in any case: the template would cut it there.
"""

BREAK = "\ufdd0"
"""A code point that Unicode keeps free for use within a program."""

SPACES = f"{string.whitespace}\u2581"
"""White space, and how SentencePiece writes it."""
_TAG = re.compile(r"</?[\w-]+>")


def control_tokens(tokenizer: Any) -> list[str]:
    """The tokens that structure a chat, longest first.

    These are the special ones, and those of the others that are no white space and no tag: some
    tokenizers have `<｜User｜>` as an ordinary token, others have line feeds, rows of spaces and
    tags of HTML.
    """
    special = {str(token) for token in tokenizer.all_special_tokens}
    found = set()
    for added in tokenizer.added_tokens_decoder.values():
        text = added.content
        if added.special or text in special or (text.strip(SPACES) and not _TAG.fullmatch(text)):
            found.add(text)
    return sorted((found | special) - {""}, key=len, reverse=True)


def any_of(tokens: list[str]) -> re.Pattern[str]:
    """What matches one of `tokens`, the longest first; nothing if there is none."""
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def broken(pattern: re.Pattern[str], text: str) -> str:
    """`text` with `BREAK` within every match of `pattern`."""
    return pattern.sub(lambda match: match[0][:1] + BREAK + match[0][1:], text)


def whole(text: str) -> str:
    """`text` as it was before `broken`."""
    return text.replace(BREAK, "")


def check_free_of_break(text: str, where: str) -> None:
    """Raises `BadInput` if `text` has the code point that is used here."""
    if BREAK in text:
        raise BadInput(f"{where}: holds U+FDD0, which is no character; take it out")

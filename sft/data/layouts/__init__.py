"""Layouts: how a row of somebody's data holds its chat messages, one file for each.

| layout | columns |
| --- | --- |
| messages | `messages`: list of `{role, content}` |
| conversations | `conversations`: list of `{from, value}` (ShareGPT) or `{role, content}` |
| alpaca | `instruction`, `output` and, if there are any, `input` and `history` |
| prompt_completion | `prompt`, `completion` and perhaps `history`: texts, or lists of messages |
| text | `text`: raw text, all of it trained |

Beside the messages of any of them `system`, `tools` and `chat_template_kwargs` are read. Another
layout is a file here and a line in `LAYOUTS`.
"""

from sft.data.layouts.alpaca import ALPACA
from sft.data.layouts.base import Layout
from sft.data.layouts.conversations import CONVERSATIONS
from sft.data.layouts.messages import MESSAGES
from sft.data.layouts.prompt_completion import PROMPT_COMPLETION
from sft.data.layouts.text import TEXT

LAYOUTS: dict[str, Layout] = {
    "messages": MESSAGES,
    "conversations": CONVERSATIONS,
    "alpaca": ALPACA,
    "prompt_completion": PROMPT_COMPLETION,
    "text": TEXT,
}
"""By the name that `dataset.layout` knows them by; `auto` tries them in this order."""

__all__ = ["LAYOUTS", "Layout"]

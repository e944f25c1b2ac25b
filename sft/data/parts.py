"""A message's content as text: content may be null, or a list of parts.

The texts of parts are joined with nothing between them, as chat templates do that take parts
(those of Qwen 2.5 VL, Llama 3.2 Vision, Mistral and GLM).
"""

from __future__ import annotations

from typing import Any

from sft.data.json_text import type_name
from sft.data.other_data import is_empty
from sft.errors import BadInput

JOINED = "content joined from parts"
MOVED = "reasoning put in front of the text that it stands behind"

TEXTS = ("text", "input_text", "output_text", "refusal")
"""Types of a part that is text, and the keys that hold it."""
THOUGHTS = ("thinking", "reasoning")
MEDIA = {
    "image": "an image",
    "image_url": "an image", "input_image": "an image",
    "image_file": "an image",
    "audio": "audio", "input_audio": "audio", "audio_url": "audio",
    "video": "a video", "video_url": "a video", "input_video": "a video",
    "file": "a file", "input_file": "a file", "document": "a file",
}  # fmt: skip
"""Types of a part that is no text."""


def text_of(content: Any, where: str, notes: set[str]) -> tuple[str, str]:
    """The text of a message's content, and the reasoning that stands in it as a part of its own.

    Raises `BadInput` for an image, audio, and whatever else is no text.
    """
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict) and "type" in content:
        content = [content]
    if not isinstance(content, list):
        raise BadInput(f"{where}: the content is {type_name(content)}; expected text")
    texts: list[str] = []
    thoughts: list[str] = []
    for number, part in enumerate(content, start=1):
        text, thought = _part(part, where, number)
        if thought and any(texts):
            notes.add(MOVED)
        texts.append(text)
        thoughts.append(thought)
    if sum(map(bool, texts)) > 1:
        notes.add(JOINED)
    return "".join(texts), "".join(thoughts)


def _part(part: Any, where: str, number: int) -> tuple[str, str]:
    if isinstance(part, str):
        return part, ""
    if not isinstance(part, dict):
        raise BadInput(
            f"{where}: part {number} of the content is {type_name(part)}; "
            'expected {"type": "text", "text": …}'
        )
    part = {key: value for key, value in part.items() if value is not None}  # filled in by a table
    shown = (key for key in part if key in MEDIA and not is_empty(part[key]))
    kind = next(shown, None) or str(part.get("type") or _guess(part))
    if kind in MEDIA:
        raise BadInput(
            f"{where}: part {number} of the content is {MEDIA[kind]}; only text is trained on: "
            "leave the row out, or write in words what it shows"
        )
    if kind in THOUGHTS:
        thought = part.get(kind, part.get("text"))
        if isinstance(thought, list):
            thought = "".join(_part(item, where, number)[0] for item in thought)
        if isinstance(thought, str):
            return "", thought
    if kind in TEXTS:
        text = part.get("text", part.get(kind))
        if isinstance(text, str):
            return text, ""
    raise BadInput(
        f"{where}: part {number} of the content is of the type '{kind}'; "
        'expected {"type": "text", "text": …}'
    )


def _guess(part: dict[str, Any]) -> str:
    """The type of a part that does not say it: the first of its keys that is one."""
    known = (*MEDIA, *TEXTS, *THOUGHTS)
    return next((key for key in part if key in known), ", ".join(map(str, part)) or "nothing")

"""Which conversations are the same: a number of 64 bits that is equal for those."""

from __future__ import annotations

import hashlib
import json

from sft.rendering.conversations import Conversation

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def as_text(conversation: Conversation) -> bytes:
    """A conversation as it lies on disk. Raises `UnicodeEncodeError` for half a surrogate pair."""
    return ENCODER.encode(conversation.plain()).encode("utf-8")


def digest(text: bytes) -> int:
    """Of `as_text` of a conversation: two rows that differ in an id alone have the same one."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

"""What the tests of refused rows and files have in common."""

import json

import pytest

from sft.data.sources import ChatFiles
from sft.errors import BadInput

EXPECTED = (
    "expected 'messages', 'conversations', 'instruction' and 'output', 'completion' and 'prompt', "
    "or 'text'"
)
UNPAIRED = (
    "is preference data ('label' says whether an answer is good), which fine-tuning on answers "
    "cannot use; keep the rows whose label is true, without that column"
)


def chat(*messages, **beside):
    return json.dumps({"messages": list(messages), **beside})


def user(content="hi", **fields):
    return {"role": "user", "content": content, **fields}


def answer(content="ho", **fields):
    return {"role": "assistant", "content": content, **fields}


def calling(call):
    return chat(user(), answer(None, tool_calls=[call]))


SOUND = chat(user(), answer())


def part(part):
    return chat(user([{"type": "text", "text": "Look: "}, part]), answer())


def refusal(path, **settings):
    """The first refusal of a file, with FILE in place of its path."""
    files = ChatFiles(str(path), **settings)
    with pytest.raises(BadInput) as error:
        for _, found in files.conversations():
            if isinstance(found, BadInput):
                raise found
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")

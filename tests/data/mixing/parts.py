"""The parts that the tests' mixtures are made of."""

from sft.record.fingerprints import sequences
from tests.chat_data import chat, write_jsonl

WORDS = {"math": "sum", "code": "loop", "chat": "hello"}


def write_part(folder, name, count):
    """A file of `count` conversations, each with its part's own word and a number."""
    word = WORDS[name]
    chats = [chat(f"{word} {i}?", f"{word} is {i}") for i in range(count)]
    return write_jsonl(folder / f"{name}.jsonl", chats)


def digests(data, seed, indices):
    data.set_epoch(seed)
    return [sequences(data.get_batch(index)) for index in indices]


def stream(*more):
    return [
        "dataset.parts.chat.kind=hf_stream",
        "dataset.parts.chat.path=chat.jsonl",
        "dataset.parts.chat.steps_per_epoch=5",
        "dataset.parts.chat.shuffle_buffer=8",
        *more,
    ]

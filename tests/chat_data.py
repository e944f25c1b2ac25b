"""Chats for tests, as files in the formats that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.datasets import FromConversationFileBuilder
from sft.types import ChatDatasetBuilderCommonConfig

WORDS = "red green blue black white one two three four five six seven eight nine ten".split()


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def conversation(index: int) -> list[dict]:
    return chat(f"What is {index} and {index}?", f"It is {2 * index}, så är det.")


def write_chats(path: Path, count: int = 24) -> Path:
    """Chats whose answers can be learned: they say two words again."""
    pairs = [(WORDS[i % 15], WORDS[(i * 7) % 15]) for i in range(count)]
    return write_jsonl(path, [chat(f"Say {a} and {b}.", f"{a} {b}") for a, b in pairs])


def write_jsonl(path: Path, conversations: list[list[dict]]) -> Path:
    rows = [json.dumps({"messages": messages}, ensure_ascii=False) for messages in conversations]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def texts(dataset, tokenizer) -> list[str]:
    """The sequences of an epoch, decoded."""
    return [tokenizer.decode(tokens) for tokens in sequences(dataset)]


def sequences(dataset) -> list[list[int]]:
    found = []
    for index in range(len(dataset)):
        for datum in dataset.get_batch(index):
            last = int(datum.loss_fn_inputs["target_tokens"].to_numpy()[-1])
            found.append([*datum.model_input.to_ints(), last])
    return found


@pytest.fixture
def own_hf_cache(tmp_path, monkeypatch):
    """A cache of the test's own for the library `datasets`."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def common(tiny_model, tmp_path, monkeypatch):
    """A common config with the tiny model's tokenizer, and a token cache of the test's own."""
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    return ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=str(tiny_model), batch_size=4, max_length=256
    )


@pytest.fixture
def chats(tmp_path):
    """A file of thirty chats."""
    return write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(30)])


def jsonl(common, path, **fields):
    """The builder of a file."""
    return FromConversationFileBuilder(common_config=common, path=str(path), **fields)

"""Chats for tests, as files in the formats that people have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.types import ChatDatasetBuilderCommonConfig


def conversation(index: int) -> list[dict]:
    return [
        {"role": "user", "content": f"What is {index} and {index}?"},
        {"role": "assistant", "content": f"It is {2 * index}, så är det."},
    ]


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
def common(tiny_model, tmp_path, monkeypatch):
    """A common config with the tiny model's tokenizer, and a token cache of the test's own."""
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    return ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=str(tiny_model), batch_size=4, max_length=256
    )

"""Runs and servers for the tests of habits."""

import asyncio
import json
from pathlib import Path

import pytest

from sft.command import launch
from sft.config.compose import compose
from sft.service.child import api_key
from tests import poor_service


@pytest.fixture
def poor(local_service, monkeypatch):
    """Starts a server before the local service that lacks what is named."""
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))
    servers = []

    def start(*lacks):
        manager = poor_service.before(local_service, *lacks)
        servers.append(manager)
        return manager.__enter__()

    yield start
    for manager in servers:
        manager.__exit__(None, None, None)


@pytest.fixture
def settings(tiny_model, tmp_path, monkeypatch):
    """The settings of a run of four steps with `overrides`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}."},
                      {"role": "assistant", "content": f"{i} and {i * 7 % 5}"}]}
        for i in range(14)
    ]  # fmt: skip
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(url, *overrides):
        return compose([
            "model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}", "dataset=jsonl",
            "dataset.path=chats.jsonl", "dataset.eval_size=2", "batch_size=3", "max_length=64",
            "max_steps=4", "eval_every=2", "save_every=2", "lr=1e-2", "lora.rank=4",
            "tracking.uri=null", "evaluators.held_out_answers=0", "service=custom",
            f"service.base_url={url}", *overrides,
        ])  # fmt: skip

    return make


@pytest.fixture
def trained(settings):
    """Trains a run with `overrides` in the directory `name`; its result, rows and run.json."""

    def train(url, name, *overrides):
        directory = Path(name)
        result = asyncio.run(launch.train(settings(url, *overrides), directory, []))
        rows = [json.loads(row) for row in (directory / "metrics.jsonl").read_text().splitlines()]
        return result, rows, json.loads((directory / "run.json").read_text())

    return train

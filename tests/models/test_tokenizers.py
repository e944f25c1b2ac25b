"""Tokenizers by name: the demo model, folders, the Hub; what cannot be had is one sentence."""

import json
import os
import subprocess
import sys

import pytest

from sft.errors import BadInput
from sft.models import demo
from sft.models.names import folder_or_name
from sft.models.tokenizers import load_tokenizer


def test_the_demo_model_is_known_by_its_name():
    assert folder_or_name(demo.NAME) == str(demo.folder())
    assert load_tokenizer(demo.NAME).eos_token == "<|im_end|>"
    assert load_tokenizer(demo.NAME) is load_tokenizer(demo.NAME)


def test_a_folder_is_read(tiny_model):
    assert folder_or_name(str(tiny_model)) == str(tiny_model)
    assert load_tokenizer(str(tiny_model)).chat_template


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no tokenizer can be read from the folder"),
        ({"tokenizer.json": "{"}, "no tokenizer can be read from the folder"),
        ({"config.json": '{"model_type": "llama"}'}, "no tokenizer can be read from the folder"),
    ],
)
def test_a_folder_without_a_sound_tokenizer_is_named(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=reason) as error:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(BadInput, match="there is no folder .*/nowhere"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_name_that_the_offline_hub_cannot_give_is_one_sentence():
    with pytest.raises(BadInput, match="'no/such-model' is neither a folder nor in the Hub's"):
        load_tokenizer("no/such-model")


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_given_up_on():
    """Port 9 of this machine refuses; the Hub's own client would try again and again."""
    code = "from sft.models.tokenizers import load_tokenizer; load_tokenizer('no/such-model')"
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "BadInput: model.tokenizer: 'no/such-model'" in ended.stderr
    assert "cannot be reached" in ended.stderr


@pytest.mark.slow
def test_threads_that_ask_at_once_before_transformers_is_imported_are_served(tiny_model):
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from sft.models.tokenizers import load_tokenizer
sys.setswitchinterval(1e-6)  # as if the machine were busy
start = Barrier(4)
def load(_):
    start.wait()
    return load_tokenizer(sys.argv[1])
with ThreadPoolExecutor(4) as threads:
    assert len(list(threads.map(load, range(4)))) == 4
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path):
    trap = tmp_path / "ran"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["trap.Trap", None]}})
    )
    (tmp_path / "config.json").write_text('{"model_type": "trap"}')
    (tmp_path / "trap.py").write_text(f"open({str(trap)!r}, 'w')\nclass Trap: pass\n")
    with pytest.raises(BadInput):
        load_tokenizer(str(tmp_path))
    assert not trap.exists()

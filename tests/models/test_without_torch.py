"""A command leaves PyTorch out of tinker and transformers, unless code of the user's own comes."""

import subprocess
import sys

import pytest

from tests.chat_data import write_chats

BEGUN = """
import sys
from sft.models import without_torch
without_torch.begin()
"""
OURS = """
import tinker
from transformers import AutoTokenizer
from transformers.utils import is_torch_available
print("torch" in sys.modules, is_torch_available(), hasattr(tinker.types.tensor_data, "torch"))
"""


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_neither_imports_torch_nor_says_that_it_is_missing():
    assert python(BEGUN + OURS) == ["False", "False", "False"]


def test_all_else_has_it():
    code = "import importlib.util, torch\nprint(torch.ones(2).sum().item())"
    assert python(BEGUN + OURS + code)[-1] == "2.0"


def test_both_have_it_again_at_the_end():
    assert python(BEGUN + "without_torch.end()" + OURS) == ["True", "True", "True"]


def test_what_is_imported_already_is_left_as_it_is():
    assert python("import torch, tinker" + BEGUN + OURS) == ["True", "True", "True"]


OWN = """
from dataclasses import dataclass
from sft.types import SupervisedDatasetBuilder
from sft.errors import BadInput
from sft.evaluators import EvaluatorBuilder

def say():
    import tinker, torch
    from transformers.utils import is_torch_available
    tinker.TensorData.from_torch(torch.zeros(1))
    raise BadInput(f"mine: {is_torch_available()}")

@dataclass
class Data(SupervisedDatasetBuilder):
    def __call__(self):
        say()

@dataclass
class Evaluation(EvaluatorBuilder):
    def __call__(self):
        say()
"""


FILE = ("dataset=jsonl", "dataset.path=chats.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        ("dataset=custom", "dataset.builder=own:Data"),
        (*FILE, "evaluators.builder=own:Evaluation"),
    ],
)
def test_code_of_ones_own_has_models_and_tensors(tmp_path, tiny_model, words):
    (tmp_path / "own.py").write_text(OWN)
    write_chats(tmp_path / "chats.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "sft", "model=folder", f"model.name={tiny_model}",
         "tracking.uri=null", *words],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "sft: mine: True")

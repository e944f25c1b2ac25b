"""What the model will see, before anything is trained."""

import json

import pytest

from sft import preview


@pytest.fixture
def chats(tmp_path):
    file = tmp_path / "chats.jsonl"
    messages = [
        {"role": "user", "content": "Is <b> bold?"},
        {"role": "assistant", "content": "Yes & no."},
    ]
    file.write_text(json.dumps({"messages": messages}) + "\n")
    return file


def overrides(chats, tiny_model):
    return [
        "dataset=jsonl", f"dataset.path={chats}", "batch_size=1",
        "model=folder", f"model.name={tiny_model}",
    ]  # fmt: skip


def test_without_a_terminal_trained_text_stands_in_brackets(chats, tiny_model, capsys):
    assert preview.main(["--n", "1", *overrides(chats, tiny_model)]) == 0
    output = capsys.readouterr().out
    assert "Is <b> bold?<|im_end|>\n<|im_start|>assistant\n⟦Yes & no.<|im_end|>⟧" in output
    assert "10 trained" in output and "1 conversations, 1 sequences" in output


def test_a_page_shows_the_same_and_nothing_of_the_data_is_markup(chats, tiny_model, tmp_path):
    file = tmp_path / "preview.html"
    assert preview.main([*overrides(chats, tiny_model), "--html", str(file)]) == 0
    text = file.read_text()
    assert "<mark>Yes &amp; no.&lt;|im_end|&gt;</mark>" in text
    assert "Is &lt;b&gt; bold?" in text and "http" not in text


def test_a_sequence_at_max_length_is_said_to_be_cut(chats, tiny_model, capsys):
    assert preview.main([*overrides(chats, tiny_model), "max_length=36"]) == 0
    assert "36 tokens, 5 trained (14%), cut at max_length" in capsys.readouterr().out


def test_bad_data_is_one_sentence(tiny_model, tmp_path, capsys):
    missing = tmp_path / "none.jsonl"
    assert preview.main(overrides(missing, tiny_model)) == 2
    error = capsys.readouterr().err
    assert str(missing) in error and error.count("\n") == 1


def test_a_builder_of_the_users_own_needs_no_tokenizer(tiny_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "previewed_data.py").write_text(
        """
from dataclasses import dataclass
from sft.tokens.datums import datum
from sft.types import SupervisedDataset, SupervisedDatasetBuilder

class Data(SupervisedDataset):
    def get_batch(self, index): return [datum([72, 105, 33], [0, 0, 1])]
    def __len__(self): return 1

@dataclass
class Builder(SupervisedDatasetBuilder):
    def __call__(self): return Data(), None
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    chosen = ["dataset=custom", "dataset.builder=previewed_data:Builder"]
    assert preview.main([*chosen, "model=folder", f"model.name={tiny_model}"]) == 0
    assert "example 1: 3 tokens, 1 trained (33%)" in capsys.readouterr().out


def test_no_example_is_bad_input(capsys):
    assert preview.main(["--n", "0"]) == 2
    assert "--n: 0 is below 1" in capsys.readouterr().err

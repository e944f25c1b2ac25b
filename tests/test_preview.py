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


def rows_of(capsys, *arguments):
    code = preview.main(["--json", *arguments])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_row_is_told_of_as_json(chats, tiny_model, capsys):
    from transformers import AutoTokenizer

    code, (row,) = rows_of(capsys, *overrides(chats, tiny_model))
    assert code == 0 and row["line"] == 1 and row["left_out"] is None
    (sequence,) = row["sequences"]
    assert [part["trained"] for part in sequence["parts"]] == [False, True]
    whole = "".join(part["text"] for part in sequence["parts"])
    assert whole.endswith("<|im_start|>assistant\nYes & no.<|im_end|>")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert sequence["tokens"] == len(tokenizer(whole, add_special_tokens=False)["input_ids"])
    assert row.keys() == {"line", "left_out", "sequences"}


def test_rows_that_a_run_would_refuse_say_why_and_the_others_follow(chats, tiny_model, capsys):
    sound = chats.read_text()
    chats.write_text(sound + '{"messages": [{"role": "robot", "content": "Hi."}]}\n' + sound)
    code, rows = rows_of(capsys, *overrides(chats, tiny_model))
    assert code == 2
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert "chats.jsonl line 2: message 1: the role 'robot'" in rows[1]["left_out"]
    assert rows[1]["sequences"] == [] and rows[2]["sequences"]
    code, rows = rows_of(capsys, *overrides(chats, tiny_model), "dataset.on_bad_line=skip")
    assert code == 0 and rows[1]["left_out"]


def test_as_many_rows_as_asked_for_are_told_of(chats, tiny_model, capsys):
    chats.write_text(3 * chats.read_text())
    code, rows = rows_of(capsys, "--n", "2", *overrides(chats, tiny_model))
    assert code == 0 and len(rows) == 2


def test_a_first_token_is_no_target_in_either_view(tiny_model, tmp_path, capsys):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "alpha"}\n')
    _, (row,) = rows_of(capsys, *overrides(file, tiny_model))
    first, rest = row["sequences"][0]["parts"]
    assert (first["trained"], rest["trained"]) == (False, True)
    assert preview.main(overrides(file, tiny_model)) == 0
    assert f"\n{first['text']}⟦{rest['text']}⟧" in capsys.readouterr().out


def test_conversations_that_are_held_out_elsewhere_are_counted(chats, tiny_model, capsys):
    sound = chats.read_text()
    chats.write_text(3 * sound + sound.replace("bold?", "thin?"))
    exam = chats.with_name("exam.jsonl")
    exam.write_text(sound)
    words = [*overrides(chats, tiny_model), f"dataset.eval_sets.exam.path={exam}"]
    assert preview.main(words) == 0
    said = capsys.readouterr().out
    assert "1 conversations, 1 sequences" in said
    assert "3 conversations left out since the same ones are held out" in said


def test_each_row_is_one_line_to_every_reader(chats, tiny_model, capsys):
    text = "Å\u2028b\u2029c\u0085d\x1ee"
    file = chats.with_name("text.jsonl")
    file.write_text(json.dumps({"text": text}) + "\n")
    assert preview.main(["--json", *overrides(file, tiny_model)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (sequence,) = json.loads(line)["sequences"]
    assert "".join(part["text"] for part in sequence["parts"]).startswith(text)
    assert "Å" in line  # whose first byte is no target, and whose second one is trained


@pytest.mark.parametrize("content", ["", "[]", "prompt,completion\n", "\n\n"])
def test_a_file_without_a_row_is_said_so_as_a_run_does(content, chats, tiny_model, capsys):
    file = chats.with_name("empty")
    file.write_text(content)
    assert preview.main(overrides(file, tiny_model)) == 2
    said = capsys.readouterr().err
    assert f"{file}: holds no conversation" in said
    assert preview.main(["--json", *overrides(file, tiny_model)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", said)


def test_raw_text_without_a_letter_is_left_out_by_its_line(chats, tiny_model, capsys):
    chats.write_text('{"text": ""}\n')
    words = overrides(chats, tiny_model)
    code, (row,) = rows_of(capsys, *words)
    assert (code, row["left_out"]) == (2, f"{chats} line 1: holds no text")
    assert preview.main(words) == 2
    assert f"holds no conversation ({chats} line 1: holds no text)" in capsys.readouterr().err


def test_a_stream_says_what_it_is_and_what_of_it_is_not_used(chats, tiny_model, capsys):
    row = json.loads(chats.read_text()) | {"id": 1}
    chats.write_text(json.dumps(row) + "\n")
    words = ["dataset=hf_stream", *overrides(chats, tiny_model)[1:], "dataset.steps_per_epoch=2"]
    assert preview.main(words) == 0
    said = capsys.readouterr().out
    assert "read as a stream, layout messages" in said and "\nnot used: id\n" in said

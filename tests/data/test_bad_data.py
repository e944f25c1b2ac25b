"""Data that is not sound: one sentence with file and line or column, exit code 2, nothing made."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from sft.datasets import FromConversationFileBuilder, HFChatBuilder
from sft.errors import BadInput
from tests.chat_data import common as common
from tests.chat_data import conversation, write_jsonl
from tests.chat_data import own_hf_cache as own_hf_cache

pytestmark = pytest.mark.usefixtures("own_hf_cache")


def message(role="user", content="hi"):
    return {"role": role, "content": content}


BAD_LINES = {
    "not JSON": ('{"messages": [', "not JSON"),
    "not an object": ("[1, 2]", "expected a JSON object, found list"),
    "no messages": ('{"text": "hello"}', "has no 'messages'.*'text'"),
    "not a list": ('{"messages": "hello"}', "list"),
    "unknown role": (json.dumps({"messages": [message("robot")]}), "robot"),
    "content that is a number": (json.dumps({"messages": [message(content=3)]}), "content"),
    "content that is null": (json.dumps({"messages": [message(content=None)]}), "content"),
    "no content": ('{"messages": [{"role": "user"}]}', "content"),
    "a message that is text": ('{"messages": ["hello"]}', "message 1.*str"),
    "half a pair": (r'{"messages": [{"role": "user", "content": "\ud800"}]}', "surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_number(case, common, tmp_path):
    line, words = BAD_LINES[case]
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(3)])
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    for builder in (FromConversationFileBuilder, HFChatBuilder):
        with pytest.raises(BadInput, match=f"chats.jsonl line 5.*(?i:{words})") as error:
            builder(common_config=common, path=str(path))()
        assert "\n" not in str(error.value)
    left = [path.name for path in (tmp_path / "cache" / "tokens").iterdir() if path.is_dir()]
    assert left == []


def test_bytes_that_are_not_utf_8_are_named_by_line(common, tmp_path):
    path = write_jsonl(tmp_path / "latin.jsonl", [conversation(1)])
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(BadInput, match="latin.jsonl line 1: not UTF-8"):
        FromConversationFileBuilder(common_config=common, path=str(path))()


def test_a_byte_order_mark_and_empty_lines_are_no_error(common, tmp_path):
    path = write_jsonl(tmp_path / "bom.jsonl", [conversation(i) for i in range(4)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    train, _ = FromConversationFileBuilder(common_config=common, path=str(path))()
    assert train.statistics.conversations == 4


def test_an_empty_file_is_said_so(common, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(BadInput, match="empty.jsonl: holds no conversation"):
        FromConversationFileBuilder(common_config=common, path=str(path))()


@pytest.mark.parametrize(
    ("builder", "path", "words"),
    [
        (FromConversationFileBuilder, "none.jsonl", "dataset.path: there is no file .*none.jsonl"),
        (FromConversationFileBuilder, "empty-folder", "empty-folder holds no file of chats"),
        (HFChatBuilder, "./none.jsonl", "dataset.path: there is no file or folder ./none.jsonl"),
        (HFChatBuilder, "data/none.csv", "dataset.path: there is no file or folder data/none.csv"),
        (HFChatBuilder, "broken.json", "broken.json line 1: not JSON"),
        (HFChatBuilder, "some/dataset", "dataset.path: some/dataset"),
        (HFChatBuilder, "notes.txt", "notes.txt is no file of chats that can be read.*Parquet"),
        (HFChatBuilder, "broken.parquet", "dataset.path: broken.parquet .*can be read: .*'hello'"),
        (HFChatBuilder, "empty-folder", "dataset.path: empty-folder"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(builder, path, words, common, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.json").write_text('{"messages": [')
    (tmp_path / "broken.parquet").write_text("hello")
    (tmp_path / "empty-folder").mkdir()
    with pytest.raises(BadInput, match=words) as error:
        builder(common_config=common, path=path)()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "changes", "words"),
    [
        ({"eval_size": 10}, {}, "dataset.eval_size: 10 conversations cannot be held out of 10"),
        ({"eval_size": 900}, {}, "dataset.eval_size: 900 "),
        ({}, {"batch_size": 11}, "batch_size: 11 is more than the 10 sequences"),
        ({"eval_size": 4}, {"batch_size": 7}, "batch_size: 7 is more than the 6 sequences"),
        ({}, {"max_length": 5}, "max_length: with 5 tokens, no training conversation"),
    ],
)
def test_sizes_that_do_not_fit_name_their_key(fields, changes, words, common, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(10)])
    with pytest.raises(BadInput, match=words):
        FromConversationFileBuilder(
            common_config=replace(common, **changes), path=str(path), **fields
        )()


def test_rows_that_repeat_cannot_fill_a_held_out_set(common, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(i % 3) for i in range(10)])
    with pytest.raises(BadInput, match=r"3 conversations cannot .* of 10 \(3 different ones\)"):
        FromConversationFileBuilder(common_config=common, path=str(path), eval_size=3)()


def test_a_file_without_an_answer_is_said_so_and_not_blamed_on_its_length(common, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [[message()], [message("system"), message()]])
    with pytest.raises(BadInput, match="chats.jsonl line 1: no row has an answer to train on"):
        FromConversationFileBuilder(common_config=common, path=str(path))()
    path = write_jsonl(tmp_path / "empty.jsonl", [[], []])
    with pytest.raises(BadInput, match="no conversation .*empty.jsonl line 1: holds no message"):
        FromConversationFileBuilder(common_config=common, path=str(path))()


def write_table(path, rows):
    import datasets

    data = datasets.Dataset.from_list(rows)
    data.to_csv(path) if path.suffix == ".csv" else data.to_parquet(path)
    return str(path)


def test_a_layout_that_does_not_fit_names_the_columns_found(common, tmp_path):
    path = write_table(tmp_path / "rows.csv", [{"ask": "q", "reply": "a"}] * 4)
    with pytest.raises(BadInput, match="rows.csv.*'ask', 'reply'.*expected 'messages'"):
        HFChatBuilder(common_config=common, path=path)()
    with pytest.raises(BadInput, match="rows.csv.*no 'instruction'.*'ask', 'reply'"):
        HFChatBuilder(common_config=common, path=path, layout="alpaca")()


def test_a_bad_row_of_a_table_is_named_by_its_number(common, tmp_path):
    rows = [{"prompt": "q", "completion": "a"}] * 2 + [{"prompt": "q", "completion": None}]
    path = write_table(tmp_path / "rows.parquet", rows)
    with pytest.raises(BadInput, match="rows.parquet.* row 3: 'completion' is NoneType"):
        HFChatBuilder(common_config=common, path=path)()


def test_a_split_or_configuration_that_is_not_there_is_named(common, tmp_path):
    path = write_table(tmp_path / "rows.parquet", [{"prompt": "q", "completion": "a"}] * 8)
    with pytest.raises(BadInput, match="dataset.split: .* has no split 'tst'.*train"):
        HFChatBuilder(common_config=common, path=path, split="tst")()
    with pytest.raises(BadInput, match="dataset.eval_split: .* has no split 'tst'"):
        HFChatBuilder(common_config=common, path=path, eval_split="tst")()


def test_a_conversation_that_the_template_refuses_is_named_by_line(common, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(tmp_path / "strict")
    bad = [message("system"), *conversation(1)]
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(0), bad, conversation(2)])
    strict = replace(common, model_name_for_tokenizer=str(tmp_path / "strict"))
    with pytest.raises(BadInput, match="chats.jsonl line 2: .*begin with the user"):
        FromConversationFileBuilder(common_config=strict, path=str(path))()


def test_the_command_ends_with_exit_code_2_one_line_and_no_files(tiny_model, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "chats.jsonl").write_text('{"messages": {}}\n')
    done = subprocess.run(
        [sys.executable, "-m", "sft", "model=folder", f"model.name={tiny_model}"]
        + ["dataset=jsonl", "dataset.path=chats.jsonl", "tracking=none"],
        cwd=work, capture_output=True, text=True,
        env=os.environ | {"SFT_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "chats.jsonl line 1" in done.stderr
    assert [path.name for path in work.iterdir()] == ["chats.jsonl"]

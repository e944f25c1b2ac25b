"""The built-in builders on files of every kind."""

import json
from dataclasses import replace

import pytest

from sft.data import layouts
from sft.datasets import (
    BUILDERS,
    DemoBuilder,
    FaqBuilder,
    FromConversationFileBuilder,
    HFChatBuilder,
    NoRobotsBuilder,
    Tulu3Builder,
)
from sft.errors import BadInput
from tests.chat_data import chats as chats
from tests.chat_data import common as common
from tests.chat_data import conversation, jsonl, sequences, texts, write_jsonl
from tests.chat_data import own_hf_cache as own_hf_cache

pytestmark = pytest.mark.usefixtures("own_hf_cache")


def test_the_questions_and_answers_come_from_an_installed_package(common):
    builder = FaqBuilder(common_config=replace(common, max_length=4096))
    train, held_out = builder()
    assert (train.statistics.conversations, held_out.statistics.conversations) == (455, 48)
    assert any("building permit" in text for text in texts(train, builder.tokenizer))


def test_the_demo_asks_for_what_it_taught_in_words_that_it_did_not_train(common):
    builder = DemoBuilder(common_config=common)
    train, held_out = builder()
    taught, asked = (
        [text.rpartition("user")[2].split("assistant") for text in texts(data, builder.tokenizer)]
        for data in (train, held_out)
    )
    assert (len(taught), len(asked)) == (32, 16)
    assert {answer for _, answer in asked} == {answer for _, answer in taught}
    assert not {question for question, _ in asked} & {question for question, _ in taught}


def write_rows(folder, rows, suffix):
    import datasets

    path = folder / f"rows.{suffix}"
    data = datasets.Dataset.from_list(rows)
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        getattr(data, f"to_{suffix}")(path)
    return path


LAYOUTS = {
    "messages": lambda i: {"id": i, "messages": conversation(i)},
    "conversations": lambda i: {
        "conversations": [
            {"from": "human", "value": conversation(i)[0]["content"]},
            {"from": "gpt", "value": conversation(i)[1]["content"]},
        ]
    },
    "alpaca": lambda i: {
        "instruction": conversation(i)[0]["content"],
        "input": "",
        "output": conversation(i)[1]["content"],
    },
    "prompt_completion": lambda i: {
        "prompt": conversation(i)[0]["content"],
        "completion": conversation(i)[1]["content"],
    },
}


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [(layout, suffix) for layout in LAYOUTS for suffix in ("jsonl", "parquet")]
    + [("alpaca", "csv"), ("prompt_completion", "csv")],
)
def test_every_layout_reads_as_the_same_conversations(layout, suffix, common, chats, tmp_path):
    path = write_rows(tmp_path, [LAYOUTS[layout](i) for i in range(30)], suffix)
    expected, _ = jsonl(common, chats)()
    for chosen in ("auto", layout):
        train, _ = HFChatBuilder(common_config=common, path=str(path), layout=chosen)()
        assert sequences(train) == sequences(expected)
        assert train.digest == expected.digest


def test_alpacas_input_follows_its_instruction_and_a_system_text_leads(common, tmp_path):
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."}
    path = write_rows(tmp_path, [row] * 4, "jsonl")
    builder = HFChatBuilder(common_config=common, path=str(path))
    text = texts(builder()[0], builder.tokenizer)[0]
    assert "system\nBe brief.<|im_end|>" in text and "user\nAdd.\n\n1 2<|im_end|>" in text


def test_prompts_and_completions_may_be_lists_of_messages(common, chats, tmp_path):
    rows = [{"prompt": conversation(i)[:1], "completion": conversation(i)[1:]} for i in range(30)]
    path = write_rows(tmp_path, rows, "parquet")
    train, _ = HFChatBuilder(common_config=common, path=str(path))()
    assert train.digest == jsonl(common, chats)()[0].digest


def test_a_new_layout_is_one_entry_of_the_registry(common, chats, tmp_path, monkeypatch):
    def convert(row, where):
        return [
            {"role": "user", "content": layouts.base.text(row, "ask", where)},
            {"role": "assistant", "content": layouts.base.text(row, "reply", where)},
        ]

    layout = layouts.Layout(frozenset({"ask", "reply"}), convert)
    monkeypatch.setitem(layouts.LAYOUTS, "ask_reply", layout)
    turns = [conversation(i) for i in range(30)]
    rows = [{"ask": q["content"], "reply": a["content"]} for q, a in turns]
    path = write_rows(tmp_path, rows, "jsonl")
    for chosen in ("auto", "ask_reply"):
        train, _ = HFChatBuilder(common_config=common, path=str(path), layout=chosen)()
        assert train.digest == jsonl(common, chats)()[0].digest
    with pytest.raises(BadInput, match="expected .*, or 'ask' and 'reply'$"):
        HFChatBuilder(common_config=common, path=str(write_rows(tmp_path, [{"x": 1}], "jsonl")))()


@pytest.fixture
def two_splits(tmp_path):
    import datasets

    folder = tmp_path / "hub"
    folder.mkdir()
    for split, numbers in (("train", range(20)), ("test", range(18, 24))):
        rows = [{"prompt": "unused", "messages": conversation(i)} for i in numbers]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def test_no_robots_is_evaluated_on_its_test_split(common, two_splits):
    assert NoRobotsBuilder(common_config=common).path == "HuggingFaceH4/no_robots"
    train, held_out = NoRobotsBuilder(common_config=common, path=str(two_splits))()
    assert held_out.statistics.conversations == 6
    assert train.statistics.conversations == 18  # two of the test split's were there too
    assert train.statistics.duplicates == 2


def test_tulu3_holds_out_a_part_of_its_training_split(common, two_splits):
    assert Tulu3Builder(common_config=common).path == "allenai/tulu-3-sft-mixture"
    assert Tulu3Builder(common_config=common).eval_size == 500
    builder = Tulu3Builder(common_config=common, path=str(two_splits), eval_size=5)
    train, held_out = builder()
    assert (train.statistics.conversations, held_out.statistics.conversations) == (15, 5)


def test_a_split_may_be_a_slice_and_the_held_out_split_be_cut_to_a_size(common, two_splits):
    train, held_out = HFChatBuilder(
        common_config=common,
        path=str(two_splits),
        split="train[:10]",
        eval_split="test",
        eval_size=3,
    )()
    assert (train.statistics.conversations, held_out.statistics.conversations) == (10, 3)


def test_a_folder_saved_by_datasets_is_read(common, chats, tmp_path):
    import datasets

    rows = [{"messages": conversation(i)} for i in range(30)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    train, _ = HFChatBuilder(common_config=common, path=str(tmp_path / "saved"))()
    assert train.digest == jsonl(common, chats)()[0].digest


def test_every_kind_but_custom_has_a_builder_whose_fields_the_command_line_sets():
    expected = ["faq", "demo", "jsonl", "file", "no_robots", "tulu3", "hf_chat", "hf_stream", "mix"]
    assert list(BUILDERS) == expected


def test_a_local_file_keeps_its_words_whichever_kind_reads_it(common, tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("prompt,completion\n" + "value,NA\nvalue,007\nvalue,None\nvalue,True\n")
    for build in (FromConversationFileBuilder, HFChatBuilder):
        builder = build(common_config=common, path=str(path))
        found = " ".join(texts(builder()[0], builder.tokenizer))
        assert all(f"assistant\n{word}<" in found for word in ("NA", "007", "None", "True"))


def test_words_of_a_folder_of_csv_are_words_to_datasets_too(common, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("prompt,completion\nvalue,NA\nq,None\nq,null\nq,x\n")
    builder = HFChatBuilder(common_config=common, path=str(tmp_path), split="test")
    found = " ".join(texts(builder()[0], builder.tokenizer))
    assert all(f"assistant\n{word}<" in found for word in ("NA", "None", "null", "x"))


def test_a_part_of_a_local_file_is_taken_by_its_rows(common, chats):
    common = replace(common, batch_size=1)

    def part(split):
        return sequences(HFChatBuilder(common_config=common, path=str(chats), split=split)()[0])

    whole = sequences(jsonl(common, chats)()[0])
    assert part("train[:10%]") == whole[:3]
    assert part("train[-4:]") == whole[-4:]
    assert part("train[:2]+train[4:6]") == whole[:2] + whole[4:6]
    assert part("train[-6:-4]+train[-1:]") == whole[-6:-4] + whole[-1:]
    assert part("train[9:12]+train[28:999]") == whole[9:12] + whole[28:]
    with pytest.raises(
        BadInput, match="dataset.split: .* has no split 'tset': a file is the split"
    ):
        part("tset")


def test_a_folder_of_shards_or_one_that_datasets_saved_is_a_file_of_chats_too(common, tmp_path):
    import datasets

    rows = [{"messages": conversation(i)} for i in range(8)]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "splits")
    (tmp_path / "shards").mkdir()
    for index in (0, 1):
        shard = [conversation(i) for i in range(4 * index, 4 * index + 4)]
        write_jsonl(tmp_path / "shards" / f"{index}.jsonl", shard)
    found = [sequences(jsonl(common, tmp_path / name)()[0]) for name in ("saved", "shards")]
    assert found[0] == found[1] and len(found[0]) == 8
    with pytest.raises(BadInput, match="holds the splits train; name the one .*splits/train$"):
        jsonl(common, tmp_path / "splits")()


def test_a_row_that_is_wrong_in_a_later_shard_is_named_by_its_own_file(common, tmp_path):
    for index in (0, 1):
        shard = [conversation(i) for i in range(4 * index, 4 * index + 4)]
        write_jsonl(tmp_path / f"{index}.jsonl", shard)
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(BadInput, match="/1.jsonl line 5: has no 'messages'"):
        jsonl(common, tmp_path / "*.jsonl")()


def test_what_is_not_read_is_in_the_report_of_the_data(common, tmp_path):
    rows = [{"messages": conversation(i), "id": i, "category": "x"} for i in range(8)]
    path = tmp_path / "chats"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    train, _ = jsonl(common, path, on_bad_line="skip")()
    report = train.statistics.report
    assert report.found == "JSONL, layout messages" and report.unused == ["id", "category"]
    assert report.left_out["not a conversation"].first.startswith(f"{path} line 9: not JSON")


@pytest.mark.parametrize("builder", [FaqBuilder, FromConversationFileBuilder, HFChatBuilder])
def test_a_builder_shows_the_rows_that_it_trains_on(builder, common, chats):
    fields = {} if builder is FaqBuilder else {"path": str(chats)}
    source = builder(common_config=common, **fields).source()
    number, first = next(iter(source.conversations()))
    assert number == 1 and [m["role"] for m in first.messages][-2:] == ["user", "assistant"]


# Splits


def test_raw_text_says_what_of_it_is_trained(common, tiny_model, tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "Once upon a time"}\n' * 4)
    train, _ = jsonl(common, path)()
    assert train.statistics.report.found.endswith(
        "(raw text: all tokens but the first are trained)"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, bos_token="<|im_start|>")
    begun = ("<|im_start|>", tokenizer.bos_token_id)
    first = TemplateProcessing(single="<|im_start|> $A", special_tokens=[begun])
    tokenizer.backend_tokenizer.post_processor = first
    tokenizer.save_pretrained(tmp_path / "with_bos")
    with_bos = replace(common, model_name_for_tokenizer=str(tmp_path / "with_bos"))
    train, _ = jsonl(with_bos, path)()
    assert train.statistics.report.found.endswith("(raw text: all tokens are trained)")

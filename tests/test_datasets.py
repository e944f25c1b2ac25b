"""The built-in builders on files of every kind, and how data is split, ordered and counted."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sft.data import layouts
from sft.datasets import (
    BUILDERS,
    FaqBuilder,
    FromConversationFileBuilder,
    HFChatBuilder,
    NoRobotsBuilder,
    Tulu3Builder,
    conversation_to_datum,
    conversation_to_datums,
    datum_from_model_input_weights,
)
from sft.errors import BadInput
from tests.chat_data import common as common
from tests.chat_data import conversation, sequences, texts, write_jsonl


@pytest.fixture(autouse=True)
def own_hf_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def chats(tmp_path):
    return write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(30)])


def jsonl(common, path, **fields):
    return FromConversationFileBuilder(common_config=common, path=str(path), **fields)


# Datums


def test_a_datum_is_shifted_right_and_its_weights_sum_to_one():
    import tinker

    whole = tinker.ModelInput.from_ints([5, 6, 7, 8])
    datum = datum_from_model_input_weights(whole, [0, 0, 1, 1])
    assert datum.model_input.to_ints() == [5, 6, 7]
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [6, 7, 8]
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("max_length", "reduction", "weights"),
    [(None, "none", [0, 2, 1]), (3, "none", [0, 2]), (3, "mean", [0, 1]), (2, "mean", [0])],
)
def test_truncation_comes_before_the_reduction(max_length, reduction, weights):
    import tinker
    import torch

    whole = tinker.ModelInput.from_ints([5, 6, 7, 8])
    given = torch.tensor([9.0, 0.0, 2.0, 1.0])
    datum = datum_from_model_input_weights(whole, given, max_length, reduction)
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == weights
    assert datum.model_input.length == len(weights)


def test_a_conversation_becomes_a_datum_that_trains_its_answer(common, chats):
    renderer = jsonl(common, chats).renderer
    datum = conversation_to_datum(conversation(7), renderer, max_length=256)
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    trained = datum.loss_fn_inputs["weights"].to_numpy() > 0
    text = jsonl(common, chats).tokenizer.decode(targets[trained])
    assert text.startswith("It is 14, så är det.") and "What" not in text
    [same] = conversation_to_datums(conversation(7), renderer, max_length=256)
    assert same.model_input.to_ints() == datum.model_input.to_ints()


def test_a_conversation_without_a_trained_token_left_takes_no_datum(common, chats):
    renderer = jsonl(common, chats).renderer
    assert conversation_to_datums(conversation(7), renderer, max_length=20) == []
    with pytest.raises(BadInput, match="takes 0 datums"):
        conversation_to_datum(conversation(7), renderer, max_length=20)


# Kinds


def test_the_demo_data_is_questions_and_answers_from_an_installed_package(common):
    builder = FaqBuilder(common_config=replace(common, max_length=4096))
    train, held_out = builder()
    assert (train.statistics.conversations, held_out.statistics.conversations) == (455, 48)
    assert any("building permit" in text for text in texts(train, builder.tokenizer))


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
    expected = ["faq", "jsonl", "file", "no_robots", "tulu3", "hf_chat", "hf_stream", "mix"]
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


def test_held_out_and_training_data_share_no_conversation_even_if_rows_repeat(common, tmp_path):
    repeated = [conversation(i % 20) for i in range(60)]
    path = write_jsonl(tmp_path / "repeated.jsonl", repeated)
    train, held_out = jsonl(common, path, eval_size=5)()
    trained, held = sequences(train), sequences(held_out)
    assert len(held) == len({tuple(tokens) for tokens in held}) == 5
    assert not {tuple(tokens) for tokens in held} & {tuple(tokens) for tokens in trained}
    assert len(trained) == 45
    assert (train.statistics.conversations, train.statistics.duplicates) == (45, 10)


def test_the_held_out_set_depends_on_the_split_seed_and_not_on_the_runs_seed(common, chats):
    first = sequences(jsonl(common, chats, eval_size=6)()[1])
    assert sequences(jsonl(replace(common, seed=5), chats, eval_size=6)()[1]) == first
    assert sequences(jsonl(common, chats, eval_size=6, split_seed=1)()[1]) != first


def test_rows_that_are_added_or_moved_leave_the_held_out_set_nearly_as_it_was(common, tmp_path):
    before = write_jsonl(tmp_path / "before.jsonl", [conversation(i) for i in range(50)])
    after = write_jsonl(tmp_path / "after.jsonl", [conversation(i) for i in range(54, -1, -1)])
    held = [
        set(map(tuple, sequences(jsonl(common, p, eval_size=10)()[1]))) for p in (before, after)
    ]
    assert len(held[0] & held[1]) >= 7


# Batches


def test_an_epoch_is_every_sequence_once_and_the_last_batch_is_short(common, chats):
    train, _ = jsonl(common, chats)()
    assert [len(train.get_batch(index)) for index in range(len(train))] == [4] * 7 + [2]
    plain = sequences(train)
    train.set_epoch(3)
    assert sequences(train) != plain and sorted(sequences(train)) == sorted(plain)


def test_the_order_of_an_epoch_depends_on_its_seed_alone(common, chats):
    first, second = jsonl(common, chats)()[0], jsonl(common, chats)()[0]
    first.set_epoch(1)
    second.set_epoch(2)
    second.set_epoch(1)
    assert sequences(first) == sequences(second)
    second.set_epoch(2**40 + 1)
    assert sequences(first) != sequences(second)


def test_a_batch_beyond_the_epoch_is_an_index_error(common, chats):
    train, _ = jsonl(common, chats)()
    for index in (-1, len(train)):
        with pytest.raises(IndexError):
            train.get_batch(index)


def test_reduction_none_gives_every_trained_token_the_weight_one(common, chats):
    mean, none = (
        jsonl(replace(common, reduction=reduction), chats)()[0].get_batch(0)[0]
        for reduction in ("mean", "none")
    )
    assert set(none.loss_fn_inputs["weights"].to_numpy().tolist()) == {0.0, 1.0}
    assert mean.loss_fn_inputs["weights"].to_numpy().sum() == pytest.approx(1)


# Counts


def test_statistics_count_what_is_trained_on(common, chats):
    train, held_out = jsonl(common, chats, eval_size=6)()
    found = train.statistics
    assert (found.conversations, found.datums, found.dropped, found.truncated) == (24, 24, 0, 0)
    batches = [datum for index in range(len(train)) for datum in train.get_batch(index)]
    assert found.tokens == sum(datum.model_input.length + 1 for datum in batches)
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in batches]
    assert found.trained_tokens == sum(int((weight > 0).sum()) for weight in weights)
    assert held_out.statistics.conversations == 6


def test_the_bytes_of_a_batch_are_those_of_its_trained_text(common, chats):
    train, _ = jsonl(common, chats)()
    train.set_epoch(4)
    sizes = [train.num_bytes(index) for index in range(len(train))]
    assert sum(sizes) == train.statistics.trained_bytes
    renderer = jsonl(common, chats).renderer
    answers = {}
    for i in range(30):
        [rendered] = renderer.render(conversation(i), "all_assistant_messages")
        answers[tuple(rendered.tokens)] = rendered.trained_bytes()
    first = [tuple(tokens) for tokens in sequences(train)[:4]]
    assert sizes[0] == sum(answers[tokens] for tokens in first)


def test_a_cut_sequence_counts_the_bytes_of_the_tokens_it_keeps(common, tmp_path):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * 400}]
    path = write_jsonl(tmp_path / "long.jsonl", [messages] * 4)
    train, _ = jsonl(replace(common, max_length=200), path)()
    assert train.statistics.truncated == 4 and train.statistics.tokens == 800
    kept = train.statistics.trained_tokens // 4
    assert train.num_bytes(0) == 4 * kept  # a byte a token


@pytest.mark.parametrize("max_length", [None, 90, 91, 92, 93])
@pytest.mark.parametrize(
    "train_on_what", ["all_assistant_messages", "all_messages", "all_tokens", "last_assistant_turn"]
)
def test_the_bytes_of_a_batch_are_those_of_its_trained_tokens_that_are_not_special(
    common, tmp_path, train_on_what, max_length
):
    """With a token for each byte: whatever is trained, headers too, and cut within a character."""
    messages = [
        {"role": "system", "content": "\nKurz, bitte."},
        {"role": "user", "content": "Was heißt 日本🙂?"},
        {"role": "assistant", "content": "日本は🙂🙂 — «naïve» " * 3},
    ]
    common = replace(common, train_on_what=train_on_what, max_length=max_length)
    builder = jsonl(common, write_jsonl(tmp_path / "chats.jsonl", [messages] * 4))
    train, _ = builder()
    special = builder.tokenizer.all_special_ids
    trained = 0
    for datum in train.get_batch(0):
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        trained += int((~np.isin(targets, special) & (weights > 0)).sum())
    assert train.num_bytes(0) == trained > 0
    assert train.special_tokens == frozenset(special)


def test_a_conversation_with_no_trained_token_left_is_dropped_and_counted(common, tmp_path):
    long = [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "yes"}]
    path = write_jsonl(tmp_path / "mixed.jsonl", [conversation(i) for i in range(6)] + [long])
    train, _ = jsonl(common, path)()
    found = train.statistics
    assert (found.conversations, found.datums, found.dropped) == (7, 6, 1)
    assert [len(train.get_batch(index)) for index in range(len(train))] == [4, 2]


def test_the_digest_is_of_the_conversations_and_not_of_their_place(common, chats, tmp_path):
    train, held_out = jsonl(common, chats, eval_size=3)()
    moved = tmp_path / "elsewhere" / "other-name.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(chats.read_bytes())
    again, _ = jsonl(replace(common, max_length=100, batch_size=2), moved, eval_size=3)()
    assert again.digest == train.digest and len(train.digest) <= 36
    assert held_out.digest != train.digest
    moved.write_text(chats.read_text().replace("What is 7", "What was 7"))
    assert jsonl(common, moved, eval_size=3)()[0].digest != train.digest


def test_a_permutation_is_the_same_everywhere():
    from sft.tokens.table import permutation

    assert permutation(8, 0).tolist() == [3, 7, 0, 1, 2, 4, 6, 5]
    assert sorted(permutation(8, 10**12).tolist()) == list(range(8))
    assert not np.array_equal(permutation(100, 1), permutation(100, 1 + 2**32))

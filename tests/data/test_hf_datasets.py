"""Datasets of the `datasets` library as batches: on disk, and streamed."""

import json

import datasets
import pytest
import tinker

from sft.data.sources import Rows
from sft.datasets import (
    FromConversationFileBuilder,
    HFStreamBuilder,
    StreamingSupervisedDatasetFromHFDataset,
    SupervisedDatasetFromHFDataset,
    datum_from_model_input_weights,
)
from sft.errors import BadInput
from tests.chat_data import common as common
from tests.chat_data import conversation, sequences, write_jsonl
from tests.chat_data import own_hf_cache as own_hf_cache

pytestmark = pytest.mark.usefixtures("own_hf_cache")


def to_datum(row):
    tokens = tinker.ModelInput.from_ints([row["n"], row["n"] + 1, row["n"] + 2])
    return datum_from_model_input_weights(tokens, [0, 1, 1])


def first_tokens(batch):
    return [datum.model_input.to_ints()[0] for datum in batch]


def epoch(dataset):
    return [first_tokens(dataset.get_batch(index)) for index in range(len(dataset))]


def numbers(count):
    return datasets.Dataset.from_list([{"n": 10 * i} for i in range(count)])


def stream(count, **options):
    settings = {"batch_size": 3, "length": 4, "map_fn": to_datum, "buffer_size": 5}
    return StreamingSupervisedDatasetFromHFDataset(
        numbers(count).to_iterable_dataset(), **(settings | options)
    )


# In memory or on disk


def test_map_fn_gives_a_datum_a_row_and_the_last_batch_is_short():
    dataset = SupervisedDatasetFromHFDataset(numbers(5), batch_size=2, map_fn=to_datum)
    assert epoch(dataset) == [[0, 10], [20, 30], [40]]


def test_flatmap_fn_gives_any_number_of_datums_a_row():
    def both(row):
        return [to_datum(row), to_datum({"n": row["n"] + 1})] if row["n"] else []

    dataset = SupervisedDatasetFromHFDataset(numbers(4), batch_size=2, flatmap_fn=both)
    assert epoch(dataset) == [[10, 11], [20, 21, 30, 31]]


def test_a_batch_that_gives_no_datum_is_said_so():
    dataset = SupervisedDatasetFromHFDataset(numbers(4), 2, flatmap_fn=lambda row: [])
    with pytest.raises(BadInput, match="the 2 rows of batch 1 give no sequence"):
        dataset.get_batch(1)


def test_an_epochs_seed_decides_the_order():
    dataset = SupervisedDatasetFromHFDataset(numbers(20), batch_size=3, map_fn=to_datum)
    dataset.set_epoch(1)
    first = epoch(dataset)
    dataset.set_epoch(2)
    second = epoch(dataset)
    dataset.set_epoch(1)
    assert epoch(dataset) == first != second
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == [10 * i for i in range(20)]


@pytest.mark.parametrize("functions", [{}, {"map_fn": to_datum, "flatmap_fn": to_datum}])
def test_exactly_one_function_is_given(functions):
    with pytest.raises(ValueError, match="either map_fn"):
        SupervisedDatasetFromHFDataset(numbers(4), 2, **functions)


def test_a_batch_larger_than_the_dataset_is_bad_input():
    with pytest.raises(BadInput, match="batch_size: 9 is more than the 4 rows"):
        SupervisedDatasetFromHFDataset(numbers(4), 9, map_fn=to_datum)


# Streams


def test_a_stream_gives_full_batches_of_different_rows_in_a_seeded_order():
    dataset = stream(20)
    dataset.set_epoch(7)
    first = epoch(dataset)
    assert [len(batch) for batch in first] == [3] * 4
    assert len(set(sum(first, []))) == 12
    dataset.set_epoch(8)
    assert epoch(dataset) != first
    dataset.set_epoch(7)
    assert epoch(dataset) == first


@pytest.mark.parametrize("functions", [{}, {"map_fn": None, "flatmap_fn": lambda r: [to_datum(r)]}])
def test_a_stream_resumes_by_skipping(functions):
    whole, resumed = stream(20, **functions), stream(20, **functions)
    for dataset in (whole, resumed):
        dataset.set_epoch(3)
    expected = epoch(whole)
    assert first_tokens(resumed.get_batch(2)) == expected[2]
    assert first_tokens(resumed.get_batch(3)) == expected[3]


def test_a_row_that_is_skipped_is_not_converted():
    converted = []

    def count(row):
        converted.append(row["n"])
        return to_datum(row)

    stream(20, map_fn=count).get_batch(3)
    assert len(converted) == 3


def test_a_stream_goes_forward_only():
    dataset = stream(20)
    dataset.get_batch(1)
    for index in (0, 1, 4):
        with pytest.raises(IndexError, match="forward only"):
            dataset.get_batch(index)
    dataset.set_epoch(0)
    assert len(dataset.get_batch(0)) == 3


def test_a_stream_that_ends_within_an_epoch_begins_again():
    dataset = stream(5, length=7)
    seen = sum(epoch(dataset), [])
    assert len(seen) == 21
    assert all(sorted(seen[i : i + 5]) == [0, 10, 20, 30, 40] for i in (0, 5, 10, 15))
    assert seen[:5] != seen[5:10] or seen[5:10] != seen[10:15]


def test_a_stream_without_a_sequence_is_bad_input():
    with pytest.raises(BadInput, match="no row that gives a sequence"):
        stream(5, map_fn=None, flatmap_fn=lambda row: []).get_batch(0)


def test_a_stream_holds_no_more_rows_than_its_buffer_and_a_batch():
    read = []

    def rows():
        for n in range(10_000):
            read.append(n)
            yield {"n": n}

    dataset = StreamingSupervisedDatasetFromHFDataset(
        datasets.IterableDataset.from_generator(rows), 4, 100, map_fn=to_datum, buffer_size=50
    )
    dataset.get_batch(0)
    assert len(read) <= 50 + 4 + 1


# dataset=hf_stream


@pytest.fixture
def chats(tmp_path):
    return write_jsonl(tmp_path / "chats.jsonl", [conversation(i % 25) for i in range(50)])


def streamed(common, path, **fields):
    settings = {"steps_per_epoch": 6, "shuffle_buffer": 10}
    return HFStreamBuilder(common_config=common, path=str(path), **(settings | fields))


def test_a_streamed_chat_trains_the_same_sequences_as_the_file_read_whole(common, chats):
    train, held_out = streamed(common, chats)()
    assert held_out is None and len(train) == 6
    whole = FromConversationFileBuilder(common_config=common, path=str(chats))()[0]
    train.set_epoch(1)
    seen = sequences(train)
    assert len(seen) == 24
    assert {tuple(tokens) for tokens in seen} <= {tuple(tokens) for tokens in sequences(whole)}


def test_a_streams_held_out_conversations_are_different_and_never_trained_on(common, chats):
    train, held_out = streamed(common, chats, eval_size=10, steps_per_epoch=20)()
    held = {tuple(tokens) for tokens in sequences(held_out)}
    assert len(held) == 10 == held_out.statistics.conversations
    train.set_epoch(2)
    trained = {tuple(tokens) for tokens in sequences(train)}
    assert len(trained) == 15 and not trained & held


def test_a_stream_is_evaluated_on_another_split(common, tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, found in (("train", range(20)), ("test", range(18, 24))):
        rows = [{"messages": conversation(i)} for i in found]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    train, held_out = streamed(common, folder, eval_split="test", steps_per_epoch=10)()
    assert held_out.statistics.conversations == 6
    assert len({tuple(tokens) for tokens in sequences(train)}) == 18


def test_a_stream_knows_the_bytes_of_the_batch_it_gave_last(common, chats):
    train, _ = streamed(common, chats)()
    train.set_epoch(1)
    train.get_batch(0)
    first = train.num_bytes(0)
    renderer = streamed(common, chats).renderer
    [rendered] = renderer.render(conversation(1), "all_assistant_messages")
    assert first == pytest.approx(4 * rendered.trained_bytes(), abs=8)
    train.get_batch(3)
    with pytest.raises(IndexError):
        train.num_bytes(0)


@pytest.mark.parametrize(
    ("where", "words"),
    [("rows.json", "rows.json line 5: message 1: the role 'robot'"), (".", "robot.*beep")],
)
def test_a_bad_row_of_a_stream_is_named_by_its_line_or_its_beginning(
    where, words, common, tmp_path
):
    rows = [{"messages": conversation(i)} for i in range(4)]
    rows.append({"messages": [{"role": "robot", "content": "beep"}]})
    folder = tmp_path / "rows"
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    train, _ = streamed(common, folder / where, shuffle_buffer=1, steps_per_epoch=9)()
    with pytest.raises(BadInput, match=words):
        for index in range(9):
            train.get_batch(index)


def rows_with_every_fate():
    """Two rows that are trained, and one for each way not to be."""
    lost = [*conversation(2), {"role": "tool", "content": "4"}, *conversation(3)]
    lost[1]["tool_calls"] = [{"function": {"name": "f", "arguments": {}}}]
    rows = [conversation(0), conversation(1), [], conversation(4)[:1], lost]
    return [{"messages": messages, "id": 7} for messages in rows]


@pytest.mark.parametrize("where", ["rows.json", "."])
def test_a_stream_counts_every_row_that_it_does_not_train(where, common, tmp_path):
    folder = tmp_path / "rows"
    rows = rows_with_every_fate()
    if where == ".":  # in a table every message has the same fields
        rows = rows[:4]
    datasets.Dataset.from_list(rows[:4]).save_to_disk(folder)
    (folder / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    fields = {"shuffle_buffer": 1, "eval_size": 1, "on_lost": "leave_out", "steps_per_epoch": 1}
    train, _ = streamed(common, folder / where, **fields)()
    train.get_batch(0)  # its four sequences are the second row's, which is read four times
    left = train.report.left_out
    counts = {kind: found.count for kind, found in left.items()}
    expected = {"held out": 4, "no message": 3, "no token to train on": 3}
    if where != ".":
        expected["the chat template cannot write them"] = 3
    assert counts == expected
    assert train.report.unused == ["id"]
    place = f"{folder / where} line 3:" if where != "." else "(in the row {'messages': []"
    assert place in left["no message"].first


def test_a_stream_without_an_answer_is_named(common, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(0)[:1]])
    train, _ = streamed(common, path)()
    with pytest.raises(BadInput, match=r"chats.jsonl \(train\) holds no row that gives a sequence"):
        train.get_batch(0)


def test_words_that_a_stream_would_lose_are_said_with_their_line(common, tmp_path):
    rows = rows_with_every_fate()
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    train, _ = streamed(common, tmp_path / "rows.json", shuffle_buffer=1)()
    with pytest.raises(BadInput, match=r"rows\.json line 5: ") as error:
        train.get_batch(3)
    assert "in the row" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "no/such/thing/here"}, "dataset.path: there is no file or folder no/such"),
        ({"split": "tst"}, "dataset.split: .* has no split 'tst'"),
        ({"layout": "alpaca"}, "has no 'instruction' .*'messages'"),
        ({"eval_size": 26}, "dataset.eval_size: 26 is more than the 25 different"),
    ],
)
def test_what_a_stream_cannot_be_is_said_at_the_start(common, chats, fields, words):
    with pytest.raises(BadInput, match=words):
        streamed(common, fields.pop("path", chats), **fields)()


def test_an_image_in_a_column_is_refused_and_not_decoded():
    text = datasets.Value("string")
    features = datasets.Features(
        {"prompt": text, "completion": text, "images": datasets.List(datasets.Image())}
    )
    rows = [
        {"prompt": "hi", "completion": "ho", "images": images}
        for images in ([], None, [{"bytes": b"no image", "path": None}])
    ]
    source = Rows(datasets.Dataset.from_list(rows, features=features), "pictures")
    found = [found for _, found in source.conversations()]
    assert str(found.pop()).startswith(
        "pictures row 3: 'images' holds images; only text is trained"
    )
    assert [len(conversation.messages) for conversation in found] == [2, 2]

"""Local folders under dataset=hf_chat and hf_stream: plain files are read as any file is."""

import datasets
import pytest

from sft.datasets import FromConversationFileBuilder, HFChatBuilder, HFStreamBuilder
from sft.display.example_rows import ExampleRows
from sft.errors import BadInput
from tests.chat_data import common as common
from tests.chat_data import conversation, sequences
from tests.chat_data import own_hf_cache as own_hf_cache
from tests.data.test_files import lines, parquet, table

pytestmark = pytest.mark.usefixtures("own_hf_cache")

BUILDERS = (FromConversationFileBuilder, HFChatBuilder, HFStreamBuilder)


def chats(numbers, **beside):
    return [{"messages": conversation(number), **beside} for number in numbers]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "data"
    made.mkdir()
    return made


def messages(builder):
    """Those of every row, or what is wrong with it."""
    found = [row for _, row in builder.source().rows()]
    return [row if isinstance(row, BadInput) else row.messages for row in found]


@pytest.mark.parametrize("builder", BUILDERS)
def test_shards_may_differ_in_their_columns(builder, common, folder):
    (folder / "a.jsonl").write_text(lines(chats(range(4))))
    (folder / "b.jsonl").write_text(lines(chats(range(4, 8), id=1, tags=["x"])))
    rows = messages(builder(common_config=common, path=str(folder)))
    assert rows == [conversation(number) for number in range(8)]


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_broken_line_is_named_by_its_shard_and_number(builder, common, folder):
    (folder / "a.jsonl").write_text(lines(chats(range(4))))
    (folder / "b.jsonl").write_text(lines(chats(range(2))) + '{"messages": [{"role":\n')
    *sound, broken = messages(builder(common_config=common, path=str(folder)))
    assert len(sound) == 6
    assert str(broken).startswith(f"{folder / 'b.jsonl'} line 3: not JSON: ")


@pytest.mark.parametrize("builder", BUILDERS)
def test_cells_are_the_text_of_the_file(builder, common, folder):
    words = ["007", "1.50", "0"]
    (folder / "a.csv").write_text(table([{"prompt": "q", "completion": word} for word in words]))
    rows = messages(builder(common_config=common, path=str(folder)))
    assert [row[-1]["content"] for row in rows] == words


@pytest.fixture
def splits(folder):
    (folder / "README.md").write_text("about")
    (folder / "train-00000.parquet").write_bytes(parquet(chats(range(6))))
    (folder / "train-00001.parquet").write_bytes(parquet(chats(range(6, 10))))
    (folder / "test.parquet").write_bytes(parquet(chats(range(10, 13))))
    return folder


@pytest.mark.parametrize("builder", [HFChatBuilder, HFStreamBuilder])
def test_the_splits_are_those_that_datasets_finds(builder, common, splits):
    expected = {"train": range(10), "test": range(10, 13)}
    for split, numbers in expected.items():
        made = builder(common_config=common, path=str(splits), split=split)
        assert messages(made) == [conversation(number) for number in numbers]
    with pytest.raises(BadInput, match=r"dataset.split: .* has no split 'tst'; it has te.*, train"):
        builder(common_config=common, path=str(splits), split="tst")()


def test_a_part_of_a_split_is_taken_by_its_rows(common, splits):
    parts = {"train[5:7]": (5, 6), "test[-1:]": (12,), "train[:10%]+train[-10%:]": (0, 9)}
    parts["train+test"] = tuple(range(13))
    for split, numbers in parts.items():
        made = HFChatBuilder(common_config=common, path=str(splits), split=split)
        assert messages(made) == [conversation(number) for number in numbers]
    with pytest.raises(BadInput, match=r"dataset.split: .* has no split 'train\[:5\]': a stream"):
        HFStreamBuilder(common_config=common, path=str(splits), split="train[:5]")()


def test_files_of_no_split_are_named(common, splits):
    (splits / "more.csv").write_text(table([{"prompt": "q", "completion": "a"}]))
    train, _ = HFChatBuilder(common_config=common, path=str(splits))()
    assert train.statistics.report.found == (
        "2 files: Parquet, layout messages; files not read: README.md, more.csv"
    )


def test_a_folder_that_datasets_has_saved_can_be_streamed(common, folder):
    datasets.Dataset.from_list(chats(range(8))).save_to_disk(folder)
    fields = {"steps_per_epoch": 2, "shuffle_buffer": 4}
    train, _ = HFStreamBuilder(common_config=common, path=str(folder), **fields)()
    train.set_epoch(1)
    assert len({tuple(tokens) for tokens in sequences(train)}) == 8


def test_rows_are_numbered_within_their_own_file(common, folder):
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(lines(chats(range(2))))
    for builder in BUILDERS:
        rows = ExampleRows(builder(common_config=common, path=str(folder)))
        assert [row["line"] for row in rows] == [1, 2, 1, 2]

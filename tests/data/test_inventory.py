"""What a run records of the files that it reads."""

import gzip
import hashlib
import json
import os

import pytest

from sft.data.files import inventory
from sft.data.files.inventory import take
from tests.chat_data import write_chats


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_has_its_own_digest_size_and_rows(place):
    write_chats(place / "chats.jsonl", count=7)
    content = (place / "chats.jsonl").read_bytes()
    found = take("chats.jsonl")
    assert (found.path, found.inside, found.files, found.rows) == (
        "chats.jsonl",
        "chats.jsonl",
        1,
        7,
    )
    assert (found.bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_rows_are_counted_whatever_the_file_is(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": "a\nb", "answer": "b"}] * 5
    lines = "".join(f"{json.dumps(row)}\n\n" for row in rows)
    (place / "lines.jsonl").write_text(lines)
    (place / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (place / "array.json").write_text(json.dumps(rows))
    (place / "table.csv").write_text("question,answer\n" + '"a\nb",b\n' * 5)
    pq.write_table(pa.Table.from_pylist(rows), place / "table.parquet")
    for file in place.iterdir():
        assert take(file.name).rows == 5, file.name


def test_shards_are_one_thing_whose_digest_names_each(place):
    folder = place / "data" / "2026"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        write_chats(folder / f"{name}.jsonl", count=3)
    (folder / ".hidden").write_text("x")
    whole, pattern = take("data"), take("data/*/*.jsonl")
    assert (whole.inside, whole.files, whole.rows) == ("", 2, 6)
    assert (pattern.inside, pattern.files, pattern.rows) == ("*/*.jsonl", 2, 6)
    assert pattern.sha256 == whole.sha256
    (folder / "b.jsonl").rename(folder / "c.jsonl")
    assert take("data").sha256 != whole.sha256


def test_a_changed_file_has_another_digest_at_once(place):
    (place / "a.jsonl").write_text("one")
    before = inventory.digest_of(place / "a.jsonl")
    (place / "a.jsonl").write_text("two")
    os.utime(place / "a.jsonl", ns=(1, 1))
    assert inventory.digest_of(place / "a.jsonl") != before


def test_of_a_large_stream_only_the_size_is_recorded(place, monkeypatch):
    write_chats(place / "chats.jsonl", count=7)
    monkeypatch.setattr(inventory, "MOST_OF_A_STREAM", 10)
    found = take("chats.jsonl", whole=False)
    assert found.bytes > 10 and found.sha256 is None and found.rows is None
    assert take("chats.jsonl").rows == 7


def test_what_is_no_place_here_has_none(place):
    assert take("HuggingFaceH4/no_robots") is None and take("*.jsonl") is None

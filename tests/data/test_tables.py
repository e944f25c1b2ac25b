"""Tables whose columns have a type: what JSON does not have is written as JSON would have it."""

import datetime
from decimal import Decimal

import pytest

from sft.rendering.conversations import Conversation
from sft.tokens.digests import as_text
from tests.data.test_files import CELLS, CHATS, parquet, read, write

TYPED = {
    "a time": (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
    "a date": (datetime.date(2024, 1, 2), "2024-01-02"),
    "a decimal": (Decimal("1.50"), 1.5),
    "a whole decimal": (Decimal("12"), 12),
    "bytes that are text": ("Malmö".encode(), "Malmö"),
}


@pytest.mark.parametrize("case", TYPED)
def test_a_tables_values_are_written_as_json_has_them(case, tmp_path):
    value, written = TYPED[case]
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": [value]}}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call], "seen": value}]}
    messages, report = read(write(tmp_path / "x.parquet", parquet([row])))
    [message] = messages[0]
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": [written]}
    assert message["seen"] == written and report.fields == ["seen"]


def test_a_field_that_json_cannot_hold_is_only_named_if_nobody_reads_it(tmp_path):
    row = {"messages": [{"role": "user", "content": "hi", "blob": b"\xff"}, *CHATS[0]]}
    messages, report = read(write(tmp_path / "x.parquet", parquet([row])))
    assert messages[0][0]["content"] == "hi" and report.fields == ["blob"]
    assert as_text(Conversation(messages[0]))


def test_text_in_columns_of_bytes_is_read(tmp_path):
    cells = [{name: cell.encode() for name, cell in row.items()} for row in CELLS]
    rows = [
        {"messages": [{**message, "content": message["content"].encode()} for message in chat]}
        for chat in CHATS
    ]
    for table in (cells, rows):
        assert read(write(tmp_path / "x.parquet", parquet(table)))[0] == CHATS


def test_arguments_may_be_a_map(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    function = pa.struct({"name": pa.string(), "arguments": pa.map_(pa.string(), pa.string())})
    calls = pa.list_(pa.struct({"function": function}))
    message = pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": calls})
    call = {"function": {"name": "f", "arguments": [("city", "Oslo")]}}
    rows = [[{"role": "assistant", "content": "", "tool_calls": [call]}]]
    chats = pa.array(rows, pa.list_(message))
    pq.write_table(pa.table({"messages": chats}), tmp_path / "x.parquet")
    [[found]] = read(tmp_path / "x.parquet")[0]
    assert found["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}

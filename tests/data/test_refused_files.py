"""Every file and path that is refused by those who read it, with its whole message.

A case is a file's content and the sentence; FILE stands for the file's path.
"""

import datetime
import gzip
from decimal import Decimal

import pytest

from sft.datasets import (
    FromConversationFileBuilder,
    HFChatBuilder,
    HFStreamBuilder,
    NoRobotsBuilder,
)
from sft.errors import BadInput
from sft.types import ChatDatasetBuilderCommonConfig
from tests.data.refusals import EXPECTED, SOUND, UNPAIRED, answer, refusal, user

PACKED = gzip.compress(SOUND.encode() * 9, mtime=0)
CSV = "prompt,completion\nhi,ho\n"

FILES = {
    b"hello": "dataset.path: FILE is no file of chats that can be read: it begins with 'hello'; "
    "expected JSON lines, a JSON array, CSV, TSV, Parquet or Arrow",
    b"\x00\x01\x02": "dataset.path: FILE is no file of chats that can be read: it holds no text; "
    "expected JSON lines, a JSON array, CSV, TSV, Parquet or Arrow",
    b"PK\x03\x04": "dataset.path: FILE is a zip archive or an Excel file; unpack it, or save it as "
    "CSV or JSON lines",
    b"PAR1 and no more": "dataset.path: FILE cannot be read as Parquet: Parquet magic bytes not "
    "found in footer. Either the file is corrupted or this is not a parquet file.",
    gzip.compress(b"PAR1", mtime=0): "dataset.path: FILE is Parquet in gzip; unpack it first",
    PACKED[:-20]: "dataset.path: FILE is damaged or cut off: as gzip: "
    "Compressed file ended before the end-of-stream marker was reached",
    b"\xff\xfe\x00": "dataset.path: FILE is not UTF-16, as its byte order mark says: "
    "truncated data",
    # JSON over several lines
    b'[{"messages": []},': "FILE line 1: not JSON: Expecting value at column 19: the file ends "
    "within the array, as if cut off",
    b'[{"messages": []}': "FILE line 1: not JSON: Expecting value at column 18: the file "
    "ends within the array, as if cut off",
    b'[{"messages": [{"role": "us': "FILE line 1: not JSON: Unterminated string starting at column "
    "26: the file ends within the array, as if cut off",
    b'{\n "messages": [': "FILE line 2: not JSON: Expecting value at column 15: the file ends "
    "within the object, as if cut off",
    SOUND.encode() + b"\n\0\0\0": "FILE line 2: holds NUL bytes: the file is damaged, or was not "
    "written to its end",
    b"[1]\n[2]\n": "FILE line 1: expected a JSON object, found list",
    b'[\n{"messages": []}\n{"messages": []}]': "FILE line 3: not JSON: Expecting ',' delimiter at "
    "column 1",
    b'[{"messages": []}] x': "FILE line 1: not JSON: Extra data at column 20",
    b'{\n "messages": [}\n}': "FILE line 2: not JSON: Expecting value at column 15",
    b"[3]": "FILE item 1: expected a JSON object, found int",
    b'[{"a": {"b": 1, "b": 2}}]': "FILE item 1: has the key 'b' twice in one object; keep one of "
    "them",
    b'[{"a": ' + b"9" * 5000 + b"}]": "FILE line 1: holds an integer of more than 4,300 digits; "
    "write it as text, in quotes",
    # CSV
    b"a,b\n1,2\n": f"FILE line 2: has the columns 'a', 'b'; {EXPECTED}; the first line of a CSV "
    "file names its columns",
    CSV.encode() + b"hi\n": "FILE line 3: has 1 cell; the first line names 2 columns",
    CSV.encode() + b'"hi" there,ho\n': "FILE line 3: not CSV: ',' expected after '\"'; put the "
    "cell in quotes and write each quote in it twice",
    CSV.encode() + b'hi,"ho\n\n': "FILE line 3 to 4: not CSV: a quote is opened and never closed",
    CSV.encode() + b"hi\rhi,ho\n": "FILE line 3: not CSV: a carriage return within a cell that is "
    "not in quotes",
    CSV.encode()
    + b"hi,\xff\n": "FILE line 3: not UTF-8: invalid start byte; save the file as UTF-8, in a "
    "spreadsheet as 'CSV UTF-8', or with `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW` if it is in "
    "the encoding of Windows or Latin-1",
    b"prompt,completion,label\np,good,True\np,bad,False\n": f"FILE line 2: {UNPAIRED}",
    b"prompt,completion,label\np,good,1\np,bad,0\n": f"FILE line 2: {UNPAIRED}",
    b"prompt,completion,prompt\nhi,ho,hi\n": "FILE line 1: names the column 'prompt' twice",
    CSV.encode() + b"\0\0\0": "FILE line 3: holds NUL bytes: the file is damaged, or was not "
    "written to its end",
    b"messages\nhello\n": "FILE line 2: 'messages' is text; expected a list of messages",
}


@pytest.mark.parametrize("content", FILES, ids=lambda content: ascii(content[:40]))
def test_a_file_that_cannot_be_read_says_why(content, tmp_path):
    path = tmp_path / "chats"
    path.write_bytes(content)
    assert refusal(path) == FILES[content]


def test_a_row_of_a_table_is_refused_by_its_number(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "chats"
    rows = [{"prompt": "hi", "completion": "ho"}, {"prompt": "hi", "completion": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert refusal(path) == "FILE row 2: 'completion' is NoneType; expected text"
    pq.write_table(pa.Table.from_pylist([{"x": "hi"}]), path)
    assert refusal(path) == f"FILE: has the columns 'x'; {EXPECTED}"


TYPED = {
    datetime.timedelta(1): "holds a timedelta, which JSON does not have; write it as text",
    b"\xff": "holds bytes that are no text in UTF-8",
    Decimal("0.123456789012345678901"): "holds the number 0.123456789012345678901, which has too "
    "many digits; write it as text",
}


@pytest.mark.parametrize("value", TYPED, ids=str)
def test_an_argument_that_json_cannot_hold_is_refused_by_its_row(value, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    call = {"function": {"name": "f", "arguments": {"a": value}}}
    rows = [{"messages": [user(), answer(None, tool_calls=[call])]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chats")
    assert refusal(tmp_path / "chats") == f"FILE row 1: message 2: 'tool_calls': {TYPED[value]}"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none.jsonl", "dataset.path: there is no file FILE"),
        ("*.json", "dataset.path: no file fits the pattern FILE"),
        ("empty", "dataset.path: the folder FILE holds no file of chats; expected .jsonl, .ndjson, "
         ".json, .csv, .tsv, .parquet, .arrow, .feather, perhaps packed (.gz, .zst, .zstd, .bz2, "
         ".xz)"),
        ("splits", "dataset.path: the folder FILE holds test.jsonl, which is named like data to "
         "evaluate on; name the files to train on, such as 'dataset.path=\"FILE/train*\"', or add "
         "dataset=hf_chat, which knows splits"),
    ],
)  # fmt: skip
def test_a_path_that_names_no_file_to_train_on_is_refused(path, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("hello")
    (tmp_path / "splits").mkdir()
    for name in ("train", "test"):
        (tmp_path / "splits" / f"{name}.jsonl").write_text(SOUND)
    assert refusal(tmp_path / path) == words


def test_what_looks_like_a_name_of_the_hub_is_answered_with_the_kind_that_reads_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert refusal("some/dataset") == (
        "dataset.path: there is no file FILE; for a dataset of the Hub add dataset=hf_chat"
    )


@pytest.mark.parametrize("path", ["", " "])
@pytest.mark.parametrize(
    "builder", [FromConversationFileBuilder, HFChatBuilder, HFStreamBuilder, NoRobotsBuilder]
)
def test_an_empty_path_is_not_the_current_folder(builder, path):
    with pytest.raises(BadInput, match="^dataset.path: is empty; expected a file, a folder or a"):
        builder(common_config=ChatDatasetBuilderCommonConfig("none"), path=path).source()

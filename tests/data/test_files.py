"""Files as people have them: whatever a file's form and name, the same conversations come out."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pytest
import zstandard

from sft.data.sources import ChatFiles
from sft.errors import BadInput
from tests.chat_data import conversation

COUNT = 8
CHATS = [conversation(i) for i in range(COUNT)]
ROWS = [{"messages": messages} for messages in CHATS]


def lines(rows=ROWS, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def table(rows, **dialect):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], **{"lineterminator": "\n"} | dialect)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parquet(rows=ROWS):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def arrow(rows=ROWS, stream=False):
    import pyarrow as pa

    sink, rows = pa.BufferOutputStream(), pa.Table.from_pylist(rows)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


CELLS = [{"prompt": q["content"], "completion": a["content"]} for q, a in CHATS]
AS_TEXT = [{"messages": json.dumps(messages)} for messages in CHATS]
WITHOUT_QUOTES = "prompt\tcompletion\n" + "".join(
    f"{row['prompt']}\t{row['completion']}\n" for row in CELLS
)

FORMS = {
    "JSONL": lines(),
    "JSONL in gzip": gzip.compress(lines().encode()),
    "JSONL in zstd": zstandard.compress(lines().encode()),
    "JSONL in bzip2": bz2.compress(lines().encode()),
    "JSONL in xz": lzma.compress(lines().encode()),
    "JSONL in UTF-16": lines().encode("utf-16"),
    "JSON array": json.dumps(ROWS),
    "JSON array in gzip": gzip.compress(json.dumps(ROWS, indent=1).encode()),
    "JSON objects": "".join(json.dumps(row, indent=2) for row in ROWS),
    "CSV": table(CELLS),
    "CSV with ';'": table(CELLS, delimiter=";"),
    "CSV with '|'": table(CELLS, delimiter="|"),
    "TSV": table(CELLS, delimiter="\t"),
    "CSV in zstd": zstandard.compress(table(AS_TEXT).encode()),
    "Parquet": parquet(),
    "Arrow": arrow(),
    "Arrow stream": arrow(stream=True),
}

VARIANTS = {
    "byte order mark": b"\xef\xbb\xbf" + lines().encode(),
    "CRLF and blank lines": lines(end="\r\n\r\n"),
    "no end of line": lines().rstrip(),
    "carriage returns": lines(end="\r"),
    "carriage returns in CSV": table(CELLS, lineterminator="\r"),
    "carriage returns in UTF-16": table(CELLS, lineterminator="\r").encode("utf-16"),
    "a list of messages a line": "".join(f"{json.dumps(messages)}\n" for messages in CHATS),
    "an array of lists of messages": json.dumps(CHATS, indent=1),
    "a space before quotes in CSV": table(CELLS, quoting=csv.QUOTE_ALL).replace('","', '", "'),
    "a space before some quotes in CSV": table(CELLS).replace(",", ", ", 1).replace(',"', ', "'),
    "Excel's sep=": "sep=|\n" + table(CELLS, delimiter="|"),
    "Excel's sep= in quotes": '"sep=;"\r\n' + table(CELLS, delimiter=";"),
    "indented array": json.dumps(ROWS, indent=1),
    "array in a byte order mark": b"\xef\xbb\xbf\r\n" + json.dumps(ROWS).encode(),
    "two members of gzip": gzip.compress(lines(ROWS[:3]).encode())
    + gzip.compress(lines(ROWS[3:]).encode()),
    "two frames of zstd": zstandard.compress(lines(ROWS[:3]).encode())
    + zstandard.compress(lines(ROWS[3:]).encode()),
    "CRLF in CSV": table(CELLS, lineterminator="\r\n"),
    "a byte order mark in CSV": "\ufeff" + table(CELLS, quoting=csv.QUOTE_ALL),
    "messages in cells": table(AS_TEXT),
    "messages in cells, as pandas writes them": table([{"messages": m} for m in CHATS]),
    "TSV without quotes": WITHOUT_QUOTES,
    "UTF-16 in CSV": table(CELLS, delimiter="\t").encode("utf-16"),
    "messages as text in Parquet": parquet(AS_TEXT),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, **settings):
    """The messages of a file, and what is said of it."""
    files = ChatFiles(str(path), **settings)
    found = [row for _, row in files.conversations()]
    for row in found:
        if isinstance(row, BadInput):
            raise row
    return [row.messages for row in found], files.report()


@pytest.mark.parametrize("name", ["chats", "chats.jsonl", "chats.csv", "chats.parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_what_it_holds_whatever_its_name_says(form, name, tmp_path):
    messages, report = read(write(tmp_path / name, FORMS[form]))
    assert messages == CHATS
    assert report.found.startswith(f"{form}, layout ")
    assert (report.unused, report.fields, report.left_out) == ([], [], {})


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_form_are_read_alike(variant, tmp_path):
    assert read(write(tmp_path / "chats", VARIANTS[variant]))[0] == CHATS


# Cells


def answers(content, tmp_path):
    return [messages[-1]["content"] for messages in read(write(tmp_path / "x.csv", content))[0]]


def test_every_cell_is_the_text_of_the_file(tmp_path):
    words = [
        "None",
        "NA",
        "null",
        "nan",
        "True",
        "4",
        "1.50",
        "007",
        "1e5",
        "2024-01-01",
        " x ",
        '"',
    ]
    rows = [{"instruction": "Say", "output": word} for word in words]
    assert answers(table(rows), tmp_path) == words


def test_an_input_that_looks_like_nothing_stands_in_the_prompt(tmp_path):
    messages, _ = read(write(tmp_path / "x.csv", "instruction,input,output\nSay,NA,x\nSay,,y\n"))
    assert [prompt["content"] for prompt, _ in messages] == ["Say\n\nNA", "Say"]


def test_a_cell_may_hold_lines_delimiters_and_quotes(tmp_path):
    words = ["a\nb", "a,b;c\td|e", 'he said "no"', "a\r\nb"]
    rows = [{"prompt": "q", "completion": word} for word in words]
    assert answers(table(rows), tmp_path) == words


def test_a_space_in_front_of_a_cell_is_a_letter_of_it(tmp_path):
    content = 'prompt,completion\nq, x\nq, "yes" is what she said\nq,"a, b"\n'
    assert answers(content, tmp_path) == [" x", ' "yes" is what she said', "a, b"]


def test_a_line_that_names_the_delimiter_counts_as_a_line(tmp_path):
    path = write(tmp_path / "x.csv", "sep=;\nprompt;completion\na;b\nc\n")
    found = list(ChatFiles(str(path)).conversations())
    assert [number for number, _ in found] == [3, 4]


def test_a_list_without_items_in_a_cell_holds_nothing(tmp_path):
    content = "prompt,completion,images,history\nq,a,[],[]\n"
    assert answers(content, tmp_path) == ["a"]


def test_a_row_of_csv_is_numbered_by_the_line_on_which_it_begins(tmp_path):
    path = write(tmp_path / "x.csv", 'prompt,completion\n"a\nb",c\n\nd\n')
    found = list(ChatFiles(str(path)).conversations())
    assert [number for number, _ in found] == [2, 5]
    assert str(found[1][1]).startswith(f"{path} line 5: has 1 cell;")


def test_the_delimiter_is_the_one_that_gives_columns_of_a_layout(tmp_path):
    content = "prompt;completion\none, two, three;a, b\nfour, five;c\n"
    assert answers(content, tmp_path) == ["a, b", "c"]


def test_a_quote_in_a_tsv_without_quotes_is_a_letter(tmp_path):
    content = 'prompt\tcompletion\nq\t"Yes", she said\nq\t"\n'
    assert answers(content, tmp_path) == ['"Yes", she said', '"']


# Tables


def test_nulls_that_a_table_fills_in_are_no_arguments(tmp_path):
    def row(**arguments):
        calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
        return {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}]}

    rows = [row(city="Oslo", more={"a": 1}), row(n=2, more={"b": [None]})]
    messages, _ = read(write(tmp_path / "x.parquet", parquet(rows)))
    assert messages == [rows[0]["messages"], rows[1]["messages"]]


def test_a_null_of_a_json_file_is_the_users_word(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": None}}}
    row = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert read(write(tmp_path / "x.jsonl", lines([row])))[0] == [row["messages"]]


def test_columns_that_are_not_used_are_not_read(tmp_path):
    rows = [{**row, "vector": b"x", "id": i} for i, row in enumerate(ROWS)]
    messages, report = read(write(tmp_path / "x.parquet", parquet(rows)))
    assert messages == CHATS and report.unused == ["vector", "id"]


def test_a_first_cell_may_begin_with_a_bracket_in_a_file_named_as_a_table(tmp_path):
    table = b"[id],prompt,completion\n1,hi,ho\n"
    messages, report = read(write(tmp_path / "x.csv", table))
    assert [message["content"] for message in messages[0]] == ["hi", "ho"]
    assert report.unused == ["[id]"]
    array = b'[{"prompt": "hi", "completion": "ho"}]'
    assert read(write(tmp_path / "y.csv", array))[0] == messages


# Large files


def test_a_row_of_any_length_is_read(tmp_path):
    long = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "word " * 300_000}]
    rows = [*ROWS, {"messages": long}, *ROWS]
    for content in (lines(rows), json.dumps(rows), json.dumps(rows, indent=1)):
        assert read(write(tmp_path / "x", content))[0] == [*CHATS, long, *CHATS]
    cells = [{"prompt": "q", "completion": long[1]["content"]}] * 3
    assert read(write(tmp_path / "x", table(cells)))[0] == [long] * 3


@pytest.mark.parametrize("form", ["lines", "array", "table"])
def test_a_file_is_read_row_by_row(form, tmp_path):
    import tracemalloc

    rows = 40_000
    row = json.dumps({"prompt": "q" * 200, "completion": "a" * 200})
    content = {
        "lines": f"{row}\n" * rows,
        "array": "[" + ",".join([row] * rows) + "]",
        "table": "prompt,completion\n" + f"{'q' * 200},{'a' * 200}\n" * rows,
    }
    path = write(tmp_path / "x", content[form])
    del content
    files = ChatFiles(str(path))
    tracemalloc.start()
    assert sum(1 for _ in files.conversations()) == rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6 < path.stat().st_size


# Several files


def test_shards_are_read_in_the_order_of_their_names_and_named_each_by_itself(tmp_path):
    write(tmp_path / "part-2.jsonl.gz", gzip.compress(lines(ROWS[4:]).encode()))
    write(tmp_path / "part-1.jsonl", lines(ROWS[:4]))
    write(tmp_path / "README.md", "about")
    write(tmp_path / ".hidden.jsonl", "no")
    for path in (tmp_path, tmp_path / "part-*"):
        files = ChatFiles(str(path))
        found = list(files.conversations())
        assert [row.messages for _, row in found] == CHATS
        assert files.where(found[0][0]) == f"{tmp_path / 'part-1.jsonl'} line 1"
        assert files.where(found[5][0]) == f"{tmp_path / 'part-2.jsonl.gz'} line 2"
        assert files.line(found[5][0]) == 2
    _, report = read(tmp_path)
    assert (
        report.found == "2 files: JSONL, JSONL in gzip, layout messages; files not read: README.md"
    )


def test_an_empty_shard_has_no_layout(tmp_path):
    write(tmp_path / "a.jsonl", lines())
    write(tmp_path / "b.jsonl", "")
    assert read(tmp_path)[1].found == "2 files: JSONL, layout messages"


def test_shards_may_be_of_different_kinds(tmp_path):
    write(tmp_path / "a.parquet", parquet(ROWS[:4]))
    write(tmp_path / "b.csv", table(CELLS[4:]))
    messages, report = read(tmp_path)
    assert messages == CHATS
    assert report.found == "2 files: Parquet, CSV, layout messages, prompt_completion"


def test_raw_text_is_said_to_be_trained_whole(tmp_path):
    path = write(tmp_path / "chats", lines([{"text": "Once upon a time"}]))
    files = ChatFiles(str(path))
    [(_, found)] = files.conversations()
    assert (found.messages, found.text) == ([], "Once upon a time")
    assert files.report().found == "JSONL, layout text (raw text: all tokens are trained)"


def test_the_key_of_data_changes_with_its_content_and_with_how_it_is_read(tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS[:4]))
    write(tmp_path / "b.jsonl", lines(ROWS[4:]))
    whole = ChatFiles(str(tmp_path)).key()
    assert ChatFiles(str(tmp_path)).key() == whole
    assert ChatFiles(str(tmp_path), on_bad_line="skip").key() != whole
    assert ChatFiles(str(tmp_path), "messages").key() != whole
    write(tmp_path / "b.jsonl", lines(ROWS[4:]).replace("What is 7", "What was 7"))
    assert ChatFiles(str(tmp_path)).key() != whole


# Bad rows


BROKEN = {
    "JSONL": (lines(ROWS[:3]) + '{"messages": [\n' + lines(ROWS[3:]), "line 4: not JSON"),
    "CSV": (table(CELLS[:3]) + "one\n" + table(CELLS[3:]).partition("\n")[2], "line 5: has 1 cell"),
    "no conversation": (lines(ROWS[:3]) + "{}\n" + lines(ROWS[3:]), "line 4: has no 'messages'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_is_refused_or_left_out_and_counted(case, tmp_path):
    content, words = BROKEN[case]
    path = write(tmp_path / "chats", content)
    with pytest.raises(BadInput, match=words):
        read(path)
    messages, report = read(path, on_bad_line="skip")
    assert messages == CHATS
    [(kind, left)] = report.left_out.items()
    assert (kind, left.count) == ("not a conversation", 1) and words in left.first
    assert len(list(ChatFiles(str(path), on_bad_line="skip").rows())) == COUNT + 1


def test_a_broken_first_line_is_left_out_too(tmp_path):
    path = write(tmp_path / "chats", "oops, this\n" + lines())
    messages, report = read(path, on_bad_line="skip")
    assert messages == CHATS and report.left_out["not a conversation"].count == 1


def test_a_conversation_without_messages_is_left_out_and_counted(tmp_path):
    path = write(tmp_path / "chats", lines([*ROWS, {"messages": []}]))
    messages, report = read(path)
    assert messages == CHATS
    assert report.left_out["no message"].first == f"{path} line 9: holds no message"


def test_raw_text_without_a_letter_is_left_out_and_counted(tmp_path):
    path = write(tmp_path / "texts", lines([{"text": "hi"}, {"text": ""}]))
    _, report = read(path)
    assert report.left_out["no text"].first == f"{path} line 2: holds no text"


def test_a_damaged_file_is_refused_however_bad_lines_are_taken(tmp_path):
    whole = zstandard.compress(lines(ROWS * 1000).encode())
    path = write(tmp_path / "chats", whole[:-5])
    with pytest.raises(BadInput, match="chats is damaged or cut off: as zstd"):
        read(path, on_bad_line="skip")

"""Tokenising once: what the cache's key holds, who shares it, and what it survives."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace

import pytest

from sft.datasets import FromConversationFileBuilder
from sft.errors import BadInput
from sft.tokens import cache, pool
from tests.chat_data import common as common
from tests.chat_data import conversation, sequences, texts, write_jsonl


@pytest.fixture
def chats(tmp_path):
    return write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(40)])


def build(common, path, **fields):
    return FromConversationFileBuilder(common_config=common, path=str(path), **fields)()


def entries(tmp_path):
    folder = tmp_path / "cache" / "tokens"
    return sorted(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture
def tokenised(monkeypatch):
    """Counts the chunks that are tokenised in this process."""
    chunks = []
    real = pool.tokenise_chunk

    def counted(folder, index, recipe, renderer):
        chunks.append(index)
        real(folder, index, recipe, renderer)

    monkeypatch.setattr(pool, "tokenise_chunk", counted)
    return chunks


def test_data_is_tokenised_once_whatever_only_chooses_among_its_sequences(
    common, chats, tokenised, tmp_path
):
    first = sequences(build(common, chats)[0])
    for changes, fields in (
        ({}, {}),
        ({"batch_size": 2}, {"eval_size": 5}),
        ({"reduction": "none", "seed": 3}, {"eval_size": 5, "split_seed": 1}),
    ):
        build(replace(common, **changes), chats, **fields)
    assert sequences(build(common, chats)[0]) == first
    assert tokenised == [0] and len(entries(tmp_path)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 100},
        {"train_on_what": "last_assistant_message"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_what_changes_the_tokens_is_tokenised_again(common, chats, tokenised, changes):
    build(common, chats)
    build(replace(common, **changes), chats)
    assert tokenised == [0, 0]


def test_a_file_that_has_changed_is_tokenised_again_and_a_copy_is_not(common, chats, tokenised):
    build(common, chats)
    copy = chats.with_name("copy.jsonl")
    copy.write_bytes(chats.read_bytes())
    build(common, copy)
    assert tokenised == [0]
    write_jsonl(chats, [conversation(i) for i in range(41)])
    assert build(common, chats)[0].statistics.conversations == 41
    assert tokenised == [0, 0]


def test_what_one_setting_left_out_is_refused_by_another(common, tmp_path):
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    lost = [
        {"role": "user", "content": "Look!"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", [*(conversation(i) for i in range(9)), lost])
    train, _ = build(common, path, on_lost="leave_out")
    assert sum(left.count for left in train.statistics.report.left_out.values()) == 1
    with pytest.raises(BadInput, match="line 10"):
        build(common, path)


def test_no_batch_is_tokenised_when_it_is_asked_for(common, chats, monkeypatch):
    from sft import renderers
    from sft.models import tokenizers

    train, _ = build(common, chats)

    def refuse(*arguments, **options):
        raise AssertionError("tokenised between two steps")

    monkeypatch.setattr(renderers, "get_renderer", refuse)
    monkeypatch.setattr(tokenizers, "load_tokenizer", refuse)
    train.set_epoch(1)
    assert len(sequences(train)) == 40


def test_sequences_are_mapped_and_not_copied_into_memory(common, chats):
    train, _ = build(common, chats)
    tokens, _ = train.table.sequence(3)
    assert not tokens.flags.owndata and not tokens.flags.writeable
    import pyarrow

    assert pyarrow.total_allocated_bytes() < 100_000


def test_worker_processes_give_the_same_as_this_one(common, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 16)
    path = write_jsonl(tmp_path / "many.jsonl", [conversation(i) for i in range(100)])
    here = build(common, path, eval_size=9)
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(pool, "PARALLEL_FROM", 3)
    started = []
    real = pool.Pool._start

    def start(pool):
        started.append(1)
        return real(pool)

    monkeypatch.setattr(pool.Pool, "_start", start)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    there = build(common, path, eval_size=9)
    assert len(started) == 2
    for one, other in zip(here, there, strict=True):
        assert sequences(one) == sequences(other)
        assert (one.statistics, one.digest) == (other.statistics, other.digest)


def test_a_renderer_of_a_subclass_is_used_whatever_the_size_of_the_data(
    common, tmp_path, monkeypatch
):
    class Loud(FromConversationFileBuilder):
        @property
        def renderer(self):
            renderer = super().renderer
            written = renderer.render_batch
            renderer.render_batch = lambda conversations, what: written(
                [[m | {"content": m["content"].upper()} for m in c] for c in conversations], what
            )
            renderer.fingerprint = lambda: "loud"
            return renderer

    monkeypatch.setattr(cache, "CHUNK", 16)
    monkeypatch.setattr(pool, "PARALLEL_FROM", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    path = write_jsonl(tmp_path / "many.jsonl", [conversation(i) for i in range(50)])
    builder = Loud(common_config=common, path=str(path))
    assert all("WHAT IS" in text for text in texts(builder()[0], builder.tokenizer))


def test_an_error_in_a_worker_process_is_the_users_to_read(
    common, tiny_model, tmp_path, monkeypatch
):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    refuse = "{% if 'and 77' in messages[0].content %}{{ raise_exception('no 77') }}{% endif %}"
    tokenizer.chat_template = refuse + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "strict")
    monkeypatch.setattr(cache, "CHUNK", 16)
    monkeypatch.setattr(pool, "PARALLEL_FROM", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    path = write_jsonl(tmp_path / "{many}.jsonl", [conversation(i) for i in range(100)])
    strict = replace(common, model_name_for_tokenizer=str(tmp_path / "strict"))
    with pytest.raises(BadInput, match=r"\{many\}.jsonl line 78: .*no 77"):
        build(strict, path)
    assert entries(tmp_path) == []


def test_a_worker_process_that_dies_is_said_so(common, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4)
    monkeypatch.setattr(pool, "PARALLEL_FROM", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    path = write_jsonl(tmp_path / "many.jsonl", [conversation(i) for i in range(40)])
    with pytest.raises(RuntimeError, match="ended with code 1"):
        build(common, path)
    assert entries(tmp_path) == []


BUILD = """
import sys
sys.modules["torch"] = None  # seconds that a tokenizer does not need
from sft.datasets import FromConversationFileBuilder
from sft.types import ChatDatasetBuilderCommonConfig
model, path = sys.argv[1:]
common = ChatDatasetBuilderCommonConfig(model)
print(FromConversationFileBuilder(common_config=common, path=path)()[0].digest)
"""


def test_processes_that_need_the_same_data_at_once_tokenise_it_once(
    common, chats, tiny_model, tmp_path
):
    command = [sys.executable, "-c", BUILD, str(tiny_model), str(chats)]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {build.communicate()[0] for build in builds}
    assert len(found) == 1 and found.pop().strip()
    [entry] = entries(tmp_path)
    made = {path.name for path in entry.iterdir()}
    assert made == {"tokens.arrow", "conversations.arrow", "report.json"}


def test_an_entry_that_cannot_be_read_is_made_again(common, chats, tokenised, tmp_path):
    before = sequences(build(common, chats)[0])
    [entry] = entries(tmp_path)
    content = (entry / "tokens.arrow").read_bytes()
    for torn in (b"", content[: len(content) // 2], b"\0" * len(content)):
        (entry / "tokens.arrow").unlink()
        (entry / "tokens.arrow").write_bytes(torn)
        assert sequences(build(common, chats)[0]) == before
    assert tokenised == [0, 0, 0, 0]


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(common, chats, monkeypatch):
    monkeypatch.setenv("SFT_CACHE", str(chats))
    with pytest.raises(BadInput, match="token cache .* cannot be used.*SFT_CACHE"):
        build(common, chats)


def test_entries_that_nobody_has_used_for_long_are_deleted(common, chats, tmp_path):
    build(common, chats)
    build(replace(common, max_length=100), chats)
    old, kept = entries(tmp_path)
    os.utime(old, (0, 0))
    build(replace(common, max_length=101), chats)
    assert old not in entries(tmp_path) and kept in entries(tmp_path)


def test_what_a_killed_process_left_is_deleted_by_the_next(common, chats, tmp_path):
    build(common, chats)
    [entry] = entries(tmp_path)
    left = entry.with_name(f".{entry.name}-killed")
    entry.rename(left)
    build(common, chats)
    assert entries(tmp_path) == [entry]


def test_a_worker_ends_with_the_process_that_asked():
    worker = subprocess.Popen(
        [sys.executable, "-m", "sft.tokens.pool"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    worker.stdin.close()
    assert worker.wait(60) is not None
    worker.stdout.close()


@pytest.mark.parametrize(
    "given", ["", "\n", "hello\n", "{}\n", '{"folder": 1, "recipe": {}}\n', "\xff"]
)
def test_a_worker_that_was_started_by_hand_says_what_it_is_for(given):
    done = subprocess.run(
        [sys.executable, "-m", "sft.tokens.pool"],
        input=given.encode("latin-1"),
        capture_output=True,
        timeout=60,
    )
    [sentence] = done.stderr.decode().splitlines()
    assert "worker process" in sentence and "`python -m sft` starts it" in sentence
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_a_worker_does_not_wait_for_what_nobody_will_type(arguments):
    ours, terminal = pty.openpty() if not arguments else os.pipe()[::-1]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sft.tokens.pool", *arguments],
            stdin=terminal,
            capture_output=True,
            timeout=60,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 2 and b"worker process" in done.stderr


def test_importing_the_datasets_module_imports_nothing_heavy():
    heavy = ["torch", "transformers", "datasets", "pyarrow", "tinker", "numpy"]
    code = "import json, sys, sft.datasets; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(json.loads(done.stdout))

import json
import subprocess

import pytest

from sft import secrets
from sft.record import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("one = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_collected_is_plain_json():
    facts = provenance.collect(["python", "-m", "sft"], ["lr=1"])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["command"] == "python -m sft" and facts["overrides"] == ["lr=1"]
    assert facts["packages"]["mlflow"] and facts["platform"]["python"]


def test_a_clean_repository_has_a_commit_and_no_diff(repository):
    state = provenance.git(repository)
    assert len(state["commit"]) == 40 and state["branch"] == "main"
    assert not state["dirty"] and state["diff"] == "" and state["untracked"] == []


def test_uncommitted_changes_and_unknown_files_are_recorded(repository):
    (repository / "code.py").write_text("one = 2\n")
    (repository / "new.py").write_text("x")
    state = provenance.git(repository)
    assert state["dirty"] and "+one = 2" in state["diff"] and state["untracked"] == ["new.py"]


def test_a_huge_diff_is_cut_and_says_so(repository):
    (repository / "code.py").write_text("line\n" * 100_000)
    state = provenance.git(repository)
    assert state["diff_cut"] and len(state["diff"]) == provenance.MAX_DIFF_CHARACTERS


def test_without_a_repository_or_without_git_the_state_is_none(tmp_path, monkeypatch):
    assert provenance.git(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git(tmp_path) is None


@pytest.mark.parametrize(
    "text, secret",
    [
        ("tracking.uri=postgresql://me:hunter2@host/db", "hunter2"),
        ("+headers={token: abcdefgh1234}", "abcdefgh1234"),
        ("TINKER_API_KEY=tml-abcdefgh12345678", "abcdefgh12345678"),
        ("a tml-abcdefgh12345678 b", "abcdefgh12345678"),
    ],
)
def test_secrets_are_masked(text, secret):
    assert secret not in secrets.mask(text) and "***" in secrets.mask(text)


@pytest.mark.parametrize(
    "text", ["max_tokens=64 tokenizer=x", "model.name=Qwen/Qwen3-8B", "tinker://run:train/weights"]
)
def test_ordinary_words_are_not_masked(text):
    assert secrets.mask(text) == text

"""The files of a folder: links are followed, and what may not be read is said in a sentence."""

import os

import pytest

from sft.config.compose import with_kind_of_data
from sft.data import hub
from sft.data.sources import ChatFiles
from sft.errors import BadInput
from tests.data.test_files import CHATS, ROWS, lines, read, write


def test_links_to_folders_and_files_are_followed(tmp_path):
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
    write(tmp_path / "elsewhere" / "chats.jsonl", lines(ROWS[:2]))
    write(tmp_path / "data" / "a.jsonl", lines(ROWS[4:]))
    (tmp_path / "data" / "b.jsonl").symlink_to(tmp_path / "elsewhere" / "chats.jsonl")
    (tmp_path / "data" / "sub").symlink_to("../elsewhere", target_is_directory=True)
    messages, report = read(tmp_path / "data")
    assert messages == [*CHATS[4:], *CHATS[:2], *CHATS[:2]]
    assert report.found.startswith("3 files: JSONL")


def test_a_link_that_leads_back_is_followed_no_further(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "chats.jsonl", lines())
    (tmp_path / "sub" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "sub" / "up").symlink_to("..", target_is_directory=True)
    assert read(tmp_path)[0] == CHATS


def test_a_link_to_nothing_is_said(tmp_path):
    write(tmp_path / "chats.jsonl", lines())
    (tmp_path / "gone.jsonl").symlink_to("nothing.jsonl")
    with pytest.raises(BadInput, match="dataset.path: there is no file .*gone.jsonl"):
        read(tmp_path)


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that this process may not look into."""
    folder = tmp_path / "data" / "locked"
    folder.mkdir(parents=True)
    write(tmp_path / "data" / "chats.jsonl", lines())

    def refusing(call, below):
        def refuse(path, *arguments, **options):
            if str(path).startswith(below):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(os.scandir, str(folder)))
    monkeypatch.setattr(os, "stat", refusing(os.stat, f"{folder}/"))
    return folder


@pytest.mark.parametrize("inside", ["..", ".", "chats.jsonl", "*.jsonl"])
def test_what_may_not_be_read_is_one_sentence(inside, locked):
    path = os.path.normpath(locked / inside)
    assert with_kind_of_data([f"dataset.path={path}"])[0] == "dataset=file"
    for source in (hub.saved_or_files(path, "auto", "refuse"), ChatFiles(path)):
        with pytest.raises(BadInput, match=r"^dataset.path: .*(Permission denied|no file fits)"):
            list(source.conversations())
    with pytest.raises(BadInput, match=r"^dataset.path: "):
        list(hub.source(path, None, "train", "auto").conversations())

"""An adapter from a server's archive: whole and alone, or a sentence and nothing."""

import gzip
import io
import random
import re
import tarfile
from types import SimpleNamespace

import pytest

from sft.service import downloads
from sft.service.downloads import FILES, NotHandedOut, unpack
from sft.service.habits.record import Habits
from tests import web_server


def archive(*members):
    """A tar of (name, content) pairs; without content, a link to what the name says."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


WHOLE = [(f"adapter/{name}", name.encode()) for name in FILES]


def test_an_adapters_two_files_are_unpacked_and_nothing_else(tmp_path):
    unpack(io.BytesIO(archive(*WHOLE, ("adapter/setup.py", b"import os"))), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES)
    assert (tmp_path / FILES[0]).read_bytes() == FILES[0].encode()


@pytest.mark.parametrize(
    "members",
    [
        [*WHOLE, ("../outside", b"")],
        [*WHOLE, ("/tmp/outside", b"")],
        [*WHOLE, ("adapter/link", None)],
        WHOLE[:1],
        [WHOLE[0], (f"other/{FILES[1]}", b"of another adapter")],
        [*WHOLE, *((f"other/{name}", b"of another adapter") for name in FILES)],
    ],
    ids=["up", "root", "a link", "lacks one", "of two folders", "two adapters"],
)
def test_an_archive_that_leads_elsewhere_or_holds_no_one_adapter_is_refused(tmp_path, members):
    with pytest.raises(NotHandedOut, match="its archive holds"):
        unpack(io.BytesIO(archive(*members)), tmp_path)
    assert not (tmp_path.parent / "outside").exists() and not list(tmp_path.iterdir())


LARGE = archive((FILES[0], b"{}"), (FILES[1], random.Random(0).randbytes(200_000)))
"""Which gzip cannot make smaller, so that most of its bytes are the weights'."""


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"",
        LARGE[: len(LARGE) // 2],
        LARGE[:-20],
        LARGE[:5000] + bytes(50) + LARGE[5050:],
        gzip.decompress(LARGE)[:100_000],
    ],
    ids=["a page", "nothing", "half", "its end is missing", "damaged inside", "half a tar"],
)
def test_what_is_no_whole_archive_is_refused_and_nothing_of_it_stays(tmp_path, content):
    with pytest.raises(NotHandedOut, match="no archive, or a damaged one"):
        unpack(io.BytesIO(content), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_of_more_than_an_adapter_can_be_is_refused(tmp_path, monkeypatch, packed):
    content = archive(*WHOLE, (FILES[1], bytes(100_000)))
    monkeypatch.setattr(downloads, "LARGEST", len(content) if packed else 100)
    with pytest.raises(NotHandedOut, match="its archive holds more than"):
        if packed:
            unpack(io.BytesIO(content), tmp_path)
        else:
            _fetched(tmp_path, 200, "application/gzip", content)


def _fetched(folder, status, kind, content, headers=()):
    """What a server that answers so hands out as an archive; it may name its own address."""
    with web_server.serving(status, kind, content, headers) as url:
        running = SimpleNamespace(habits=Habits(url), server_key="tml-x")
        with (folder / "archive").open("w+b") as target:
            downloads.fetch(running, f"{url}/archive", target)
    return (folder / "archive").read_bytes()


def test_an_archive_is_fetched_as_it_is(tmp_path):
    assert _fetched(tmp_path, 200, "application/gzip", LARGE) == LARGE


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((200, "application/json", b'{"url": "/archive"}'), "leads to another one 5 times"),
        ((302, "text/html", b"", (("location", "/archive"),)), "leads to another one 5 times"),
        ((302, "text/html", b""), "status 302"),
        ((200, "application/json", b"{oops"), "JSON that holds no url"),
        ((200, "application/json", b"[1]"), "JSON that holds no url"),
        ((200, "application/json", b'{"url": "http://[::1"}'), "Invalid IPv6 URL"),
        ((200, "application/json", b'{"url": "file:///etc/passwd"}'), "a file:// address"),
        ((500, "text/html", b"oops"), "status 500"),
    ],
)
def test_an_address_that_leads_to_no_archive_is_a_sentence(tmp_path, answer, sentence):
    with pytest.raises(NotHandedOut, match=re.escape(sentence)):
        _fetched(tmp_path, *answer)

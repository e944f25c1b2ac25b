"""What the documents name exists."""

import re
from pathlib import Path

import pytest

from sft.compose import check_overrides

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_the_api_table_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/python-api.md").read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def commands(module):
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^(?:\$ )?python -m {module} ?([^#\n]*)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in commands("sft") if "--help" not in line])
def test_every_training_command_in_the_readme_has_keys_that_exist(line):
    import shlex

    check_overrides(
        [word for word in shlex.split(line) if not word.startswith("-") and "=" in word]
    )


def test_every_module_that_the_readme_runs_exists():
    modules = set(re.findall(r"python -m ((?:sft|sweeps)[\w.]*)", (ROOT / "README.md").read_text()))
    files = {m: ROOT / Path(*m.split(".")) for m in modules}
    assert [
        m for m, p in files.items() if not p.with_suffix(".py").exists() and not p.is_dir()
    ] == []

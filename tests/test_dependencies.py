"""What is imported is declared, and what is declared has a version that the tests passed with."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("sft", "hydra_plugins")
# sft.export --gguf, evaluators=NAME and tracking=NAME import them, and say how to install them.
EXTRAS = ("gguf", "hover", "inspect", "lm-eval", "tensorboard", "trackio", "wandb")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    """The packages of requirements such as `optuna==5.*`, as PyPI compares names."""
    found = (re.match(r"[\w.-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def imported(file):
    """The top-level packages that a file imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_every_package_that_is_imported_is_declared():
    files = [file for folder in (*OURS, "sweeps") for file in (ROOT / folder).rglob("*.py")]
    found = {name for file in files for name in imported(file)}
    packages = packages_distributions()
    extras = [line for name in EXTRAS for line in PROJECT["optional-dependencies"][name]]
    declared = names(PROJECT["dependencies"] + extras)
    foreign = found - sys.stdlib_module_names - set(OURS)
    assert len(foreign) > 20
    missing = {n for n in foreign if not names(packages.get(n, [n.replace("_", "-")])) & declared}
    assert missing == set()


def test_every_package_that_is_declared_has_a_version_in_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = names(line for line in lines if "==" in line and not line.startswith("#"))
    extras = [
        line for name in ("dev", "docs", *EXTRAS) for line in PROJECT["optional-dependencies"][name]
    ]
    assert names(PROJECT["dependencies"] + extras) == pinned

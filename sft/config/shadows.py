"""Files of the working folder that Python would import in place of a package."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from sft.errors import BadInput

PACKAGES = (
    "datasets",
    "httpx",
    "hydra",
    "matplotlib",
    "mlflow",
    "numpy",
    "omegaconf",
    "optuna",
    "pandas",
    "pyarrow",
    "pydantic",
    "requests",
    "rich",
    "safetensors",
    "sqlalchemy",
    "tinker",
    "tokenizers",
    "torch",
    "transformers",
    "yaml",
)


def check_working_folder() -> None:
    """Raise `BadInput` if the working folder hides a package that is needed.

    `python -m` looks there first, so that a script called mlflow.py would run, in some thread and
    at some time, and the package would not be found.
    """
    here = Path.cwd()
    if Path(sys.path[0]).resolve() != here.resolve():  # python -P, or no command
        return
    for name in PACKAGES:
        for file in (here / f"{name}.py", here / name / "__init__.py"):
            if file.is_file() and PathFinder.find_spec(name, sys.path[1:]) is not None:
                hiding = file if file.stem == name else file.parent
                raise BadInput(
                    f"{hiding}: Python imports it in place of the package {name}, since "
                    "`python -m` looks in the working folder first; rename it, or run in another "
                    "folder"
                )

"""Files of the working folder that Python would import in place of a package."""

from __future__ import annotations

import os
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
    at some time, and the package would not be found. The installed script `sft` does not look
    there. But it starts the local service and the tokenizing processes with `python -m`, and a
    builder of the user's own is looked for there.
    """
    if os.environ.get("PYTHONSAFEPATH"):  # for the processes that are started here too
        return
    here = Path.cwd()
    elsewhere = [path for path in sys.path if Path(path).resolve() != here.resolve()]
    for name in PACKAGES:
        for file in (here / f"{name}.py", here / name / "__init__.py"):
            if file.is_file() and PathFinder.find_spec(name, elsewhere) is not None:
                hiding = file if file.stem == name else file.parent
                raise BadInput(
                    f"{hiding}: Python imports it in place of the package {name}, since "
                    "`python -m` looks in the working folder first; rename it, or run in another "
                    "folder"
                )

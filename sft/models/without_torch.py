"""tinker and transformers as they are where PyTorch is not installed.

Both import it if it is there, and transformers its distributed and symbolic parts as well: half of
the seconds until a run's first step, and 250 MB. What commands do with the two (tokens, chat
templates, requests) takes none of it. All else in the process has PyTorch as ever, such as Optuna's
Gaussian process.

    begin()    # in a process of one's own, before either is imported
    end()      # now comes code that may want models of transformers, or tensors of tinker
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType
from typing import Any

THEY = ("tinker", "transformers")
QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
"""Or transformers says that it found no PyTorch."""


class Finder(PathFinder):
    """Finds modules as Python does, but `torch` not for them."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "torch" and _who_asks().partition(".")[0] in THEY:
            return None
        return super().find_spec(fullname, path, target)


def begin() -> None:
    """Hide PyTorch from them, unless one of the three is imported already."""
    if not {"torch", *THEY}.isdisjoint(sys.modules):
        return
    _replace(PathFinder, Finder)
    os.environ.setdefault(QUIET, "1")


def end() -> None:
    """Hide it no more from one that is not imported yet."""
    _replace(Finder, PathFinder)


def _replace(before: type[PathFinder], after: type[PathFinder]) -> None:
    finders: list[Any] = sys.meta_path
    finders[:] = [after if finder is before else finder for finder in finders]


def _who_asks() -> str:
    """The module that imports, or looks whether it could."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "") if frame else ""

"""A real browser for tests of pages; without one they are skipped and say so."""

import importlib.util

import pytest

from docs.make_pictures import chromium


def skip_without() -> None:
    """Skip the module that calls it if there is no Chromium, or nothing that drives it."""
    if chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright here: pip install playwright", allow_module_level=True)

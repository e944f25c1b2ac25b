"""A hook that raises when a run ends: the others are told all the same, and no error is lost."""

import pytest

from sft.hooks import BaseHook
from tests.failing_runs import Listen, configs, go


class Raising(BaseHook):
    """Raises at the end, and when it starts if it is to."""

    def __init__(self, at_start=None):
        self.at_start = at_start

    def on_start(self, run):
        if self.at_start:
            raise self.at_start

    def on_end(self, result):
        raise KeyError("at the end")


def test_a_hook_that_raises_at_the_end_keeps_no_other_from_its_own(tmp_path, monkeypatch):
    listening = Listen()
    with configs(tmp_path, monkeypatch) as (config, _):
        with pytest.raises(KeyError, match="at the end"):
            go(config(), hooks=[Raising(), listening])
    assert listening.result.status == "FINISHED"


def test_it_does_not_hide_why_the_run_failed(tmp_path, monkeypatch):
    broken = ZeroDivisionError("at the start")
    with configs(tmp_path, monkeypatch) as (config, _):
        with pytest.raises(KeyError, match="at the end") as raised:
            go(config(), hooks=[Raising(at_start=broken)])
    assert raised.value.__cause__ is broken

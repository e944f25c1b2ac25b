"""What a sweep shows: a table in a terminal, lines elsewhere."""

import io
import re

import pytest
from optuna.trial import TrialState

from sft.sweeps.display import LiveTable, PlainLines
from sft.sweeps.study.endings import Ending


def follow(display):
    display.started(0, {"lr": 1e-3, "lora.rank": 8}, 20)
    display.progressed(0, 4, {"train/nll": 1.25})
    display.evaluated(0, 5, 1.5)
    display.ended(0, Ending(TrialState.COMPLETE, [1.5]))
    display.started(1, {"lr": 1e-2, "lora.rank": 8}, 20)
    display.ended(1, Ending(TrialState.PRUNED, error="diverged: nan", diverged=True))
    display.ended(2, Ending(None))


def test_plain_lines_say_each_start_evaluation_and_end():
    out = io.StringIO()
    follow(PlainLines("eval/nll", True, 4, out=out))
    lines = out.getvalue().splitlines()
    assert lines[0] == "trial 0: lr=0.001, lora.rank=8"
    assert lines[1] == "trial 0: step 5/20 eval/nll 1.5000"
    assert lines[2].startswith("trial 0: complete; 1 of 4 trials, lowest eval/nll 1.5000 (trial 0)")
    assert "trial 1: diverged (diverged: nan); 2 of 4 trials" in lines[4]
    assert "trial 2: interrupted; 2 of 4 trials" in lines[5]


def test_the_live_table_has_a_row_for_each_trial():
    from rich.console import Console

    display = LiveTable("eval/nll", True, 4)
    follow(display)
    display.close()
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(display.table())
    text = console.export_text()
    assert "lora.rank" in text and "5/20" in text and "complete *" in text and "diverged" in text


def trained(display, clock, numbers, steps, seconds=10.0):
    """Trials of 10 steps side by side, a step of all of them every `seconds`."""
    for number in numbers:
        display.started(number, {}, 10)
    for step in range(steps):
        clock.now += seconds
        for number in numbers:
            display.progressed(number, step, {})


class Clock:
    """Stands still but for what a test adds."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("sft.sweeps.display.time", clock)
    return clock


def test_the_time_left_is_that_of_trials_side_by_side(clock):
    display = PlainLines("eval/nll", True, 5, out=io.StringIO())
    trained(display, clock, [0, 1], 5)  # half of both, 100 s a trial; three to come, two at once
    assert display.left() == 50 + 100 + 100
    for number in (0, 1):
        display.ended(number, Ending(TrialState.COMPLETE, [1.0]))
    assert display.left() == pytest.approx((50 + 50) / 1.0 * 2)


def test_of_trials_in_jobs_the_time_left_is_told_by_those_that_ended(clock):
    display = PlainLines("eval/nll", True, 6, out=io.StringIO())
    clock.now += 100
    assert display.left() is None
    for number in (0, 1):
        display.ended(number, Ending(TrialState.COMPLETE, [1.0]))
    assert display.left() == 50 * 4


def test_the_repeats_of_a_trial_are_one_trial(clock):
    display = PlainLines("eval/nll", True, 2, out=io.StringIO())
    trained(display, clock, [0, 0, 0], 5)
    assert display.left() == 50 + 100


def test_with_paused_trials_the_time_left_is_said_to_be_the_most(clock):
    display = PlainLines("eval/nll", True, 2, out=io.StringIO())
    trained(display, clock, [0, 1], 5)
    for number in (0, 1):
        display.ended(number, Ending(None, paused_at=5))
    assert display.left() == 50
    assert display.summary() == "0 of 2 trials, 2 paused, about 0:50 left at most"


@pytest.mark.parametrize("width", [80, 120])
def test_no_value_of_the_live_table_is_cut_or_broken(width):
    from rich.console import Console

    display = LiveTable("eval/nll", True, 4)
    display.close()
    display.console = Console(width=width, file=io.StringIO(), record=True)
    display.started(11, {"lr": 1.234e-5, "lora.rank": 128, "batch_size": 256}, 2000)
    display.progressed(11, 1233, {"train/nll": 1.23456})
    display.evaluated(11, 1000, 1.3456)
    display.console.print(display.table())
    words = re.split(r"[^-+.*/\w]+", display.console.export_text())
    assert {"1.23e-05", "128", "256", "1234/2000", "1.3456", "running", "lora.rank"} <= {*words}
    assert ("train/nll" in words) == (width == 120)


def test_the_best_of_an_earlier_process_is_remembered():
    out = io.StringIO()
    display = PlainLines("eval/nll", True, 4, 1, out=out)
    display.recall(0, {"lr": 1e-3}, 1.0)
    display.started(1, {}, 20)
    display.ended(1, Ending(TrialState.COMPLETE, [2.0]))
    assert "2 of 4 trials, lowest eval/nll 1.0000 (trial 0)" in out.getvalue()

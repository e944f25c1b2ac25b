"""What a sweep shows: a table in a terminal, lines elsewhere."""

import io

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


def test_the_best_of_an_earlier_process_is_remembered():
    out = io.StringIO()
    display = PlainLines("eval/nll", True, 4, 1, out=out)
    display.recall(0, {"lr": 1e-3}, 1.0)
    display.started(1, {}, 20)
    display.ended(1, Ending(TrialState.COMPLETE, [2.0]))
    assert "2 of 4 trials, lowest eval/nll 1.0000 (trial 0)" in out.getvalue()

"""When a run is given up for its loss."""

import math

import pytest

from sft.run.guard import Guard


def told(guard, *losses):
    return [guard.complaint(step, nll) for step, nll in enumerate(losses)]


def test_as_many_steps_in_a_row_as_asked_for_give_a_run_up():
    assert told(Guard(1.0, 2), 2.0, 3.5, 2.0, 3.5)[-1] is None
    assert "rose from 2.000 to 3.500 at step 2" in told(Guard(1.0, 2), 2.0, 3.5, 3.5)[-1]


@pytest.mark.parametrize("nll", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_gives_it_up_at_once(nll):
    assert "train/nll is" in told(Guard(1.0, 0), nll)[0]


def test_steps_that_are_trained_again_are_counted_again():
    guard = Guard(1.0, 2)
    assert told(guard, 2.0, 3.5) == [None, None]
    guard.resume(2.0)  # from the checkpoint before step 1
    assert guard.complaint(1, 3.5) is None
    assert "at step 2" in guard.complaint(2, 3.5)

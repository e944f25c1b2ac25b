"""Which trial a scheduler trains next, on curves that are made up."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sft.sweeps.scheduling.asha import Asha
from sft.sweeps.scheduling.base import Limits, Start, Thaw, purse
from sft.sweeps.scheduling.curves import Curve, Point, State, evaluation_behind, named, spent
from sft.sweeps.scheduling.freeze_thaw import RUNGS, FreezeThaw, chances
from sft.sweeps.scheduling.observations import observe

RATES, RANKS = (1e-4, 3e-4, 1e-3, 3e-3), (4, 32)
CELLS = [(rate, rank) for rate in RATES for rank in RANKS]
WHOLE = 800
EVERY = WHOLE // 8


def curve(number, *values, state=State.PAUSED, whole=WHOLE, every=EVERY, cell=(3e-4, 32), **others):
    """A trial with an evaluation every `every` tokens."""
    points = tuple(Point(every * (i + 1), value) for i, value in enumerate(values))
    return Curve(number, {"lr": cell[0], "lora.rank": cell[1], **others}, points, state, whole)


def value(cell, fraction):
    """Best at 1e-3, which shows from an eighth on."""
    distance = abs(math.log10(cell[0]) + 3) + 0.01 * (cell[1] == 4)
    return 2.0 * math.exp(0.05 * distance + 0.3 * (1 - fraction))


def surface(cells, shift):
    """Best at 1e-3: what a prior says that is right, but for its size."""
    rates = np.log10([rate for rate, _ in cells])
    apart = np.abs(rates[:, None] - rates[None, :])
    return 0.04 * np.abs(rates + 3 - shift), 0.01**2 * (np.exp(-apart) + 0.1 * np.eye(len(cells)))


def freeze_thaw(seed=0):
    return FreezeThaw(surface, CELLS, seed)


def sweep(scheduler, limits, jobs=1, diverges=(), cells=CELLS):
    """Trains what a scheduler asks for until it is over; all choices and the curves."""
    curves, choices, running = [], [], []
    while True:
        while len(running) < jobs and (choice := scheduler.next(curves, limits)):
            choices.append(choice)
            if isinstance(choice, Start):
                tried = [(c.parameters["lr"], c.parameters["lora.rank"]) for c in curves]
                wanted = (choice.parameters.get("lr"), choice.parameters.get("lora.rank"))
                left = [cell for cell in cells if cell not in tried]
                cell = wanted if wanted in left else left[0]
                new = curve(len(curves), state=State.RUNNING, cell=cell)
                curves.append(replace(new, steps=limits.new.steps, every=limits.new.every))
                running.append((len(curves) - 1, choice.rung))
            else:
                assert curves[choice.number].state is State.PAUSED
                curves[choice.number] = replace(curves[choice.number], state=State.RUNNING)
                running.append((choice.number, choice.rung))
        if not running:
            return choices, curves
        number, rung = running.pop(0)
        before = curves[number]
        cell = before.parameters["lr"], before.parameters["lora.rank"]
        points = list(before.points)
        while (
            not points or points[-1].tokens < rung * WHOLE - 1 or len(points) % (before.every or 1)
        ):
            tokens = (len(points) + 1) * EVERY
            points.append(Point(tokens, value(cell, tokens / WHOLE)))
        state = State.COMPLETE if points[-1].tokens == WHOLE else State.PAUSED
        if cell in diverges:
            state = State.DIVERGED
        curves[number] = replace(before, points=tuple(points), state=state)


# Asynchronous successive halving.


def test_asha_starts_trials_until_one_in_three_may_be_promoted():
    asha, limits = Asha(1 / 4, 2), Limits(8)
    two = [curve(0, 5.0, 4.0), curve(1, 5.0, 3.0)]
    assert asha.next([], limits) == Start(0.25)
    assert asha.next(two[:1], limits) == Start(0.25)
    assert asha.next(two, limits) == Thaw(1, 0.5)


def test_asha_looks_for_a_promotion_from_the_highest_rung_down():
    bottom = [curve(0, 5.0, 4.0), curve(1, 5.0, 4.1)]
    middle = [curve(2, 5, 3.0, 3.0, 2.0), curve(3, 5, 3.1, 3.0, 2.1)]
    assert Asha(1 / 4, 2).next([*bottom, *middle], Limits(8)) == Thaw(2, 1.0)


def test_asha_promotes_no_trial_twice():
    # Trial 1 is the best of two and has been promoted: a third of four is needed for the next one.
    curves = [curve(0, 5.0, 4.0), curve(1, 5.0, 3.0, state=State.RUNNING)]
    assert Asha(1 / 4, 2).next(curves, Limits(8)) == Start(0.25)


def test_asha_counts_a_diverged_trial_as_the_worst_of_the_first_rung():
    curves = [curve(0, 5.0, 4.0), curve(1, 9.0, state=State.DIVERGED)]
    assert Asha(1 / 4, 2).next(curves, Limits(8)) == Thaw(0, 0.5)


def test_asha_waits_while_the_last_trials_run():
    curves = [curve(0, 5.0, 4.0), curve(1, 5.0, state=State.RUNNING)]
    assert Asha(1 / 4, 2).next(curves, Limits(2)) is None


def test_a_sweep_too_small_to_halve_still_trains_one_trial_to_its_end():
    _, curves = sweep(Asha(), Limits(2))
    assert [c.state for c in curves].count(State.COMPLETE) == 1


def test_asha_ends_no_trial_that_nothing_is_ahead_of():
    # Two have reached the second rung, too few for one in three.
    done, ahead = curve(0, *[5.0] * 8, state=State.COMPLETE), curve(1, 4.0, 4.0, 4.0)
    assert Asha().next([done, ahead], Limits(2)) == Thaw(1, 1.0)
    behind = curve(1, 6.0, 6.0, 6.0)
    assert Asha().next([done, behind], Limits(2)) is None


@pytest.mark.parametrize("arguments", [(0.0, 3), (1.0, 3), (0.1, 1)])
def test_asha_refuses_rungs_that_are_none(arguments):
    with pytest.raises(ValueError, match="expected"):
        Asha(*arguments)


# What both keep.

BOTH = pytest.mark.parametrize("make", [Asha, freeze_thaw])


@BOTH
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_sweep_ends_with_a_complete_trial_and_starts_no_more_than_it_may(make, jobs):
    choices, curves = sweep(make(), Limits(6), jobs)
    assert len(curves) <= 6
    assert any(c.state is State.COMPLETE for c in curves)
    # A thaw takes a trial further, so none is thawed for ever.
    thaws = [(c.number, c.rung) for c in choices if isinstance(c, Thaw)]
    assert len(thaws) == len(set(thaws))
    assert all(a[1] < b[1] for a in thaws for b in thaws[thaws.index(a) + 1 :] if a[0] == b[0])


@BOTH
@pytest.mark.parametrize("tokens", [WHOLE, 1.5 * WHOLE, 3 * WHOLE])
def test_a_sweep_keeps_within_its_tokens_and_spends_them_so_that_a_trial_gets_to_its_end(
    make, tokens
):
    scheduler = make()
    _, curves = sweep(scheduler, Limits(8, tokens), jobs=2)
    assert spent(curves, ()) <= tokens + EVERY * len(curves)
    assert any(c.state is State.COMPLETE for c in curves)


@BOTH
@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("tokens", [WHOLE, 1.5 * WHOLE, 3 * WHOLE])
def test_nothing_is_begun_or_thawed_that_a_budget_cuts_short_of_its_pause(make, tokens, every):
    new = Curve(0, {}, (), State.PAUSED, WHOLE, WHOLE // EVERY, every)
    _, curves = sweep(make(), Limits(8, tokens, new), jobs=2)
    assert spent(curves, ()) <= tokens
    assert any(c.state is State.COMPLETE for c in curves)


def test_a_thaw_costs_the_tokens_to_the_evaluation_behind_its_rung():
    done = curve(0, *[2.0] * 8, state=State.COMPLETE)
    paused = Curve(1, {}, (Point(200, 2.1),), State.PAUSED, WHOLE, 40, 10)
    for tokens, is_paid in ((WHOLE + 399, False), (WHOLE + 400, True)):
        assert purse([done, paused], Limits(2, tokens), (0.2, 0.4, 1)).pays(paused, 0.4) == is_paid


@BOTH
def test_a_first_trial_that_a_budget_cannot_bring_to_its_pause_is_not_begun(make):
    new = Curve(0, {}, (), State.PAUSED, WHOLE, WHOLE // EVERY, 4)
    assert make().next([], Limits(8, WHOLE / 2 - 1, new)) is None


@BOTH
def test_a_diverged_trial_is_never_thawed(make):
    diverges = [cell for cell in CELLS if cell[0] == 3e-3]
    choices, curves = sweep(make(), Limits(8), diverges=diverges, cells=CELLS[::-1])
    ended = [c.number for c in curves if c.state is State.DIVERGED]
    assert ended
    assert not [c for c in choices if isinstance(c, Thaw) and c.number in ended]


@BOTH
def test_a_sweep_that_was_killed_goes_on_as_it_would_have(make):
    whole, curves = sweep(make(), Limits(5))
    # The same curves asked of a new scheduler.
    assert sweep(make(), Limits(5))[0] == whole
    assert make().next(curves, Limits(5)) is None


@BOTH
def test_a_sweep_in_which_everything_fails_ends(make):
    curves = [curve(n, state=State.FAILED) for n in range(3)]
    assert make().next(curves, Limits(3)) is None


GRIDS = [(30, 3), (60, 6), (100, 10), (100, 5), (50, 5), (200, 20), (1000, 100), (60, 5), (30, 7)]


@pytest.mark.parametrize("whole", [893, 2671, 12_160, 65_537, 100_003])
@pytest.mark.parametrize(("steps", "every"), GRIDS)
@BOTH
def test_a_thaw_takes_a_trial_to_a_later_evaluation_wherever_tokens_are_rounded(
    make, steps, every, whole
):
    scheduler, stands = make(), []
    while not stands or stands[-1] < steps:
        measured = range(every, stands[-1] + 1, every) if stands else ()
        points = tuple(Point(round(step / steps * whole), 3 - step / steps) for step in measured)
        trial = [curve(0, whole=whole)] if stands else []
        choice = scheduler.next([replace(c, points=points) for c in trial], Limits(1))
        step = evaluation_behind(choice.rung, steps, every)
        assert step > max(stands, default=0)
        stands.append(step)


# Freeze and thaw.


def test_the_first_trial_is_the_samplers():
    assert freeze_thaw().next([], Limits(8)) == Start(RUNGS[0])


def test_freeze_thaw_finds_the_best_cell_without_training_the_grid():
    _, curves = sweep(freeze_thaw(), Limits(8))
    best = named(curves)
    assert (best.parameters["lr"], best.parameters["lora.rank"]) == (1e-3, 32)
    assert spent(curves, ()) < 0.6 * len(CELLS) * WHOLE


def test_a_trial_far_behind_is_not_thawed():
    good = [
        curve(n, *(value(cell, k / 8) for k in range(1, 9)), state=State.COMPLETE, cell=cell)
        for n, cell in enumerate(CELLS[2:5])
    ]
    bad = curve(3, *(1.08 * value((1e-3, 32), k / 8) for k in range(1, 5)), cell=(1e-4, 32))
    assert freeze_thaw().next([*good, bad], Limits(4)) is None


def test_a_trial_ahead_of_the_complete_one_at_its_fraction_is_thawed():
    first = curve(0, *np.linspace(2.5, 2.0, 8), state=State.COMPLETE)
    ahead = curve(1, 2.3, cell=(1e-3, 32))
    assert freeze_thaw().next([first, ahead], Limits(2)) == Thaw(1, RUNGS[0])


def test_a_new_trial_that_cannot_settle_anything_is_not_started():
    far = (1e-4, 4)
    complete = [
        curve(n, *(value(cell, k / 8) for k in range(1, 9)), state=State.COMPLETE, cell=cell)
        for n, cell in enumerate(cell for cell in CELLS if cell != far)
    ]
    assert freeze_thaw().next(complete, Limits(len(CELLS))) is None


def test_without_candidates_every_trial_is_the_samplers():
    choices, curves = sweep(FreezeThaw(surface, [], 0), Limits(4))
    assert [c.parameters for c in choices if isinstance(c, Start)] == [{}] * len(curves) == [{}] * 4


def test_what_runs_already_is_not_bought_twice():
    rng = np.random.default_rng(0)
    draws = rng.normal([0.0, 0.0, 0.0], 0.01, (500, 3))
    draws[:, 1] = draws[:, 0] + 0.0001  # as good as the first whatever comes
    chance = chances(draws, np.array([True, False, False]))
    assert chance[1] == 0 < chance[2]


def test_other_parameters_than_rate_and_rank_may_tell_trials_apart():
    done = curve(0, *np.linspace(2.5, 2.0, 8), state=State.COMPLETE, batch_size=8)
    paused = curve(1, 2.3, batch_size=64)
    assert freeze_thaw().next([done, paused], Limits(2)) == Thaw(1, RUNGS[0])


# Curves.


def test_trials_of_other_lengths_are_compared_at_the_same_fraction_of_their_schedules():
    long, short = curve(0, 3.0, 2.5, 2.2, 2.0), curve(1, 3.0, 2.4, whole=WHOLE // 2, every=EVERY)
    assert (long.fraction, short.fraction) == (0.5, 0.5)
    assert (long.at(0.25), short.at(0.25)) == (2.5, 3.0)


def test_between_two_evaluations_a_curve_is_a_line():
    assert curve(0, 3.0, 2.0).at(0.1875) == pytest.approx(2.5)


def test_a_curve_says_nothing_of_what_lies_ahead_or_before_its_first_evaluation():
    assert curve(0, 3.0).at(0.25) is None
    assert curve(0, 3.0, 2.0).at(0.05) is None


def test_the_answer_is_the_best_complete_trial_even_if_a_paused_one_looks_better():
    done = curve(0, *[2.0] * 8, state=State.COMPLETE)
    assert named([done, curve(1, 1.0)]) == done
    assert named([curve(0, 3.0, 2.0), curve(1, 1.0)]).number == 0
    assert named([curve(0, state=State.RUNNING)]) is None


def test_what_is_far_above_the_best_is_drawn_nearer_and_a_diverged_trial_counts_as_that():
    done = curve(0, *[2.0] * 8, state=State.COMPLETE)
    seen = observe([done, curve(1, 40.0), curve(2, 9.0, state=State.DIVERGED)])
    assert seen.value.max() < math.log(2.0) + 1
    assert seen.value[seen.trial == 2] == pytest.approx(math.log(2.0) + 0.2)


def test_a_metric_that_is_negative_is_no_problem():
    curves = [curve(0, *[-0.5] * 8, state=State.COMPLETE), curve(1, -0.6, cell=(1e-3, 4))]
    assert isinstance(freeze_thaw().next(curves, Limits(2)), Thaw)

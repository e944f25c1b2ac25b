"""What a sweep says of differences is what its repeats can tell."""

import math

import optuna
import pytest

from sft.past import uncertainty
from sft.sweeps import report
from sft.sweeps.findings import figures
from sft.sweeps.findings.importance import Importance, importance
from sft.sweeps.findings.results import Results
from sft.sweeps.findings.variation import of_grid
from sft.sweeps.space import parse


def study_with(space, values, *, seeds=None, direction="minimize", metric="eval/nll"):
    """A study: {combination: the value of each repeat}."""
    searched = parse(space)
    study = optuna.create_study(direction=direction)
    study.set_user_attr("sweep", {"metric": [metric], "space": searched.describe()})
    for number, (cell, repeats) in enumerate(values.items()):
        study.enqueue_trial(dict(zip(searched.distributions, cell, strict=True)))
        trial = study.ask(searched.distributions)
        if len(repeats) > 1:
            trial.set_user_attr("values", [list(repeats)])
        chosen = seeds[number] if seeds else range(len(repeats))
        trial.set_user_attr("runs", [{"seed": s, "lora.seed": s} for s in chosen])
        study.tell(trial, sum(repeats) / len(repeats))
    return study


def said(study):
    return "\n".join(report.answer(Results.of(study), importance(Results.of(study))))


RANKS = ["lora.rank=4,16,64"]
SHARED = (0.02, 0.0, -0.02)  # what a seed does to every trial


def repeats(value, *noise):
    return [value + shared + extra for shared, extra in zip(SHARED, noise, strict=True)]


def test_a_smaller_rank_that_repeats_show_to_be_worse_is_not_as_good_however_near():
    study = study_with(
        RANKS,
        {
            (4,): repeats(0.52, 0.001, 0, 0),
            (16,): repeats(0.5005, 0.0001, 0, 0),
            (64,): repeats(0.5, 0, 0, 0.0001),
        },
    )
    words = said(study)
    assert "rank 4: 0.0203 behind rank 64" in words and "paired by seed): worse" in words
    assert "rank 16: 0.0005 behind rank 64" in words and "over 3 seeds, paired by seed)" in words
    assert "no rank below 64 is as good: each is worse" in words
    assert "2 of the 2 other trials are worse (95% intervals over 3 seeds)" in words


def test_a_difference_that_repeats_do_not_show_is_said_to_be_unknown():
    study = study_with(
        RANKS, {(4,): repeats(0.505, 0.02, -0.02, 0), (64,): repeats(0.5, -0.02, 0, 0.02)}
    )
    words = said(study)
    assert "): cannot be told from it" in words and "it cannot be told from trial 0" in words
    assert "smallest rank that cannot be told from the best, cheaper to serve: 4 (at most " in words


def test_the_same_spread_hides_a_difference_where_the_seeds_are_not_the_same():
    values = {(4,): repeats(0.51, 0, 0.0001, 0), (64,): repeats(0.5, 0, 0, 0.0001)}
    paired, pooled = (
        study_with(RANKS, values),
        study_with(RANKS, values, seeds=[(0, 1, 2), (3, 4, 5)]),
    )
    assert "paired by seed): worse" in said(paired)
    assert "seeds not the same): cannot be told from it" in said(pooled)


def test_more_is_better_where_the_sweep_maximizes():
    study = study_with(
        RANKS,
        {(4,): repeats(0.3, 0.001, 0, 0), (64,): repeats(0.5, 0, 0, 0.001)},
        direction="maximize",
        metric="eval/exact_match",
    )
    words = said(study)
    assert "best trial: 1, eval/exact_match 0.5003" in words and "(repeat 0:" in words
    assert "rank 4: 0.2000 behind rank 64" in words and "paired by seed): worse" in words


@pytest.mark.parametrize(
    "freedom, quantile", [(1, 12.706), (2.9, 4.303), (10, 2.228), (40, 2.021), (1000, 1.962)]
)
def test_t_quantiles_are_those_of_the_tables(freedom, quantile):
    assert uncertainty.t_quantile(freedom) == pytest.approx(quantile, abs=2e-3)


def test_an_interval_around_nothing_has_no_negative_zero():
    assert str(uncertainty.Interval(-0.0, -0.0, 0.0)) == "0.0000 to 0.0000"
    assert str(uncertainty.Interval(0.0, -1e-9, 1e-9)) == "0.0000 to 0.0000"


def test_intervals_are_those_of_the_textbook():
    mean = uncertainty.of_mean([0.50, 0.52, 0.51])
    assert mean.high - mean.middle == pytest.approx(4.303 * 0.01 / math.sqrt(3))
    # Welch's own kind of example: 4.0 and 9.2 degrees of freedom computed by hand.
    a, b = [20.0, 22.0, 24.0], [10.0, 11.0, 12.0, 13.0]
    difference = uncertainty.of_difference(a, b, paired=False)
    error = math.sqrt(4 / 3 + (5 / 3) / 4)
    freedom = error**4 / ((4 / 3) ** 2 / 2 + (5 / 12) ** 2 / 3)
    assert difference.middle == 10.5
    half = uncertainty.t_quantile(freedom) * error
    assert (difference.low, difference.high) == (10.5 - half, 10.5 + half)
    assert uncertainty.of_difference([1.0], [1.0, 2.0], paired=False) is None


def test_a_grids_variation_is_split_exactly_with_its_interaction():
    """The analysis of variance of y = 5 + 2a + b + 4.47ab at a, b = -1, 1."""
    ab = math.sqrt(20)
    cells = {(a, b): 5 + 2 * a + b + ab * a * b for a in (-1, 1) for b in (-1, 1)}
    shares = of_grid(["a", "b"], cells).shares
    assert shares == pytest.approx({("a",): 0.16, ("b",): 0.04, ("a", "b"): 0.80})


def test_shares_of_three_parameters_sum_to_one_and_find_the_one_pair():
    cells = {(a, b, c): 2 * a + (b == "x") * c for a in (1, 2, 3) for b in "xy" for c in (0.5, 1.0)}
    shares = of_grid(["a", "b", "c"], cells).shares
    assert sum(shares.values()) == pytest.approx(1) and len(shares) == 7
    assert shares["b", "c"] > 0.001 and shares["a", "b"] == pytest.approx(0, abs=1e-12)
    assert shares["a", "b", "c"] == pytest.approx(0, abs=1e-12)


def test_a_grid_with_holes_is_not_split():
    assert of_grid(["a", "b"], {(1, 1): 1.0, (1, 2): 2.0, (2, 1): 3.0}) is None


GRID = ["lr=1e-4,1e-3", "lora.rank=4,16"]


def test_without_repeats_the_figure_says_that_an_interaction_may_be_noise():
    cells = {(1e-4, 4): [1.0], (1e-4, 16): [2.0], (1e-3, 4): [3.0], (1e-3, 16): [2.5]}
    study = study_with(GRID, cells)
    found = importance(Results.of(study))
    assert isinstance(found, Importance) and found.noise is None
    assert "may be noise between seeds" in found.caption and "4 combinations" in found.caption
    assert sum(found.shares.values()) == pytest.approx(1)


def test_with_repeats_each_share_stands_beside_what_noise_alone_would_give():
    cells = {(lr, rank): repeats(0.5, *noise) for (lr, rank), noise in {
        (1e-4, 4): (0.01, 0, -0.01), (1e-4, 16): (-0.01, 0.02, 0), (1e-3, 4): (0, -0.01, 0.02),
        (1e-3, 16): (0.01, 0.01, -0.01)}.items()}  # fmt: skip
    study = study_with(GRID, cells)
    found = importance(Results.of(study))
    assert found.noise.keys() == found.shares.keys()
    assert sum(found.noise.values()) > 0.5  # it is all noise


def test_trials_that_are_no_grid_have_no_shares_and_the_answer_says_why():
    space = ["lr=tag(log, interval(1e-5, 1e-1))", "lora.rank=choice(4,16)"]
    cells = {(10 ** (-5 + i / 4), 4 if i % 2 else 16): [i * 0.618 % 1] for i in range(16)}
    study = study_with(space, cells)
    assert "importance of the parameters: not split among lr, lora.rank" in said(study)
    assert "importance" not in figures.every(Results.of(study), importance(Results.of(study)))

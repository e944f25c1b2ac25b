"""What a sweep compares, and whether less or more of it is better."""

import pytest

from sft.config.compose import compose
from sft.sweeps.options import Options
from sft.sweeps.space import parse

ACCURACY = "eval/choice/accuracy"


@pytest.mark.parametrize(
    ("of_the_sweep", "of_the_runs", "compared"),
    [
        ({}, [], [("eval/nll", "minimize")]),
        ({}, [f"metric={ACCURACY}"], [(ACCURACY, "maximize")]),
        ({}, ["metric=eval/judge/score", "direction=maximize"], [("eval/judge/score", "maximize")]),
        ({"metric": ACCURACY}, [], [(ACCURACY, "maximize")]),
        ({"metric": ACCURACY}, ["direction=minimize"], [(ACCURACY, "maximize")]),
        (
            {"metric": ACCURACY},
            [f"metric={ACCURACY}", "direction=minimize"],
            [(ACCURACY, "minimize")],
        ),
        ({"metric": ACCURACY, "direction": "minimize"}, [], [(ACCURACY, "minimize")]),
        ({"metric": "eval/judge/score"}, [], [("eval/judge/score", None)]),
        (
            {"metric": ["eval/nll", ACCURACY, "lora.rank", "tokens"]},
            [],
            [("eval/nll", "minimize"), (ACCURACY, "maximize"), ("lora.rank", "minimize"),
             ("tokens", "minimize")],
        ),
        (
            {"metric": [ACCURACY, "eval/judge/score"], "direction": [None, "minimize"]},
            [],
            [(ACCURACY, "maximize"), ("eval/judge/score", "minimize")],
        ),
    ],
)  # fmt: skip
def test_the_direction_is_given_or_the_runs_or_told_by_the_name(
    of_the_sweep, of_the_runs, compared
):
    settled = Options.read(of_the_sweep).settle(parse(["lr=1e-4,1e-3"], {}, None))
    settled = settled.of_runs(compose(of_the_runs))
    assert list(zip(settled.metrics, settled.directions, strict=True)) == compared

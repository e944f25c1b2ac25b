"""Learning-rate schedules."""

import pytest

from sft.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 1.0),
        ("constant", 9, 1.0),
        ("linear", 0, 1.0),
        ("linear", 5, 0.5),
        ("cosine", 0, 1.0),
        ("cosine", 5, 0.5),
    ],
)
def test_a_schedule_starts_at_the_peak_and_falls_towards_its_end(schedule, step, expected):
    assert SCHEDULES[schedule]().factor(step, total_steps=10) == pytest.approx(expected)


def test_warm_up_rises_to_the_peak_and_the_rest_falls_from_it():
    schedule = SCHEDULES["linear"](warmup_steps=4)
    factors = [schedule.factor(step, total_steps=10) for step in range(10)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert factors[4:] == sorted(factors[4:], reverse=True)

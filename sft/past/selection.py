"""Which runs of a list are wanted, and in what order: `--where status=FINISHED --sort eval/nll`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sft.errors import BadInput, nearest
from sft.past.listing import Listed

COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
CONDITION = re.compile(r"([^<>=!]+)(!=|<=|>=|=|<|>)(.*)")


def selected(runs: Sequence[Listed], conditions: Sequence[str]) -> list[Listed]:
    """The `runs` for which every condition holds: `KEY=VALUE` or `!=`, `<`, `>`, `<=`, `>=`.

    KEY is a column, a setting (`lora.rank`) or a metric. VALUE may hold `*` and `?` (`name=faq*`);
    numbers are compared as numbers (`lr=1e-4`). Raises `BadInput`.
    """
    for text in conditions:
        match = CONDITION.fullmatch(text)
        if match is None:
            raise BadInput(f"--where {text}: expected KEY=VALUE, or one of != < > <= >=")
        key, sign, value = match.groups()
        check_key("--where", key, runs)
        if sign in COMPARED and _number(value) is None:
            raise BadInput(f"--where {text}: '{value}' is not a number, which {sign} is for")
        runs = [run for run in runs if _holds(run.get(key), sign, value)]
    return list(runs)


def by(key: str | None, runs: Sequence[Listed], *, reverse: bool = False) -> list[Listed]:
    """The `runs` by the value of `key`, the smallest first; without one, the newest first.

    Runs without a value come last in either direction. Raises `BadInput` if no run has one.
    """
    key = key or "age"
    check_key("--sort", key, runs)
    having: list[Listed] = []
    lacking: list[Listed] = []
    for run in runs:
        value = run.get(key)
        (lacking if value is None or value != value else having).append(run)  # NaN is no value
    return sorted(having, key=lambda run: _rank(run.get(key)), reverse=reverse) + lacking


def check_key(option: str, key: str, runs: Sequence[Listed]) -> None:
    """Raise `BadInput` if none of `runs` knows `key`."""
    known = {name for run in runs for name in (*run.columns, *run.keys)}
    if runs and key not in known:
        raise BadInput(
            f"{option} {key}: no run has it; expected a column, a setting such as lora.rank, or a "
            f"metric{nearest(key, sorted(known))}"
        )


def _holds(value: Any, sign: str, wanted: str) -> bool:
    number, given = _number(wanted), _number(value)
    if sign in COMPARED:
        return given is not None and number is not None and COMPARED[sign](given, number)
    is_equal = given == number if None not in (given, number) else _matches(value, wanted)
    return is_equal == (sign == "=")


def _matches(value: Any, pattern: str) -> bool:
    text = "null" if value is None else str(value).lower() if value in (True, False) else str(value)
    return fnmatchcase(text, pattern)


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers before text."""
    number = _number(value)
    return (1, 0.0, str(value)) if number is None else (0, number, "")


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None

"""Hydra's override grammar as Optuna's search spaces.

    lr=1e-4,3e-4                        choices, in their order
    lora.rank=choice(4, 16, 64)         the same
    batch_size=range(4, 17, 4)          4, 8, 12, 16
    lr=interval(1e-5, 3e-3)             real numbers, ends included
    lora.rank=int(interval(1, 64))      whole numbers, ends included
    lr=tag(log, interval(1e-5, 3e-3))   on a log scale

Written on the command line or under `hydra.sweeper.params`; the command line wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sft.config.checking import dotted_values
from sft.config.schema import AUTO
from sft.errors import BadInput
from sft.sweeps.parameters import RATE, Distribution, Space, combinations, describe_space

GRAMMAR = (
    "expected choices (1e-4,3e-4 or choice(4,16)), range(START,STOP,STEP), interval(LOW,HIGH) or "
    "int(interval(LOW,HIGH)), an interval with tag(log, …) for a log scale"
)


@dataclass
class SearchSpace:
    """What a sweep varies, and the overrides that all of its trials share."""

    distributions: Space = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    """What was typed for a choice, by key and `repr` of its value."""
    added: dict[str, str] = field(default_factory=dict)
    """The + or ++ that a key was written with."""
    began: Space = field(default_factory=dict)
    """The space that the study had first, if it has trials."""

    @property
    def points(self) -> list[dict[str, Any]] | None:
        """Every combination; None if an interval makes them endless."""
        return combinations(self.distributions)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these values, the shared ones first."""
        return self.fixed + [
            f"{self.added.get(name, '')}{name}={self._text(name, value)}"
            for name, value in values.items()
        ]

    def describe(self) -> dict[str, str]:
        """The space in a form that people and JSON can compare."""
        return describe_space(self.distributions)

    def _text(self, name: str, value: Any) -> str:
        known = self.texts.get((name, repr(value)))
        if known is not None:
            return known
        if value is None:
            return "null"
        if isinstance(value, bool):
            return str(value).lower()
        return str(value)


def parse(
    arguments: Sequence[str],
    params: Mapping[str, Any] | None = None,
    config_loader: ConfigLoader | None = None,
) -> SearchSpace:
    """The search space of a command line and of `hydra.sweeper.params`. Raises `BadInput`.

    Args:
        arguments: overrides, as given.
        params: key -> the text that could stand behind `key=`, or a YAML list of choices.
        config_loader: Hydra's; only glob(*) over the options of a group needs it.
    """
    lines = [f"{name}={_as_text(value)}" for name, value in _flat(params or {}).items()]
    parser = OverridesParser.create(config_loader)
    overrides: dict[str, tuple[str, Override]] = {}
    for line in [*lines, *arguments]:
        override = _parse(parser, line, from_params=line in lines)
        overrides.pop(_name(override), None)  # the last word counts, and takes its place
        overrides[_name(override)] = line, override
    space = SearchSpace()
    for name, (line, override) in overrides.items():
        if not override.is_sweep_override():
            space.fixed.append(line)
            continue
        space.distributions[name] = _distribution(name, override, space)
        if override.is_add() or override.is_force_add():
            space.added[name] = "++" if override.is_force_add() else "+"
    return space


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys with dots, whether they were written with dots or nested."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"choice({','.join(_as_text(item) for item in value)})"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(parser: OverridesParser, line: str, from_params: bool) -> Override:
    try:
        return parser.parse_override(line)
    except HydraException as error:
        name = line.partition("=")[0]
        where = f"hydra.sweeper.params.{name}" if from_params else name
        reason = str(error).splitlines()[0]
        raise BadInput(f"{where}: cannot read '{line}' ({reason}); {GRAMMAR}.") from error


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _distribution(name: str, override: Override, space: SearchSpace) -> Distribution:
    value: Any = override.value()  # Hydra's annotation leaves out Glob
    if isinstance(value, ChoiceSweep):
        _is_log(name, value.tags)  # allowed, though choices have no scale
        return _choices(name, override, value.list, space)
    if isinstance(value, Glob):
        return _choices(name, override, list(override.sweep_string_iterator()), space)
    if isinstance(value, RangeSweep):
        return _range(name, value)
    assert isinstance(value, IntervalSweep)
    return _interval(name, value)


def _interval(name: str, value: IntervalSweep) -> Distribution:
    log = _is_log(name, value.tags)
    low, high = value.start, value.end
    assert low is not None and high is not None  # the grammar has no open intervals
    if not low < high:
        raise BadInput(f"{name}: interval({low}, {high}) is empty; give the lower end first.")
    if log and low <= 0:
        raise BadInput(
            f"{name}: a log scale needs an interval above 0, got interval({low}, {high})."
        )
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    if _is_whole(name) and float(low).is_integer() and float(high).is_integer():
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _choices(
    name: str, override: Override, elements: list[Any], space: SearchSpace
) -> CategoricalDistribution:
    texts = list(override.sweep_string_iterator())
    values = [_plain(element, text) for element, text in zip(elements, texts, strict=True)]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        order = sorted(range(len(values)), key=values.__getitem__)
        values, texts = [values[i] for i in order], [texts[i] for i in order]
    if name == RATE and AUTO in values:
        raise BadInput(
            f"{name}: auto is no value to search beside others, it has no place among numbers; the "
            "first trial of a sweep that starts from published sweeps (hydra.sweeper.warm_start) "
            "is the rate that it stands for."
        )
    for i, value in enumerate(values):
        if value in values[:i]:
            raise BadInput(f"{name}: the choice {texts[i]} stands there twice; name each once.")
        space.texts[name, repr(value)] = texts[i]
    return CategoricalDistribution(values)


def _plain(value: Any, text: str) -> Any:
    """A choice as Optuna can store it; lists and mappings are stored as their text."""
    if isinstance(value, QuotedString):
        return value.text
    return value if value is None or isinstance(value, bool | int | float | str) else text


def _range(name: str, value: RangeSweep) -> Distribution:
    log = _is_log(name, value.tags)
    numbers = sorted(value.range())
    if not numbers:
        raise BadInput(
            f"{name}: range({value.start}, {value.stop}, {value.step}) holds nothing; its stop "
            "is not part of it."
        )
    if log:
        raise BadInput(f"{name}: a range has no log scale; use tag(log, interval(LOW, HIGH)).")
    step = abs(value.step)
    if all(isinstance(number, int) for number in numbers) and isinstance(step, int):
        return IntDistribution(numbers[0], numbers[-1], step=step)
    return FloatDistribution(float(numbers[0]), round(float(numbers[-1]), 12), step=float(step))


def _is_log(name: str, tags: set[str]) -> bool:
    if unknown := sorted(tags - {"log", "int", "float"}):
        raise BadInput(f"{name}: tag '{unknown[0]}' means nothing here; the tag there is is log.")
    return "log" in tags


def _is_whole(name: str) -> bool:
    """Whether a key of the schema takes whole numbers."""
    default = dict(dotted_values()).get(name)
    return isinstance(default, int) and not isinstance(default, bool)

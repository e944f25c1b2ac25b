"""Keys as dataclass fields, and their copies in the schema of a kind."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from sft.config.schema import _of_kind
from sft.keys import key
from sft.schedules import Schedule


@dataclass(frozen=True)
class Steps(Schedule):
    """A schedule whose keys are of every sort."""

    at: list[int] = key([1, 2], "steps")
    names: dict[str, Any] = key({}, "by name")
    factor_each: float = key(0.5, "at each of them", above=0)


def test_a_kinds_schema_has_every_key_of_its_class_with_a_default_of_its_own():
    schema: Any = _of_kind("steps", Steps, "shape")
    made = schema()
    assert dataclasses.asdict(made) == {
        "kind": "steps", "warmup_steps": 0, "at": [1, 2], "names": {}, "factor_each": 0.5,
    }  # fmt: skip
    made.at.append(3)
    assert schema().at == [1, 2] == Steps().at
    fields = {item.name: item for item in dataclasses.fields(schema)}
    assert fields["at"].type == list[int] and fields["factor_each"].metadata["above"] == 0


def test_a_key_without_a_default_has_to_be_given():
    @dataclass
    class Needs:
        path: str

    [_, item] = dataclasses.fields(_of_kind("needs", Needs, "x"))
    assert item.default == "???" and item.metadata["help"] == ""
    with pytest.raises(TypeError):
        Needs()

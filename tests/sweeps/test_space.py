"""Hydra's grammar in, Optuna's distributions out."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sft.errors import BadInput
from sft.sweeps.options import Options
from sft.sweeps.parameters import describe
from sft.sweeps.space import parse

READ = [
    ("lr=1e-4,3e-4", CategoricalDistribution([1e-4, 3e-4])),
    ("lora.rank=choice(4,64,16)", CategoricalDistribution([4, 16, 64])),
    ("lora.rank=64,16,4", CategoricalDistribution([4, 16, 64])),
    ("model=qwen3,qwen3_8", CategoricalDistribution(["qwen3", "qwen3_8"])),
    ("schedule.kind='linear',cosine", CategoricalDistribution(["linear", "cosine"])),
    ("lora.train_mlp=true,false", CategoricalDistribution([True, False])),
    ("max_steps=null,10", CategoricalDistribution([None, 10])),
    ("evaluators.prompts=[a,b],[c]", CategoricalDistribution(["[a,b]", "[c]"])),
    ("batch_size=range(4,17,4)", IntDistribution(4, 16, step=4)),
    ("batch_size=range(1,5)", IntDistribution(1, 4)),
    ("batch_size=range(8,1,-2)", IntDistribution(2, 8, step=2)),
    ("optimizer.beta2=range(0.9,1.0,0.05)", FloatDistribution(0.9, 0.95, step=0.05)),
    ("optimizer.weight_decay=interval(0,1)", FloatDistribution(0.0, 1.0)),
    ("dataset.parts.math.weight=interval(0,1)", FloatDistribution(0.0, 1.0)),
    ("lr=tag(log, interval(1e-5, 3e-3))", FloatDistribution(1e-5, 3e-3, log=True)),
    ("lora.rank=int(interval(1,64))", IntDistribution(1, 64)),
    ("lora.rank=tag(log, int(interval(1,64)))", IntDistribution(1, 64, log=True)),
    ("lora.rank=int(tag(log, interval(1,64)))", IntDistribution(1, 64, log=True)),
    ("lora.rank=interval(1,64)", IntDistribution(1, 64)),
]


@pytest.mark.parametrize(("line", "expected"), READ)
def test_an_override_is_read_alike_from_the_command_line_and_from_params(line, expected):
    name, _, text = line.partition("=")
    assert parse([line]).distributions == {name: expected}
    assert parse([], {name: text}).distributions == {name: expected}


REFUSED = [
    ("lr=interval(3e-3,1e-5)", "lr: interval"),
    ("lr=tag(log, interval(0, 1))", "above 0"),
    ("lr=tag(lag, interval(1e-5, 1e-3))", "lag"),
    ("lora.rank=4,4", "twice"),
    ("batch_size=range(4,4)", "holds nothing"),
    ("lr=interval(1e-5", "lr: cannot read"),
    ("batch_size=tag(log, range(1,64))", "no log scale"),
    ("lr=uniform(1,2)", "lr: cannot read"),
    ("lr=auto,1e-3", "auto is no value to search beside others"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_a_space_that_makes_no_sense_is_bad_input_that_names_the_key(line, words):
    with pytest.raises(BadInput, match=line.partition("=")[0]) as error:
        parse([line])
    assert words in str(error.value)


def test_the_command_line_wins_over_params():
    space = parse(["lr=1e-3,2e-3"], {"lr": "interval(0.1, 0.2)", "lora.rank": [4, 8]})
    assert space.distributions["lr"].choices == (1e-3, 2e-3)
    assert space.distributions["lora.rank"].choices == (4, 8)
    assert parse(["lr=1e-3"], {"lr": "1e-4,1e-3"}).distributions == {}


def test_params_may_be_nested():
    assert list(parse([], {"lora": {"rank": "4,8"}}).distributions) == ["lora.rank"]


def test_overrides_of_a_trial_keep_what_was_typed():
    space = parse(["sweep=lr_rank", "lr=1e-4,3e-4", "+note='a b',c", "max_steps=null,3"])
    overrides = space.overrides({"lr": 3e-4, "note": "a b", "max_steps": None})
    assert overrides == ["sweep=lr_rank", "lr=0.0003", "+note='a b'", "max_steps=null"]


def test_choices_and_ranges_have_points_and_intervals_have_none():
    points = parse(["lr=1e-4,1e-3", "batch_size=range(1,4)"]).points
    assert points[:2] == [{"lr": 1e-4, "batch_size": 1}, {"lr": 1e-4, "batch_size": 2}]
    assert len(points) == 6
    assert parse(["lr=interval(0.1,0.2)"]).points is None
    assert parse(["lr=1e-4"]).points == [{}]


@pytest.mark.parametrize("line", [READ[i][0] for i in (0, 1, 8, 9, 11, 13, 14, 15)])
def test_a_description_reads_back_as_the_same_space(line):
    (name, distribution), *_ = parse([line]).distributions.items()
    assert parse([f"{name}={describe(distribution)}"]).distributions[name] == distribution


MANY = ",".join(map(str, range(400)))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["lr=interval(0.1,0.2)"], "since lr is an interval"),
        (["seed=1,2", "lora.rank=tag(log, int(interval(1,64)))"], "since lora.rank is an interval"),
        ([f"seed={MANY}", f"lora.seed={MANY}"], "since the space has more than 100,000 points"),
        (["seed=range(0,200000)"], "since the space has more than 100,000 points"),
    ],
)
def test_a_space_that_no_grid_can_cover_needs_a_number_of_trials(lines, reason):
    with pytest.raises(BadInput) as error:
        Options().settle(parse(lines))
    assert str(error.value).startswith(f"hydra.sweeper.n_trials: is needed, {reason};")
    assert Options(n_trials=7).settle(parse(lines)).n_trials == 7

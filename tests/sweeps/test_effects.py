"""What a sweep asks for and cannot have is refused or said before its first trial."""

from pathlib import Path

import pytest

from sft.command import launch
from sft.sweeps import preflight

# The run of conftest.py: four steps with an evaluation after two, 21 rows to train on.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hydra.sweeper.metric=eval/nnl", "metric=eval/nnl: no run will have it; did you mean 'ev"),
        ("hydra.sweeper.metric=eval/exact_match", "metric=eval/exact_match: no run will have it"),
        ("hydra.sweeper.metric=lora.rnak", "metric=lora.rnak: no run will have it"),
        ("hydra.sweeper.metric=[eval/nll,train/nlll]", "metric=train/nlll: no run will have it"),
        ("dataset.eval_size=0 eval_every=0", "metric=eval/nll: the data has nothing held out"),
        (
            "hydra.sweeper.pruner=hyperband eval_every=0",
            "pruner=hyperband: eval/nll is not measured between the first step and the end",
        ),
        ("hydra.sweeper.pruner=median eval_every=4", "pruner=median: eval/nll is not measured"),
        (
            "hydra.sweeper.pruner=asha hydra.sweeper.pruner_min_steps=3",
            "pruner=asha: eval/nll is not measured between step 3",
        ),
        (
            "hydra.sweeper.pruner=hyperband hydra.sweeper.metric=lora.rank",
            "pruner=hyperband: lora.rank is not measured",
        ),
        (
            "hydra.sweeper.scheduler=asha eval_every=4",
            "scheduler=asha: eval/nll is not measured between the first step and the end",
        ),
        (
            "hydra.sweeper.scheduler=freeze_thaw hydra.sweeper.metric=lora.rank",
            "scheduler=freeze_thaw: lora.rank is not measured",
        ),
        ("hydra.sweeper.pruner=median", "pruner=median: compares with 4 or more other trials"),
        ("schedule.warmup_steps=0,5", "schedule.warmup_steps: 5 is more than"),
        ("max_length=128,2000", "max_length: 2000 tokens do not fit 'tiny'"),
        (
            "lora.train_unembed=true,false lora.train_attn=false lora.train_mlp=false",
            "lora: trains nothing",
        ),
        ("batch_size=4,100", "batch_size: 100 is more than the sequences that"),
        ("hydra.sweeper.n_trails=3", "did you mean 'n_trials'?"),
        ("hydra.sweeper.params.lora.rnak=4,8", "lora.rnak: there is no such key"),
    ],
)
def test_what_no_trial_can_have_is_refused_before_anything_is_made(sweep, capsys, line, words):
    assert sweep("lr=1e-3,1e-2", *line.split()) == 2
    assert words in capsys.readouterr().err
    assert not Path("outputs").exists()


@pytest.fixture
def sentences(sweep, monkeypatch):
    """The sentences of a sweep that is given up before its first trial."""

    class Enough(Exception):
        pass

    def of(*arguments):
        found = []
        real = preflight.preflight

        async def observed(*given):
            found.extend((await real(*given)).without_effect)
            raise Enough

        monkeypatch.setattr("sft.sweeps.command.preflight.preflight", observed)
        with pytest.raises(Enough):
            sweep(*arguments)
        return found

    return of


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hydra.sweeper.n_trials=5", "hydra.sweeper.n_trials=2: the space has no more points; 3"),
        ("hydra.sweeper.n_jobs=9", "hydra.sweeper.n_jobs=9: there are 2 to run"),
        ("hydra.sweeper.seed=3", "hydra.sweeper.seed=3: is of the sampler, and a grid draws"),
        ("seed=1,2 hydra.sweeper.repeats=2", "hydra.sweeper.repeats=2: changes seed"),
        ("hydra.sweeper.warm_start=published", "hydra.sweeper.warm_start=published: a grid"),
        ("lr=1 lora.rank=1,2 hydra.sweeper.warm_start=published", "hydra.sweeper.warm_start=p"),
        ("hydra.sweeper.pruner_min_steps=2", "hydra.sweeper.pruner_min_steps=2: there is no"),
        ("hydra.sweeper.pruner_reduction=2", "hydra.sweeper.pruner_reduction=2: is of the pruners"),
        ("save_every=3,9", "save_every=9: the run has 4 steps"),
    ],
)
def test_a_setting_of_a_sweep_without_an_effect_is_said_once(sentences, line, words):
    (sentence,) = sentences("lr=1e-3,1e-2", *line.split())
    assert sentence.startswith(words)


@pytest.mark.parametrize(
    "line",
    [
        "lr=1e-3,1e-2",
        "sweep=lr",
        "sweep=lr_rank",
        "sweep=rank",
        "sweep=seeds",
        "lr=1e-3,1e-2 hydra.sweeper.pruner=asha hydra.sweeper.pruner_min_steps=2",
        "lr=1e-3,1e-2 hydra.sweeper.pruner=hyperband hydra.sweeper.metric=train/nll eval_every=0",
        "lr=1e-3,1e-2 hydra.sweeper.metric=[eval/nll,tokens,lora.rank]",
        "lora.rank=4,8 hydra.sweeper.metric=eval/exact_match evaluators.held_out_answers=1",
    ],
)
def test_a_sweep_whose_settings_have_their_effect_is_not_complained_of(sentences, line):
    assert sentences(*line.split()) == []


def test_what_the_sweep_has_said_is_not_said_again_by_every_trial(sweep, capsys):
    assert sweep("lr=1e-3,1e-2", "save_every=9", "max_steps=2", "eval_every=0") == 0
    assert capsys.readouterr().out.count("save_every=9: the run has 2 steps") == 1


@pytest.mark.parametrize(
    "line",
    [
        "model.chat_template_kwargs={a:false} lr=1e-3,1e-2",
        "model.chat_template_kwargs.a=1,2",
        "model.chat_template_kwargs={a:1},{a:2}",
        "hydra.sweeper.params.model.chat_template_kwargs.a=1,2",
        "hydra.sweeper.params.lr=choice(1e-3,1e-2)",
        "hydra.sweeper.params={lr:'choice(1e-3,1e-2)'}",
        "hydra.sweeper.params={lr:[1e-3,1e-2]}",
        "evaluators.prompts=[a],[b]",
    ],
)
def test_mappings_and_lists_of_ones_own_are_taken_in_a_sweep(sweep, monkeypatch, line):
    trained = []

    async def record(settings, *given, **options):
        trained.append(settings)
        raise RuntimeError("for the test")

    monkeypatch.setattr(launch, "train", record)
    sweep(*line.split(), "hydra.sweeper.study_name=s")
    assert len(trained) == 2
    if "lr" not in line:
        first, second = trained
        assert first.model.chat_template_kwargs != second.model.chat_template_kwargs or (
            first.evaluators.prompts != second.evaluators.prompts
        )
    elif "kwargs" in line:
        assert [s.model.chat_template_kwargs for s in trained] == [{"a": False}] * 2
    else:
        assert sorted(settings.lr for settings in trained) == [1e-3, 1e-2]

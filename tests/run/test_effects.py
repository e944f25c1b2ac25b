"""A setting that cannot have its effect is said before the run starts, or refused."""

import asyncio
import re
from pathlib import Path

import pytest

from sft.config.compose import compose
from sft.errors import BadInput
from sft.run import effects
from sft.run.training import train as train_main
from tests.failing_runs import Listen
from tests.test_train import chats, make_config, run  # noqa: F401 - fixtures


def said(config):
    """What a run says of `config`: five steps, four sequences held out."""
    heard = {}

    class Hear(Listen):
        def on_start(self, run):
            heard["sentences"] = run.facts["without_effect"]

    assert run(config, hooks=[Hear()]).status == "FINISHED"
    return heard["sentences"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_steps": 50}, "max_steps=50: the data ends after 5 steps; epochs=10"),
        ({"eval_every": 50}, "eval_every=50: the run has 5 steps"),
        ({"save_every": 50}, "save_every=50: the run has 5 steps"),
        ({"rolling_save_every": 9}, "checkpoint.rolling_every=9: the run has 5 steps"),
        ({"keep_checkpoints": 2}, "checkpoint.keep=2: there are no periodic checkpoints"),
        ({"ttl_seconds": 9999}, "checkpoint.ttl_seconds=9999: there are no periodic"),
        ({"infrequent_eval_every": 2}, "evaluators.every=2: there is nothing to evaluate"),
        ({"held_out_answers": 9}, "evaluators.held_out_answers=9: 4 is held out"),
        ({"early_stopping_patience": 3}, "early_stopping.patience=3: the run has 1 evaluation b"),
        ({"early_stopping_patience": 2, "eval_every": 3}, "early_stopping.patience=2: the run has"),
        ({"num_epochs": 3, "max_steps": 4}, "epochs=3: max_steps=4 ends the run in epoch 1"),
    ],
)
def test_a_setting_without_effect_is_said_before_the_start(make_config, changes, words):  # noqa: F811
    sentences = said(make_config(**changes))
    assert [s for s in sentences if words in s], sentences


def test_an_evaluation_without_held_out_data_is_said(make_config):  # noqa: F811
    config = make_config(eval_every=2)
    config.dataset_builder.eval_size = 0
    assert [s for s in said(config) if "eval_every=2: there is nothing to evaluate" in s]


def test_a_run_whose_settings_all_count_says_nothing(make_config):  # noqa: F811
    config = make_config(
        eval_every=2, save_every=2, keep_checkpoints=1, early_stopping_patience=2, max_steps=5,
        warmup_steps=5,
    )  # fmt: skip
    assert said(config) == []
    assert effects.of_settings(compose([])) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict.fromkeys(("train_attn", "train_mlp", "train_unembed"), False), "lora: trains noth"),
        ({"warmup_steps": 100}, "schedule.warmup_steps: 100 is more than the 5 steps"),
        ({"early_stopping_patience": 2}, "early_stopping.patience.*nothing is held out"),
    ],
)
def test_a_run_that_would_be_another_than_was_asked_for_is_refused(
    make_config, changes, words  # noqa: F811
):  # fmt: skip
    config = make_config(**changes)
    if "early_stopping_patience" in changes:
        config.dataset_builder.eval_size = 0
    with pytest.raises(BadInput, match=words):
        run(config)
    assert not Path(config.log_path).exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluators.temperature=1"], "evaluators.temperature=1: .* there are none"),
        (["model=qwen3", "service.dtype=float32"], "service.dtype=float32: is for service=local"),
        (["tracking=none", "tracking.experiment=mine"], "nothing is tracked"),
    ],
)
def test_settings_that_no_loop_sees_are_said_too(overrides, words):
    (sentence,) = effects.of_settings(compose(overrides))
    assert re.search(words, sentence)


def test_data_whose_order_cannot_be_made_ends_the_run(make_config):  # noqa: F811
    """It used to wait for ever."""
    config = make_config()
    train, held_out = config.dataset_builder()

    class Unordered(type(train)):
        def set_epoch(self, seed):
            raise RuntimeError("no order")

    train.__class__ = Unordered
    config.dataset_builder = lambda: (train, held_out)

    result = asyncio.run(train_main(config, settings={"run_name": "unordered"}))
    assert result.status == "FAILED" and "no order" in result.error

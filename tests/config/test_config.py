"""The saved config, and the mapping between it and `train.Config`."""

import dataclasses

import pytest
import yaml

from sft.config.compose import compose
from sft.config.saved import completed, from_saved, from_train, to_saved, to_train
from sft.config.schema import VERSION
from sft.errors import BadInput
from sft.files import dump_yaml, read_yaml

CHANGED = {
    "lr": 3e-3,
    "epochs": 3,
    "max_steps": 7,
    "batch_size": 5,
    "max_length": 99,
    "train_on_what": "last_assistant_message",
    "reduction": "none",
    "seed": 11,
    "eval_every": 2,
    "metric": "eval/quiz/accuracy",
    "direction": "maximize",
    "save_every": 4,
    "submit_ahead": 3,
    "model.name": "some/model",
    "lora.rank": 4,
    "lora.train_attn": False,
    "lora.train_mlp": False,
    "lora.train_unembed": False,
    "lora.seed": 5,
    "optimizer.beta1": 0.8,
    "optimizer.beta2": 0.9,
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.1,
    "optimizer.grad_clip_norm": 1.5,
    "schedule.kind": "cosine",
    "schedule.warmup_steps": 2,
    "evaluators.held_out_answers": 2,
    "evaluators.max_tokens": 9,
    "evaluators.every": 6,
    "checkpoint.every_tokens": 1000,
    "checkpoint.every_seconds": 60.0,
    "checkpoint.rolling_every": 3,
    "checkpoint.rolling_ttl_seconds": 4000,
    "checkpoint.ttl_seconds": 5000,
    "checkpoint.keep": 2,
    "checkpoint.load": "tinker://run/weights/name",
    "checkpoint.step": 3,
    "early_stopping.patience": 4,
    "guard.rise": 1.5,
    "guard.steps": 2,
    "budget.usd": 2.5,
}
FIELDS = {
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "model.name": "model_name",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_eps",
    "optimizer.weight_decay": "weight_decay",
    "optimizer.grad_clip_norm": "grad_clip_norm",
    "schedule.kind": "lr_schedule",
    "schedule.warmup_steps": "warmup_steps",
    "lora.rank": "lora_rank",
    "lora.seed": "lora_seed",
    "evaluators.held_out_answers": "held_out_answers",
    "evaluators.max_tokens": "held_out_answer_tokens",
    "evaluators.every": "infrequent_eval_every",
    "checkpoint.every_tokens": "save_every_tokens",
    "checkpoint.every_seconds": "save_every_seconds",
    "checkpoint.rolling_every": "rolling_save_every",
    "checkpoint.rolling_ttl_seconds": "rolling_ttl_seconds",
    "checkpoint.ttl_seconds": "ttl_seconds",
    "checkpoint.keep": "keep_checkpoints",
    "checkpoint.load": "load_checkpoint_path",
    "checkpoint.step": "load_checkpoint_step",
    "early_stopping.patience": "early_stopping_patience",
    "guard.rise": "guard_rise",
    "guard.steps": "guard_steps",
    "budget.usd": "budget_usd",
}
COMMON = ("batch_size", "max_length", "train_on_what", "reduction")


def changed_settings():
    return compose([f"{name}={value}" for name, value in CHANGED.items()])


@pytest.mark.parametrize("name", CHANGED)
def test_each_key_reaches_its_field_of_the_training_config(name):
    train_config = to_train(changed_settings(), "somewhere")
    if name in COMMON:
        assert getattr(train_config.dataset_builder.common_config, name) == CHANGED[name]
    else:
        field = FIELDS.get(name, name.rpartition(".")[2])
        assert getattr(train_config, field) == CHANGED[name]


def test_every_field_of_the_training_config_is_reached_by_some_key():
    reached = {FIELDS.get(name, name.rpartition(".")[2]) for name in CHANGED}
    others = {
        "log_path",
        "dataset_builder",
        "evaluator_builders",
        "infrequent_evaluator_builders",
        "optimizer",
        "loss_fn",
        "lr_schedule_args",
        "prices",
        "base_url",
    }
    from sft.train import Config

    assert {item.name for item in dataclasses.fields(Config)} == (reached - set(COMMON)) | others


def test_a_run_started_from_python_saves_the_same_config_as_from_the_command_line():
    settings = changed_settings()
    saved = to_saved(settings)
    back = from_train(to_train(settings, "somewhere"))
    for group in ("service", "tracking", "run_name"):  # said beside train.Config
        saved.pop(group)
        back.pop(group)
    # A tokenizer that was left to its default is named outright.
    saved["model"]["tokenizer"] = back["model"]["tokenizer"]
    assert back == saved


def test_the_largest_rank_of_the_local_service_is_its_own():
    from sft.config.schema import LARGEST_LOCAL_RANK
    from sft.local.server.operations import MOST_RANK

    assert LARGEST_LOCAL_RANK == MOST_RANK


def test_a_saved_config_comes_back_as_it_was():
    settings = changed_settings()
    text = dump_yaml(to_saved(settings))
    loaded = yaml.safe_load(text)
    assert from_saved(loaded, "config.yaml") == settings
    assert "run_dir" not in loaded and loaded["version"] == VERSION


@pytest.mark.parametrize(
    "metric, direction",
    [
        ("eval/nll", "minimize"),
        ("eval/code/bpb", "minimize"),
        ("eval/choice/accuracy", "maximize"),
        ("eval/prompts/exact_match", "maximize"),
        ("eval/judge/score", None),
    ],
)
def test_the_direction_that_a_metrics_name_tells_is_saved(metric, direction):
    settings = compose([f"metric={metric}"])
    assert to_saved(settings)["direction"] == direction
    assert from_train(to_train(settings, "somewhere"))["direction"] == direction


def test_a_saved_config_keeps_its_direction_and_one_without_gets_it():
    saved = to_saved(compose(["metric=eval/choice/accuracy"]))
    contrary = saved | {"direction": "minimize"}  # the default of an earlier version
    assert completed(contrary, "config.yaml")["direction"] == "minimize"
    del saved["direction"]
    assert completed(saved, "config.yaml")["direction"] == "maximize"


def test_a_config_of_another_version_is_refused_with_the_keys_that_changed():
    saved = to_saved(compose([])) | {"version": 0, "learning_rate": 1.0}
    del saved["lr"]
    with pytest.raises(BadInput, match=r"version 0.*learning_rate.*lr"):
        from_saved(saved, "old.yaml")


def test_a_saved_config_from_before_dataset_file_still_loads():
    saved = to_saved(compose([]))
    saved["dataset"] = {"kind": "jsonl", "path": "x.jsonl", "eval_size": 4, "split_seed": 0}
    dataset = from_saved(saved, "old.yaml").dataset
    assert (dataset.kind, dataset.layout, dataset.on_bad_line) == ("jsonl", "auto", "refuse")


def test_a_saved_config_is_data_even_where_it_looks_like_an_interpolation(tmp_path):
    saved = to_saved(compose([])) | {"run_name": "${oc.env:HOME}"}
    assert from_saved(saved, "x").run_name == "${oc.env:HOME}"


def test_a_yaml_tag_in_a_config_runs_nothing_and_is_refused(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("lr: !!python/object/apply:os.system ['touch owned']\n")
    with pytest.raises(BadInput, match=r"config\.yaml line 1"):
        read_yaml(file)

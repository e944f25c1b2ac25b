"""Sweeps from the command line to the answer, on the real local service."""

import dataclasses
import datetime
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.trial import TrialState
from transformers import AutoTokenizer

from sft.__main__ import main
from sft.command import launch
from sft.config.saved import to_saved, to_train
from sft.files import read_yaml
from sft.record import checkpoints, metrics
from sft.run import training
from sft.run.failures import ServiceLost
from sft.sweeps import report
from sft.sweeps.findings.results import Results
from sft.sweeps.study import storage

from .conftest import rows_of, study_of


def states(name):
    return [trial.state.name for trial in study_of(name).trials]


@pytest.mark.slow
def test_a_sweep_finds_the_trial_that_mlflow_shows_as_best(
    monkeypatch, tmp_path, overrides, tiny_model, capsys
):
    """On a local service of its own: 12 trials, 4 at a time."""
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    argv = [
        "--multirun", *overrides, f"model.name={tiny_model}", "service=local",
        f"service.root={tmp_path}/service", "sweep=lr_rank", "hydra.sweeper.n_trials=12",
        "hydra.sweeper.n_jobs=4", "hydra.sweeper.study_name=all", "hydra.sweeper.scheduler=none",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sft", *argv])
    assert main(argv) == 0

    study = study_of("all")
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 12
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("sft")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(r for r in runs if r.data.tags.get("sweep.parent"))
    assert "python -m sft.sweeps.report" in parent.data.tags["mlflow.note.content"]
    assert "python -m sft --multirun" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["mlflow.user"] and parent.data.tags["mlflow.source.name"]
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["sweep.trial"] for r in trials} == {str(i) for i in range(12)}
    assert {r.data.tags["sweep.study"] for r in trials} == {"all"}
    assert {r.info.status for r in runs} == {"FINISHED"}
    lowest = min(trials, key=lambda r: r.data.metrics["eval/nll"])
    assert lowest.data.tags["sweep.trial"] == str(study.best_trial.number)
    assert parent.data.tags["best.trial"] == str(study.best_trial.number)
    assert parent.data.params["space.lora.rank"] == "choice(4, 16, 64)"
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/learning_rate.png"} <= names

    printed = capsys.readouterr().out
    assert f"best trial: {study.best_trial.number}" in printed
    assert "train again: python -m sft" in printed and "sampler_weights" in printed


def test_choices_alone_are_a_full_grid_and_a_second_start_adds_nothing(sweep, capsys):
    arguments = ("lr=1e-3,1e-2", "lora.rank=4,8", "hydra.sweeper.study_name=grid")
    assert sweep(*arguments) == 0
    trials = study_of("grid").trials
    assert {(t.params["lr"], t.params["lora.rank"]) for t in trials} == {
        (lr, rank) for lr in (1e-3, 1e-2) for rank in (4, 8)
    }
    for trial in trials:
        rows = rows_of("grid", trial.number)
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
        assert rows[-1]["eval/nll"] == trial.value
    assert sweep(*arguments) == 0
    assert len(study_of("grid").trials) == 4
    assert "4 complete" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_refuses_to_go_on_with_other_data(sweep, tmp_path, chats, capsys):
    assert sweep("lr=1e-3,1e-2", "hydra.sweeper.study_name=s") == 0
    other = tmp_path / "other.jsonl"
    other.write_text("".join(chats.read_text().splitlines(keepends=True)[::-1][:24]))
    assert sweep("lr=1e-3,1e-2", "hydra.sweeper.study_name=s", f"dataset.path={other}") == 2
    assert sweep("lr=1e-3,1e-2", "hydra.sweeper.study_name=s", "max_steps=3") == 2
    assert sweep("lr=1e-3,2e-2", "hydra.sweeper.study_name=s") == 2
    said = capsys.readouterr().err
    assert "digest was" in said and "steps was 4, now 3" in said and "space was" in said


@pytest.mark.parametrize("storage_url", ["null", "sqlite:///studies.db"])
@pytest.mark.slow
def test_a_study_gone_on_with_on_another_day_reads_the_data_of_its_own(
    sweep, tmp_path, monkeypatch, tiny_model, storage_url
):
    dated = tmp_path / "dated"
    shutil.copytree(tiny_model, dated)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    today = "<|im_start|>system\n{{ strftime_now('%d %b %Y') }}<|im_end|>\n"
    tokenizer.chat_template = today + tokenizer.chat_template
    tokenizer.save_pretrained(dated)
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    for day, n_trials in (("2026-03-01", 1), ("2026-03-09", 2)):
        on_that_day = SimpleNamespace(today=lambda day=day: datetime.date.fromisoformat(day))
        monkeypatch.setattr("sft.sweeps.command.date", on_that_day)
        assert sweep(
            "lr=1e-3,1e-2", f"model.tokenizer={dated}", "hydra.sweeper.study_name=dated",
            f"hydra.sweeper.n_trials={n_trials}", f"hydra.sweeper.storage={storage_url}",
        ) == 0  # fmt: skip
        assert len(list((tmp_path / "cache" / "tokens").glob("*.lock"))) == 1
    for trial in (0, 1):
        saved = read_yaml(storage.ROOT / "dated" / str(trial) / "config.yaml")
        assert saved["date"] == "2026-03-01"


class NotANumber:
    """Wraps a dataset builder: the second batch ruins the adapter."""

    def __init__(self, builder):
        self.builder = builder

    def __getattr__(self, name):
        return getattr(self.builder, name)

    def __call__(self):
        data, held_out = self.builder()
        get_batch = data.get_batch

        def poisoned(index):
            batch = get_batch(index)
            return [_with_endless_weights(datum) for datum in batch] if index == 1 else batch

        data.get_batch = poisoned
        return data, held_out


def _with_endless_weights(datum):
    import tinker

    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    weights = np.full(len(targets), 3e38, np.float32)  # an infinite gradient
    inputs = {"target_tokens": targets, "weights": weights}
    return tinker.Datum(model_input=datum.model_input, loss_fn_inputs=inputs)


def test_one_raises_one_is_not_a_number_one_loses_the_service_and_the_others_finish(
    sweep, monkeypatch, capsys
):
    real, lost = launch.train, []

    async def faulty(settings, directory, hooks, *, base_url=None, **options):
        if settings.lr == 2e-3:
            raise RuntimeError("boom")
        if settings.lr == 3e-3:
            config = to_train(settings, str(directory), base_url)
            config = dataclasses.replace(config, dataset_builder=NotANumber(config.dataset_builder))
            return await training.train(config, hooks=hooks, settings=to_saved(settings))
        if settings.lr == 4e-3:
            lost.append(settings.lr)
            raise ServiceLost("gone away")
        return await real(settings, directory, hooks, base_url=base_url, **options)

    monkeypatch.setattr(launch, "train", faulty)
    rates = ",".join(f"{i}e-3" for i in range(1, 13))
    arguments = ("max_steps=3", "hydra.sweeper.study_name=s", "hydra.sweeper.n_jobs=4")
    assert sweep(f"lr={rates}", *arguments) == 0

    by_rate = {t.params["lr"]: t for t in study_of("s").trials}
    assert sum(t.state == TrialState.COMPLETE for t in by_rate.values()) == 9
    assert by_rate[2e-3].state == by_rate[4e-3].state == TrialState.FAIL
    assert by_rate[3e-3].state == TrialState.PRUNED
    assert np.isfinite(by_rate[3e-3].value)  # its last report
    assert lost == [4e-3, 4e-3]  # an infrastructure error is tried once more
    printed = capsys.readouterr().out
    for number, words in ((1, "RuntimeError: boom"), (2, "diverged"), (3, "gone away")):
        assert any(f"trial {number}: " in line and words in line for line in printed.splitlines())


def test_a_sweep_is_given_up_after_max_failures(sweep, monkeypatch):
    async def broken(*arguments, **options):
        raise RuntimeError("boom")

    monkeypatch.setattr(launch, "train", broken)
    code = sweep(
        "lr=1e-3,2e-3,3e-3,4e-3,5e-3", "hydra.sweeper.study_name=s", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.max_failures=2",
    )  # fmt: skip
    assert code == 1
    assert states("s") == ["FAIL", "FAIL"]


def test_a_pruned_trial_stops_between_steps_and_keeps_its_checkpoint(sweep):
    """One trial after the other, the better one first."""
    code = sweep(
        "lr=tag(log,interval(1e-6,1e-1))", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.enqueue=[{lr:1e-2},{lr:1e-6}]", "hydra.sweeper.pruner=asha",
        "hydra.sweeper.pruner_min_steps=2", "hydra.sweeper.study_name=s", "max_steps=60",
        "epochs=12", "submit_ahead=0", "save_every=0",
    )  # fmt: skip
    assert code == 0
    good, bad = study_of("s").trials
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert bad.user_attrs["steps"] < 60
    rows = rows_of("s", 1)
    assert bad.value == pytest.approx(rows[max(bad.intermediate_values)]["eval/nll"])
    [run] = bad.user_attrs["runs"]
    assert run["state"].startswith("tinker://") and (run["seed"], run["lora.seed"]) == (0, 0)


def test_enqueued_trials_run_first_and_once(sweep):
    arguments = (
        "lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.study_name=s",
        "hydra.sweeper.enqueue=[{lr:0.005}]", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.sampler=random",
    )  # fmt: skip
    assert sweep(*arguments) == 0
    assert [t.params["lr"] for t in study_of("s").trials][0] == 0.005
    assert sweep(*arguments[:-2], "hydra.sweeper.n_trials=3") == 0
    assert [t.params["lr"] for t in study_of("s").trials].count(0.005) == 1
    assert len(study_of("s").trials) == 3


def test_the_printed_command_trains_the_run_whose_number_and_checkpoint_stand_beside_it(
    sweep, capsys, monkeypatch
):
    import re
    import shlex

    assert sweep("lr=1e-2,1e-3", "hydra.sweeper.repeats=3", "hydra.sweeper.study_name=s") == 0
    said = capsys.readouterr().out
    best = study_of("s").best_trial
    [values] = best.user_attrs["values"]
    repeat = int(np.argmin(values))
    assert f"best trial: {best.number}, eval/nll {best.value:.4f} (mean of 3 repeats" in said
    [path] = re.findall(r"checkpoint:  (\S+) \(repeat (?:\d)", said)
    records = checkpoints.read(storage.ROOT / "s" / f"{best.number}-{repeat}" / "checkpoints.jsonl")
    assert path == records[-1].sampler_path
    assert records[-1].evaluation["eval/nll"] == values[repeat]
    [line] = re.findall(r"train again: python -m (.*?)(?: \(repeat .*)?$", said, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    assert main([*shlex.split(line)[1:], "run_dir=again"]) == 0
    assert metrics.read(Path("again/metrics.jsonl"))[-1]["eval/nll"] == values[repeat]


def test_a_trial_keeps_the_command_that_it_was_trained_with(sweep):
    named = ("hydra.sweeper.study_name=s", "hydra.sweeper.sampler=random")
    assert sweep("lr=choice(1e-2,1e-3)", "hydra.sweeper.n_trials=1", *named) == 0
    assert sweep("lr=choice(1e-2,1e-3)", "hydra.sweeper.n_trials=2", "batch_size=2", *named) == 0
    first, second = Results.of(study_of("s")).trials
    assert "batch_size=2" not in first.command[-1:] and second.command[-1] == "batch_size=2"


def test_repeats_differ_by_seed_and_their_mean_counts(sweep):
    assert sweep("lr=1e-2", "hydra.sweeper.repeats=3", "hydra.sweeper.study_name=s") == 0
    (trial,) = study_of("s").trials
    finals = [rows_of("s", f"0-{i}")[-1]["eval/nll"] for i in range(3)]
    assert len(set(finals)) == 3
    assert trial.value == pytest.approx(np.mean(finals))
    (result,) = Results.of(study_of("s")).trials
    assert result.repeats == finals and result.seeds == [(0, 0), (1, 1), (2, 2)]


def test_the_runs_metric_and_direction_are_the_sweeps(sweep):
    code = sweep(
        "lr=1e-4,1e-2", "metric=eval/bpb", "direction=maximize", "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert code == 0
    study = study_of("s")
    assert study.direction.name == "MAXIMIZE"
    assert [t.value for t in study.trials] == [rows_of("s", i)[-1]["eval/bpb"] for i in (0, 1)]
    assert study.best_trial.params["lr"] == 1e-4


def test_the_runs_direction_is_not_that_of_another_metric(sweep):
    code = sweep(
        "lr=1e-4,1e-2", "direction=maximize", "metric=eval/bpb", "hydra.sweeper.metric=eval/nll",
        "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert code == 0
    assert study_of("s").direction.name == "MINIMIZE"


def test_several_metrics_give_a_pareto_front(sweep, capsys):
    code = sweep(
        "lora.rank=2,8", "lr=1e-2", "hydra.sweeper.metric=[eval/nll,lora.rank]",
        "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert code == 0
    assert [t.values[1] for t in study_of("s").trials] == [2, 8]
    assert "Pareto front" in capsys.readouterr().out


def test_no_trial_starts_that_the_budget_of_tokens_cannot_hold(sweep, capsys):
    assert sweep("lr=1e-3", "hydra.sweeper.study_name=a", "max_steps=2") == 0
    each = study_of("a").trials[0].user_attrs["tokens"]
    code = sweep(
        "lr=1e-3,2e-3,3e-3", "hydra.sweeper.study_name=b", "hydra.sweeper.n_jobs=1", "max_steps=2",
        f"hydra.sweeper.max_tokens={int(each * 2.5)}",
    )  # fmt: skip
    assert code == 0
    assert states("b") == ["COMPLETE", "COMPLETE"]
    assert "no whole trial fits any more" in capsys.readouterr().out


BAD = [
    ("lr=interval(1e-5,1e-3)", "n_trials"),
    ("lr=1e-3,-1", "lr: -1"),
    ("lr=auto,1e-3", "lr: auto"),
    ("lora.rank=4,0", "lora.rank: 0"),
    ("+nonsense=1,2", "nonsense"),
    ("lr=1e-3,1e-2 hydra.sweeper.pruner=asha", "pruner_min_steps"),
    (
        "lr=1e-3,1e-2 hydra.sweeper.metric=[eval/nll,lr] hydra.sweeper.pruner=median",
        "pruner=median",
    ),
    ("lr=1e-3,1e-2 dataset.eval_size=0", "hydra.sweeper.metric=eval/nll"),
    ("schedule.warmup_steps=0,80 max_steps=null", "schedule.warmup_steps: 80 is more than the 6"),
    ("lr=1e-3,1e-2 hydra.sweeper.direction=min", "minimize"),
    ("lr=1e-3,1e-2 hydra.sweeper.study_name=a/b", "study_name"),
    ("lr=1e-3,1e-2 model.name=absent", "model.name"),
    ("lr=1e-3,1e-2 tracking.uri=nonsense", "tracking.uri"),
    ("lr=1e-3,1e-2 hydra.sweeper.storage=nonsense", "hydra.sweeper.storage"),
    ("lr=interval(1e-3,1e-2) hydra.sweeper.n_trials=2 hydra.sweeper.enqueue=[{lr:1}]", "outside"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_ends_with_exit_code_2_one_sentence_and_no_folder(
    sweep, arguments, words, capsys, tmp_path
):
    *most, last = [a if a.startswith("tracking") else a for a in arguments.split()]
    tracking = last.partition("=")[2] if last.startswith("tracking") else "null"
    assert sweep(*most, *([] if last.startswith("tracking") else [last]), tracking=tracking) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_judged_by_its_own_values_and_not_by_the_default_that_is_not_in_it(sweep):
    """The default, 8 sequences a step, is more than there are to train on."""
    data = "dataset.eval_size=10", "hydra.sweeper.study_name=sizes", "eval_every=1"
    assert sweep(*data, "max_steps=2", "batch_size=1,2") == 0
    assert states("sizes") == ["COMPLETE", "COMPLETE"]


def test_a_mapping_of_the_users_own_can_be_swept(sweep):
    key = "model.chat_template_kwargs.enable_thinking"
    assert sweep(f"{key}=true,false", "hydra.sweeper.study_name=thinking") == 0
    kept = [trial.params[key] for trial in study_of("thinking").trials]
    assert sorted(kept) == [False, True] and states("thinking") == ["COMPLETE", "COMPLETE"]


def test_a_sweep_that_varies_nothing_is_one_trial(sweep):
    assert sweep("hydra.sweeper.study_name=one") == 0
    assert states("one") == ["COMPLETE"]


@pytest.mark.slow
def test_each_trial_of_a_sweep_over_ranks_has_a_learning_rate_of_its_own(
    sweep, tiny_model, tmp_path, capsys
):
    shutil.copytree(tiny_model, tmp_path / "tiny-8B")
    here = "service=local", "service.base_url=null", f"model.name={tmp_path / 'tiny-8B'}"
    assert sweep(*here, "lr=auto", "lora.rank=1,64", "hydra.sweeper.study_name=ranks") == 0
    saved = [read_yaml(f) for f in sorted(tmp_path.glob("outputs/sweeps/ranks/*/config.yaml"))]
    low, high = (run["lr"] for run in sorted(saved, key=lambda run: run["lora"]["rank"]))
    assert low < high < 1e-2
    said = capsys.readouterr().out
    assert f"different rates, {low:.3g} at rank 1, {high:.3g} at rank 64; lr=… compares" in said
    assert f"in more than rank: 1 with lr={low:.3g}; 64 with lr={high:.3g})" in said
    again = next(line for line in said.splitlines() if "train again: " in line)
    assert " lr=auto" not in again and f" lr={low if ' lora.rank=1 ' in again else high}" in again
    header, rows = report.table(Results.of(study_of("ranks")))
    rates = {row[header.index("lora.rank")]: row[header.index("lr")] for row in rows}
    assert rates == {"1": f"{low:.3g}", "64": f"{high:.3g}"}

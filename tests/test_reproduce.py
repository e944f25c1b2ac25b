"""Training a run again from its saved config, on the real local service."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sft import reproduce
from sft.command import launch
from sft.command.naming import default_name
from sft.command.variation import named, vary
from sft.config.compose import compose
from sft.config.saved import from_saved, to_saved
from sft.errors import BadInput
from sft.past import then_and_now
from sft.past.find import find
from sft.past.trust import check_untrusted
from sft.tracking.store import open_client
from tests.finished_run import finished_run


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    return finished_run(folder, tiny_model, "run_name=first")


@pytest.fixture
def place(original, monkeypatch):
    monkeypatch.chdir(original.parent)
    return original.parent


def newest(place):
    return max(place.glob("outputs/*/*/config.yaml"), key=lambda f: f.stat().st_mtime_ns).parent


def edited(place, name, edit):
    """A copy of the run's directory with its config.yaml edited."""
    shutil.copytree(place / "run", place / name)
    file = place / name / "config.yaml"
    config = yaml.safe_load(file.read_text())
    edit(config)
    file.write_text(yaml.safe_dump(config))
    return name


def test_a_run_and_its_reproduction_agree_exactly_and_know_each_other(place, capsys):
    assert reproduce.main(["run"]) == 0
    said = capsys.readouterr().out
    assert "as it was: commit" in said and "data (digest and the batches of the first 6" in said
    verdict = [line for line in said.splitlines() if "verdict" in line]
    assert verdict == ["verdict: agrees: all 9 values of train/nll and eval/nll are identical"]
    first, again = find("run"), find(str(newest(place)))
    client = open_client(first.uri)
    tags = client.get_run(again.run_id).data.tags
    assert tags["sft.reproduces"] == first.run_id and tags["sft.verdict"].startswith("agrees")
    assert client.get_run(first.run_id).data.tags["sft.reproduced_by"] == again.run_id
    assert json.loads((again.directory / "run.json").read_text())["reproduces"] == first.run_id


def test_a_changed_learning_rate_differs_and_the_verdict_says_from_which_step(place, capsys):
    name = edited(place, "other-lr", lambda config: config.update(lr=2e-2))
    assert reproduce.main([name]) == 1
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("verdict: DIFFERS") and "first at step 1 (train/nll)" in verdict


def test_overrides_make_a_variation_without_a_verdict(place, capsys):
    assert reproduce.main(["run", "lr=2e-2", "max_steps=2", "schedule=cosine"]) == 0
    assert "verdict" not in capsys.readouterr().out
    new = find(str(newest(place)))
    assert new.saved()["lr"] == 2e-2 and new.saved()["schedule"]["kind"] == "cosine"
    assert open_client(new.uri).get_run(new.run_id).data.tags["sft.variation_of"]


@pytest.mark.parametrize(
    ("override", "group", "values"),
    [
        ("model.chat_template_kwargs={a:false}", "model", {"chat_template_kwargs": {"a": False}}),
        ("model.chat_template_kwargs.a.b=1", "model", {"chat_template_kwargs": {"a": {"b": 1}}}),
        ("evaluators.prompts=[a, b c]", "evaluators", {"prompts": ["a", "b c"]}),
        ("lora={rank: 3}", "lora", {"rank": 3, "seed": 0, "train_mlp": True}),
        ("optimizer.eps=1e-6", "optimizer", {"eps": 1e-6, "kind": "adamw"}),
    ],
)
def test_the_values_of_a_variation_are_written_as_on_the_command_line(override, group, values):
    varied = vary(to_saved(compose([])), override)
    assert {name: varied[group][name] for name in values} == values


@pytest.mark.parametrize("override", ["lr", "lr=1e-4,2e-4", "~lr", "lora=3"])
def test_a_variation_takes_one_value_for_one_key(override):
    with pytest.raises(BadInput):
        vary(to_saved(compose([])), override)


def test_what_a_command_set_is_recorded_on_disk_and_in_mlflow(place):
    from mlflow.artifacts import load_text

    run = find("run")
    assert "max_length=128" in run.facts()["overrides"]
    artifacts = open_client(run.uri).get_run(run.run_id).info.artifact_uri
    assert "max_length=128\n" in load_text(f"{artifacts}/overrides.txt")


@pytest.mark.parametrize(
    "given, overrides, name",
    [
        ("first", ["lr=2e-2", "max_steps=2"], "first-lr0.02-steps2"),
        ("first", ["schedule=cosine"], "first-cosine"),
        ("first-lr0.01", ["lr=2e-2"], "first-lr0.02"),
        ("7-lr0.01-rank4", ["lora.rank=8"], "7-lr0.01-rank8"),
        (None, ["lr=2e-2", "max_steps=2"], "lr0.02-steps2-batch2-rank4-tiny-model0-chats.jsonl"),
        ("first", ["run_name=second", "lr=2e-2"], "second"),
        ("first", ["run_name=null", "seed=1"], "lr0.01-steps6-batch2-seed1-rank4-tiny-model0-"),
        ("first", ["dataset.path=more.jsonl"], "first-pathmore.jsonl"),
        ("first", [], "first-again"),
        ("../../x", ["lr=2e-2"], "_.._x-lr0.02"),
    ],
)
def test_a_variation_is_named_after_its_own_values(place, given, overrides, name):
    saved = find("run").saved()
    original = from_saved(saved, "run")
    original = replace(original, run_name=given or default_name(replace(original, run_name=None)))
    varied = saved | {"run_name": original.run_name}
    for override in overrides:
        varied = vary(varied, override)
    assert named("run", original, from_saved(varied, "run"), overrides).startswith(name)


def test_a_reproduction_that_is_stopped_has_no_verdict(place, monkeypatch, capsys):
    def stop(settings, **options):
        code = launch_run(settings, **options)
        file = Path(settings.run_dir) / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "KILLED"}))
        return code or 130

    launch_run = launch.run
    monkeypatch.setattr(launch, "run", stop)
    assert reproduce.main(["run"]) == 130
    assert "there is no verdict" in capsys.readouterr().out
    assert "verdict" not in json.loads((newest(place) / "run.json").read_text())


def test_a_run_whose_directory_is_gone_is_reproduced_from_mlflow_alone(place, capsys):
    run_id = find("run").run_id
    shutil.move(place / "run", place / "hidden")
    try:
        assert reproduce.main([run_id]) == 2  # its data is a file of this machine
        assert "--trust" in capsys.readouterr().err
        assert reproduce.main([f"runs:/{run_id}", "--trust"]) == 0
        assert "verdict: agrees: all 9 values" in capsys.readouterr().out
    finally:
        shutil.move(place / "hidden", place / "run")


@pytest.mark.slow
def test_a_copy_of_the_store_and_the_data_are_enough_where_nothing_else_is_left(
    place, tmp_path, monkeypatch, capsys
):
    run_id = find("run").run_id
    gone = [place / "run", place / "mlartifacts"]
    shutil.copy(place / "mlflow.db", tmp_path)
    shutil.copytree(place / "mlartifacts", tmp_path / "mlartifacts")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(place / "chats.jsonl", elsewhere)
    monkeypatch.chdir(elsewhere)
    for folder in gone:
        folder.rename(f"{folder}-hidden")
    try:
        assert reproduce.main([run_id, "--uri", "sqlite:///../mlflow.db", "--trust"]) == 0
        assert "verdict: agrees: all 9 values" in capsys.readouterr().out
    finally:
        for folder in gone:
            Path(f"{folder}-hidden").rename(folder)


def test_a_reproduction_that_dies_on_the_way_is_linked_to_its_original(place, monkeypatch):
    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "link", die)
    assert reproduce.main(["run"]) == 130
    again = find(str(newest(place)))
    tags = open_client(again.uri).get_run(again.run_id).data.tags
    assert tags["sft.reproduces"] == find("run").run_id


def test_other_data_is_refused_unless_told_anyway(place, capsys):
    chats = place / "chats.jsonl"
    before = chats.read_text()
    chats.write_text(before.replace("red", "pink"))
    count = len(list(place.glob("outputs/*/*")))
    try:
        assert reproduce.main(["run"]) == 2
        assert "the data is not the same" in capsys.readouterr().err
        assert len(list(place.glob("outputs/*/*"))) == count
        assert reproduce.main(["run", "--anyway"]) == 1
        assert "data digest" in (out := capsys.readouterr().out) and "DIFFERS" in out
    finally:
        chats.write_text(before)


def test_a_config_of_another_version_is_refused_with_the_keys_that_changed(place, capsys):
    def edit(config):
        config.update(version=0, warmup=3)
        del config["submit_ahead"]

    assert reproduce.main([edited(place, "old", edit)]) == 2
    said = capsys.readouterr().err
    assert "version 0" in said and "warmup" in said and "submit_ahead" in said


@pytest.mark.parametrize(
    "override, said",
    [
        ("lr", "KEY=VALUE"),
        ("learning_rate=1", "no such key"),
        ("lora.rnk=4", "did you mean 'lora.rank'"),
        ("model=qwen3", "is a group"),
        ("lr=fast", "lr"),
    ],
)
def test_an_override_that_does_not_fit_is_bad_input(place, capsys, override, said):
    assert reproduce.main(["run", override]) == 2
    assert said in capsys.readouterr().err


HOSTILE = {
    "target": {"dataset": {"kind": "faq", "_target_": "os.system"}},
    "target in arguments": {"model": {"chat_template_kwargs": {"x": {"_target_": "os.system"}}}},
    "import path": {"dataset": {"kind": "custom", "builder": "os:system", "args": {}}},
    "environment": {"model": {"name": "${oc.env:HOME}"}},
    "reference in a list": {"model": {"chat_template_kwargs": {"x": ["${lr}"]}}},
    "service": {"service": {"kind": "custom", "base_url": "http://evil.example"}},
    "service folder": {"service": {"root": "/etc"}},
    "service folder above": {"service": {"root": "outputs/service/../../.."}},
    "tracking": {"tracking": {"uri": "http://evil.example"}},
    "database elsewhere": {"tracking": {"uri": "sqlite:////elsewhere/x.db"}},
    "model folder": {"model": {"name": "/models/mine"}},
    "tokenizer folder": {"model": {"name": "a/b", "tokenizer": "~/mine"}},
    "data file": {"dataset": {"kind": "jsonl", "path": "/etc/passwd"}},
    "data file beside": {"dataset": {"kind": "jsonl", "path": "private.jsonl"}},
    "data by a pattern": {"dataset": {"kind": "jsonl", "path": "note*"}},
    "data by letters": {"dataset": {"kind": "jsonl", "path": "[a-z]otes"}},
    "data in capitals": {"dataset": {"kind": "jsonl", "path": "private.JSONL"}},
    "data packed in capitals": {"dataset": {"kind": "jsonl", "path": "private.Zst"}},
    "data above": {"dataset": {"kind": "hf_chat", "path": "a/../../b"}},
    "data by URL": {"dataset": {"kind": "hf_chat", "path": "https://evil.example/x"}},
    "data by file URL": {"dataset": {"kind": "hf_chat", "path": "file:/etc/passwd"}},
    "weights": {"checkpoint": {"load": "/weights"}},
}


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_config_from_elsewhere_that_reaches_out_needs_trust(tmp_path, config, capsys):
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "lr": 1e-4} | config))
    assert reproduce.main([str(file)]) == 2
    assert "--trust" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "lr: !!python/object/apply:os.system ['touch hacked']",
        "lr: !!python/name:os.system",
        "!!python/object:sft.errors.BadInput {}",
        "- a list",
        "lr: [1",
    ],
)
def test_yaml_that_is_no_plain_mapping_is_refused_and_runs_nothing(
    tmp_path, monkeypatch, capsys, text
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(text)
    assert reproduce.main(["theirs.yaml", "--trust"]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.yaml"]
    assert "theirs.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "theirs, said",
    [
        ("x", "evaluators"),
        ({"further": [1]}, "evaluators.further[0]: expected"),
        ({"further": {"a": 1}}, "evaluators.further"),
        ({"builder": ["a:B"]}, "evaluators.builder"),
    ],
)
def test_evaluators_from_elsewhere_that_are_none_are_bad_input(tmp_path, capsys, theirs, said):
    config = to_saved(compose(["tracking.uri=null"]))
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(config | {"evaluators": theirs}))
    assert reproduce.main([str(file)]) == 2
    assert said in capsys.readouterr().err


def test_trusted_or_not_a_reference_is_only_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    file = tmp_path / "theirs.yaml"
    file.write_text("version: 1\nmodel: {name: '${oc.env:SECRET}'}\n")
    saved = reproduce.saved_config(find(str(file)), trust=True)
    assert saved["model"]["name"] == "${oc.env:SECRET}"


def test_an_ordinary_config_from_elsewhere_needs_no_trust():
    check_untrusted(
        {
            "version": 1,
            "model": {"name": "Qwen/Qwen3-8B", "chat_template_kwargs": {"enable_thinking": False}},
            "dataset": {"kind": "no_robots", "eval_size": 50},
            "service": {"kind": "tinker", "base_url": None, "root": "outputs/service"},
            "tracking": {"uri": "sqlite:////data/mlflow.db", "experiment": "a/b"},
            "evaluators": {"prompts": ["What is /etc/passwd for?"]},
            "checkpoint": {"load": "tinker://run:train:0/weights/final"},
        },
        "theirs",
        store="sqlite:////data/mlflow.db",
    )


def test_a_part_of_a_split_from_elsewhere_needs_no_trust():
    dataset = {"kind": "hf_chat", "path": "a/b", "split": "train[:9%]", "eval_split": "test[:9]"}
    check_untrusted({"version": 1, "dataset": dataset}, "theirs")


def test_a_store_cannot_pass_off_a_folder_as_a_runs_directory(place, tmp_path):
    found = find("run")
    client = open_client(found.uri)
    run = client.create_run(client.get_experiment_by_name("sft").experiment_id)
    client.set_tag(run.info.run_id, "sft.run_dir", str(place / "run"))
    assert find(run.info.run_id).directory is None


NOW = {"platform": {"cpu": "a", "threads": 2, "torch": "2"}}


@pytest.mark.parametrize(
    "service, then, now, tolerance",
    [
        ("local", NOW, NOW, 0.0),
        ("tinker", NOW, NOW, 1e-3),
        ("local", {}, NOW, 1e-3),
        ("local", {"platform": NOW["platform"] | {"threads": 4}}, NOW, 1e-3),
        ("local", {"platform": NOW["platform"] | {"torch": "3"}}, NOW, 1e-3),
    ],
)
def test_the_tolerance_is_zero_only_where_the_bits_are_ours(service, then, now, tolerance):
    saved = {"service": {"kind": service}}
    assert then_and_now.default_tolerance(saved, then, now) == tolerance


def rows(*values):
    return [{"step": step, "train/nll": value} for step, value in enumerate(values)]


@pytest.mark.parametrize(
    "then, now, tolerance, agrees",
    [
        (rows(1.0, 2.0), rows(1.0, 2.0), 0.0, True),
        (rows(1.0, 2.0), rows(1.0, 2.0005), 1e-3, True),
        (rows(1.0, 2.0), rows(1.0, 2.0005), 0.0, False),
        (rows(1.0, 2.0), rows(1.0), 0.0, False),
        (rows(float("nan")), rows(float("nan")), 0.0, True),
        (rows(float("nan")), rows(1.0), 1e9, False),
        (rows(float("inf")), rows(float("-inf")), 1e9, False),
        ([], [], 1.0, False),
    ],
)
def test_two_runs_agree_within_the_tolerance_at_every_step(then, now, tolerance, agrees):
    assert then_and_now.compare(then, now, tolerance).agrees is agrees


def test_a_word_that_names_no_run_says_what_would(place):
    with pytest.raises(
        BadInput, match="a run directory, the beginning of its name, last, an MLflow run id"
    ):
        find("nothing")
    with pytest.raises(BadInput, match="no such trial"):
        find("study/7")

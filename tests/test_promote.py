"""Checkpoints of a real run as versions of registered models, and what is done with their names."""

import json
import shutil

import pytest
import yaml

from sft import compare, promote, reproduce, sample
from sft.command import launch
from sft.config.compose import compose
from sft.errors import BadInput
from sft.export import __main__ as export
from sft.past.find import find
from sft.record.checkpoints import best, read
from sft.tracking.store import open_client
from tests.finished_run import finished_run, overrides

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    finished_run(folder, tiny_model, "run_name=first")
    return folder


@pytest.fixture
def place(original, monkeypatch):
    monkeypatch.chdir(original)
    return original


@pytest.fixture
def named(place):
    """The run's first checkpoint is `models:/qwen-faq@champion`."""
    promote.promote("run", "qwen-faq@champion", "000003")
    return "models:/qwen-faq@champion"


def records(place):
    return read(place / "run" / "checkpoints.jsonl")


def client_of(place):
    return open_client(f"sqlite:///{place / 'mlflow.db'}")


def test_a_checkpoint_becomes_a_version_with_its_paths_metrics_and_config(place, capsys):
    assert promote.main(["run", "--checkpoint", "best", "--as", "faq@champion"]) == 0
    lowest = best(records(place))
    said = capsys.readouterr().out
    assert said == (
        f"checkpoint {lowest.name} (step {lowest.step}, eval/nll "
        f"{lowest.evaluation['eval/nll']:.4f}) is now version 1 of faq, and "
        "models:/faq@champion names it\n"
    )
    client = client_of(place)
    version = client.get_model_version_by_alias("faq", "champion")
    assert version.source == f"models:/{lowest.mlflow_model_id}"
    assert version.run_id == find("run").run_id
    assert version.tags["sft.state_path"] == lowest.state_path
    assert version.tags["sft.sampler_path"] == lowest.sampler_path
    assert float(version.tags["eval/nll"]) == lowest.evaluation["eval/nll"]
    assert yaml.safe_load(version.tags["sft.config"]) == find("run").saved()
    versions = client.get_logged_model(lowest.mlflow_model_id).tags["mlflow.modelVersions"]
    assert json.loads(versions) == [{"name": "faq", "version": "1"}]
    assert not (place / "mlruns").exists()


def test_an_alias_moves_and_a_checkpoint_is_one_version_only(place):
    one = promote.promote("run", "moves@champion", "000003")
    other = promote.promote("run", "moves@champion", "last")
    again = promote.promote("run", "moves@champion", "000003")
    assert "is now version 1 of moves" in one and "(champion" not in one
    assert "is now version 2" in other and other.endswith("(champion was version 1)")
    assert "is already version 1" in again and again.endswith("(champion was version 2)")
    without = promote.promote("run", "moves", "last")
    assert without.endswith("is already version 2 of moves, and models:/moves/2 names it")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--as", "a/b@champion"], "'a/b' cannot be the name"),
        (["--as", "@champion"], "'' cannot be the name"),
        (["--as", "x" * 251], "the name has 251 characters; MLflow takes up to 250"),
        (["--as", f"faq@{'x' * 256}"], "the alias has 256 characters; MLflow takes up to 255"),
        (["--as", "faq@latest"], "'latest' cannot be an alias"),
        (["--as", "faq@v1"], "'v1' cannot be an alias"),
        (["--as", "faq@"], "'' cannot be an alias"),
        (["--as", "faq@the best"], "'the best' cannot be an alias"),
        (["--as", "faq@x", "--checkpoint", "fina"], "did you mean 'final'"),
    ],
)
def test_what_cannot_be_promoted_is_said_and_nothing_is_made(place, capsys, words, said):
    before = [model.name for model in client_of(place).search_registered_models()]
    assert promote.main(["run", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sft.promote: --") and said in error and error.count("\n") == 1
    assert [model.name for model in client_of(place).search_registered_models()] == before


@pytest.mark.parametrize(
    "word, said",
    [
        ("models:/qwen-fak@champion", "no registered model 'qwen-fak'; did you mean 'qwen-faq'?"),
        ("models:/qwen-faq@chmpion", "no alias 'chmpion', but champion; did you mean 'champion'?"),
        ("models:/qwen-faq/7", "'qwen-faq' has no version 7; name one as"),
        ("models:/qwen-faq", "several versions; name one as models:/NAME@ALIAS"),
        ("models:/qwen-faq/Production", "is no name of a registered model"),
        ("models:/", "is no name of a registered model"),
        (f"models:/m-{'0' * 32}", "no logged model m-0000"),
    ],
)
def test_a_word_that_names_no_version_says_what_would(named, capsys, word, said):
    assert sample.main([word, "hello"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sft.sample: {word}: ") and said in error and error.count("\n") == 1


def test_a_version_is_compared_as_its_checkpoint_was(place, named, capsys):
    assert compare.main(["run", named]) == 0
    assert "B  first, checkpoint 000003 (step 3)" in capsys.readouterr().out
    assert compare.main(["run", named, "--checkpoint", "last"]) == 0
    said = capsys.readouterr().out
    assert "A  first, checkpoint final (step 6)" in said
    assert "B  first, checkpoint 000003 (step 3)" in said


def test_a_version_is_talked_to_exported_and_reproduced(place, named, tmp_path, capsys):
    assert sample.main(["run", "hello", "--checkpoint", "000003", "--max-tokens", "4"]) == 0
    answer = capsys.readouterr().out
    for word in (named, "models:/qwen-faq/1", "models:/qwen-faq/latest"):
        assert sample.main([word, "hello", "--max-tokens", "4"]) == 0
        assert capsys.readouterr().out == answer
    assert export.main([named, str(tmp_path / "adapter")]) == 0
    assert "checkpoint 000003 as a PEFT adapter" in capsys.readouterr().out
    assert reproduce.main([named]) == 0
    assert "verdict: agrees" in capsys.readouterr().out


def test_a_word_that_names_a_checkpoint_takes_no_other(named, capsys):
    assert sample.main([named, "hello", "--checkpoint", "best"]) == 2
    assert f"--checkpoint: {named} names a checkpoint already" in capsys.readouterr().err


def test_a_logged_model_is_named_by_its_own_id_too(place, capsys):
    model_id = records(place)[0].mlflow_model_id
    assert sample.main([f"models:/{model_id}", "hello", "--max-tokens", "1"]) == 0


def test_a_run_starts_from_a_version_and_keeps_where_it_began(place, named, tiny_model):
    first, last = records(place)
    words = [*overrides(tiny_model), "max_steps=1", f"checkpoint.load={named}", "run_dir=more"]
    settings = compose(words)
    assert launch.run(settings) == 0
    saved = yaml.safe_load((place / "more" / "config.yaml").read_text())
    assert saved["checkpoint"]["load"] == first.state_path
    promote.promote("run", "qwen-faq@champion", "last")
    kept = launch._with_weights(settings, place / "more")
    assert kept.checkpoint.load == first.state_path
    assert launch._with_weights(settings, place / "new").checkpoint.load == last.state_path


def test_a_run_does_not_start_from_a_name_that_is_not_there(named, tiny_model):
    settings = compose([*overrides(tiny_model), "checkpoint.load=models:/qwen-fak/1"])
    with pytest.raises(BadInput, match="checkpoint.load: models:/qwen-fak/1: .*'qwen-faq'"):
        launch.run(settings)


def test_a_checkpoint_that_was_replaced_since_is_said(place, named, capsys):
    file = place / "run" / "checkpoints.jsonl"
    text = file.read_text()
    file.write_text(text.splitlines(keepends=True)[1])
    try:
        assert sample.main([named, "hello"]) == 2
    finally:
        file.write_text(text)
    assert f"{named}: its checkpoint, tinker://" in (said := capsys.readouterr().err)
    assert "checkpoint.keep" in said


def test_mlflow_alone_is_enough_where_the_service_has_the_checkpoint(place, named, capsys):
    run_id = find("run").run_id
    shutil.move(place / "run", place / "hidden")
    try:
        assert sample.main([named, "hello", "--max-tokens", "2"]) == 2
        assert "--trust" in capsys.readouterr().err  # its model is a folder of this machine
        assert sample.main([named, "hello", "--max-tokens", "2", "--trust"]) == 0
        assert export.main([run_id, "alone", "--checkpoint", "best", "--trust"]) == 0
        said = promote.promote(run_id, "alone@champion", "best")
        assert "is now version 1 of alone" in said
    finally:
        shutil.move(place / "hidden", place / "run")


def test_a_path_from_elsewhere_leads_nowhere(place, named, capsys):
    client = client_of(place)
    model = records(place)[0].mlflow_model_id
    path = client.get_logged_model(model).tags["sft.sampler_path"]
    client.set_logged_model_tags(model, {"sft.sampler_path": "tinker://../../../etc"})
    shutil.move(place / "run", place / "hidden")
    try:
        assert export.main([named, "stolen", "--trust"]) == 2
        assert "is no path of a checkpoint" in capsys.readouterr().err
    finally:
        shutil.move(place / "hidden", place / "run")
        client.set_logged_model_tags(model, {"sft.sampler_path": path})


def test_a_version_that_something_else_made_is_no_checkpoint(place, capsys):
    client = client_of(place)
    client.create_registered_model("forest")
    client.create_model_version("forest", "file:///models/forest", find("run").run_id)
    assert sample.main(["models:/forest/1", "hello"]) == 2
    assert "was not made from a checkpoint" in capsys.readouterr().err


def test_a_run_that_is_not_in_mlflow_is_not_promoted(place, tiny_model, capsys):
    finished_run(place, tiny_model, "tracking=none", "max_steps=1", directory="untracked")
    assert promote.main(["untracked", "--as", "faq@champion"]) == 2
    assert "untracked: is not in MLflow" in capsys.readouterr().err

"""Two real runs compared: by their directories, and by what MLflow has of them."""

import asyncio
import re
import shutil

import pytest

from sft import compare, train
from sft.datasets import FromConversationFileBuilder
from sft.past.find import find
from sft.record.examples import ExamplesFolder
from sft.run import training
from sft.tracking import MlflowHook
from sft.types import ChatDatasetBuilderCommonConfig
from tests.chat_data import write_chats


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, local_service):
    """Runs `slow`, `fast` and `seeded`, which differs from `fast` in its seeds alone, and two that
    are best where NLL is highest."""
    folder = tmp_path_factory.mktemp("place")
    uri = f"sqlite:///{folder / 'mlflow.db'}"

    def run(name, seed=0, **changes):
        common = ChatDatasetBuilderCommonConfig(
            model_name_for_tokenizer=str(tiny_model), batch_size=2, max_length=128, seed=seed
        )
        data = FromConversationFileBuilder(
            common_config=common, path=str(write_chats(folder / "chats.jsonl", 24)), eval_size=4
        )
        config = train.Config(
            log_path=str(folder / name), model_name="tiny", dataset_builder=data, max_steps=6,
            lora_rank=4, held_out_answers=0, eval_every=3, base_url=local_service, seed=seed,
            lora_seed=seed, **changes,
        )  # fmt: skip
        hook = MlflowHook(uri, "sft", name)
        assert asyncio.run(training.train(config, hooks=[hook])).status == "FINISHED"
        assert hook.flush(60) == []

    run("slow", learning_rate=1e-5)
    run("fast", learning_rate=1e-2)
    run("seeded", seed=1, learning_rate=1e-2)
    # Whose best evaluation, of 0 updates, is at no checkpoint; the best checkpoint is the first.
    run("worst", learning_rate=1e-2, direction="maximize", save_every=3)
    run("worse", learning_rate=3e-3, direction="maximize", save_every=3)
    return folder


def verdict(capsys, *words):
    assert compare.main([*words]) == 0
    return re.findall(r"^eval/nll: .*", capsys.readouterr().out, re.MULTILINE)


def test_the_value_and_its_standard_error_are_those_of_the_examples_that_are_kept(place):
    rows = {row["step"]: row for row in find(str(place / "fast")).rows()}
    kept = ExamplesFolder(place / "fast")
    assert kept.steps() in ([0, 6], [0, 3, 6])
    for step in kept.steps():
        nll = kept.read(step)["eval/nll"]
        assert nll.value == pytest.approx(rows[step]["eval/nll"], rel=1e-12)
        assert nll.standard_error() == pytest.approx(rows[step]["eval/nll_stderr"], rel=1e-12)


def test_a_higher_learning_rate_is_said_to_be_better_with_its_interval(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (line,) = verdict(capsys, "slow", "fast")
    assert re.fullmatch(r"eval/nll: B against A: lower by [\d.]+ \([\d.]+ to [\d.]+\): real", line)


def test_examples_that_cannot_be_read_are_named_and_the_rest_is_compared(
    place, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    for name in ("slow", "fast"):
        shutil.copytree(place / name, name)
    file = tmp_path / "fast" / "examples" / "000006.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert verdict(capsys, "slow", "fast") == [
        "eval/nll: B against A: not compared: the examples of B cannot be read "
        "(examples/000006.parquet)"
    ]


def test_runs_are_compared_as_they_were_at_their_best_checkpoints(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert ExamplesFolder(place / "worst").steps() == [0, 3, 6]
    (last,) = verdict(capsys, "worst", "worse")
    assert compare.main(["worst", "worse", "--checkpoint", "best"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^A +worst, checkpoint 000003 \(step 3\)$", out, re.MULTILINE)
    (line,) = re.findall("^eval/nll: B against A: higher by .*", out, re.MULTILINE)
    assert line != last
    rows = {row["step"]: row for row in find("worst").rows()}
    assert re.search(rf"^eval/nll last +{rows[3]['eval/nll']:.4f} ", out, re.MULTILINE)
    assert compare.main(["worst", "worse", "--checkpoint", "000004"]) == 2
    assert "the run has no '000004', but 000003, final" in capsys.readouterr().err


def test_the_page_says_so_too(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (line,) = verdict(capsys, "slow", "fast", "--html", "page.html")
    names = [find(name).facts()["name"] for name in ("slow", "fast")]
    said = line.replace("B against A", f"{names[1]} against {names[0]}")
    assert f"<p>{said}</p>" in (place / "page.html").read_text()


def test_of_seeds_alone_it_is_chance(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (line,) = verdict(capsys, "fast", "seeded")
    assert "chance between seeds" in line or "no difference" in line


def test_it_is_the_same_from_mlflow_alone(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    before = verdict(capsys, "slow", "fast")
    ids = [find(name).run_id for name in ("slow", "fast")]
    shutil.copy(place / "mlflow.db", tmp_path)
    shutil.copytree(place / "mlartifacts", tmp_path / "mlartifacts")
    (place / "slow").rename(place / "gone-slow")
    (place / "fast").rename(place / "gone-fast")
    monkeypatch.chdir(tmp_path)
    try:
        assert verdict(capsys, *ids) == before
    finally:
        (place / "gone-slow").rename(place / "slow")
        (place / "gone-fast").rename(place / "fast")

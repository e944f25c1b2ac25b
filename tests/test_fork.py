"""Another way from a checkpoint of a run, whose steps before stay what they were."""

import contextlib
from pathlib import Path

import pytest

from sft import fork, reproduce
from sft.past.find import find
from sft.record import metrics
from sft.record.rundir import read_facts
from tests.finished_run import finished_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parent(tmp_path_factory, tiny_model) -> Path:
    """A run of six steps with `schedule=wsd`, saved and evaluated behind three."""
    folder = tmp_path_factory.mktemp("forks")
    return finished_run(folder, tiny_model, "schedule=wsd", "schedule.decay=0.34", "run_name=first")


def forked(parent: Path, *words: str) -> Path:
    """The run directory of a fork that was made from the command line."""
    with contextlib.chdir(parent.parent):
        before = set(Path("outputs").glob("2*/*"))
        assert fork.main([parent.name, *words]) == 0
        (new,) = set(Path("outputs").glob("2*/*")) - before
        return new.absolute()


def parent_model(parent: Path) -> str:
    return find(str(parent)).saved()["model"]["name"]


def rows(directory: Path, start: int = 0) -> list[dict[str, float]]:
    clock = ("timestamp", "time/step", "tokens/per_second", "tokens/total", "progress", "epoch")
    found = metrics.read(directory / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in clock} for r in found if r["step"] >= start]


def test_a_fork_with_nothing_changed_measures_what_its_parent_did(parent):
    assert rows(forked(parent, "--from", "3")) == rows(parent, start=3)


def test_a_fork_is_linked_to_its_parent_and_is_reproduced_from_its_own_config(parent, capsys):
    new = forked(parent, "--from", "3", "lr=1e-3")
    assert rows(new)[0]["train/nll"] == rows(parent, start=3)[0]["train/nll"]
    assert rows(new)[-1]["eval/nll"] != rows(parent)[-1]["eval/nll"]
    ours, theirs = find(str(new)), find(str(parent))
    assert read_facts(new)["fork_of"] == theirs.name
    tags = [one.client().get_run(one.run_id).data.tags for one in (ours, theirs)]
    assert tags[0]["sft.fork_of"] == theirs.run_id
    assert tags[1]["sft.forked_by"].split(", ")[-1] == ours.run_id
    with contextlib.chdir(parent.parent):
        assert reproduce.main([str(new)]) == 0
    assert "verdict: agrees" in capsys.readouterr().out


def test_the_stable_part_of_a_long_run_ends_as_a_short_run_would_have(parent, tiny_model):
    words = ("schedule=wsd", "schedule.decay=0.34", "max_steps=4", "run_name=short")
    short = finished_run(parent.parent, tiny_model, *words, directory="short")
    assert rows(forked(parent, "--from", "3", "max_steps=4")) == rows(short, start=3)


def test_every_fork_of_a_run_is_named_in_its_parents_tag(parent):
    theirs = find(str(parent))
    before = theirs.client().get_run(theirs.run_id).data.tags.get("sft.forked_by", "").split(", ")
    new = [find(str(forked(parent, "--from", "3", f"lr={lr}"))).run_id for lr in ("2e-3", "3e-3")]
    tag = theirs.client().get_run(theirs.run_id).data.tags["sft.forked_by"]
    assert tag.split(", ") == [*filter(None, before), *new]


def test_a_fork_finds_data_and_service_from_whatever_folder(parent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set((parent.parent / "outputs").glob("2*/*"))
    assert fork.main([str(parent), "--from", "3"]) == 0
    (new,) = set((parent.parent / "outputs").glob("2*/*")) - before
    assert rows(new) == rows(parent, start=3)
    assert list(tmp_path.iterdir()) == []


def test_a_branch_from_inside_the_decay_says_that_no_whole_run_ends_there(parent, capsys):
    inside = finished_run(
        parent.parent, parent_model(parent), "schedule=wsd", "schedule.decay=0.5", "save_every=1",
        "run_name=inside", directory="inside",
    )  # fmt: skip
    with contextlib.chdir(parent.parent):
        assert fork.main(["inside", "--from", "5", "max_steps=7"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "is not what 7 steps from the start would" in said
        assert "at step 4 67% of the peak, and not 86%" in said
        assert "the same up to --from 4" in said
        assert fork.main(["inside", "--from", "4", "max_steps=7"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert inside.is_dir()


REFUSED = [
    (("--from", "2"), "--from: run has no checkpoint behind 2 steps, but behind 3, 6"),
    (("--from", "6"), "checkpoint.step: the run would begin behind 6 steps and has 6 in all"),
    (("--from", "3", "batch_size=4"), "batch_size: the 3 steps before were trained with it"),
    (("--from", "3", "lora.rank=8"), "lora.rank: the 3 steps before were trained with it"),
    (("--from", "3", "lrr=1"), "lrr: there is no such key; did you mean 'lr'"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_would_not_be_a_fork_is_refused_and_leaves_nothing(parent, capsys, words, said):
    with contextlib.chdir(parent.parent):
        before = set(Path().rglob("*"))
        assert fork.main([parent.name, *words]) == 2
        assert set(Path().rglob("*")) - before <= {Path("outputs")}
    assert said in capsys.readouterr().err

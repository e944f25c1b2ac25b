"""A best trial on the edge of what was searched: said as far as the data can tell, and gone on."""

import json
import random
import re
import shlex
import time

import numpy as np
import pytest
from optuna.trial import TrialState

from sft.config.compose import check_overrides
from sft.errors import BadInput
from sft.record.examples import Examples, ExamplesFolder
from sft.sweeps import report
from sft.sweeps.findings import edge
from sft.sweeps.findings.results import Results
from sft.sweeps.options import Options
from sft.sweeps.parameters import describe_space
from sft.sweeps.space import parse
from sft.sweeps.study import storage

from .conftest import study_of


@pytest.fixture
def study(tmp_path):
    """Makes a study of these trials: (values, result), a result being a number or a state."""

    def make(words, trials, n_trials=None, grid=False, **attributes):
        space = parse(words)
        made = storage.open_study("s", storage.open_storage(None, tmp_path / "s"), ["minimize"])
        storage.remember(made, {"metric": ["eval/nll"], "steps": 20, "space": space.describe()})
        for values, result in trials:
            made.enqueue_trial(dict(zip(space.distributions, values, strict=True)))
            trial = made.ask(space.distributions)
            trial.report(1.0, 5)
            for name, known in attributes.items():
                trial.set_user_attr(name, known)
            state = result if isinstance(result, TrialState) else TrialState.COMPLETE
            made.tell(trial, None if state is result else result, state=state)
        asked = {
            "words": ["model=qwen3", *words, "hydra.sweeper.study_name=s"],
            "trials": len(trials) if n_trials is None else n_trials,
            "grid": grid,
        }
        made.set_user_attr(storage.ASKED, asked)
        return made

    return make


def said(study) -> str:
    return "\n".join(edge.sentences(Results.of(study)))


def spaces_of(text: str) -> dict[str, str]:
    """The search space of the command in a text."""
    line = next(line for line in text.splitlines() if "to go on beyond it:" in line)
    words = shlex.split(line.partition("--multirun ")[2])
    return parse([w for w in words if not w.startswith("hydra.")]).describe()


RATES = (1e-4, 3e-4, 1e-3)
RANKS = (4, 16, 64)


def grid_with_best_at(rate, rank):
    cells = [(r, k) for r in RATES for k in RANKS]
    return [(cell, 0.5 if cell == (rate, rank) else 0.6) for cell in cells]


def test_a_best_trial_inside_is_on_no_edge(study):
    words = ["lr=1e-4,3e-4,1e-3", "lora.rank=4,16,64"]
    assert said(study(words, grid_with_best_at(3e-4, 16), grid=True)) == ""


def test_an_edge_is_said_for_each_parameter_with_one_command_that_goes_beyond_all(study):
    words = ["lr=1e-4,3e-4,1e-3", "lora.rank=4,16,64"]
    text = said(study(words, grid_with_best_at(1e-3, 64), grid=True))
    assert "the best trial has the highest lr that was searched, 0.001" in text
    assert "the best trial has the highest lora.rank that was searched, 64" in text
    assert "the data cannot tell" in text
    assert text.count("to go on beyond it") == 1
    assert "model=qwen3" in text and "hydra.sweeper.extend=true" in text
    assert "hydra.sweeper.study_name=s" in text and "n_trials" not in text
    assert spaces_of(text) == {
        "lr": "choice(0.0001, 0.0003, 0.001, 0.003)", "lora.rank": "choice(4, 16, 64, 128)"
    }  # fmt: skip


def test_the_lower_edge_is_an_edge_but_nothing_lies_below_rank_1(study):
    lowest = [((1e-4, 1), 0.5), ((1e-3, 8), 0.6)]
    text = said(study(["lr=1e-4,1e-3", "lora.rank=1,8"], lowest, grid=True))
    assert "lowest lr that was searched, 0.0001" in text and "lowest lora.rank" not in text
    assert spaces_of(text)["lr"] == "choice(3.3e-05, 0.0001, 0.001)"


BEYOND = [
    ("lr=tag(log, interval(1e-5, 3e-3))", [2e-4, 2.8e-3], "tag(log, interval(1e-05, 0.009))"),
    ("lr=interval(1e-5, 3e-3)", [2e-4, 2.9e-3], "interval(1e-05, 0.009)"),
    ("lora.rank=tag(log, int(interval(1, 64)))", [4, 63], "tag(log, int(interval(1, 128)))"),
    ("lora.rank=2,4", [2, 4], "choice(2, 4, 8)"),
    ("batch_size=range(4,17,4)", [4, 16], "range(4, 24, 4)"),
    ("optimizer.weight_decay=0,0.1,0.2", [0.1, 0.2], "choice(0, 0.1, 0.2, 0.3)"),
    ("optimizer.weight_decay=interval(0, 0.3)", [0.1, 0.29], "interval(0, 0.4)"),
    ("batch_size=4,8,16", [4, 16], "choice(4, 8, 16, 32)"),
]


@pytest.mark.parametrize(("words", "values", "wider"), BEYOND)
def test_choices_ranges_and_intervals_go_on_by_a_step_of_their_own_kind(
    study, words, values, wider
):
    trials = [((values[0],), 0.6), ((values[1],), 0.5)]
    text = said(study([words], trials))
    name = words.partition("=")[0]
    assert f"highest {name} that was searched" in text
    assert spaces_of(text) == {name: wider}
    assert "hydra.sweeper.n_trials=4" in text


def test_what_has_no_order_or_no_room_beyond_has_no_edge(study):
    words = ["seed=0,1", "schedule=linear,cosine", "optimizer.beta1=0.5,0.9"]
    trials = [((0, "linear", 0.5), 0.6), ((1, "cosine", 0.9), 0.5)]
    assert said(study(words, trials, grid=True)) == ""


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.COMPLETE])
def test_a_worse_trial_further_out_tells_that_there_is_no_edge(study, state):
    worse = 0.9 if state is TrialState.COMPLETE else state
    trials = [((1e-4,), 0.6), ((2.7e-3,), 0.5), ((2.9e-3,), worse)]
    assert said(study(["lr=interval(1e-5, 3e-3)"], trials)) == ""


def test_a_failed_trial_further_out_tells_nothing(study):
    trials = [((1e-4,), 0.6), ((2.7e-3,), 0.5), ((2.9e-3,), TrialState.FAIL)]
    assert "highest lr" in said(study(["lr=interval(1e-5, 3e-3)"], trials))


def test_an_end_of_the_space_that_no_trial_came_to_is_said_once_every_trial_is_done(study):
    trials = [((1e-4,), 0.6), ((5e-4,), 0.5)]
    words = ["lr=tag(log, interval(1e-5, 3e-2))"]
    text = said(study(words, trials))
    assert "highest lr that was tried so far, 0.0005" in text
    assert spaces_of(text) == {"lr": "tag(log, interval(1e-05, 0.03))"}


def test_of_a_sweep_that_is_under_way_what_it_will_try_is_no_edge(study):
    trials = [((1e-4,), 0.6), ((5e-4,), 0.5)]
    assert said(study(["lr=tag(log, interval(1e-5, 3e-2))"], trials, n_trials=9)) == ""


def keep_examples(folder, shift) -> float:
    """A run directory whose last evaluation keeps 60 examples; returns its eval/nll."""
    generator = np.random.default_rng(0)
    tokens, hard = generator.integers(5, 90, 60).astype(float), generator.gamma(4, 0.3, 60)
    noise = np.random.default_rng(round(shift * 1e6)).normal(0, 0.05, 60)
    examples = Examples((hard + shift + noise - noise.mean()) * tokens, tokens, "d")
    folder.mkdir(parents=True)
    row = {"step": 20, "timestamp": 0, "eval/nll": examples.value}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    ExamplesFolder(folder).add(20, {"eval/nll": examples}, list)
    return examples.value


@pytest.mark.parametrize(
    ("behind", "words"),
    [(0.0001, "cannot be told from trial 1 with 0.001, inside"), (0.2, "those inside are worse")],
)
def test_whether_the_best_is_told_from_one_inside_decides_what_is_said(tmp_path, behind, words):
    space = parse(["lr=1e-4,1e-3,3e-3"])
    study = storage.open_study("s", storage.open_storage(None, tmp_path / "s"), ["minimize"])
    storage.remember(study, {"metric": ["eval/nll"], "space": space.describe()})
    values = []
    for i, (rate, shift) in enumerate([(1e-4, 0.5), (1e-3, behind), (3e-3, 0.0)]):
        values.append(keep_examples(tmp_path / str(i), shift))
        study.enqueue_trial({"lr": rate})
        trial = study.ask(space.distributions)
        trial.set_user_attr("directories", [str(tmp_path / str(i))])
        study.tell(trial, values[-1])
    study.set_user_attr(storage.ASKED, {"words": ["lr=1e-4,1e-3,3e-3"], "trials": 3, "grid": True})
    assert min(values) == values[2]
    text = said(study)
    assert words in text
    assert ("to go on beyond it" in text) == (behind == 0.2)


def test_the_report_says_it(study, tmp_path):
    made = study(["lr=1e-4,3e-4,1e-3", "lora.rank=4,16,64"], grid_with_best_at(1e-3, 16))
    _, lines = report.write(made, tmp_path / "s")
    assert any("highest lr that was searched" in line for line in lines)
    assert "highest lr that was searched" in (tmp_path / "s/report/report.html").read_text()


def test_by_itself_a_study_goes_a_decade_and_to_rank_256_at_most(study):
    words = ["lr=tag(log, interval(1e-5, 1e-3))", "lora.rank=64,128,256"]
    made = study(words, [((1e-4, 64), 0.6), ((1e-3, 256), 0.5)])
    began = parse(words).distributions
    wider = edge.further(Results.of(made), began, 2, None)
    assert describe_space(wider) == {
        "lr": "tag(log, interval(1e-05, 0.003))", "lora.rank": "choice(64, 128, 256)"
    }  # fmt: skip
    narrow = parse(["lr=tag(log, interval(1e-6, 1e-4))", words[1]]).distributions
    assert edge.further(Results.of(made), narrow, 2, None) is None


@pytest.mark.parametrize(
    ("asked", "tokens", "goes_on"), [(2, 300, True), (2, 299, False), (1, None, False)]
)
def test_by_itself_a_study_heeds_its_tokens_and_the_trials_asked_for(study, asked, tokens, goes_on):
    words = ["lr=tag(log, interval(1e-5, 1e-3))"]
    made = study(words, [((1e-4,), 0.6), ((1e-3,), 0.5)], tokens=100)
    space = edge.further(Results.of(made), parse(words).distributions, asked, tokens)
    assert (space is not None) == goes_on


def test_extend_takes_false_true_or_auto():
    with pytest.raises(BadInput, match="hydra.sweeper.extend: 'ture'.*did you mean 'true'"):
        Options.read({"extend": "ture"})
    with pytest.raises(BadInput, match="hydra.sweeper.extend: '1' is not one of false, true, auto"):
        Options.read({"extend": 1})


# On the command line.

EDGE = ("lr=1e-6,1e-5", "max_steps=2", "eval_every=0", "hydra.sweeper.study_name=s")


def rates(name="s"):
    return [trial.params["lr"] for trial in study_of(name).trials]


@pytest.mark.slow
def test_a_sweep_says_that_its_best_lies_on_an_edge_and_its_command_goes_on(sweep, capsys):
    assert sweep(*EDGE) == 0
    text = capsys.readouterr().out
    assert "highest lr that was searched, 1e-05" in text
    command = next(line for line in text.splitlines() if "to go on beyond it:" in line)
    words = shlex.split(command.partition("--multirun ")[2])
    before = [(t.number, t.params, t.values) for t in study_of("s").trials]
    assert sweep("lr=1e-6,1e-5,3e-5", *EDGE[1:]) == 2
    assert "hydra.sweeper.extend=true" in capsys.readouterr().err
    assert sweep(*words) == 0
    after = study_of("s").trials
    assert [(t.number, t.params, t.values) for t in after[:2]] == before
    assert rates() == [1e-6, 1e-5, 3e-5]
    assert all(t.state == TrialState.COMPLETE for t in after)


@pytest.mark.slow
def test_asked_for_beforehand_a_grid_goes_on_by_itself_for_a_decade_and_no_further(sweep, capsys):
    assert sweep(*EDGE, "hydra.sweeper.extend=auto") == 0
    assert rates() == [1e-6, 1e-5, 3e-5, 9e-5]
    assert "highest lr that was searched, 9e-05" in capsys.readouterr().out
    assert sweep(*EDGE, "hydra.sweeper.extend=auto") == 0  # it has come to its end
    assert rates() == [1e-6, 1e-5, 3e-5, 9e-5]


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on_by_itself_as_if_it_were_not(
    start_sweep, sweep, tmp_path, capsys
):
    words = (*EDGE, "hydra.sweeper.extend=auto", "tracking.uri=null")
    journal, rng = tmp_path / storage.ROOT / "s" / storage.JOURNAL, random.Random(2)
    for _ in range(5):
        before = len(journal.read_bytes()) if journal.exists() else 0
        wanted = before + rng.randint(300, 4000)
        process, deadline = start_sweep(*words), time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and len(journal.read_bytes()) >= wanted:
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert start_sweep(*words).wait(300) == 0, (tmp_path / "sweep.log").read_text()
    assert sweep(*EDGE[:-1], "hydra.sweeper.study_name=quiet", "hydra.sweeper.extend=auto") == 0
    for trial, other in zip(study_of("s").trials, study_of("quiet").trials, strict=True):
        assert (trial.state, trial.params, trial.value) == (other.state, other.params, other.value)


@pytest.mark.slow
def test_on_an_interval_it_first_looks_beyond_the_edge_and_stops_at_twice_the_trials(sweep):
    words = ("lr=tag(log, interval(1e-7, 1e-6))", "hydra.sweeper.n_trials=3", "max_steps=2")
    assert sweep(*words, "hydra.sweeper.study_name=s", "hydra.sweeper.extend=auto") == 0
    tried = rates()
    assert 3 < len(tried) <= 6 and max(tried) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["freeze_thaw", "asha"])
def test_with_trials_that_pause_it_goes_on_to_its_bound_and_leaves_nothing_waiting(
    sweep, capsys, scheduler
):
    words = ("lr=1e-4,1e-3,1e-2", "max_steps=9", "epochs=2", "eval_every=1")
    words += ("dataset.eval_size=12", "batch_size=2")  # enough to tell the trials apart
    asked = ("hydra.sweeper.extend=auto", f"hydra.sweeper.scheduler={scheduler}")
    assert sweep(*words, *asked, "hydra.sweeper.study_name=s") == 0
    study, said = study_of("s"), capsys.readouterr().out
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert max(rates()) > 1e-2 and len(set(rates())) == len(rates()) <= 6
    assert not Results.of(study).is_under_way
    stages = said.count("goes on by itself beyond an edge, ")
    assert stages > 1
    if scheduler == "freeze_thaw":  # asha runs a grid, whose bound is the space's
        assert said.count("to 6 at most") == stages
    if max(rates()) == study.best_trial.params["lr"]:
        assert "edge: the best trial has the highest lr" in said.rpartition("best trial:")[2]


def test_the_commands_of_a_sweep_with_configs_of_ones_own_name_their_folder(
    sweep, tmp_path, capsys
):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\nlora: {rank: 4}\n")
    words = ["--config-dir", "conf", "experiment=mine", "lr=1e-2,2e-2", "max_steps=2"]
    assert sweep(*words, "hydra.sweeper.study_name=s") == 0
    printed = capsys.readouterr().out
    again = re.findall(r"train again: (python -m sft .*)", printed)
    assert len(again) == 1
    for line in [*again, study_of("s").user_attrs["asked"]["words"]]:
        given = shlex.split(line)[3:] if isinstance(line, str) else line
        assert given[:2] == ["--config-dir", "conf"]
        check_overrides(given[2:], given[1])

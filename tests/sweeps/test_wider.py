"""A study takes a wider space, and what it knows stays as it is."""

import multiprocessing
import os
import random
import signal
import time

import pytest
from optuna.trial import TrialState

from sft.errors import BadInput
from sft.sweeps import samplers
from sft.sweeps.parameters import stages
from sft.sweeps.samplers.base import SURPLUS
from sft.sweeps.space import parse
from sft.sweeps.study import liveness, storage, wider
from sft.sweeps.study.liveness import PAUSED

SPACE = parse(["lr=1e-4,1e-3", "lora.rank=4,16", "schedule=linear,cosine"])
WIDER = parse(["lr=1e-4,1e-3,3e-3", "lora.rank=2,4,16,64", "schedule=linear,cosine,wsd"])


def facts(space):
    return {"metric": ["eval/nll"], "steps": 20, "space": space.describe()}


def opened(url, folder):
    return storage.open_study("s", storage.open_storage(url, folder), ["minimize"])


@pytest.fixture(params=["journal", "database"])
def place(request, tmp_path):
    """URL and folder of a study with a trial of each state, one paused and one waiting."""
    url = None if request.param == "journal" else f"sqlite:///{tmp_path}/studies.db"
    study = opened(url, tmp_path / "s")
    storage.remember(study, facts(SPACE))
    ends = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None, None)
    for i, state in enumerate(ends):
        study.enqueue_trial({"lr": 1e-3, "lora.rank": (4, 16)[i % 2], "schedule": "cosine"})
        trial = study.ask(SPACE.distributions)
        trial.set_user_attr("tokens", 100 * i)
        trial.set_user_attr("runs", [{"seed": 1, "sampler": "tinker://r/é\u2028"}])
        trial.report(1.0 / (i + 1), 5)
        if state is not None:
            study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
    trial.set_user_attr(PAUSED, 5)
    study.enqueue_trial({"lr": 1e-4})
    study.set_user_attr("date", "2026-01-01")
    return url, tmp_path / "s"


def known(study):
    """All that a study knows, but for the distributions."""
    return [
        (t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs,
         t.intermediate_values, t.datetime_start, t.datetime_complete)
        for t in study.trials
    ]  # fmt: skip


def let_go(study):
    """As if the workers had been killed a minute ago, which a database cannot know before that."""
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study._storage.set_trial_user_attr(trial._trial_id, liveness.ALIVE, 0.0)


def test_all_that_a_study_knows_stays_and_further_trials_have_the_wider_space(place):
    url, folder = place
    let_go(opened(url, folder))
    before = known(opened(url, folder))
    assert wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)
    after = opened(url, folder)
    assert known(after) == before
    assert after.user_attrs["date"] == "2026-01-01"
    assert after.user_attrs[storage.FACTS] == facts(WIDER)
    after.enqueue_trial({"lr": 3e-3, "lora.rank": 64, "schedule": "wsd"})
    waiting, asked = after.ask(WIDER.distributions), after.ask(WIDER.distributions)
    assert waiting.params["lr"] == 1e-4
    assert (asked.number, asked.params["lora.rank"]) == (6, 64)
    after.tell(asked, 0.4)
    assert opened(url, folder).best_params == {"lr": 3e-3, "lora.rank": 64, "schedule": "wsd"}
    assert all(
        t.distributions == WIDER.distributions for t in opened(url, folder).trials if t.params
    )
    assert not wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)


def test_a_space_becomes_wider_more_than_once_and_its_stages_are_kept(place):
    url, folder = place
    let_go(opened(url, folder))
    widest = parse(["lr=tag(log, interval(1e-5, 1e-2))", *list(WIDEST)])
    for space in (WIDER, widest):
        assert wider.widen(opened(url, folder), facts(space), space.distributions, folder)
    study = opened(url, folder)
    assert stages(study.user_attrs) == [
        SPACE.distributions, WIDER.distributions, widest.distributions
    ]  # fmt: skip
    assert wider.first_space(study) == SPACE.distributions
    assert study.trials[0].params == {"lr": 1e-3, "lora.rank": 4, "schedule": "cosine"}
    assert 1e-5 <= study.ask(widest.distributions).params["lr"] <= 1e-2


WIDEST = ("lora.rank=int(interval(1, 128))", "schedule=linear,cosine,wsd,constant")

CONTRADICTIONS = [
    (["lr=1e-4,1e-3", "lora.rank=4,16"], "schedule was searched"),
    (["lr=1e-3,3e-3", "lora.rank=4,16", "schedule=linear,cosine"], "lr was choice(0.0001, 0.001)"),
    (["lr=1e-4,1e-3", "lora.rank=int(interval(8,64))", "schedule=linear,cosine"], "lora.rank was"),
    (["lr=1e-4,1e-3", "lora.rank=4,16", "schedule=linear,cosine", "epochs=1,2"], "epochs"),
]


@pytest.mark.parametrize(("words", "named"), CONTRADICTIONS)
def test_a_space_that_contradicts_what_was_searched_is_refused(tmp_path, words, named):
    study = opened(None, tmp_path)
    storage.remember(study, facts(SPACE))
    study.ask(SPACE.distributions)
    other = parse(words)
    with pytest.raises(BadInput, match="hydra.sweeper.extend") as error:
        wider.widen(opened(None, tmp_path), facts(other), other.distributions, tmp_path)
    assert named in str(error.value)
    assert opened(None, tmp_path).user_attrs[storage.FACTS] == facts(SPACE)


@pytest.mark.parametrize("key", ["metric", "steps"])
def test_another_metric_or_other_data_is_refused_as_before(tmp_path, key):
    study = opened(None, tmp_path)
    storage.remember(study, facts(SPACE))
    other = facts(WIDER) | {key: "another"}
    assert not wider.widen(study, other, WIDER.distributions, tmp_path)
    with pytest.raises(BadInput, match=f"{key} was"):
        storage.remember(study, other)


NARROW = [
    ("lr=interval(1e-4, 1e-2)", "lr=interval(1e-4, 3e-2)", True),
    ("lr=interval(1e-4, 1e-2)", "lr=interval(2e-4, 3e-2)", False),
    ("lr=interval(1e-4, 1e-2)", "lr=tag(log, interval(1e-4, 1e-2))", True),
    ("lr=1e-4,1e-2", "lr=tag(log, interval(1e-4, 1e-2))", True),
    ("lr=interval(1e-4, 1e-2)", "lr=1e-4,1e-2", False),
    ("batch_size=range(4,17,4)", "batch_size=range(4,33,4)", True),
    ("batch_size=range(4,17,4)", "batch_size=range(4,33,8)", False),
    ("batch_size=range(4,17,4)", "batch_size=4,8,12,16,64", True),
    ("lora.rank=int(interval(1,64))", "lora.rank=tag(log, int(interval(1,128)))", True),
    ("lora.train_mlp=true,false", "lora.train_mlp=0,1,2", False),
]


@pytest.mark.parametrize(("old", "new", "is_wider"), NARROW)
def test_a_space_is_wider_if_it_holds_every_value_of_the_old_one(tmp_path, old, new, is_wider):
    before, after = parse([old]), parse([new])
    study = opened(None, tmp_path)
    storage.remember(study, facts(before))
    params = study.ask(before.distributions).params
    arguments = (opened(None, tmp_path), facts(after), after.distributions, tmp_path)
    if not is_wider:
        with pytest.raises(BadInput):
            wider.widen(*arguments)
        return
    assert wider.widen(*arguments)
    assert opened(None, tmp_path).trials[0].params == params


def test_whoever_reads_the_journal_on_sees_the_wider_study(tmp_path):
    reader = opened(None, tmp_path)
    storage.remember(reader, facts(SPACE))
    reader.tell(reader.ask(SPACE.distributions), 0.5)
    assert wider.widen(opened(None, tmp_path), facts(WIDER), WIDER.distributions, tmp_path)
    (study,) = reader._storage.get_all_studies()
    (trial,) = reader._storage.get_all_trials(study._study_id)
    assert (study.study_name, trial.value) == ("s", 0.5)
    assert trial.distributions == WIDER.distributions


def test_a_grid_goes_on_with_the_points_that_are_new_and_tries_none_twice(tmp_path):
    before = parse(["lr=1e-4,1e-3", "lora.rank=4,16"])
    after = parse(["lr=1e-4,1e-3,3e-3", "lora.rank=2,4,16"])
    for space, trials in ((before, 3), (after, 6)):
        study = opened(None, tmp_path)
        if not wider.widen(study, facts(space), space.distributions, tmp_path):
            storage.remember(study, facts(space))
        study = opened(None, tmp_path)
        study.sampler = samplers.make("grid", space.distributions, 0)
        for _ in range(trials):
            study.tell(study.ask(space.distributions), 1.0)
    tried = [tuple(t.params.values()) for t in opened(None, tmp_path).trials]
    assert len(set(tried)) == 9
    assert set(tried[:4]) == {(r, k) for r in (1e-4, 1e-3) for k in (4, 16)}


def test_a_surplus_trial_takes_no_point_of_a_grid_away(tmp_path):
    study = opened(None, tmp_path)
    space = parse(["lr=1e-4,1e-3,1e-2"]).distributions
    study.sampler = samplers.make("grid", space, 0)
    first = study.ask(space)
    surplus = study.ask(space)
    surplus.set_user_attr(SURPLUS, True)
    study.tell(surplus, state=TrialState.FAIL)
    assert [first.params["lr"], study.ask(space).params["lr"]] == [1e-4, 1e-3]


def _work(url, folder, asked):
    study = opened(url, folder)
    alive = liveness.make(study, folder, url is None)
    alive.ask(lambda: study.ask(SPACE.distributions))
    asked.set()
    time.sleep(60)


@pytest.mark.parametrize("url", [None, "sqlite:///{}/studies.db"])
def test_while_another_process_works_on_the_study_its_space_stays(tmp_path, url):
    url = url and url.format(tmp_path)
    folder = tmp_path / "s"
    storage.remember(opened(url, folder), facts(SPACE))
    context = multiprocessing.get_context("spawn")
    asked = context.Event()
    worker = context.Process(target=_work, args=(url, folder, asked))
    worker.start()
    try:
        assert asked.wait(60)
        with pytest.raises(BadInput, match="another process works on the study"):
            wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    if url is None:
        assert wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)


def _widen(url, folder, began):
    began.set()
    wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)


def test_a_kill_at_any_moment_leaves_the_old_space_or_the_wider_one(place):
    url, folder = place
    let_go(opened(url, folder))
    before = known(opened(url, folder))
    context, rng = multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(8):
        began = context.Event()
        process = context.Process(target=_widen, args=(url, folder, began))
        process.start()
        assert began.wait(60)
        time.sleep(rng.random() * 0.06)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        study = opened(url, folder)
        assert known(study) == before
        is_wide = study.user_attrs[storage.FACTS]["space"] == WIDER.describe()
        assert wider.space_of(study) == (WIDER if is_wide else SPACE).distributions
        if is_wide:
            break
    wider.widen(opened(url, folder), facts(WIDER), WIDER.distributions, folder)
    assert known(opened(url, folder)) == before

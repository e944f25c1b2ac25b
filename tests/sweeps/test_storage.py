"""Studies on disk: what they remember, what a killed writer leaves, who takes a trial over."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from sft.errors import BadInput
from sft.sweeps.study import liveness, storage

SPACE = {"lr": FloatDistribution(1e-5, 1e-2, log=True)}
FACTS = {"metric": "eval/nll", "digest": "abc", "steps": 20, "space": {"lr": "interval(0, 1)"}}


def study_in(folder, name="s"):
    return storage.open_study(name, storage.open_storage(None, folder), ["minimize"])


def test_a_study_is_found_again_by_its_name(tmp_path):
    study_in(tmp_path / "qwen", "qwen").ask(SPACE)
    found, folder = storage.load_study("qwen", root=tmp_path)
    assert (len(found.trials), folder) == (1, tmp_path / "qwen")


def test_a_name_that_no_study_has_is_bad_input_that_lists_those_there_are(tmp_path):
    study_in(tmp_path / "qwen", "qwen")
    with pytest.raises(BadInput, match="qwen"):
        storage.load_study("qwenn", root=tmp_path)


def test_a_line_that_a_killed_writer_left_unfinished_is_cut_off(tmp_path):
    study_in(tmp_path).ask(SPACE)
    with open(tmp_path / storage.JOURNAL, "ab") as file:
        file.write(b'{"op_code": 5, "trial_id')
    again = study_in(tmp_path)
    again.tell(0, 1.0)
    assert study_in(tmp_path).trials[0].state == TrialState.COMPLETE


def test_a_study_remembers_what_it_is_about(tmp_path):
    storage.remember(study_in(tmp_path), FACTS)
    storage.remember(study_in(tmp_path), dict(FACTS))


@pytest.mark.parametrize("key", list(FACTS))
def test_a_study_refuses_to_go_on_with_something_else_and_shows_the_difference(tmp_path, key):
    storage.remember(study_in(tmp_path), FACTS)
    with pytest.raises(BadInput) as error:
        storage.remember(study_in(tmp_path), FACTS | {key: "another"})
    assert f"{key} was" in str(error.value) and "now another" in str(error.value)


def test_several_that_open_a_new_database_at_once_share_its_study(tmp_path):
    url, together = f"sqlite:///{tmp_path}/studies.db", Barrier(8)

    def open_and_ask(_) -> int:
        together.wait()
        opened = storage.open_storage(url, tmp_path)
        return storage.open_study("s", opened, ["minimize"]).ask(SPACE).number

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(open_and_ask, range(8))) == list(range(8))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres-typo", "expected an Optuna storage URL"),
        ("nosuch://user:secret@host/db", ":***@host/db"),
        ("sqlite:////nowhere/at/all/x.db", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_bad_input(tmp_path, url, words):
    with pytest.raises(BadInput, match="hydra.sweeper.storage") as error:
        storage.open_storage(url, tmp_path)
    assert words in str(error.value) and "secret" not in str(error.value)


def _ask_and_wait(folder, asked):
    study = study_in(folder)
    alive = liveness.LockedFiles(folder / "workers")
    alive.ask(lambda: study.ask(SPACE))
    asked.set()
    time.sleep(60)


def test_a_trial_is_taken_over_once_its_worker_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    asked = context.Event()
    worker = context.Process(target=_ask_and_wait, args=(tmp_path, asked))
    worker.start()
    assert asked.wait(60)
    study = study_in(tmp_path)
    mine = liveness.LockedFiles(tmp_path / "workers")
    params = study.trials[0].params
    assert mine.take_over(study) is None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    taken = mine.take_over(study)
    assert (taken.number, taken.params) == (0, params)
    assert mine.take_over(study) is None
    other = liveness.LockedFiles(tmp_path / "workers")
    assert other.take_over(study) is None
    mine.close()
    assert other.take_over(study).number == 0


def until(is_so) -> None:
    """Waits for what another thread does, as long as a slow machine may take for it."""
    for _ in range(1200):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("it was not done")


def test_on_a_database_a_trial_is_taken_over_once_its_timestamp_is_stale(tmp_path, monkeypatch):
    now = [1000.0]
    clock = SimpleNamespace(time=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr(liveness, "time", clock)
    study = storage.open_study(
        "s", storage.open_storage(f"sqlite:///{tmp_path}/s.db", tmp_path), ["minimize"]
    )
    gone = liveness.Timestamps(study, every=3600, stale=60)
    mine = liveness.Timestamps(study, every=0.1, stale=60)
    gone.ask(lambda: study.ask(SPACE))
    now[0] += 59
    assert mine.take_over(study) is None
    now[0] += 2
    assert mine.take_over(study).number == 0
    now[0] += 61
    third = liveness.Timestamps(study, every=3600, stale=60)
    until(lambda: third.is_alive(study.trials[0]))  # mine renews
    assert third.take_over(study) is None
    mine.close()
    assert third.take_over(study).number == 0


def test_a_timestamped_worker_lets_go_of_finished_trials(tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db")
    mine = liveness.Timestamps(study, every=0.05)
    trial = mine.ask(lambda: study.ask(SPACE))
    study.tell(trial, 1.0)
    until(lambda: not mine._mine)
    mine.close()

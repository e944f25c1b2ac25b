"""Which RUNNING trials still have a worker, and taking over those that have none.

Optuna's own heartbeat covers `study.optimize` on a relational database only, and its retry makes
a new trial. Here a trial whose worker is gone is continued under its own number.

Beside a journal each worker holds a lock on a file, which the kernel releases with the process.
On a database each trial carries a timestamp, renewed by its worker.
"""

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from sft.files import locked

WORKER = "worker"  # user attributes of a trial
ALIVE = "alive"
CLAIM = "claim"
PAUSED = "paused"
"""The step at which a trial stands still, which its run has saved; none while it trains."""


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial stands still, to be thawed or to be ended."""
    return trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(PAUSED))


class Liveness(Protocol):
    """How one worker (this process) shows that it is there, and sees whether others are."""

    token: str
    """The name of this worker."""

    def ask(self, ask: Callable[[], Trial]) -> Trial:
        """A new trial that is this worker's."""

    def take_over(self, study: optuna.Study) -> FrozenTrial | None:
        """A RUNNING trial whose worker is gone, now this worker's; None if there is none."""

    def has_company(self, study: optuna.Study) -> bool:
        """Whether another worker is at the study."""

    def adopt(self, trial: Trial) -> None:
        """Make a trial this worker's, which another process of the same sweep handed over."""

    def is_alive(self, trial: FrozenTrial) -> bool:
        """Whether a RUNNING trial has a worker."""

    def claim(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Make a paused trial, which has no worker, this worker's; False if another was first."""

    def put_down(self, trial: Trial) -> None:
        """A trial of this worker's pauses: any worker may claim it."""

    def release(self, trial_id: int) -> None:
        """This worker is through with a trial."""

    def close(self) -> None:
        """This worker ends: whatever it has not finished may be taken over."""


def make(study: optuna.Study, folder: Path, is_journal: bool) -> Liveness:
    """The liveness of this process: locked files in `folder` beside a journal, else timestamps."""
    return LockedFiles(folder / "workers") if is_journal else Timestamps(study)


def orphans(study: optuna.Study, liveness: Liveness) -> Iterator[FrozenTrial]:
    """The RUNNING trials whose worker is gone. One that is paused needs none."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_paused(trial) and not liveness.is_alive(trial):
            yield trial


class LockedFiles:
    """Liveness by locks on files in a folder beside the journal."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._asking = folder / "ask.lock"  # one at a time
        folder.mkdir(parents=True, exist_ok=True)
        self.token = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = folder / f"{self.token}.lock"
        self._file = open(self._path, "a")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def ask(self, ask: Callable[[], Trial]) -> Trial:
        with locked(self._asking):  # nobody sees the trial before it is signed
            trial = ask()
            trial.set_user_attr(WORKER, self.token)
        return trial

    def take_over(self, study: optuna.Study) -> FrozenTrial | None:
        with locked(self._asking):
            for trial in orphans(study, self):
                self.adopt(Trial(study, trial._trial_id))
                return trial
        return None

    def has_company(self, study: optuna.Study) -> bool:
        tokens = {path.stem for path in self._folder.glob("*.lock")} - {self._asking.stem}
        return any(self._is_held(token) for token in tokens - {self.token})

    def adopt(self, trial: Trial) -> None:
        trial.set_user_attr(WORKER, self.token)

    def claim(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        with locked(self._asking):
            fresh = study._storage.get_trial(trial._trial_id)
            if not fresh.user_attrs.get(PAUSED) or self.is_alive(fresh):
                return False
            self.adopt(Trial(study, trial._trial_id))
        return True

    def put_down(self, trial: Trial) -> None:
        trial.set_user_attr(WORKER, None)

    def is_alive(self, trial: FrozenTrial) -> bool:
        token = trial.user_attrs.get(WORKER)
        if token == self.token:
            return True
        return token is not None and self._is_held(token)

    def _is_held(self, token: str) -> bool:
        try:
            with open(self._folder / f"{token}.lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def release(self, trial_id: int) -> None:
        pass

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


class Timestamps:
    """Liveness by a timestamp on each trial; clocks of the machines should agree to seconds.

    Args:
        every: seconds between renewals.
        stale: seconds after which a worker that has not renewed is taken to be gone.
        settle: seconds that a claim waits for rival claims to become visible.
    """

    def __init__(
        self, study: optuna.Study, every: float = 15.0, stale: float = 60.0, settle: float = 2.0
    ):
        self._study = study
        self._every, self._stale, self._settle = every, stale, settle
        self.token = uuid.uuid4().hex[:12]
        self._mine: set[int] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="sweep-liveness", daemon=True)
        self._thread.start()

    def ask(self, ask: Callable[[], Trial]) -> Trial:
        trial = ask()
        self.adopt(trial)
        return trial

    def take_over(self, study: optuna.Study) -> FrozenTrial | None:
        for trial in orphans(study, self):
            if self.claim(study, trial):
                return trial
        return None

    def has_company(self, study: optuna.Study) -> bool:
        """One whose trials are all ended is not seen: it has none for a moment only."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(t._trial_id not in self._mine and self.is_alive(t) for t in running)

    def adopt(self, trial: Trial) -> None:
        trial.set_user_attr(WORKER, self.token)
        self._stamp(trial._trial_id)
        with self._lock:
            self._mine.add(trial._trial_id)

    def is_alive(self, trial: FrozenTrial) -> bool:
        if trial._trial_id in self._mine:
            return True
        seen = trial.user_attrs.get(ALIVE)
        if seen is None:
            seen = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return time.time() - seen < self._stale

    def release(self, trial_id: int) -> None:
        with self._lock:
            self._mine.discard(trial_id)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            for trial_id in self._mine:  # others need not wait until they are stale
                if not self._was_adopted(trial_id):
                    with suppress(optuna.exceptions.UpdateFinishedTrialError):
                        self._study._storage.set_trial_user_attr(trial_id, ALIVE, 0.0)

    def put_down(self, trial: Trial) -> None:
        self.release(trial._trial_id)
        trial.set_user_attr(ALIVE, 0.0)

    def claim(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial is now this worker's: of several that claim it the earliest wins.

        Optuna's interface has no compare-and-set. So each claim is an attribute of its own, and
        they are compared after a pause, when all of them can be seen.
        """
        storage, mine = study._storage, f"{CLAIM}:{self.token}"
        storage.set_trial_user_attr(trial._trial_id, mine, time.time())
        time.sleep(self._settle)
        fresh = storage.get_trial(trial._trial_id)
        rivals = {
            key: at
            for key, at in fresh.user_attrs.items()
            if key.startswith(f"{CLAIM}:") and time.time() - at < self._stale
        }
        if self.is_alive(fresh) or min(rivals, key=lambda k: (rivals[k], k)) != mine:
            return False
        self.adopt(Trial(study, trial._trial_id))
        return True

    def _stamp(self, trial_id: int) -> None:
        self._study._storage.set_trial_user_attr(trial_id, ALIVE, time.time())

    def _was_adopted(self, trial_id: int) -> bool:
        """Whether a trial of this worker's is a launcher's job's by now."""
        owner = self._study._storage.get_trial(trial_id).user_attrs.get(WORKER)
        return owner not in (self.token, None)

    def _renew(self) -> None:
        while not self._ended.wait(self._every):
            with self._lock:
                mine = list(self._mine)
            for trial_id in mine:
                try:
                    if self._was_adopted(trial_id):
                        self.release(trial_id)
                    else:
                        self._stamp(trial_id)
                except optuna.exceptions.UpdateFinishedTrialError:
                    self.release(trial_id)
                except Exception as error:  # a database that is away for a while
                    optuna.logging.get_logger(__name__).warning("liveness: %s", error)

"""Trials through Hydra's other launchers (joblib, submitit, ray): in batches.

A launcher runs its jobs in processes of its own and returns when all of a batch have ended. Each
job opens the study, takes over its trial and ends it there, as the trials of one process do. The
sweep reads from the storage how it went, and whether a job is still at its trial: a cluster may
lose one, and its launcher would wait for it forever; or start it again later.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from optuna.trial import Trial, TrialState

from sft.command import lost_terminal
from sft.command.signals import Signals
from sft.config.compose import settings_of
from sft.config.schema import Settings
from sft.config.secrets import hand_down
from sft.cost.budget import Budget as Money
from sft.service import child
from sft.sweeps.composing import Composer
from sft.sweeps.display import PlainLines
from sft.sweeps.scheduling.base import Limits
from sft.sweeps.study import liveness, storage
from sft.sweeps.study.endings import Ending
from sft.sweeps.study.ledger import ERROR, SHORT, Job, Ledger, Turn, checkpoints, spent_usd
from sft.sweeps.study.liveness import PAUSED, is_paused
from sft.sweeps.study.standing import DIVERGED
from sft.sweeps.sweeper import LOOK_AGAIN, Sweep
from sft.sweeps.trial import Common, Shared, TrialRun
from sft.tracking import trackers

ATTEMPTS = 2  # for a job that ended without a word
LOOK = 5.0
"""Seconds between two looks whether the jobs of a batch are still there."""
MISSED = 8
"""So many times in a row not: a job whose trial has ended still sends to MLflow for a while."""
LOST = "its job is gone, and its cluster has not said so"


@dataclass(frozen=True)
class Handover:
    """What a job needs to know, besides its config."""

    common: Common
    storage: str | None
    pruner: optuna.pruners.BasePruner
    api_key: str | None
    worker: str  # this process's name in the study
    turns: dict[int, tuple[int, float]]  # hydra.job.num -> trial number, until when it trains
    usd: float | None  # that one of them may cost, if the sweep has a budget


async def run_in_jobs(sweep: Sweep, composer: Composer) -> int:
    """Run batches of n_jobs trials until the study is full; returns the exit code."""
    ledger = sweep.shared.ledger
    attempts: dict[int, int] = {}
    again: list[Turn] = []
    job = 0
    with sweep.signals():
        while sweep.may_start():
            batch, again = again, []
            while len(batch) < sweep.options.n_jobs:
                turn = await ledger.call(ledger.next)
                if turn is None or sweep.interrupted:
                    break
                batch.append(turn)
            if not batch and ledger.waits:
                await asyncio.sleep(LOOK_AGAIN)
                continue
            if not batch or sweep.interrupted:
                break
            turns = {job + i: (t.trial.number, t.until) for i, t in enumerate(batch)}
            trials = [turn.trial for turn in batch]
            launch = partial(_launch, composer, _handover(sweep, turns), trials, job)
            error = await _patient(launch, ledger, trials)
            job += len(batch)
            money = sweep.shared.money
            money.spent = await ledger.call(spent_usd, ledger.study, sweep.shared.common.folder)
            for turn in batch:
                number = turn.trial.number
                attempts[number] = attempts.get(number, 0) + 1
                if await _settle(sweep, turn.trial, error, attempts[number] == ATTEMPTS):
                    attempts[number] = 0  # it may have a further turn
                else:
                    again.append(turn)
    await sweep.conclude()
    return sweep.exit_code()


def _handover(sweep: Sweep, turns: dict[int, tuple[int, float]]) -> Handover:
    common, url = sweep.shared.common, sweep.options.storage
    return Handover(
        common=replace(common, folder=common.folder.absolute()),
        # Launchers write it to files; a job opens it by OPTUNA_STORAGE.
        storage=url and hand_down(url, "hydra.sweeper.storage"),
        pruner=sweep.shared.ledger.study.pruner,
        api_key=child.api_key(common.base_url),
        worker=sweep.shared.ledger.worker,
        turns=turns,
        usd=None if sweep.shared.money.limit is None else sweep.shared.money.left / len(turns),
    )


async def _patient(
    launch: Callable[[], str | None], ledger: Ledger, trials: Sequence[Trial]
) -> str | None:
    """What `launch` returns, or that the jobs are gone if no trial has had one for a while.

    Nothing of a trial is decided while a job is at it, whatever the launcher knows of that.
    """
    launched: Future[str | None] = Future()

    def run() -> None:
        try:
            launched.set_result(launch())
        except BaseException as error:
            launched.set_exception(error)

    # A daemon: whoever waits for a lost job does not hold up the end of this process.
    threading.Thread(target=run, name="sweep-launcher", daemon=True).start()
    result, gone = asyncio.wrap_future(launched), 0
    while gone < MISSED:
        await asyncio.wait({result}, timeout=LOOK)
        jobs = await ledger.call(ledger.jobs, trials)
        if result.done() and Job.WORKS not in jobs:
            return result.result()
        gone = gone + 1 if jobs == {Job.OVER} else 0
        if result.done():
            await asyncio.sleep(LOOK)
    return LOST


def _launch(composer: Composer, handover: Handover, batch: list[Trial], first: int) -> str | None:
    """Run a batch; returns the error of the launcher or of a job that said nothing itself."""
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=composer.context,
        task_function=partial(task, handover),
        config=composer.config,
    )
    try:
        returns = launcher.launch([composer.overrides(t.params) for t in batch], first)
        for job in returns:
            job.return_value  # noqa: B018 - raises what the job raised
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


async def _settle(sweep: Sweep, trial: Trial, error: str | None, last: bool) -> bool:
    """Count how a trial of a batch ended; False if it is to be run again."""
    ledger = sweep.shared.ledger
    frozen = await ledger.call(ledger.study._storage.get_trial, trial._trial_id)
    if is_paused(frozen):
        step = frozen.user_attrs[PAUSED]
        sweep.shared.display.ended(trial.number, Ending(None, paused_at=step))
        sweep.budget.spend(trial.number, frozen.user_attrs.get("tokens", 0))
        await ledger.call(ledger.put_down, trial)  # this process had asked for it
        return True
    if not frozen.state.is_finished():
        if frozen.user_attrs.get(SHORT):
            sweep.shared.money.refused = True
        if sweep.interrupted or frozen.user_attrs.get(SHORT):
            return True
        await ledger.call(ledger.adopt, trial)
        if not last:
            return False
        facts = {ERROR: error or "its job ended without a word"}
        await ledger.call(ledger.finish, trial, TrialState.FAIL, None, facts)
        frozen = await ledger.call(ledger.study._storage.get_trial, trial._trial_id)
    ending = Ending(
        frozen.state,
        frozen.values if frozen.state == TrialState.COMPLETE else None,
        frozen.user_attrs.get(ERROR),
        bool(frozen.user_attrs.get(DIVERGED)),
    )
    sweep.shared.display.ended(trial.number, ending)
    sweep.budget.spend(trial.number, frozen.user_attrs.get("tokens", 0))
    sweep.count(ending)
    return True


def task(handover: Handover, composed: DictConfig) -> str:
    """The job: one trial, in whatever process the launcher made."""
    turn = handover.turns[HydraConfig.get().job.num]
    if handover.api_key:
        os.environ["TINKER_API_KEY"] = handover.api_key
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signals = Signals()  # a cluster's scheduler sends them to the jobs, too
    with lost_terminal.survived(), signals.heeded():
        ending = asyncio.run(_run(handover, settings_of(composed), turn, signals))
    return "interrupted" if ending.state is None else ending.state.name


async def _run(
    handover: Handover, settings: Settings, turn: tuple[int, float], signals: Signals
) -> Ending:
    common = handover.common
    study = optuna.load_study(
        study_name=common.study_name,
        storage=storage.open_storage(handover.storage, common.folder),
        pruner=handover.pruner,
    )
    alive = liveness.make(study, common.folder, handover.storage is None)
    ledger = Ledger(study, alive, {}, Limits(0))
    try:
        number, until = turn
        frozen = next(t for t in study.get_trials(deepcopy=False) if t.number == number)
        trial = await ledger.call(ledger.opened, frozen)
        if not await ledger.call(ledger.adopt_of, handover.worker, trial):
            return Ending(None)
        money = Money("hydra.sweeper.budget_usd", handover.usd)
        shown = PlainLines(common.metrics[0], True, 1)
        shared = Shared(common, ledger, shown, money=money)
        ending = await _heedful(
            TrialRun(shared, Turn(trial, until, checkpoints(frozen)), settings), signals
        )
        await asyncio.to_thread(trackers.flush, 30.0)
        return ending
    finally:
        ledger.close()


async def _heedful(run: TrialRun, signals: Signals) -> Ending:
    """Execute `run`; it stops with a checkpoint at a signal."""
    task = asyncio.create_task(run.execute())

    def stop(name: str) -> None:
        run.stop(f"interrupted by {name}", "KILLED")

    with signals.told(stop, task.cancel):
        return await task

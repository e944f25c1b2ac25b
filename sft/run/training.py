"""The training loop, from a `Config` to how the run ended.

Steps are pipelined: `forward_backward` and `optim_step` of a step go out together, the next step
before the last one is awaited, and saving, evaluating and logging happen beside them. `train`
holds no process-wide state, so many runs live in one process and in a notebook.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from sft.config.data import inventory
from sft.config.day import on_its_day, with_day
from sft.config.saved import completed, directed, from_train
from sft.config.secrets import without_secrets
from sft.config.training import Config
from sft.cost.budget import Budget
from sft.cost.estimate import Estimate
from sft.cost.meter import Meter, last
from sft.data.mixing.dataset import of_streams
from sft.errors import BadInput
from sft.hooks import Hook, Run, RunResult, Stop, named
from sft.record import fingerprints, rundir
from sft.rendering.report import Report
from sft.run import budgeted, effects
from sft.run.client import Connection, Service
from sft.run.evaluations import NoSnapshots
from sft.run.failures import AWAY, first_error, is_lost, is_the_services, status_of, words_of
from sft.run.loop import Loop
from sft.run.plan import Plan, with_learning_rate
from sft.run.progress import Progress
from sft.service.habits.server import behind as habits_behind
from sft.stages import stages, threads

logger = logging.getLogger(__name__)

ATTEMPTS_WITHOUT_PROGRESS = 5
"""A lost service is resumed from the last checkpoint this often before a run that gets no
further is given up."""

ATTEMPTS_AT_WHAT_FAILS = 1
"""The same for a service that is there and fails: a worker of its may have died, but what fails
twice at one step will fail again."""


async def train(
    config: Config,
    *,
    hooks: Sequence[Hook] = (),
    service: Callable[[], AbstractContextManager[str]] | None = None,
    settings: dict[str, Any] | None = None,
    overrides: Sequence[str] = (),
    confirm: Callable[[Estimate], Awaitable[None]] | None = None,
    budgets: Sequence[Budget] = (),
) -> RunResult:
    """Train `config` and return how it ended; a failure of the run itself is in the result.

    `hooks` follow the run. `service`, when given, is entered in a thread while the data is read,
    and yields the URL to use in place of `config.base_url`. `settings` is the saved config; by
    default it is derived from `config`. `overrides` are what a command set, for run.json.
    `confirm` hears what the run may still cost before anything is made, and raises `BadInput` to
    leave it. `budgets` are further ones that the run spends of, beside `config.budget_usd`. If
    `config.log_path` holds an unfinished run, that run is continued from its last confirmed
    checkpoint.

    Raises `BadInput` before anything is created if the data, the model or the directory
    cannot be used.
    """
    async with AsyncExitStack() as stack:
        # A missing key is said before minutes of reading; a service of one's own starts meanwhile.
        starting = None if service is None else threads.entered(service(), stack)
        api = await Service.reach(config.base_url) if starting is None else None
        config = directed(on_its_day(config))
        plan = await Plan.make(config)
        without_effect = effects.check(config, plan)
        config, guess = await asyncio.to_thread(with_learning_rate, config, plan)
        stages.preparing("connecting to the service")
        if starting is not None:
            await asyncio.to_thread(import_module, "tinker")  # a second, beside the start
            config = replace(config, base_url=await starting)
        api = api or await Service.reach(config.base_url)
        await api.check(config.model_name, plan.max_length)
        habits = habits_behind(config.base_url)
        directory = Path(config.log_path)
        before = last(directory)
        own = Budget("budget.usd", config.budget_usd, float(before.get("usd") or 0.0))
        estimate = budgeted.check(config, plan, own)
        prices = estimate.prices
        config = replace(config, prices=prices.saved())
        if confirm is not None:
            await confirm(estimate)
        if settings is None:
            settings = from_train(config)
        settings = without_secrets(with_day(settings, config)) | {"lr": config.learning_rate}
        settings["prices"] = prices.saved()
        origin = plan.origin() | {"files": await asyncio.to_thread(inventory, settings)}
        origin["code"] |= fingerprints.code_of(*named(hooks, settings))
        if prices and "usd" not in before:
            origin["estimate"] = estimate.to_json()
        if guess is not None:
            origin["learning_rate"] = guess.to_json()
        held = rundir.hold(directory, settings, origin, overrides, completed)
        state = await threads.entered(held, stack)
        if (statistics := plan.facts()["data"]) is not None:
            state.record(rows=statistics.report.to_json())
        facts = plan.facts() | {"without_effect": without_effect, "learning_rate": guess}
        facts["estimate"] = estimate
        if habits is not None:
            state.record(server=habits.to_json())
            facts |= habits.facts(facts)
        run = Run(config, settings, directory, state.name, facts)
        meter = Meter(directory, prices, [own, *budgets])
        loop = Loop(Progress(run, plan, state, tuple(hooks), meter))
        try:
            return await _attempts(loop, api)
        finally:
            if habits is not None:  # with what was made up for on the way
                state.record(server=habits.to_json())


async def _attempts(loop: Loop, api: Service) -> RunResult:
    """Train, and resume from the last checkpoint whenever the service is lost."""
    started = time.monotonic()
    error: BaseException | None = None
    try:
        await _train_until_done(loop, api)
    except asyncio.CancelledError as failure:
        if loop.run.stopping is None or loop.run.stopping.status != "KILLED":
            loop.run.stopping = Stop(str(failure) or "interrupted", "KILLED")
        error = failure
        raise
    except Exception as failure:
        if isinstance(failure, BadInput) and not loop.started:
            raise  # nothing has been made
        error = failure
        loop.state.log.error("the run failed", exc_info=failure)
    finally:
        if error is not None or loop.started:
            _say_what_streams_held(loop)
            result = loop.finish(error, time.monotonic() - started)
    return result


def _say_what_streams_held(loop: Loop) -> None:
    """Record what of streams was not trained on: it is known only once they have been read."""
    read = of_streams(loop.plan.data)
    if read is None:
        return
    whole = Report()
    if (statistics := loop.plan.facts()["data"]) is not None:
        whole = statistics.report
    whole.add(read)
    loop.state.record(rows=whole.to_json())
    for sentence in read.lines():
        loop.progress.tell(f"data, as far as it was read: {sentence}")


async def _train_until_done(loop: Loop, api: Service) -> None:
    """Attempt after attempt, each in a session of its own. Raises what no attempt can mend."""
    without_progress, furthest = 0, -1
    while True:
        try:
            async with Connection.to(api) as connection:
                await loop.train(connection)
            return
        except Exception as failure:
            cause = first_error(failure)
            if isinstance(cause, NoSnapshots):
                loop.progress.tell(f"{words_of(cause)}; training goes on without evaluations")
                continue
            without_progress = 0 if loop.progress.applied > furthest else without_progress + 1
            furthest = max(furthest, loop.progress.applied)
            status = status_of(cause)
            if status in (500, 501) and not loop.progress.worked:
                raise cause from None  # it has answered nothing otherwise
            if is_lost(cause) and (status is None or status in AWAY):
                allowed = ATTEMPTS_WITHOUT_PROGRESS
            elif is_lost(cause) or is_the_services(cause):
                allowed = ATTEMPTS_AT_WHAT_FAILS
            else:
                raise cause from None
            if without_progress >= allowed:
                raise cause from None
            what = f"the service {'was lost' if is_lost(cause) else 'failed'} ({words_of(cause)})"
            loop.progress.tell(f"{what}; resuming the run from its last checkpoint")
            await asyncio.sleep(min(2.0**without_progress, 30.0))

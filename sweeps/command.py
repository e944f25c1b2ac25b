"""From a `--multirun` command line to a sweep that runs: everything is checked before it begins."""

import asyncio
import gc
import logging
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import optuna
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from sft import tracking
from sft.command import lost_terminal
from sft.command.confirming import confirmed
from sft.command.signals import Signals
from sft.config.compose import from_environment
from sft.config.saved import dataset_builder
from sft.config.schema import Settings
from sft.cost.budget import Budget as Money
from sft.data.mixing.looking import look
from sft.display import stages as beginning
from sft.display.terminal import describe_tracking
from sft.errors import BadInput
from sft.record.metrics import contrary
from sft.secrets import mask_urls
from sft.stages import stages as work
from sft.sweeps import display, opening, preflight, report, space
from sft.sweeps.composing import Composer
from sft.sweeps.findings import edge
from sft.sweeps.findings.results import Results
from sft.sweeps.jobs import run_in_jobs
from sft.sweeps.options import Options, Settled
from sft.sweeps.parameters import describe_space, stages
from sft.sweeps.parent import Parent
from sft.sweeps.samplers.warm_start import WarmStart
from sft.sweeps.scheduling.base import Limits
from sft.sweeps.study import storage, wider
from sft.sweeps.study.ledger import COUNTED, Ledger, spent_usd
from sft.sweeps.sweeper import Budget, Sweep, closing_words
from sft.sweeps.trial import Common, Shared
from sft.tracking import trackers
from sft.tracking.run_in_store import KEY, user

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


SWITCH_SECONDS = 0.0005


def run(context: HydraContext, config: DictConfig, arguments: list[str]) -> int:
    """What `SftSweeper.sweep` does; returns the exit code. Raises `BadInput`.

    Args:
        context: Hydra's, which composes each trial.
        config: of the sweep, with `hydra`.
        arguments: the overrides of the command line.
    """
    raw: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    options = Options.read({key: value for key, value in raw.items() if key != "_target_"})
    searched = space.parse(arguments, options.params, context.config_loader)
    # Optuna tells what it does on its own account; the display does that here.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("tinker").setLevel(logging.WARNING)
    signals = Signals()
    with lost_terminal.survived(), signals.heeded():
        try:
            with beginning.shown("checking the settings of the sweep", lines=True):
                return _stages(options, Composer(context, config, searched), signals)
        except (KeyboardInterrupt, asyncio.CancelledError):  # before the first trial or afterwards
            return signals.exit_code


def _stages(options: Options, composer: Composer, signals: Signals) -> int:
    """Run the sweep, and go on beyond its edges if it was asked to; returns the exit code."""
    started = time.monotonic()
    settled = options.settle(composer.searched)
    options = replace(options, study_name=settled.study_name, sampler=settled.sampler)
    options, composer = _taken_up(options, composer)
    code = _stage(options, composer, signals, settled.n_trials)
    while not code and options.extends_itself:
        study, _ = storage.load_study(settled.study_name, options.storage)
        began, asked = wider.first_space(study), study.user_attrs[storage.ASKED]
        further = edge.further(Results.of(study), began, settled.n_trials, options.max_tokens)
        if further is None or options.timeout and time.monotonic() - started > options.timeout:
            break
        more = None if asked["grid"] else asked["trials"] + edge.more_trials(settled.n_trials)
        searched = replace(composer.searched, distributions=further, began=began)
        composer = replace(composer, searched=searched)
        options = replace(options, n_trials=more)
        try:
            code = _stage(options, composer, signals, settled.n_trials)
        except BadInput as error:  # a rank that the model's service does not take, for one
            print(f"the sweep goes on no further: {error}", file=sys.stderr)
            break
    return code


def _taken_up(options: Options, composer: Composer) -> tuple[Options, Composer]:
    """Those of a study that is there: it began with a space that it has left behind by now.

    If it went on by itself, the command that it began with goes on with all that it has become.
    """
    assert options.study_name is not None  # settled
    study = storage.existing(options.study_name, options.storage, storage.ROOT / options.study_name)
    if study is None:
        return options, composer
    searched = replace(composer.searched, began=wider.first_space(study))
    been = stages(study.user_attrs)
    if options.extends_itself and searched.describe() in map(describe_space, been[:-1]):
        asked = study.user_attrs[storage.ASKED]
        searched = replace(searched, distributions=been[-1])
        options = replace(options, n_trials=None if asked["grid"] else asked["trials"])
    return options, replace(composer, searched=searched)


def _stage(options: Options, composer: Composer, signals: Signals, first: int) -> int:
    """Run the trials up to `options.n_trials`, of which `first` were asked for at the beginning."""
    settings = preflight.check_space(composer)
    for one in settings:
        look(dataset_builder(one))
    settled = options.settle(composer.searched).of_runs(settings[0])
    settled.check_curves(composer.searched)
    return asyncio.run(_run(settled, composer, settings, signals, first))


async def _run(
    options: Settled,
    composer: Composer,
    settings: list[Settings],
    signals: Signals,
    first: int,
) -> int:
    base, searched = settings[0], composer.searched
    folder = storage.ROOT / options.study_name
    this = asyncio.current_task()
    assert this is not None
    async with AsyncExitStack() as stack:
        stack.enter_context(signals.told(this.cancel, this.cancel))
        there = await asyncio.to_thread(
            storage.existing, options.study_name, options.storage, folder
        )
        began = None if there is None else there.user_attrs.get("date")
        day = began or base.date or date.today().isoformat()
        known = await preflight.preflight(stack, options, composer, settings, day)
        counted = there.get_trials(deepcopy=False, states=COUNTED) if there else []
        words = "; ".join(known.cost_lines(options, len(counted)))
        expected = known.expected_usd(options, len(counted))
        unpriced = known.estimate.unpriced(billed=base.service.kind == "tinker")
        with work.hidden():
            await confirmed(expected, base.cost.confirm_above_usd, words, unpriced)
        study, alive = opening.study(options, searched, base, folder, known.facts)
        again = _again(composer, options)
        points = searched.points if options.sampler == "grid" else None
        is_whole = points is not None and len(points) == options.n_trials
        asked = {"words": again, "trials": options.n_trials, "grid": is_whole}
        ledger = Ledger(
            study,
            alive,
            searched.distributions,
            Limits(options.n_trials, options.max_tokens, known.new),
            opening.scheduler(options, searched, base, known.facts["steps"]),
        )
        stack.callback(ledger.close)
        _enqueue(options, study)
        study.set_user_attr(storage.ASKED, asked)
        day = study.user_attrs.get("date") or day  # another process may have begun it by now
        study.set_user_attr("date", day)
        study.set_user_attr("train_price", known.estimate.prices.rate("train"))
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        work.close()
        shown = _display(options, finished)
        stack.callback(shown.close)
        variables = from_environment(composer.config)
        for line in _banner(options, searched, base, study, folder, known, variables, first):
            shown.message(line)
        for sentence in known.without_effect:
            shown.message(f"  without effect: {sentence}")
        if base.tracking.uri is not None:
            await asyncio.to_thread(_send_what_mlflow_lacks, finished)
        parent = _parent(options, base, shown)
        parent_run_id = None
        if parent is not None:
            words = f"python -m sft --multirun {shlex.join(again)}"
            parent_run_id = await _start_parent(parent, options, searched, study, words)
        spent = {
            t.number: t.user_attrs.get("tokens", 0)
            for t in study.get_trials(deepcopy=False)
            if t.state != TrialState.WAITING
        }
        budget = Budget(options.max_tokens, spent, known.tokens)
        paid = await asyncio.to_thread(spent_usd, study, folder)
        money = Money("hydra.sweeper.budget_usd", options.budget_usd, paid)
        common = Common(
            study_name=options.study_name,
            folder=folder,
            metrics=options.metrics,
            repeats=options.repeats,
            base_url=known.base_url,
            parent_run_id=parent_run_id,
            date=day,
            eval_every=known.eval_every,
            is_seldom=known.is_seldom,
            command=[
                *composer.options,
                *(mask_urls(o) for o in searched.fixed if not o.startswith(("sweep=", "cost."))),
            ],
        )
        shared = Shared(common, ledger, shown, budget.spend, money)
        sweep = Sweep(options, shared, composer, budget, signals, parent)
        _share_the_interpreter()
        started = time.monotonic()
        if composer.config.hydra.launcher._target_ == BASIC_LAUNCHER:
            code = await sweep.run()
        else:
            code = await run_in_jobs(sweep, composer)
        shown.close()
        stack.enter_context(signals.told(lambda name: None, this.cancel))  # it ends already
        await _finish(sweep, code, parent, folder)
        if sweep.short_of:
            key = f"{sweep.short_of}="
            again = [*(word for word in again if not word.startswith(key)), f"{key}…"]
        command = f"python -m sft --multirun {shlex.join(again)}"
        print(closing_words(sweep, time.monotonic() - started, command))
        return code


def _share_the_interpreter() -> None:
    """Let the steps of all trials of this process have Python in time, whatever else it does."""
    # A thread that waits for Python, as those that submit steps do for most of a tick, has it
    # after this long at the latest; by itself Python lets whoever computes go on for 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    # A full collection looks at every object, and nothing else runs meanwhile: half a second with
    # the modules that are imported by now, none of which will ever be garbage.
    gc.freeze()


def _enqueue(options: Settled, study: optuna.Study) -> None:
    """The user's own trials first, once; later what lies beyond an edge, if that is asked for."""
    first = list(options.enqueue)[: options.n_trials]
    if study.trials:
        beyond = options.extend and options.sampler != "grid"
        first = edge.first_values(Results.of(study), options.n_trials) if beyond else []
    for values in first:
        study.enqueue_trial(dict(values))


def _display(options: Settled, finished: Sequence[FrozenTrial]) -> display.Display:
    """The display, with the trials that earlier processes completed."""
    minimize = options.directions[0] == "minimize"
    shown = display.make(options.metrics[0], minimize, options.n_trials, len(finished))
    for trial in finished:
        if trial.state == TrialState.COMPLETE:
            shown.recall(trial.number, trial.params, trial.values[0])
    return shown


def _parent(options: Settled, base: Settings, shown: display.Display) -> Parent | None:
    if base.tracking.uri is None:
        return None
    return Parent(base.tracking.uri, base.tracking.experiment, options.study_name, shown.message)


def _send_what_mlflow_lacks(finished: Sequence[FrozenTrial]) -> None:
    """Of trials that ended just before an earlier process was killed."""
    for trial in finished:
        for directory in map(Path, trial.user_attrs.get("directories", [])):
            if directory.is_dir():
                tracking.sync(directory)


async def _start_parent(
    parent: Parent,
    options: Settled,
    searched: space.SearchSpace,
    study: optuna.Study,
    again: str,
) -> str | None:
    params = {f"space.{name}": text for name, text in searched.describe().items()}
    chosen = asdict(options)
    for name in ("sampler", "scheduler", "pruner", "n_trials", "repeats", "seed", "warm_start"):
        params[name] = chosen[name]
    params |= {"metric": ", ".join(options.metrics), "direction": ", ".join(options.directions)}
    tags = {
        "sweep.study": options.study_name,
        "sweep.parent": "true",
        "mlflow.user": user(),
        "mlflow.source.name": "python -m sft --multirun",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": (
            "What the sweep has found, as a table and figures:\n\n"
            f"    python -m sft.sweeps.report {options.study_name}\n\n"
            "Go on with it where it is, with the trials that it lacks:\n\n"
            f"    {again}\n"
        ),
    }
    if (key := study.user_attrs.get("mlflow_key")) is None:
        study.set_user_attr("mlflow_key", key := uuid.uuid4().hex)
    tags[KEY] = key
    known = study.user_attrs.get("mlflow_run_id")
    run_id = await parent.start(known, params, tags)
    if run_id is not None and run_id != known:
        study.set_user_attr("mlflow_run_id", run_id)
    return run_id


def _banner(
    options: Settled,
    searched: space.SearchSpace,
    base: Settings,
    study: optuna.Study,
    folder: Path,
    known: preflight.Preflight,
    variables: dict[str, str],
    first: int,
) -> list[str]:
    """What is about to happen, with each default that was filled in."""
    there = len(study.get_trials(deepcopy=False, states=COUNTED))
    so_far = f": {there} trials so far" if there else ""
    lines = [f"study {options.study_name} in {folder}{so_far}"]
    lines += [f"  {name}: {text}" for name, text in searched.describe().items()]
    repeats = f", each {options.repeats} times" if options.repeats > 1 else ""
    pauses = options.scheduler != "none"
    ending = f"scheduler {options.scheduler}" if pauses else f"pruner {options.pruner}"
    lines.append(
        f"  {options.n_trials} trials{repeats}, {options.n_jobs} at a time; sampler "
        f"{options.sampler}, {ending}; {base.model.name}"
    )
    ends = {"minimize": "lowest", "maximize": "highest"}
    compared = list(zip(options.metrics, options.directions, strict=True))
    lines.append(f"  best: {', '.join(f'{ends[of]} {metric}' for metric, of in compared)}")
    lines += [f"  {line}" for metric, of in compared for line in contrary(metric, of)]
    lines += [f"  {line}" for line in opening.describe_rate(base, searched, known.facts["steps"])]
    if options.extends_itself:
        began = searched.began or searched.distributions
        grid = options.sampler == "grid"
        lines.append(f"  {edge.describe_bounds(began, first, grid)}")
    lines.append(f"  tracking: {describe_tracking(base, variables)}")
    if known.tokens:
        lines.append(f"  about {known.tokens * max(0, options.n_trials - there):,} tokens to train")
    lines += [f"  cost: {line}" for line in known.cost_lines(options, there)]
    if isinstance(study.sampler, WarmStart) and not there:
        lines += [f"  {line}" for line in study.sampler.describe(searched.distributions)]
    return lines


async def _finish(sweep: Sweep, code: int, parent: Parent | None, folder: Path) -> None:
    """Report, artifacts and the end of the MLflow runs."""
    study = sweep.shared.ledger.study
    artifacts: list[Path] = []
    try:
        artifacts, lines = await asyncio.to_thread(report.write, study, folder)
        print("\n".join(lines))
    except Exception as error:  # figures are no reason to lose a sweep's exit code
        print(f"the report could not be written: {error}", file=sys.stderr)
    for sentence in await asyncio.to_thread(trackers.flush, 30.0):
        print(sentence, file=sys.stderr)
    if parent is not None:
        status = {0: "FINISHED", 1: "FAILED"}.get(code, "KILLED")
        await parent.end(status, artifacts)


def _again(composer: Composer, options: Settled) -> list[str]:
    """The words of the command that goes on with the study."""
    config = composer.config
    overrides: list[str] = [
        *config.hydra.overrides.task,
        *(o for o in config.hydra.overrides.hydra if not o.startswith("hydra.mode=")),
    ]
    named = [o for o in overrides if not o.startswith("hydra.sweeper.study_name=")]
    named.append(f"hydra.sweeper.study_name={options.study_name}")
    return [*composer.options, *(mask_urls(word) for word in named)]

"""From a `--multirun` command line to a sweep that runs: everything is checked before it begins."""

import asyncio
import gc
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import optuna
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sft import tracking
from sft.command import lost_terminal
from sft.command.signals import Signals
from sft.config.compose import from_environment
from sft.config.schema import AUTO, Settings
from sft.display.terminal import describe_tracking
from sft.errors import BadInput
from sft.prior import published
from sft.prior.first_guess import first_guess
from sft.prior.prior import Prior
from sft.prior.setting import PUBLISHED, Setting
from sft.record.metrics import contrary
from sft.secrets import mask_urls
from sft.tracking import trackers
from sweeps import display, preflight, pruners, report, samplers, space
from sweeps.composing import Composer
from sweeps.jobs import run_in_jobs
from sweeps.options import Options, Settled
from sweeps.parent import Parent
from sweeps.samplers.warm_start import RATE, WarmStart, cells
from sweeps.scheduling.asha import Asha
from sweeps.scheduling.base import Scheduler
from sweeps.scheduling.freeze_thaw import FreezeThaw
from sweeps.study import liveness, storage
from sweeps.study.ledger import COUNTED, Ledger
from sweeps.sweeper import Budget, Sweep, closing_words
from sweeps.trial import Common, Shared

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
    settled = options.settle(searched)
    composer = Composer(context, config, searched)
    settings = preflight.check_space(composer)
    settled = settled.of_runs(settings[0])
    settled.check_curves(searched)
    # Optuna tells what it does on its own account; the display does that here.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("tinker").setLevel(logging.WARNING)
    signals = Signals()
    with lost_terminal.survived(), signals.heeded():
        try:
            return asyncio.run(_run(settled, composer, settings, signals))
        except (KeyboardInterrupt, asyncio.CancelledError):  # before the first trial or afterwards
            return signals.exit_code


async def _run(
    options: Settled, composer: Composer, settings: list[Settings], signals: Signals
) -> int:
    base, searched = settings[0], composer.searched
    folder = storage.ROOT / options.study_name
    this = asyncio.current_task()
    assert this is not None
    async with AsyncExitStack() as stack:
        stack.enter_context(signals.told(this.cancel, this.cancel))
        began = await asyncio.to_thread(storage.day_of, options.study_name, options.storage, folder)
        day = began or base.date or date.today().isoformat()
        known = await preflight.preflight(stack, options, composer, settings, day)
        study = _open(options, searched, base, folder, known.facts)
        alive = liveness.make(study, folder, options.storage is None)
        ledger = Ledger(
            study,
            alive,
            searched.distributions,
            options.n_trials,
            _scheduler(options, searched, base, _setting(options, base, known.facts["steps"])),
            known.tokens or 1,
            options.max_tokens,
        )
        stack.callback(ledger.close)
        _enqueue(options, study)
        day = study.user_attrs.get("date") or day  # another process may have begun it by now
        study.set_user_attr("date", day)
        study.set_user_attr("price_per_million_tokens", base.model.price_per_million_tokens)
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        shown = _display(options, finished)
        stack.callback(shown.close)
        variables = from_environment(composer.config)
        for line in _banner(options, searched, base, study, folder, known.tokens, variables):
            shown.message(line)
        for sentence in known.without_effect:
            shown.message(f"  without effect: {sentence}")
        if base.tracking.uri is not None:
            await asyncio.to_thread(_send_what_mlflow_lacks, finished)
        parent = _parent(options, base, shown)
        parent_run_id = None
        if parent is not None:
            parent_run_id = await _start_parent(parent, options, searched, study)
        spent = {
            t.number: t.user_attrs.get("tokens", 0)
            for t in study.get_trials(deepcopy=False)
            if t.state != TrialState.WAITING
        }
        budget = Budget(options.max_tokens, spent, known.tokens)
        common = Common(
            study_name=options.study_name,
            folder=folder,
            metrics=options.metrics,
            repeats=options.repeats,
            base_url=known.base_url,
            parent_run_id=parent_run_id,
            date=day,
            eval_every=known.eval_every,
            command=[mask_urls(o) for o in searched.fixed if not o.startswith("sweep=")],
        )
        shared = Shared(common, ledger, shown, budget.spend)
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
        again = _again(composer.config, options)
        print(closing_words(sweep, time.monotonic() - started, again))
        return code


def _share_the_interpreter() -> None:
    """Let the steps of all trials of this process have Python in time, whatever else it does."""
    # A thread that waits for Python, as those that submit steps do for most of a tick, has it
    # after this long at the latest; by itself Python lets whoever computes go on for 5 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    # A full collection looks at every object, and nothing else runs meanwhile: half a second with
    # the modules that are imported by now, none of which will ever be garbage.
    gc.freeze()


def _open(
    options: Settled,
    searched: space.SearchSpace,
    base: Settings,
    folder: Path,
    facts: dict[str, Any],
) -> optuna.Study:
    """The study, made if there is none. Raises `BadInput`, and leaves no new folder behind then."""
    made = not folder.exists()
    try:
        sampler = samplers.make(options.sampler, searched.distributions, options.seed)
        setting = _setting(options, base, facts["steps"])
        sampler = _warm_start(options, searched, base, setting, sampler)
        study = storage.open_study(
            options.study_name,
            storage.open_storage(options.storage, folder),
            options.directions,
            sampler=sampler,
            pruner=_pruner(options, facts["steps"]),
        )
        storage.remember(study, facts)
    except BadInput:
        if made and folder.exists():
            shutil.rmtree(folder)
        raise
    folder.mkdir(parents=True, exist_ok=True)
    return study


def _setting(options: Settled, base: Settings, steps: int) -> Setting:
    """Length and batch size of the trials; tables of the user's own are of runs like the user's."""
    own = options.prior_file not in (None, published.PACKAGED)
    return PUBLISHED if own else Setting(base.batch_size, steps)


def _pruner(options: Settled, steps: int) -> optuna.pruners.BasePruner:
    return pruners.make(
        options.pruner,
        min_steps=options.pruner_min_steps or 1,
        max_steps=steps,
        reduction=options.pruner_reduction,
    )


def _warm_start(
    options: Settled,
    searched: space.SearchSpace,
    base: Settings,
    setting: Setting,
    sampler: BaseSampler,
) -> BaseSampler:
    """`sampler`, behind what is published if the sweep searches a learning rate."""
    file = options.prior_file
    if file is None or options.sampler == "grid":
        return sampler
    tables, source = published.load(file)
    if RATE not in searched.distributions or options.directions != ["minimize"]:
        return sampler
    if AUTO in getattr(searched.distributions[RATE], "choices", ()):
        raise BadInput(
            f"{RATE}: auto is no value to search beside others; the first trial of a sweep that "
            "starts from published sweeps is the rate that it stands for."
        )
    prior = Prior(tables)
    return WarmStart(sampler, prior, base.model.name, setting, base.lora.rank, options.seed, source)


def _scheduler(
    options: Settled, searched: space.SearchSpace, base: Settings, setting: Setting
) -> Scheduler | None:
    """Who trains next; None: new trials alone."""
    if options.scheduler == "none":
        return None
    if options.scheduler == "asha":
        return Asha()
    file = options.prior_file or published.PACKAGED
    fixed = _rate(base, setting), base.lora.rank
    candidates = cells(searched.distributions, fixed[1], fixed[0])
    prior, model = Prior(published.load(file)[0]), base.model.name
    return FreezeThaw(
        lambda cells, shift: prior.before(cells, model, setting, shift),
        candidates,
        options.seed,
        fixed=fixed,
    )


def _rate(base: Settings, setting: Setting) -> float:
    """The learning rate of trials that do not search it."""
    if base.lr == AUTO:
        return first_guess(base.model.name, base.lora.rank, setting).lr
    return float(base.lr)


def _enqueue(options: Settled, study: optuna.Study) -> None:
    """The user's own trials first, once."""
    if study.trials:
        return
    for values in options.enqueue:
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
    parent: Parent, options: Settled, searched: space.SearchSpace, study: optuna.Study
) -> str | None:
    params = {f"space.{name}": text for name, text in searched.describe().items()}
    chosen = asdict(options)
    for name in ("sampler", "scheduler", "pruner", "n_trials", "repeats", "seed", "warm_start"):
        params[name] = chosen[name]
    params |= {"metric": ", ".join(options.metrics), "direction": ", ".join(options.directions)}
    tags = {"sweep.study": options.study_name, "sweep.parent": "true"}
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
    tokens: int | None,
    variables: dict[str, str],
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
    lines.append(f"  tracking: {describe_tracking(base, variables)}")
    if tokens:
        left = max(0, options.n_trials - there)
        price = base.model.price_per_million_tokens
        cost = "" if price is None else f", cost about {tokens * left * price / 1e6:.2f}"
        lines.append(f"  about {tokens * left:,} tokens{cost}")
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


def _again(config: DictConfig, options: Settled) -> str:
    """The command that goes on with the study."""
    overrides: list[str] = [
        *config.hydra.overrides.task,
        *(o for o in config.hydra.overrides.hydra if not o.startswith("hydra.mode=")),
    ]
    named = [o for o in overrides if not o.startswith("hydra.sweeper.study_name=")]
    named.append(f"hydra.sweeper.study_name={options.study_name}")
    return f"python -m sft --multirun {shlex.join(map(mask_urls, named))}"

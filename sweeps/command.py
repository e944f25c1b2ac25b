"""From a `--multirun` command line to a sweep that runs: everything is checked before it begins."""

import asyncio
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sft.command import lost_terminal
from sft.command.signals import Signals
from sft.config.compose import from_environment
from sft.config.schema import Settings
from sft.display.terminal import describe_tracking
from sft.errors import BadInput
from sft.secrets import mask_urls
from sweeps import display, preflight, pruners, samplers, space
from sweeps.options import Options
from sweeps.parent import Parent
from sweeps.prior import published
from sweeps.prior.response import Prior
from sweeps.prior.warm_start import RATE, WarmStart
from sweeps.study import liveness, storage
from sweeps.study.ledger import COUNTED, Ledger
from sweeps.sweeper import Budget, Sweep, closing_words
from sweeps.trial import Shared

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def run(plugin: Any, arguments: list[str]) -> int:
    """What `SftSweeper.sweep` does; returns the exit code. Raises BadInput."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(plugin.config.hydra.sweeper, resolve=True)
    options = Options.read({k: v for k, v in raw.items() if k != "_target_"})
    loader = plugin.hydra_context.config_loader
    searched = space.parse(arguments, options.params, loader)
    options.settle(searched)
    compose = preflight.composer(loader, plugin.config, searched)
    settings = preflight.check_space(searched, compose)
    if options.study_name is None:
        options.study_name = default_name(searched)
    # Optuna tells what it does on its own account; the display does that here.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("tinker").setLevel(logging.WARNING)
    signals = Signals()
    with lost_terminal.survived(), signals.heeded():
        try:
            return asyncio.run(_run(plugin, options, searched, compose, settings, signals))
        except (KeyboardInterrupt, asyncio.CancelledError):  # before the first trial or afterwards
            return signals.exit_code


def default_name(searched: space.SearchSpace) -> str:
    """When and what: 2026-11-24_09-10-31-lr_rank."""
    chosen = next((o.partition("=")[2] for o in searched.fixed if o.startswith("sweep=")), None)
    what = chosen or "-".join(n.rpartition(".")[2] for n in searched.distributions) or "repeats"
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{what}"[:80]


async def _run(
    plugin: Any,
    options: Options,
    searched: space.SearchSpace,
    compose: preflight.Compose,
    settings: list[Settings],
    signals: Signals,
) -> int:
    base = settings[0]
    folder = storage.ROOT / options.study_name
    this = asyncio.current_task()
    assert this is not None
    async with AsyncExitStack() as stack:
        stack.enter_context(signals.told(this.cancel, this.cancel))
        base_url = await preflight.service_url(stack, searched, compose, base)
        known = await preflight.preflight(options, searched, settings, base_url)
        study = _open(options, searched, base, folder, known.facts)
        alive = liveness.make(study, folder, options.storage is None)
        ledger = Ledger(study, alive, searched.distributions, options.n_trials)
        stack.callback(ledger.close)
        _enqueue(options, study)
        study.set_user_attr("price_per_million_tokens", base.model.price_per_million_tokens)
        trials = study.get_trials(deepcopy=False)
        finished = [t for t in trials if t.state.is_finished()]
        shown = display.make(
            options.metrics[0], options.directions[0] == "minimize", options.n_trials,
            len(finished),
        )  # fmt: skip
        stack.callback(shown.close)
        for trial in finished:
            if trial.state == TrialState.COMPLETE:
                shown.recall(trial.number, trial.params, trial.values[0])
        variables = from_environment(plugin.config)
        for line in _banner(options, searched, base, study, folder, known.tokens, variables):
            shown.message(line)
        for sentence in known.without_effect:
            shown.message(f"  without effect: {sentence}")
        if base.tracking.uri is not None:
            await asyncio.to_thread(_send_what_mlflow_lacks, finished)
        parent = _parent(options, base, shown)
        shared = Shared(
            options.study_name, folder, ledger, shown, options.metrics, options.repeats, base_url,
            command=[mask_urls(o) for o in searched.fixed if not o.startswith("sweep=")],
        )  # fmt: skip
        if parent is not None:
            shared.parent_run_id = await _start_parent(parent, options, searched, study)
        spent = sum(t.user_attrs.get("tokens", 0) for t in finished)
        budget = Budget(options.max_tokens, spent, known.tokens)
        sweep = Sweep(options, shared, compose, budget, signals, parent)
        started = time.monotonic()
        if plugin.config.hydra.launcher._target_ == BASIC_LAUNCHER:
            code = await sweep.run()
        else:
            from sweeps.jobs import run_in_jobs

            code = await run_in_jobs(sweep, plugin, searched)
        shown.close()
        stack.enter_context(signals.told(lambda name: None, this.cancel))  # it ends already
        await _finish(sweep, code, parent, folder)
        print(closing_words(sweep, time.monotonic() - started, _again(plugin, options)))
        return code


def _open(
    options: Options, searched: space.SearchSpace, base: Settings, folder: Path, facts: dict
) -> optuna.Study:
    made = not folder.exists()
    try:
        sampler = samplers.make(options.sampler, searched.distributions, options.seed)
        sampler = _warm_start(options, searched, base, sampler)
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


def _pruner(options: Options, steps: int) -> optuna.pruners.BasePruner:
    return pruners.make(
        options.pruner,
        min_steps=options.pruner_min_steps or 1,
        max_steps=steps,
        reduction=options.pruner_reduction,
    )


def _warm_start(options: Options, searched: space.SearchSpace, base: Settings, sampler: Any) -> Any:
    """`sampler`, behind what is published, where the sweep searches a learning rate."""
    file = options.prior_file
    if file is None or options.sampler == "grid":
        return sampler
    tables, source = published.load(file)
    if RATE not in searched.distributions or options.directions != ["minimize"]:
        return sampler
    parameters = published.parameters_of(base.model.name)
    return WarmStart(sampler, Prior(tables), parameters, base.lora.rank, options.seed, source)


def _enqueue(options: Options, study: optuna.Study) -> None:
    """The user's own trials first, once."""
    if study.trials:
        return
    for values in options.enqueue or []:
        study.enqueue_trial(dict(values))


def _parent(options: Options, base: Settings, shown: display.Display) -> Parent | None:
    if base.tracking.uri is None:
        return None
    return Parent(base.tracking.uri, base.tracking.experiment, options.study_name, shown.message)


def _send_what_mlflow_lacks(finished: Sequence[FrozenTrial]) -> None:
    """Of trials that ended just before an earlier process was killed."""
    from sft import tracking

    for trial in finished:
        for directory in map(Path, trial.user_attrs.get("directories", [])):
            if directory.is_dir():
                tracking.sync(directory)


async def _start_parent(
    parent: Parent, options: Options, searched: space.SearchSpace, study: optuna.Study
) -> str | None:
    params = {f"space.{name}": text for name, text in searched.describe().items()}
    chosen = asdict(options)
    for name in ("sampler", "pruner", "n_trials", "repeats", "seed", "warm_start"):
        params[name] = chosen[name]
    params |= {"metric": ", ".join(options.metrics), "direction": ", ".join(options.directions)}
    tags = {"sweep.study": options.study_name, "sweep.parent": "true"}
    known = study.user_attrs.get("mlflow_run_id")
    run_id = await parent.start(known, params, tags)
    if run_id is not None and run_id != known:
        study.set_user_attr("mlflow_run_id", run_id)
    return run_id


def _banner(
    options: Options,
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
    lines.append(
        f"  {options.n_trials} trials{repeats}, {options.n_jobs} at a time; sampler "
        f"{options.sampler}, pruner {options.pruner}; {base.model.name}"
    )
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
    from sft import tracking
    from sweeps import report

    study = sweep.shared.ledger.study
    artifacts: list[Path] = []
    try:
        artifacts, lines = await asyncio.to_thread(report.write, study, folder)
        print("\n".join(lines))
    except Exception as error:  # figures are no reason to lose a sweep's exit code
        print(f"the report could not be written: {error}", file=sys.stderr)
    if parent is not None:
        for sentence in await asyncio.to_thread(tracking.flush, 30.0):
            print(sentence, file=sys.stderr)
        status = {0: "FINISHED", 1: "FAILED"}.get(code, "KILLED")
        await parent.end(status, artifacts)


def _again(plugin: Any, options: Options) -> str:
    """The command that goes on with the study."""
    overrides: Sequence[str] = [
        *plugin.config.hydra.overrides.task,
        *(o for o in plugin.config.hydra.overrides.hydra if not o.startswith("hydra.mode=")),
    ]
    named = [o for o in overrides if not o.startswith("hydra.sweeper.study_name=")]
    named.append(f"hydra.sweeper.study_name={options.study_name}")
    return f"python -m sft --multirun {shlex.join(map(mask_urls, named))}"

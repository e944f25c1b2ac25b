"""The study of a sweep, opened or made, and who decides in it: sampler, pruner, scheduler."""

import shutil
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from sft.config.schema import AUTO, Settings
from sft.errors import BadInput
from sft.prior import published
from sft.prior.first_guess import first_guess
from sft.prior.prior import prior_of
from sft.prior.setting import PUBLISHED, Setting
from sft.sweeps import samplers
from sft.sweeps.options import Settled
from sft.sweeps.parameters import RANK, RATE, ends
from sft.sweeps.preflight import NOT_OF_THE_DATA
from sft.sweeps.samplers.warm_start import WarmStart, cells
from sft.sweeps.scheduling import pruners
from sft.sweeps.scheduling.asha import Asha
from sft.sweeps.scheduling.base import Scheduler
from sft.sweeps.scheduling.freeze_thaw import FreezeThaw
from sft.sweeps.space import SearchSpace
from sft.sweeps.study import liveness, storage, wider


def study(
    options: Settled,
    searched: SearchSpace,
    base: Settings,
    folder: Path,
    facts: dict[str, Any],
) -> tuple[optuna.Study, liveness.Liveness]:
    """The study, made if there is none, and this process as one that works on it.

    Raises `BadInput`, and leaves no new folder behind then.
    """
    made = not folder.exists()
    sampler = samplers.make(options.sampler, searched.distributions, options.seed)
    setting = _setting(options, base, facts["steps"])
    sampler = _warm_start(options, searched, base, setting, sampler)

    def opened() -> optuna.Study:
        return storage.open_study(
            options.study_name,
            storage.open_storage(options.storage, folder),
            options.directions,
            sampler=sampler,
            pruner=_pruner(options, facts["steps"]),
        )

    try:
        with storage.opening(options.storage, folder):
            found = opened()
            if options.extend and wider.widen(found, facts, searched.distributions, folder):
                found = opened()
            storage.remember(found, facts)
            folder.mkdir(parents=True, exist_ok=True)
            return found, liveness.make(found, folder, options.storage is None)
    except BadInput:
        if made and folder.exists():
            shutil.rmtree(folder)
        raise


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
    searched: SearchSpace,
    base: Settings,
    setting: Setting,
    sampler: BaseSampler,
) -> BaseSampler:
    """`sampler`, behind what is published if the sweep searches a learning rate."""
    file = options.prior_file
    if file is None or options.sampler == "grid":
        return sampler
    _, source = published.load(file)
    if RATE not in searched.distributions or options.directions != ["minimize"]:
        return sampler
    return WarmStart(
        sampler, prior_of(file), base.model.name, setting, base.lora.rank, options.seed, source
    )


def scheduler(
    options: Settled, searched: SearchSpace, base: Settings, steps: int
) -> Scheduler | None:
    """Who trains next; None: new trials alone. `steps` are those of a trial."""
    if options.scheduler == "none":
        return None
    if options.scheduler == "asha":
        return Asha()
    file = options.prior_file or published.PACKAGED
    setting = _setting(options, base, steps)
    fixed = _rate(base, setting), base.lora.rank
    candidates = cells(searched.distributions, fixed[1], fixed[0])
    prior, model = prior_of(file), base.model.name
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


def describe_rate(base: Settings, searched: SearchSpace, steps: int) -> list[str]:
    """What `lr=auto` is in the trials of a sweep that does not search it; nothing if it is given.

    `steps` are those of a trial.
    """
    varied = searched.distributions
    if base.lr != AUTO or RATE in varied:
        return []
    if not all(name.startswith((RANK, *NOT_OF_THE_DATA)) for name in varied):
        return ["lr=auto: a number of its own for each trial; lr=… compares them at one"]
    ranks = sorted(map(int, ends(varied[RANK]))) if RANK in varied else [base.lora.rank]
    setting = Setting(base.batch_size, steps)
    rates = {rank: first_guess(base.model.name, rank, setting).lr for rank in ranks}
    if len(set(rates.values())) == 1:
        return [f"lr=auto: {rates[ranks[0]]:.3g} in every trial"]
    each = ", ".join(f"{rate:.3g} at rank {rank}" for rank, rate in rates.items())
    return [f"lr=auto: ranks are compared at different rates, {each}; lr=… compares them at one"]

"""A sweep whose trials recorded curves answer: what it trains, and what it would name when."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from benchmarks.recorded_curves import Grid, cell_of
from sft.sweeps.parameters import RANK, RATE
from sft.sweeps.scheduling.base import Limits, Scheduler, Thaw
from sft.sweeps.scheduling.curves import Curve, State, named

NEAR = 1.003
"""What is good enough: a final NLL within 0.3% of the grid's best."""

Make = Callable[[Grid, int], tuple[Scheduler, BaseSampler]]


@dataclass
class Sweep:
    """A replayed sweep: what it has trained, and what its answer was when."""

    grid: Grid
    study: optuna.Study
    curves: list[Curve] = field(default_factory=list)
    trials: list[optuna.Trial] = field(default_factory=list)
    history: list[tuple[float, float, bool]] = field(default_factory=list)
    """Tokens trained, regret of the answer, whether the answer is complete."""

    def start(self, wanted: dict[str, object] | None = None) -> int | None:
        """A new trial, as the sampler draws it; None once every cell was tried."""
        space, tried = self.grid.space, {cell_of(c.parameters) for c in self.curves}
        if tried >= self.grid.curves.keys():
            return None
        if wanted:
            self.study.enqueue_trial(wanted)
        for _ in range(2000):
            trial = self.study.ask(space)
            cell = cell_of(trial.params)
            if cell in self.grid.curves and cell not in tried:
                break
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            left = sorted(self.grid.curves.keys() - tried)
            self.study.enqueue_trial({RATE: left[0][0], RANK: left[0][1]})
            trial = self.study.ask(space)
        self.trials.append(trial)
        whole = self.grid.curves[cell_of(trial.params)]
        number = len(self.curves)
        self.curves.append(Curve(number, dict(trial.params), (), State.RUNNING, whole.whole))
        return number

    def train(self, number: int, rung: float) -> Curve:
        """Until its first evaluation at `rung` or behind it."""
        curve = self.curves[number]
        whole = self.grid.curves[cell_of(curve.parameters)]
        for point in whole.points[len(curve.points) :]:
            curve = replace(curve, points=(*curve.points, point))
            if rung < 1 and point.tokens >= rung * whole.whole - 0.5:
                break
        ended = len(curve.points) == len(whole.points)
        return replace(curve, state=whole.state if ended else State.PAUSED)

    def put(self, curve: Curve) -> None:
        """What a trial has come to; the study hears what Optuna's sampler may know."""
        before = len(self.curves[curve.number].points)
        self.curves[curve.number] = curve
        trial = self.trials[curve.number]
        for point in curve.points[before:]:
            if math.isfinite(point.value):
                trial.report(point.value, point.tokens)
        if curve.state is State.COMPLETE:
            self.study.tell(trial, curve.points[-1].value)
        elif curve.state is State.DIVERGED:
            self.diverge(trial)

    def diverge(self, trial: optuna.Trial) -> None:
        trial.set_user_attr("diverged", True)
        if not self.study._storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(1e3, 0)
        self.study.tell(trial, state=TrialState.PRUNED)

    def note(self, spent: float) -> None:
        answer = named(self.curves)
        complete = answer is not None and answer.state is State.COMPLETE
        self.history.append((spent / self.grid.tokens, self.grid.regret(answer), complete))

    def regret_after(self, share: float) -> float:
        """Regret after a share of the full grid's tokens."""
        known = [regret for spent, regret, _ in self.history if spent <= share + 1e-9]
        return known[-1] if known else self.grid.regret(None)

    @property
    def settled(self) -> bool:
        """The grid's best is complete: the answer stays as it is."""
        return bool(self.history) and self.history[-1][1:] == (0.0, True)

    @property
    def found(self) -> float | None:
        """Share of the tokens at which a complete trial was good enough."""
        near = (s for s, regret, complete in self.history if complete and regret <= NEAR - 1)
        return next(near, None)


def replay_scheduler(grid: Grid, make: Make, seed: int, jobs: int) -> Sweep:
    """A sweep whose trials pause and go on."""
    scheduler, sampler = make(grid, seed)
    sweep = Sweep(grid, optuna.create_study(sampler=sampler))
    limits = Limits(len(grid.curves))
    running: list[tuple[float, int, Curve]] = []  # when it stands again, its number, how
    now, done, since = 0.0, 0.0, {}
    while True:
        while len(running) < jobs:
            choice = scheduler.next(sweep.curves, limits)
            if choice is None:
                break
            if isinstance(choice, Thaw):
                number = choice.number
                assert sweep.curves[number].state is State.PAUSED
                sweep.curves[number] = replace(sweep.curves[number], state=State.RUNNING)
            else:
                number = sweep.start(dict(choice.parameters))
                assert number is not None
            then = sweep.train(number, choice.rung)
            before = sweep.curves[number].points
            cost = then.points[-1].tokens - (before[-1].tokens if before else 0)
            since[number] = now
            heapq.heappush(running, (now + cost, number, then))
        if not running or sweep.settled:
            return sweep
        start = now
        now, number, then = heapq.heappop(running)
        done += (now - start) * (len(running) + 1)
        sweep.put(then)
        sweep.note(done)


def replay_pruner(grid: Grid, sampler: BaseSampler, pruner: BasePruner) -> Sweep:
    """A sweep whose trials go on to their end or are ended for good, one after the other."""
    sweep = Sweep(grid, optuna.create_study(sampler=sampler, pruner=pruner))
    spent = 0
    while not sweep.settled and (number := sweep.start()) is not None:
        trial, curve = sweep.trials[number], sweep.curves[number]
        whole = grid.curves[cell_of(curve.parameters)]
        for step, point in enumerate(whole.points):
            spent += point.tokens - (curve.points[-1].tokens if curve.points else 0)
            curve = replace(curve, points=(*curve.points, point))
            last = step == len(whole.points) - 1
            if last:
                curve = replace(curve, state=whole.state)
            sweep.curves[number] = curve
            sweep.note(spent)
            if not last and step:
                trial.report(point.value, step)
                if trial.should_prune():
                    # Ended for good. A named trial may be one of these: State.PAUSED says so.
                    sweep.curves[number] = replace(curve, state=State.PAUSED)
                    sweep.study.tell(trial, state=TrialState.PRUNED)
                    break
        else:
            if whole.state is State.COMPLETE:
                sweep.study.tell(trial, whole.points[-1].value)
            else:
                sweep.diverge(trial)
    return sweep

"""How much of all its trials' tokens a sweep is expected to take, by who pauses or ends them."""

from collections.abc import Sequence

from sft.sweeps.scheduling.asha import Asha
from sft.sweeps.scheduling.freeze_thaw import RUNGS


def share(scheduler: str, pruner: str, reduction: int, first: float | None, trials: int) -> float:
    """The expected share, of every trial to its end; 1 where nothing can be said beforehand.

    Of successive halving one trial in `reduction` goes on from a rung, and one at least. Freeze and
    thaw takes its first rung of every trial, and at least one trial to its end.

    Args:
        first: the pruner's first rung, a fraction of the schedule.

    >>> round(share("asha", "none", 3, None, 18), 3), share("none", "none", 3, None, 18)
    (0.259, 1.0)
    """
    if scheduler == "asha":
        return _halving(Asha().rungs, 3, trials)
    if scheduler == "freeze_thaw":
        return min(1.0, RUNGS[0] + (1.0 - RUNGS[0]) / trials)
    if pruner == "asha" and first is not None and 0 < first < 1:
        return _halving(Asha(first, reduction).rungs, reduction, trials)
    return 1.0


def _halving(rungs: Sequence[float], reduction: int, trials: int) -> float:
    parts = [until - since for since, until in zip((0.0, *rungs), rungs, strict=False)]
    reach = [max(1, trials // reduction**height) for height in range(len(parts))]
    return sum(part * many for part, many in zip(parts, reach, strict=True)) / trials

"""`lr=auto`: the learning rate to start from, by what is published of models like the run's."""

from dataclasses import dataclass
from typing import Any

from sft.prior.names import family_of, size_of
from sft.prior.setting import PUBLISHED, Setting

DEFAULT = 5e-4
"""The learning rate of a model whose name tells no size: nothing is published of its like."""
HIGHEST = 2e-3
"""No guess is higher: of the published runs nearly all diverge at 3e-3."""
GRID = [10 ** (k / 40) for k in range(-200, -59)]
"""Rates that are compared, 1e-5 to 3e-2, 6% apart: the best may lie above what is guessed."""
SCHEDULE = "linear"
"""Of the published runs."""


@dataclass(frozen=True)
class FirstGuess:
    """A learning rate, and where it comes from."""

    lr: float
    regret: float | None
    """NLL to expect above that of the best rate, as a share; None if nothing is known."""
    source: str

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {"from": "auto", "lr": self.lr, "regret": self.regret, "source": self.source}


def first_guess(model: str, rank: int, setting: Setting, schedule: str = SCHEDULE) -> FirstGuess:
    """The learning rate of least expected regret for `model`, by its name, at a LoRA `rank`.

    Far from the published runs, or with another schedule, it is a guess of unknown regret.
    """
    size, family = size_of(model), family_of(model)
    if size is None:
        return FirstGuess(
            DEFAULT, None, f"the plain default, since the name {model} tells no size of a model"
        )
    from sft.prior.prior import published  # numpy, and scipy for the fit: not for --help

    expected = published().expected([(rate, rank) for rate in GRID], model, setting)
    allowed = sum(rate <= HIGHEST for rate in GRID)
    best = int(expected[:allowed].argmin())
    regret = None
    if schedule != SCHEDULE:
        worth = f"published with schedule={SCHEDULE}, what it is worth with {schedule} is not known"
    elif setting.is_far or best in (0, allowed - 1):
        worth = "so far from them that what it is worth is not known: try others, too"
    else:
        regret = float(expected[best])
        worth = f"expected NLL {100 * regret:.1f}% above the best rate's"
    moved = f", moved from {_words(PUBLISHED)} to {_words(setting)}" * (setting != PUBLISHED)
    return FirstGuess(
        float(f"{GRID[best]:.2g}"),
        regret,
        f"published sweeps (tinker-cookbook, tulu3) for {size}{f', {family}' if family else ''}, "
        f"rank {rank}{moved}; {worth}",
    )


def _words(setting: Setting) -> str:
    return f"{setting.steps} steps of {setting.batch_size}"

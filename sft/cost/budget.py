"""Money that may be spent: by one run, or by all runs of a sweep together."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

ROUNDING = 1e-9
"""USD by which sums of small amounts may be off."""


@dataclass
class Budget:
    """What is spent, and what is held back for requests that were promised their money.

    Runs ask before each step whether it still fits, so that the limit is never passed. Answers are
    paid from the SDK's threads.
    """

    key: str
    """Of the config, as messages call it."""
    limit: float | None
    """USD; None: as much as it takes."""
    spent: float = 0.0
    held: float = 0.0
    refused: bool = False
    """Something was asked for that it does not hold."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left(self) -> float:
        """USD that nobody has spent or been promised; infinite without a limit."""
        return float("inf") if self.limit is None else self.limit - self.spent - self.held

    def hold(self, usd: float) -> bool:
        """Promise `usd`, if they are left."""
        with self._lock:
            if usd > self.left + ROUNDING:
                self.refused = True
                return False
            self.held += usd
            return True

    def release(self, usd: float) -> None:
        """Give back what was promised."""
        with self._lock:
            self.held = max(0.0, self.held - usd)

    def pay(self, usd: float, promised: float = 0.0) -> None:
        """Spend `usd`, of which `promised` were held."""
        with self._lock:
            self.held = max(0.0, self.held - promised)
            self.spent += usd

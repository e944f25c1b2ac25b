"""How often the intervals of `sft.compare` hold the true difference of two runs.

    python benchmarks/intervals.py [--pairs 2000] [--only "rare outliers"]

Pairs of runs are simulated whose true difference is known: held-out NLL as the ratio of nats and
tokens, with sequences of very different lengths and difficulties, and shares of right answers. For
each kind and number of examples it prints how many of 100 intervals hold the truth (95 are meant),
and of pairs without any difference how many are called real (at most 5 are meant). The last kind
shows the limit of intervals that are made of the examples at hand: outliers too rare to be among
them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from sft.past.differences import Difference, Measured  # noqa: E402
from sft.record.examples import Examples  # noqa: E402

Pair = tuple[Examples, Examples]
Draw = Callable[[np.random.Generator, int], Pair]


def nll(shift: float, noise: float) -> tuple[Draw, float]:
    """Sequences of 5 to a few hundred tokens; nats per token differ by `shift` and noise of each.

    Short sequences are harder, so that lengths and difficulties have to do with each other.
    """

    def draw(generator: np.random.Generator, count: int) -> Pair:
        tokens = np.ceil(np.exp(generator.normal(3.6, 0.8, count))) + 4
        hard = generator.gamma(4, 0.4, count) * (1 + 5 / tokens)
        # A change per token that does not depend on the length: the truth is `shift` itself.
        change = shift + noise * generator.standard_t(5, count)
        first, second = hard * tokens, (hard + change) * tokens
        return Examples(first, tokens, ""), Examples(second, tokens, "")

    return draw, shift


def share(right: float, gained: float, lost: float) -> tuple[Draw, float]:
    """Answers: a share is right at first; then some of the wrong are gained, of the right lost."""

    def draw(generator: np.random.Generator, count: int) -> Pair:
        first = generator.random(count) < right
        other = generator.random(count)
        second = np.where(first, other >= lost, other < gained)
        ones = np.ones(count)
        return Examples(first * 1.0, ones, ""), Examples(second * 1.0, ones, "")

    return draw, (1 - right) * gained - right * lost


def rare_outliers(share: float, outlier: float) -> tuple[Draw, float]:
    """A `share` of the sequences gets worse by `outlier` nats per token, the rest a little better:
    there is no difference over all, but sequences without an outlier among them seem to show one.
    """

    def draw(generator: np.random.Generator, count: int) -> Pair:
        tokens = np.ceil(np.exp(generator.normal(3.6, 0.8, count))) + 4
        hard = generator.gamma(4, 0.4, count)
        little = -share / (1 - share) * outlier + 0.01 * generator.standard_normal(count)
        change = np.where(generator.random(count) < share, outlier, little)
        return Examples(hard * tokens, tokens, ""), Examples((hard + change) * tokens, tokens, "")

    return draw, 0.0


CASES: dict[str, tuple[Draw, float]] = {
    "NLL, no difference": nll(0.0, 0.1),
    "NLL, lower by 0.03": nll(-0.03, 0.1),
    "NLL, lower by 0.3": nll(-0.3, 0.3),
    "right answers, no difference": share(0.5, 0.2, 0.2),
    "right answers, 50% to 60%": share(0.5, 0.3, 0.1),
    "right answers, 80% to 90%": share(0.8, 0.7, 0.05),
    "NLL, none, 2% rare outliers": rare_outliers(0.02, 2.0),
}
COUNTS = (24, 48, 100, 400)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=2000, help="simulated pairs of each kind")
    parser.add_argument("--only", default="", help="the kinds whose names hold this text")
    options = parser.parse_args()
    pairs = options.pairs
    print(
        f"of 100 intervals, {pairs:,} pairs each (± {196 * (0.0475 / pairs) ** 0.5:.1f} by chance)"
    )
    print(f"{'':32}{'examples':>10}{'hold the truth':>16}{'called real':>13}")
    for name, (draw, truth) in CASES.items():
        if options.only not in name:
            continue
        for count in COUNTS:
            generator = np.random.default_rng(count)
            held = real = 0
            for _ in range(pairs):
                first, second = draw(generator, count)
                found = Difference.between(Measured("B", [second]), Measured("A", [first]))
                held += found.interval.low <= truth <= found.interval.high
                real += found.is_real
            print(f"{name:32}{count:>10}{100 * held / pairs:>16.1f}{100 * real / pairs:>13.1f}")


if __name__ == "__main__":
    main()

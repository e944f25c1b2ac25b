"""The figures of a study, drawn with matplotlib; each function returns a figure or None."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sft.sweeps.findings.curve_figure import curves
from sft.sweeps.findings.difference_figure import differences
from sft.sweeps.findings.drawing import BLUE, GREY, RED, named, new_figure, shades
from sft.sweeps.findings.importance import Importance
from sft.sweeps.findings.results import Result, Results
from sft.sweeps.parameters import RANK, RATE

STYLES = ("-o", "--s", ":D", "-.^", "-v", "--P")
"""Of the ranks, in their order."""
MARKS = {"pruned": ("o", "none"), "diverged": ("x", RED), "failed": ("x", GREY)}


def by_rate(results: Results) -> Figure | None:
    """Final value against learning rate, a line per rank."""
    trials = [t for t in results.trials if RATE in t.params and (t.values or t.curve)]
    best = results.best()
    if best is None or len({t.params[RATE] for t in trials}) < 2:
        return None
    figure, axes = new_figure(f"{results.metrics[0]} against learning rate")
    ranks = sorted({t.params.get(RANK) for t in trials}, key=lambda r: (r is not None, r))
    colours = shades(ranks)
    top = _limit(axes, results)
    for rank in ranks:
        done = sorted(
            (t.params[RATE], t.values[0]) for t in trials if t.params.get(RANK) == rank and t.values
        )
        label = f"rank {rank}" if rank is not None else "final"
        points = [(rate, min(value, top)) for rate, value in done]
        for rate, value in done:
            if value > top:  # drawn at the top, with what it is
                axes.annotate(f"{value:.4g} ↑", (rate, top), (0, 6), textcoords="offset points",
                              ha="center", fontsize=8)  # fmt: skip
        # Lines, marks and shades differ: each alone tells the ranks apart.
        style = STYLES[ranks.index(rank) % len(STYLES)]
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, color=colours[rank],
                  label=label, markersize=5.5, linewidth=1.6)  # fmt: skip
        for trial in trials:
            if trial.params.get(RANK) == rank and trial.repeats:
                # Side by side, in the order of the ranks: else they would hide one another.
                x = trial.params[RATE] * 1.03 ** (ranks.index(rank) + 1)
                axes.plot([x] * len(trial.repeats), [min(v, top) for v in trial.repeats], ".",
                          color=colours[rank], markersize=4)  # fmt: skip
            if trial.params.get(RANK) == rank and not trial.values:
                _early(axes, trial, colours[rank], top)
    # Behind the mark of its rank, which stays to be seen.
    axes.plot(best.params[RATE], best.values[0], "*", color=RED, markersize=18, zorder=1.5)
    axes.annotate(f"   {best.values[0]:.4f}", (best.params[RATE], best.values[0]), fontsize=9)
    axes.set_xscale("log")
    repeated = any(trial.repeats for trial in trials)
    axes.set_xlabel("peak learning rate" + (" (small dots: the repeats of each mean)" * repeated))
    axes.set_ylabel(named(results.metrics[0]))
    axes.legend(
        handles=[*axes.get_legend_handles_labels()[0], *_legend(trials, results.word)], fontsize=8
    )
    return figure


def _early(axes: Any, trial: Result, colour: Any, top: float) -> None:
    """A trial that ended early, at its last report (at the top if that is far off)."""
    marker, face = MARKS.get(trial.state, ("o", "none"))
    value = list(trial.curve.values())[-1]
    y = top if trial.state == "diverged" or not math.isfinite(value) else min(value, top)
    style = {"color": face} if marker == "x" else {"mfc": face, "mec": colour}
    axes.plot(trial.params[RATE], y, marker, linestyle="", markersize=6, **style)


def _legend(trials: list[Result], word: str) -> list[Line2D]:
    handles = [Line2D([], [], marker="*", color=RED, linestyle="", markersize=11, label=word)]
    if any(t.state == "pruned" for t in trials):
        handles.append(Line2D([], [], marker="o", mfc="none", mec=GREY, linestyle="",
                              label="pruned (last report)"))  # fmt: skip
    if any(t.state == "diverged" for t in trials):
        handles.append(Line2D([], [], marker="x", color=RED, linestyle="", label="diverged"))
    return handles


def _limit(axes: Any, results: Results) -> float:
    """Keep the few worst values from flattening the rest; returns the upper limit."""
    values = sorted(v for t in results.complete for v in t.repeats or t.values[:1])
    low, middle, high = values[0], values[len(values) // 2], values[-1]
    top = min(high, middle + 4 * (middle - low)) if middle > low and results.minimize else high
    margin = 0.08 * ((top - low) or abs(low) or 1.0)
    axes.set_ylim(low - margin, top + 1.5 * margin)
    return top + margin * 0.5


def shares(found: Importance | str | None) -> Figure | None:
    """How much of the variation each parameter explains, and how much chance would."""
    if not isinstance(found, Importance):
        return None
    figure, axes = new_figure(found.title, height=1.9 + 0.45 * len(found.shares))
    names = list(found.shares)[::-1]
    bars = axes.barh(names, [found.shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt=" {:.0%}", fontsize=9)
    if found.noise is not None:
        noise, label = [found.noise[name] for name in names], "what noise between seeds would give"
        axes.plot(noise, names, "|", color=RED, markersize=16, markeredgewidth=1.8, label=label)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.16), frameon=False)
    axes.set_xlim(0, 1.1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(False, axis="y")
    figure.supxlabel(f"{found.caption.rstrip('.')}.", fontsize=8, x=0.02, ha="left")
    return figure


def parallel(results: Results) -> Figure | None:
    """Parallel coordinates: a line for each complete trial, through its parameters to its value."""
    names = [n for n in results.space if len({str(t.params.get(n)) for t in results.complete}) > 1]
    if len(results.complete) < 2 or not names:
        return None
    figure, axes = new_figure("", width=max(6.0, 1.6 + 1.6 * (len(names) + 1)))
    axes.grid(False)
    scales = [_scale([t.params[n] for t in results.complete]) for n in names]
    values = [t.values[0] for t in results.complete]
    scales.append(_scale(values))
    order = sorted(results.complete, key=lambda t: t.values[0], reverse=results.minimize)
    for place, trial in enumerate(order):
        through = [*(trial.params[name] for name in names), trial.values[0]]
        points = [scale.place(value) for scale, value in zip(scales, through, strict=True)]
        is_best = place == len(order) - 1
        shade = colormaps["cividis_r"](0.1 + 0.8 * place / max(1, len(order) - 1))
        axes.plot(range(len(points)), points, color=RED if is_best else shade,
                  linewidth=2.4 if is_best else 1.3)  # fmt: skip
    for i, (name, scale) in enumerate(zip([*names, results.metrics[0]], scales, strict=True)):
        axes.plot([i, i], [-0.03, 1.03], color="#444444", linewidth=0.8)
        for value in scale.ticks:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            # Outside the first and the last axis; between them on white, for lines cross there.
            left = i < len(names)
            axes.annotate(f"{text} " if left else f"  {text}", (i, scale.place(value)),
                          ha="right" if left else "left", va="center", fontsize=8,
                          zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8,
                                          "alpha": 0.85})  # fmt: skip
        axes.annotate(name, (i, 1.06), ha="center", fontsize=9)
    axes.set_xlim(-0.4, len(names) + 0.4)
    axes.set_ylim(-0.05, 1.14)
    axes.axis("off")
    axes.set_title(
        f"Parameters and what came of them ({results.word} in red)", loc="left", fontsize=11
    )
    return figure


@dataclass(frozen=True)
class _Scale:
    """One axis of parallel coordinates."""

    place: Callable[[Any], float]
    """The height of a value, 0 to 1."""
    ticks: list[Any]


def _scale(values: list[Any]) -> _Scale:
    """Numbers by size (on a log scale if they span a decade), others by their order."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        order = sorted({str(value) for value in values})
        last = max(1, len(order) - 1)
        return _Scale(lambda value: order.index(str(value)) / last, list(dict.fromkeys(values)))
    low, high, distinct = min(values), max(values), sorted(set(values))
    number: Callable[[float], float] = math.log if low > 0 and high / low >= 10 else float
    span = number(high) - number(low)

    def place(value: float) -> float:
        return (number(value) - number(low)) / span if span else 0.5

    ticks = [low]
    for value in distinct[1:-1] if len(distinct) <= 6 else []:
        if min(place(value) - place(ticks[-1]), 1 - place(value)) > 0.05:  # else they overlap
            ticks.append(value)
    return _Scale(place, [*ticks, high] if span else ticks)


def savings(results: Results) -> Figure | None:
    """Tokens trained on and, of trials that ended early, tokens spared."""
    saved = results.saved()
    if not sum(saved.values()):
        return None
    trials = [t for t in results.trials if t.tokens]
    total = sum(saved.values())
    share = total / (total + results.tokens)
    what = "Pausing trials" if any(t.pauses for t in trials) else "Ending trials early"
    figure, axes = new_figure(f"{what} spared {total:,} tokens ({share:.0%})")
    numbers = [t.number for t in trials]
    axes.bar(numbers, [t.tokens for t in trials], color=BLUE, label="trained")
    axes.bar(
        numbers, [saved.get(t.number, 0) for t in trials], bottom=[t.tokens for t in trials],
        color="none", edgecolor=GREY, linestyle="--", linewidth=0.8, label="spared",
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel("tokens")
    axes.set_ylim(0, 1.2 * max(t.tokens + saved.get(t.number, 0) for t in trials))
    axes.legend(fontsize=8, ncols=2, loc="upper right")
    return figure


def by_cost(results: Results) -> Figure | None:
    """Final value of each complete trial against what it has cost."""
    trials = [trial for trial in results.complete if trial.usd is not None]
    best = results.best()
    if len(trials) < 2 or best is None:
        return None
    figure, axes = new_figure(f"{results.metrics[0]} against cost")
    axes.plot([t.usd for t in trials], [t.values[0] for t in trials], "o", color=BLUE)
    for trial in trials:
        axes.annotate(f" {trial.number}", (trial.usd, trial.values[0]), fontsize=8)
    if best in trials:
        axes.plot(best.usd, best.values[0], "*", color=RED, markersize=13, zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("USD of the trial, evaluations included")
    axes.set_ylabel(named(results.metrics[0]))
    return figure


def pareto(results: Results) -> Figure | None:
    """The first two metrics of each trial, with the front."""
    if len(results.metrics) < 2 or not results.complete:
        return None
    figure, axes = new_figure("Pareto front")
    axes.plot(*zip(*[t.values[:2] for t in results.complete], strict=True), "o", color=GREY)
    front = sorted(t.values[:2] for t in results.front())
    axes.plot(*zip(*front, strict=True), "-o", color=BLUE, label="front")
    for trial in results.front():
        axes.annotate(f" {trial.number}", trial.values[:2], fontsize=8)
    axes.set_xlabel(named(results.metrics[0]))
    axes.set_ylabel(named(results.metrics[1]))
    axes.legend(fontsize=8)
    return figure


def every(results: Results, found: Importance | str | None) -> dict[str, Figure]:
    """All figures that the study has data for, by file name; `found` is its importance."""
    drawers: dict[str, Callable[[], Figure | None]] = {
        "learning_rate": lambda: by_rate(results),
        "learning_curves": lambda: curves(results),
        "differences": lambda: differences(results),
        "importance": lambda: shares(found),
        "parallel_coordinates": lambda: parallel(results),
        "tokens_saved": lambda: savings(results),
        "cost": lambda: by_cost(results),
        "pareto_front": lambda: pareto(results),
    }
    drawn = {name: draw() for name, draw in drawers.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}

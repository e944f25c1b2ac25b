"""The figure of the learning curves of a study, with the places at which trials paused."""

import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sft.sweeps.findings.drawing import BLACK, GREY, named, new_figure, shades
from sft.sweeps.findings.results import Result, Results
from sft.sweeps.parameters import RATE


def curves(results: Results) -> Figure | None:
    """The first metric of each trial on its way, a line per trial.

    If trials paused, over the fraction of their own schedules, where they were compared; else over
    training steps.
    """
    trials = [t for t in results.trials if len(t.curve) > 1]
    if not trials:
        return None
    paused = any(t.pauses for t in trials)
    figure, axes = new_figure(f"{results.metrics[0]} while training")
    best = results.best()
    rates = sorted({t.params.get(RATE, 0) for t in trials})
    colours = shades(rates)
    for trial in trials:
        is_best = best is not None and trial.number == best.number
        colour = BLACK if is_best else colours[trial.params.get(RATE, 0)]
        scale = 100 / trial.steps_in_all if paused and trial.steps_in_all else 1.0
        xs, ys = [step * scale for step in trial.curve], list(trial.curve.values())
        ends = "-" if trial.state == "complete" or trial.pauses else "--"
        width, height = (2.4, 3) if is_best else (1.1, 2)
        axes.plot(xs, ys, ends, color=colour, linewidth=width, zorder=height)
        for step in trial.pauses:
            if step in trial.curve:
                stays = step == max(trial.curve) and trial.state != "complete"
                axes.plot(step * scale, trial.curve[step], "o", color=colour, markersize=5.5,
                          mfc="white" if stays else colour, zorder=4)  # fmt: skip
        if trial.state == "diverged":
            axes.plot(xs[-1], ys[-1], "x", color=colour, markersize=6, zorder=4)
        if is_best:
            axes.annotate(f" trial {trial.number}", (xs[-1], ys[-1]), fontsize=8, va="center")
    _look_at_the_end(axes, trials, results.minimize)
    axes.legend(handles=_legend(results, trials, rates, colours), fontsize=8)
    if paused:
        axes.set_xlabel("of its own schedule (%)")
        axes.set_xlim(0, 112)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("training step")
    axes.set_ylabel(named(results.metrics[0]))
    return figure


def _legend(
    results: Results, trials: list[Result], rates: list[Any], colours: dict[Any, Any]
) -> list[Line2D]:
    handles = [Line2D([], [], color=colours[r], label=f"lr {r:.2g}") for r in _ends(rates) if r]
    handles.append(Line2D([], [], color=BLACK, linewidth=2.4, label=results.word))
    if any(t.pauses for t in trials):
        style: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 5.5}
        handles.append(Line2D([], [], label="paused, went on", **style))
        handles.append(Line2D([], [], label="paused, went no further", mfc="white", **style))
    if any(t.state != "complete" and not t.pauses for t in trials):
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="ended early"))
    return handles


def _look_at_the_end(axes: Any, trials: list[Result], minimize: bool) -> None:
    """Leave out of sight what would flatten the rest: the untrained model and what is worse."""
    after = [list(t.curve.values())[1:] for t in trials if t.state != "diverged"]
    values = [value for curve in after for value in curve if math.isfinite(value)]
    if values:
        low, high = min(values), max(curve[0] for curve in after if curve)
        start = max(list(trial.curve.values())[0] for trial in trials)
        if minimize and high > start > low:
            high = start
        if high < start <= low + 3 * (high - low):
            high = start
        margin = 0.05 * ((high - low) or abs(low) or 1.0)
        axes.set_ylim(low - margin, high + margin)


def _ends(values: list[Any]) -> list[Any]:
    """First, middle and last of many; a few as they are."""
    if len(values) <= 5:
        return values
    return list(dict.fromkeys([values[0], values[len(values) // 2], values[-1]]))

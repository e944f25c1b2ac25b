"""The figure of a study that shows how sure it is which trial is best."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sft.record.metrics import unit_of
from sft.sweeps.findings.drawing import BLUE, GREY, RED, new_figure
from sft.sweeps.findings.results import Results
from sft.sweeps.parameters import shown

NEAREST = 20
"""Trials whose difference from the best is drawn."""


def differences(results: Results) -> Figure | None:
    """How far each trial is behind the best, with its 95% interval; the nearest twenty."""
    best = results.best()
    against = [] if best is None else list(results.all_against(best).values())
    nearest = sorted((c for c in against if c.interval), key=lambda c: c.behind)[:NEAREST][::-1]
    if best is None or not nearest:
        return None
    figure, axes = new_figure(
        f"Behind trial {best.number} in {results.metrics[0]}", height=1.6 + 0.26 * len(nearest)
    )
    for place, compared in enumerate(nearest):
        interval = compared.interval
        assert interval is not None
        colour = RED if compared.is_worse else BLUE
        mark = "x" if compared.is_worse else "o"
        axes.plot([interval.low, interval.high], [place, place], "-", color=colour, linewidth=1.6)
        axes.plot(compared.behind, place, mark, color=colour, markersize=5)
    axes.axvline(0, color=GREY, linewidth=1)
    labels = [f"{c.trial.number}: {shown(c.trial.trained_with)}" for c in nearest]
    axes.set_yticks(range(len(nearest)), labels, fontsize=8)
    axes.set_xlabel(f"behind, {_unit(results.metrics[0])}95% interval over {nearest[-1].sources}")
    handles = [
        Line2D([], [], marker="o", color=BLUE, label="cannot be told from the best"),
        Line2D([], [], marker="x", color=RED, label="worse"),
    ]
    axes.legend(handles=handles, fontsize=8)
    return figure


def _unit(metric: str) -> str:
    return f"{unit}, " if (unit := unit_of(metric)) else ""

"""What all figures of a study have in common."""

from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from sft.record.metrics import unit_of

BLACK = "#111111"
GREY = "#8a8a8a"
BLUE = "#2a6fbb"
RED = "#c0392b"


def new_figure(title: str, width: float = 6.0, height: float = 3.8) -> tuple[Figure, Any]:
    """Small in inches and dense: its words can be read on a narrow page, too."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=180)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def named(metric: str) -> str:
    """A metric with its unit, for an axis."""
    return f"{metric} ({unit})" if (unit := unit_of(metric)) else metric


def shades(values: list[Any]) -> dict[Any, Any]:
    """Light to dark along an order."""
    colours = colormaps["viridis_r"]  # its order is seen without colours, too
    last = max(1, len(values) - 1)
    return {value: colours(0.15 + 0.8 * i / last) for i, value in enumerate(values)}

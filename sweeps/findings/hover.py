"""A figure of a study that names the values under the pointer: Optuna's slices, drawn by plotly."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

WITHOUT = "With plotly installed (pip install plotly) the values under the pointer are named, too."


def hovering(study: optuna.Study, metric: str) -> str:
    """The metric against each parameter, as HTML that needs nothing else: plotly's script is
    inside, some megabytes. One sentence without plotly; nothing of a study with fewer than two
    complete trials, or of one that varies nothing."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 2 or not any(trial.params for trial in done):
        return ""
    from optuna import visualization

    if not visualization.is_available():
        return f"<p>{WITHOUT}</p>"
    figure = visualization.plot_slice(study, target=_value, target_name=metric)
    trials = {trial.number: trial for trial in done}
    for trace in figure.data:
        # Optuna colours a mark by its trial's number, and names nothing else of the trial.
        trace.text = [_words(trials[number], metric) for number in trace.marker.color]
        trace.hovertemplate = "%{text}<extra></extra>"
        trace.marker.update(colorscale="Cividis", size=9)
    figure.update_layout(title=None, margin={"t": 30})
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return f"<h2>With the values under the pointer</h2>{drawn}"


def _value(trial: FrozenTrial) -> float:
    return trial.values[0]


def _words(trial: FrozenTrial, metric: str) -> str:
    """`"trial 2, lora.rank 8, eval/nll 0.525"`."""
    told: dict[str, Any] = {"trial": trial.number} | trial.params | {metric: _value(trial)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in told.items()
    )

"""Figures of a study that name the values under the pointer: Optuna's own, drawn by plotly."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

WITHOUT = "With plotly installed (pip install plotly) the values under the pointer are named, too."


def hovering(study: optuna.Study, metric: str) -> str:
    """A slice for each parameter and the parallel coordinates, as HTML that needs nothing else:
    plotly's script is inside, some megabytes. One sentence without plotly; nothing of a study
    with fewer than two complete trials."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 2:
        return ""
    from optuna import visualization

    if not visualization.is_available():
        return f"<p>{WITHOUT}</p>"
    drawn = [
        draw(study, target=lambda trial: trial.values[0], target_name=metric)
        for draw in (visualization.plot_slice, visualization.plot_parallel_coordinate)
    ]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(drawn)
    ]
    return "<h2>With the values under the pointer</h2>" + "".join(parts)

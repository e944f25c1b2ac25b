"""How the MLflow UI shows an experiment: as model training, with the columns worth sorting by.

MLflow keeps a shared view of the runs list as a tag of the experiment; a link with its key opens
the list so. The tag's form is that of MLflow 3's own "Share" button.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sft.errors import not_one_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

KEY = "sft"
KIND, VIEW = "mlflow.experimentKind", f"mlflow.sharedViewState.{KEY}"
NAME = "attributes.`Run Name`"
COLUMNS = (
    *(f"params.`{name}`" for name in ("lr", "lora.rank", "batch_size")),
    *(f"metrics.`{name}`" for name in ("eval/nll", "train/nll")),
    "tags.`sft.data`",
    "params.`model.name`",
)
WIDTHS = {
    NAME: 230,
    "params.`lr`": 100,
    "params.`lora.rank`": 85,
    "params.`batch_size`": 90,
    "metrics.`eval/nll`": 95,
    "metrics.`train/nll`": 95,
}
"""Pixels: what comes before the model's name fits a window of 1280 beside MLflow's side bar."""


def dress(client: MlflowClient, experiment: Experiment) -> None:
    """Give `experiment` the view, if it has none yet; its kind is left if it has one."""
    view = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": [NAME, *COLUMNS],
        "columnWidths": WIDTHS,
        "runsPinned": [],
        "runsHidden": [],
        "runsExpanded": {},
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "searchFilter": "",
    }
    tags = {KIND: "custom_model_development", VIEW: json.dumps(view)}
    for key, value in tags.items():
        if not experiment.tags.get(key):
            client.set_experiment_tag(experiment.experiment_id, key, value)


def link(client: MlflowClient, url: str, name: str | None = None) -> str | None:
    """Address of the runs list of an experiment, by default of the one that was last trained in.

    None where no run was logged yet. Raises `BadInput` if no experiment of ours has this `name`.
    """
    ours = {e.name: e.experiment_id for e in client.search_experiments() if VIEW in e.tags}
    if name is not None and name not in ours:
        raise not_one_of("EXPERIMENT", name, ours)
    if not ours:
        return None
    chosen = ours[name] if name else _last_used(client, list(ours.values()))
    return (
        f"{url}/#/experiments/{chosen}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
    )


def _last_used(client: MlflowClient, experiments: list[str]) -> str:
    runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    return runs[0].info.experiment_id if runs else experiments[0]

"""The data of a run as MLflow's dataset inputs, and which of them a metric was measured on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft import evaluators
from sft.config.data_name import data_name
from sft.config.evaluators import named
from sft.data.import_path import import_path
from sft.tracking import values

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.tracking.tracked_run import TrackedRun

TRAINING, HELD_OUT = "training", "eval"
"""Contexts, as MLflow's own evaluations call them."""
OF_HELD_OUT = re.compile(r"eval/(?:nll|bpb|exact_match)(?:_stderr)?")
"""What is measured on the held-out set. Other evaluators have data of their own."""
MAX_NAME, MAX_SOURCE = 500, 60_000
"""Characters that MLflow takes."""


@dataclass(frozen=True)
class Input:
    """One dataset of a run."""

    context: str
    name: str
    digest: str
    source: Any
    """The keys that name it, as the saved config has them."""
    profile: Mapping[str, Any]
    """What was counted of it; MLflow's UI shows each as a line."""
    metrics: re.Pattern[str] | None = None
    """The names of what is measured on it; None: nothing, or nobody knows what."""

    def measures(self, metric: str) -> bool:
        """Whether `metric` is measured on this data."""
        return self.metrics is not None and self.metrics.fullmatch(metric) is not None


def of_run(run: TrackedRun) -> list[Input]:
    """The datasets of `run` that have a digest: trained on, held out, further sets by name, files
    of evaluators."""
    return [
        Input(context, name[:MAX_NAME], str(digest)[: values.MAX_DIGEST], source, profile, of)
        for context, name, digest, source, profile, of in [*_named(run), *_of_evaluators(run)]
        if digest
    ]


def _named(run: TrackedRun) -> Iterator[tuple[str, str, Any, Any, Any, re.Pattern[str] | None]]:
    facts, dataset = run.facts, run.settings.get("dataset") or {}
    name, split = data_name(dataset), dataset.get("eval_split")
    trained = _of_files(run, ("dataset", "dataset.parts.")) | _counted(facts.get("data"))
    yield TRAINING, name, facts.get("digest"), dataset, trained, None
    held_out = f"{name} ({split or 'held out'})"
    counted = _counted(facts.get("held_out"))
    yield HELD_OUT, held_out, facts.get("held_out_digest"), dataset, counted, OF_HELD_OUT
    inner = (dataset.get("parts") or {}) | (dataset.get("eval_sets") or {})
    for one, digest in sorted((facts.get("eval_set_digests") or {}).items()):
        files = _of_files(run, (f"dataset.parts.{one}", f"dataset.eval_sets.{one}"))
        yield HELD_OUT, one, digest, inner.get(one), files, _of_set(one)


def _of_evaluators(
    run: TrackedRun,
) -> Iterator[tuple[str, str, Any, Any, Any, re.Pattern[str] | None]]:
    """Files that evaluators read. What one of the user's own measures on them, it alone knows."""
    names = {
        import_path(builder): vars(builder).get("name") for builder in evaluators.BUILDERS.values()
    }
    for key, builder, args in named(run.settings):
        name = args.get("name", names.get(builder)) if builder in names else None
        for arg, value in args.items():
            if profile := _of_files(run, (f"{key}.args.{arg}",)):
                of = _of_set(name) if name else None
                source = {"path": value, "evaluator": builder}
                yield HELD_OUT, str(value), profile.get("sha256"), source, profile, of


def _of_set(name: str) -> re.Pattern[str]:
    return re.compile(rf"eval/{re.escape(name)}/.+")


def _counted(statistics: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a dataset counts of itself, as short values; run.json holds its whole report."""
    counted = dict(statistics or {})
    if found := (counted.pop("report", None) or {}).get("found"):
        counted["found"] = found
    return counted


def _of_files(run: TrackedRun, keys: tuple[str, ...]) -> dict[str, Any]:
    """Rows, bytes and digest of the local files that `keys` name; one with a dot at its end
    stands for all that begin so."""
    files: Mapping[str, Any] = run.facts.get("files") or {}
    found = [
        known
        for key, known in files.items()
        if key in keys or any(key.startswith(k) for k in keys if k.endswith("."))
    ]
    if not found:
        return {}
    rows = [known["rows"] for known in found]
    profile = {
        "num_rows": None if None in rows else sum(rows),
        "bytes": sum(known["bytes"] for known in found),
        "sha256": found[0]["sha256"] if len(found) == 1 else None,
    }
    return {name: value for name, value in profile.items() if value is not None}


def send(run: TrackedRun, client: MlflowClient) -> None:
    """Tell MLflow of the run's datasets. Those that it has already change nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    sent = [
        DatasetInput(
            Dataset(
                name=one.name,
                digest=one.digest,
                source_type="local",
                source=json.dumps(one.source, default=str)[:MAX_SOURCE],
                profile=json.dumps(one.profile),
            ),
            [InputTag("mlflow.data.context", one.context)],
        )
        for one in of_run(run)
    ]
    if sent:
        client.log_inputs(run.run_id, sent)

"""The comparison as one HTML page: tables and interactive curves, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from sft.past.comparison import Compared, figures, metrics_of, varying
from sft.past.verdicts import verdicts
from sft.record.metrics import unit_of

MAX_POINTS = 2_000
"""Points of a curve in the page; of longer ones every k-th is kept, and the last."""
LONG = 24
"""Characters beyond which a value may break over lines."""


def page(runs: Sequence[Compared]) -> str:
    """The page's text. Names and values are escaped: they may come from anyone's config."""
    data = {
        "runs": [run.name for run in runs],
        "metrics": [
            {
                "name": metric,
                "unit": unit_of(metric),
                "curves": [_thin(run.series(metric)) for run in runs],
            }
            for metric in metrics_of(runs)
        ],
    }
    template = files("sft.display").joinpath("comparison_page.html").read_text(encoding="utf-8")
    # "<" cannot end the script early, nor begin a comment in it.
    encoded = json.dumps(data).replace("<", "\\u003c").replace("\u2028", "").replace("\u2029", "")
    title = f"Comparison of {len(runs)} runs"
    parts = {
        "TITLE": html.escape(title),
        "SETTINGS": _table(runs, varying(runs), "All settings are the same."),
        "VERDICTS": _verdicts(runs),
        "FIGURES": _table(runs, figures(runs), "All figures are the same."),
        "DATA": encoded,
    }
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1]], template)


def _verdicts(runs: Sequence[Compared]) -> str:
    """Which is better and how sure that is, a paragraph for each two."""
    lines = verdicts(runs, [run.name for run in runs])
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"<h2>Which is better</h2>\n{said}\n" if said else ""


def _thin(points: list[tuple[int, float]]) -> list[list[Any]]:
    """At most about `MAX_POINTS` of `points`; values that are not finite are gaps (None)."""
    every = max(1, math.ceil(len(points) / MAX_POINTS))
    kept = points[::every]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return [[x, y if math.isfinite(y) else None] for x, y in kept]


def _table(runs: Sequence[Compared], rows: dict[str, list[str]], otherwise: str) -> str:
    """One line a run, with the colour of its curve; columns are what differs."""
    if not rows:
        return f"<p>{otherwise}</p>"
    keys = [html.escape(key) for key in rows]
    head = "".join(f"<th>{key}</th>" for key in keys)
    body = ""
    for index, run in enumerate(runs):
        mark = f'<svg class="mark" data-run="{index}" viewBox="0 0 28 10"></svg>'
        body += f"<tr><th>{mark} {html.escape(run.name)}</th>"
        for key, values in zip(keys, rows.values(), strict=True):
            kind = ' class="long"' if len(values[index]) > LONG else ""
            body += f'<td data-key="{key}"{kind}>{html.escape(values[index])}</td>'
        body += "</tr>"
    return f"<table><thead><tr><th>run</th>{head}</tr></thead><tbody>{body}</tbody></table>"

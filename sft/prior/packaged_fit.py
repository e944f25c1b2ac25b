"""The fit to the packaged tables, in a file beside them: to make it takes seconds and scipy.

`python -m sft.prior.packaged_fit` makes it anew, which is due when tables or fit have changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sft.prior.fitting import Fitted, Line, features, fit
from sft.prior.names import family_of
from sft.prior.published import load
from sft.prior.surface import Shape

FILE = Path(__file__).with_name("packaged_fit.json")


def read(file: Path = FILE) -> Fitted:
    """The fit that `write` wrote."""
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    models = document["models"]
    sizes = np.stack([features(model) for model in models])
    families = tuple(family_of(model) for model in models)
    lines = tuple(
        Line(
            which, sizes, families, line["of_family"], line["of_model"],
            np.array(line["numbers"]), np.array(line["variances"]),
        )
        for which, line in enumerate(document["lines"])
    )  # fmt: skip
    numbers = np.array(document["numbers"])
    return Fitted(Shape(**document["shape"]), lines, document["noise"], numbers)


def write(file: Path = FILE) -> None:
    """Fit the packaged tables, and keep what came out."""
    tables, _ = load()
    fitted = fit(tables)
    lines = [
        {
            "of_family": line.of_family,
            "of_model": line.of_model,
            "numbers": line.numbers.tolist(),
            "variances": line.variances.tolist(),
        }
        for line in fitted.lines
    ]
    document = {
        "models": [table.model for table in tables],
        "shape": asdict(fitted.shape),
        "noise": fitted.noise,
        "numbers": fitted.numbers.tolist(),
        "lines": lines,
    }
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()

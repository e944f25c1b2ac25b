"""Published learning-rate x rank sweeps of LoRA fine-tuning, as tables.

The tables carried in the package come from the tinker-cookbook (Apache-2.0),
`recipes/chat_sl/results/sft_sweep.md`: tulu3, batch size 128, 780 steps, linear decay.
Another file of the same form can take their place (`hydra.sweeper.warm_start=FILE`):

    {"source": "...", "models": {"NAME": {
        "runs": [{"lr": 3e-4, "rank": 16, "test_nll": 0.53}, ...],
        "diverged": {"lr": [3e-3], "rank": [1, 4]}}}}
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from sft.errors import BadInput

PACKAGED = Path(__file__).with_name("published_lora_sweeps.json")

Cell = tuple[float, int]
"""A learning rate and a LoRA rank."""


@dataclass(frozen=True)
class Table:
    """One model's final test NLL by cell: nats per token, inf if training diverged."""

    model: str
    nll: dict[Cell, float]

    @property
    def best(self) -> float:
        """The lowest NLL, nats per token."""
        return min(self.nll.values())


def load(
    path: Path = PACKAGED, named: str = "hydra.sweeper.warm_start="
) -> tuple[list[Table], str]:
    """The tables of a file and the source that it names; `named` is what the user names it by.

    Repeated runs of one cell count with their mean; a model of which no run trained tells nothing,
    and is left out. Raises `BadInput` if the file is not of the
    form above.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        tables = [_table(name, model) for name, model in document["models"].items()]
    except FileNotFoundError as error:
        raise BadInput(
            f"{named}{path}: no such file; give a JSON file of published sweeps, or leave it out."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"{named}{path}: not a file of published sweeps ({error!r}); "
            'expected {"models": {NAME: {"runs": [{"lr": …, "rank": …, "test_nll": …}]}}}.'
        ) from error
    trained = [table for table in tables if min(table.nll.values(), default=math.inf) < math.inf]
    if not trained:
        raise BadInput(f"{named}{path}: the file holds no runs.")
    return trained, document.get("source", str(path))


def _table(name: str, model: dict) -> Table:
    runs = defaultdict(list)
    for run in model["runs"]:
        runs[float(run["lr"]), int(run["rank"])].append(float(run["test_nll"]))
    nll = {cell: sum(values) / len(values) for cell, values in runs.items()}
    # Learning rates and ranks of diverged runs are two lists, so a pair of them may never have been
    # run. Only a rate that no rank survived is taken to diverge everywhere.
    survived = {lr for lr, _ in nll}
    diverged = model.get("diverged") or {}
    for lr in diverged.get("lr", []):
        if lr not in survived:
            nll.update({(float(lr), int(rank)): math.inf for rank in diverged["rank"]})
    return Table(name, nll)

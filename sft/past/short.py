"""Runs on this machine by a short word: `last`, or the beginning of a name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sft.errors import BadInput
from sft.past.listing import FOLDER, TIME, find_runs
from sft.record.rundir import read_facts

LAST = "last"
NAMED = 5
"""So many runs are named where a beginning fits several."""


def by_short_word(word: str) -> Path | None:
    """The directory of the run that began last, or of the one whose name begins with `word`.

    A run's name is that of its directory (`TIME-NAME`) or what comes behind the time in it; of a
    word with a `/` it is its path, with `outputs/` or without. None if there is none. Raises
    `BadInput` if several begin so.
    """
    if word == LAST:
        return max(find_runs([FOLDER]), key=_started, default=None)
    if not word:
        return None
    runs = find_runs([FOLDER])
    if "/" in word:
        names = {path: (str(path), str(path.relative_to(FOLDER))) for path in runs}
    else:
        names = {path: (path.name, TIME.sub("", path.name)) for path in runs}
    exact = [path for path, of_it in names.items() if word in of_it]
    found = exact or [p for p, of_it in names.items() if any(n.startswith(word) for n in of_it)]
    if len(found) > 1:
        newest = sorted(found, key=_started, reverse=True)
        shown = "".join(f"\n  {path}" for path in newest[:NAMED])
        more = f"\n  and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise BadInput(f"{word}: {len(found)} runs begin so; name one by its path:{shown}{more}")
    return found[0] if found else None


def short_words() -> list[str]:
    """Words for the runs on this machine: `last`, and of each its name, unless it is a trial."""
    runs = [path for path in find_runs([FOLDER]) if TIME.match(path.name)]
    names = Counter(TIME.sub("", path.name) for path in runs)
    short = [name if names[name := TIME.sub("", p.name)] == 1 else p.name for p in runs]
    return [LAST, *short] if runs else []


def _started(directory: Path) -> float:
    return read_facts(directory).get("started") or 0.0

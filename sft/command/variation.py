"""A run that is made from an earlier one: its config, its name, and the link between the two."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.command.naming import default_name, in_short
from sft.config.checking import dotted_values, schema_of, unknown_key
from sft.config.compose import holds_own_keys, parsed
from sft.config.saved import NOT_SAVED
from sft.config.secrets import fill
from sft.errors import BadInput
from sft.files import replace_durably
from sft.past.find import Found, find
from sft.record.rundir import read_facts
from sft.secrets import mask_urls
from sft.tracking.store import open_client

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.past.then_and_now import Verdict

BACK = {
    "sft.reproduces": "sft.reproduced_by",
    "sft.variation_of": "sft.varied_by",
    "sft.fork_of": "sft.forked_by",
}
"""Tags of a run that was made from another one, and those of that one, which name it back: all
that were made from it, with a comma between them."""

logger = logging.getLogger(__name__)


def vary(saved: dict[str, Any], override: str) -> dict[str, Any]:
    """`saved` with one `KEY=VALUE` applied. Raises `BadInput`.

    `schedule=cosine` and `optimizer=dimuon` change the kind; other groups have to be named by
    their keys, for nothing is composed here. Values are written as on the command line of a run;
    a mapping adds to the one that is there.
    """
    said = parsed(override) if "=" in override else None
    if said is None or said.is_delete() or said.is_sweep_override():
        raise BadInput(f"'{override}': expected KEY=VALUE with one value, such as lr=3e-4")
    key, value = said.key_or_group, said.value()
    saved = copy.deepcopy(saved)
    *groups, name = key.split(".")
    own = holds_own_keys(key)
    target: Any = saved
    for group in groups:
        if own and isinstance(target, dict):
            target.setdefault(group, {})
        target = target.get(group) if isinstance(target, dict) else None
    if not isinstance(target, dict) or (name not in target and not own and key not in NOT_SAVED):
        known = list(target) if isinstance(target, dict) else list(saved)
        raise unknown_key(key, [".".join([*groups, k]) for k in known if k != "version"])
    there = target.get(name)
    if isinstance(there, dict) and "kind" in there and isinstance(value, str):
        takes = {item.name for item in fields(schema_of(name, value))} if name == "schedule" else {}
        value = {key: kept for key, kept in there.items() if key in takes} | {"kind": value}
    elif isinstance(there, dict) and isinstance(value, dict):
        value = there | value
    elif isinstance(there, dict) and not own:
        raise BadInput(f"{key}: is a group; nothing is composed here, name its keys ({key}.…=…)")
    target[name] = value
    return saved


def named(word: str, original: Settings, settings: Settings, overrides: Sequence[str]) -> str:
    """The name of a run made from `original`, which `word` names: it becomes a folder's, and may
    come from elsewhere.

    A variation of a run that was named after its values is named after its own; to a name that
    the user gave, what varies is added, in place of what it says of the same keys.
    """
    given = original.run_name
    values, old = dict(dotted_values(settings)), dict(dotted_values(original))
    unnamed = ("run_name", "checkpoint.load")  # its step says as much
    changed = [key for key in old if key not in unnamed and values.get(key, old[key]) != old[key]]
    if settings.run_name != given:
        name = settings.run_name or default_name(settings)
    elif overrides and given == default_name(replace(original, run_name=None)):
        name = default_name(settings)
    elif overrides:
        stem = (given or word)[:80]
        for key in changed:
            stem = re.sub(rf"(?:^|-){re.escape(in_short(key, old[key]))}(?=-|$)", "", stem)
        stem = stem.strip("-") or "run"
        name = "-".join([stem, *(in_short(key, values[key]) for key in changed)])
        name = name if changed else f"{stem}-variation"
    else:
        name = f"{given or word}-again"
    return re.sub(r"[^\w.=+-]+", "_", name).strip(".")[:120] or "run"


def link(
    found: Found, directory: Path, tags: Mapping[str, str], verdict: Verdict | None = None
) -> None:
    """Say in run.json what `tags` say in MLflow since the start; tag both runs with the end."""
    ending = {"sft.verdict": str(verdict)} if verdict else {}
    facts = {key.removeprefix("sft."): value for key, value in [*tags.items(), *ending.items()]}
    facts = read_facts(directory) | facts
    replace_durably(directory / "run.json", json.dumps(facts, indent=2) + "\n")
    new = find(str(directory))
    back = next(back for tag, back in BACK.items() if tag in tags)
    for run, added in ((new, {}), (found, {back: new.name})):
        if run.run_id and run.uri:
            _tag(run.uri, run.run_id, ending, added)


def _tag(uri: str, run_id: str, tags: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Set `tags`, and add to those of the names in `added`, whatever they say so far."""
    try:
        client = open_client(fill(uri, "tracking.uri"))
        so_far = client.get_run(run_id).data.tags
        longer = {k: f"{so_far[k]}, {v}" if k in so_far else v for k, v in added.items()}
        for key, value in {**tags, **longer}.items():
            client.set_tag(run_id, key, value)
    except Exception as error:  # MLflow is a view: the run itself is whole
        logger.warning("the MLflow run %s could not be tagged: %s", run_id, mask_urls(str(error)))

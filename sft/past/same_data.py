"""Whether a run's data is as it was: looked at before its reproduction trains, and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sft.config.evaluators import of_settings
from sft.config.saved import common_config, dataset_builder
from sft.data.mixing.held_out import Data, built
from sft.hooks import of_ones_own
from sft.past.then_and_now import Seen
from sft.record import fingerprints
from sft.run.batches import first_batches, steps_in_total

if TYPE_CHECKING:
    import tinker

    from sft.config.schema import Settings
    from sft.types import SupervisedDataset


def look(
    settings: Settings, then: Mapping[str, Any], batches: Mapping[int, str]
) -> tuple[Seen, dict[str, str]]:
    """What can be said before training of the data that `settings` name; and its builders' code.

    `then` holds the facts of an earlier run and `batches` the digests of what its steps trained
    on; without them, only what the datasets say of themselves is compared. The data is built for
    this alone. Raises `BadInput`.
    """
    builder = dataset_builder(settings)
    found = built(builder)
    data, held_out = found.train, found.held_out
    seen = Seen()
    _training(seen, settings, data, then, batches)
    _held_out(seen, held_out, then, whole=bool(batches))
    _eval_sets(seen, found, then)
    evaluators = of_settings(settings, common_config(settings)).values()
    own = [own for builders in evaluators for own in builders]
    code = fingerprints.code_of(builder, *own, *of_ones_own(settings.hooks))
    return seen, code


def trained(then: Mapping[int, str], now: Mapping[int, str]) -> str | None:
    """After both runs: whether they trained on the same, in a sentence; None: nobody knows."""
    common = sorted(then.keys() & now.keys())
    if not common:
        return None
    for step in common:
        if then[step] != now[step]:
            return f"the data was another one from step {step} on"
    return f"all {len(common)} steps trained on the same data"


def _training(
    seen: Seen,
    settings: Settings,
    data: SupervisedDataset,
    then: Mapping[str, Any],
    batches: Mapping[int, str],
) -> None:
    was, now = then.get("digest"), getattr(data, "digest", None)
    if was and was != now:
        seen.different.append(f"data digest: {was} then, {now} now")
        return
    parts = ["digest"] if was else []
    if batches:
        steps = steps_in_total(data, settings.epochs, settings.max_steps)
        first = first_batches(data, settings.seed, steps)
        for step, digest in enumerate(first):
            if batches.get(step, digest) != digest:
                note = ", though the conversations are not: they became other tokens" if was else ""
                seen.different.append(f"the batch of step {step} is not as it was{note}")
                return
        parts.append(f"the batches of the first {len(first)} steps")
        if len(first) < len(batches):
            seen.unseen.append(f"the batches from step {len(first)} on, until they are trained")
    elif was:
        seen.unseen.append("the tokens of the data: that run recorded no digest of its batches")
    if parts:
        seen.same.append(f"data ({' and '.join(parts)})")
    else:
        seen.unseen.append("the data: that run recorded no digest of it")


def _held_out(
    seen: Seen, held_out: SupervisedDataset | None, then: Mapping[str, Any], whole: bool
) -> None:
    there = held_out is not None
    if then.get("has_held_out", there) is not there:
        seen.different.append(f"held-out data: {'none then' if there else 'none now'}")
    if held_out is None:
        return
    digests = {then.get("held_out_digest"): getattr(held_out, "digest", None)}
    if whole and then.get("held_out_sequences"):
        digests[then["held_out_sequences"]] = fingerprints.sequences(_every(held_out))
    digests.pop(None, None)
    if not digests:
        seen.unseen.append("the held-out data: that run recorded no digest of it")
    for was, now in digests.items():
        if was != now:
            seen.different.append(f"held-out data digest: {was} then, {now} now")
            return
    if digests:
        seen.same.append("held-out data")


def _eval_sets(seen: Seen, data: Data, then: Mapping[str, Any]) -> None:
    """Compare the held-out sets that have a name of their own."""
    was, now = then.get("eval_set_digests") or {}, data.named_digests()
    read = then.get("eval_set_sequences") or {}
    for name in sorted(was.keys() | now.keys()):
        what = f"held-out set {name}"
        if name not in was or name not in now:
            seen.different.append(f"{what}: {'none then' if name in now else 'none now'}")
            continue
        before, after = was[name], now[name]
        if before is None and name not in data.eval_sets:
            continue  # compared as a part of the held-out data
        if before is None and name in read:
            before, after = read[name], fingerprints.sequences(_every(data.eval_sets[name]))
        if before is None:
            seen.unseen.append(f"{what}: that run recorded no digest of it")
        elif before != after:
            seen.different.append(f"{what}: digest {before} then, {after} now")
        else:
            seen.same.append(what)


def _every(dataset: SupervisedDataset) -> list[tinker.Datum]:
    return [datum for index in range(len(dataset)) for datum in dataset.get_batch(index)]

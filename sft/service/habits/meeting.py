"""Before a run or a sweep trains on another server: what it needs is asked for, once each."""

from __future__ import annotations

from dataclasses import dataclass

from sft.errors import BadInput
from sft.secrets import mask_urls
from sft.service.habits import questions
from sft.service.habits.server import Running
from sft.service.habits.trial import Adapter, Asking, Session, session
from sft.service.habits.upstream import AWAY, Refused


@dataclass(frozen=True)
class Needs:
    """Of the runs that are to train there."""

    model: str
    ranks: tuple[int, ...]
    """LoRA ranks: a run's, or both ends of a sweep's."""
    settings: tuple[str, ...]
    """Keys that ask for something which a server may ignore or lack."""


NOT_THERE = {
    "checkpoint.keep": ("deleting checkpoints", "the server deletes none"),
    "checkpoint.ttl_seconds": ("save_weights without ttl_seconds", "they stay on the server"),
}
"""Settings that need what a server may lack: the repair that shows it, and what follows."""


def meet(running: Running, needs: Needs) -> None:
    """Ask the server behind the proxy what `needs` depends on and was not asked before.

    Raises `BadInput` if no run can train there as it is to be.
    """
    with running.asking:
        asking = Asking(running)
        try:
            _meet(running, asking, needs)
        finally:
            asking.close()


def _meet(running: Running, asking: Asking, needs: Needs) -> None:
    where = f"the service at {mask_urls(running.habits.url)}"
    if "wire" not in running.asked:
        reached = asking.get("healthz")
        if reached.status == AWAY:
            raise _not_asked(where, AWAY, reached.detail)
        try:
            questions.speaks(asking)
        except questions.OlderWire as error:
            raise BadInput(
                f"service.base_url: {where} does not fit: {error}. Use a newer version"
            ) from error
        running.asked.add("wire")
    answer = asking.get("get_server_capabilities")
    if answer.status in (401, 403, AWAY):
        raise _not_asked(where, answer.status, answer.detail)
    models = answer.value.get("supported_models") if isinstance(answer.value, dict) else None
    names = [model.get("model_name") for model in models or () if isinstance(model, dict)]
    if needs.model not in names:
        return  # a wrong key or model, for which `Service.check` has the words
    new = [rank for rank in needs.ranks if (needs.model, rank) not in running.asked]
    settings = [
        key
        for key in needs.settings
        if key in questions.SETTINGS and (needs.model, key) not in running.asked
    ]
    if new or settings:
        try:
            with session(asking, needs.model) as opened:
                for rank in new:
                    _try_rank(running, opened, rank, where)
                if settings:
                    _try_settings(running, opened, min(needs.ranks), settings)
        except Refused as error:
            raise _not_asked(where, error.status, str(error)) from error
    for key in needs.settings:
        if key in NOT_THERE and NOT_THERE[key][0] in running.habits.repairs:
            running.habits.ignored[key] = NOT_THERE[key][1]


def _not_asked(where: str, status: int, detail: str) -> BadInput:
    """Why the server was not asked to the end."""
    if status in (401, 403):
        return BadInput(f"{where} refused the key: {detail}; check TINKER_API_KEY")
    if status == AWAY:
        return BadInput(
            f"service: {mask_urls(detail)}; check the URL and the network, or train on this "
            "machine with service=local"
        )
    return BadInput(f"service: {where} does not train a few tokens: {detail}")


def _try_rank(running: Running, opened: Session, rank: int, where: str) -> None:
    try:
        adapter = opened.adapter(rank)
    except Refused as error:
        raise BadInput(
            f"lora.rank: {where} makes no adapter of rank {rank} for '{opened.base_model}': {error}"
        ) from error
    if ("sampling", opened.base_model) not in running.asked:
        look_at(running, adapter)
        running.asked.add(("sampling", opened.base_model))
    elif running.habits.can_unload:
        adapter.unload()
    running.asked.add((opened.base_model, rank))


def look_at(running: Running, adapter: Adapter) -> float | None:
    """Find out how the server samples, repeats and unloads; the mean difference of its sampler's
    log-probabilities. The adapter is trained and unloaded. Raises `Refused` if it cannot be."""
    habits, difference = running.habits, None
    adapter.train()
    try:
        habits.samples_apart, difference = questions.of_sampling(adapter)
        habits.samples_alike = difference < questions.ALIKE
    except Refused as error:
        if error.is_no_answer:
            raise
        habits.samples_alike = False
        habits.say("answers", f"cannot be had: {error}")
    why = None
    if habits.samples_apart is False:
        why = "sampling from saved weights changes the adapter that is trained"
    elif habits.samples_apart is None and habits.samples_alike:
        habits.samples_apart, why = False, "it cannot be told whether sampling is apart"
    elif difference is not None and not habits.samples_alike:
        why = f"its sampler's log-probabilities differ from forward's by {difference:.3g} nats"
    elif not habits.samples_alike:
        why = "the server does not sample"
    if why is not None:
        habits.say("evaluation", f"by forward on a copy of the adapter, for {why}")
    habits.repeats_act_twice = questions.acts_twice(adapter)
    if habits.repeats_act_twice:
        habits.say(
            "lost answers",
            "a run goes on from its last checkpoint, for the server does twice what is asked twice",
        )
    habits.can_unload, keeps = questions.keeps_unloaded(adapter)
    habits.unloading_loses_checkpoints = not keeps
    if not keeps:
        habits.say("adapters", "stay on the server, which would forget their checkpoints, too")
    return difference


def _try_settings(running: Running, opened: Session, rank: int, keys: list[str]) -> None:
    plain = questions.plain_step(opened, rank)
    for key in keys:
        running.asked.add((opened.base_model, key))
        if plain is None:
            running.habits.say(key, "it could not be told whether the server heeds it")
        elif questions.ignores(opened, rank, key, plain):
            running.habits.ignored[key] = questions.SETTINGS[key][1]

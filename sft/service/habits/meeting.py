"""Before a run or a sweep trains on another server: what it needs is asked for, once each."""

from __future__ import annotations

from dataclasses import dataclass

from sft.errors import BadInput
from sft.secrets import mask_urls
from sft.service.habits import questions
from sft.service.habits.record import LORA
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
    """Keys, beside those of `LORA`, that ask for something which a server may ignore or lack."""


CHECKPOINTS = {
    "checkpoint.ttl_seconds": "the server does not say that a checkpoint ends",
    "checkpoint.keep": "the server deletes no checkpoint",
}
"""Settings of a checkpoint's life, and what is said of a server that does not heed them."""


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
    wanted = (*LORA, *needs.settings)
    settings = [
        key
        for key in questions.SETTINGS
        if key in wanted and (needs.model, key) not in running.asked
    ]
    lives = bool(set(wanted) & set(CHECKPOINTS)) and "checkpoints" not in running.asked
    if new or settings or lives:
        try:
            with session(asking, needs.model) as opened:
                for rank in new:
                    _try_rank(running, opened, rank, where)
                if settings:
                    _try_settings(running, opened, min(needs.ranks), settings)
                if lives:
                    _try_checkpoints(running, opened, min(needs.ranks))
        except Refused as error:
            raise _not_asked(where, error.status, str(error)) from error


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


def look_at(running: Running, adapter: Adapter) -> None:
    """Find out how the server samples, repeats and unloads. The adapter is trained and unloaded.
    Raises `Refused` if it cannot be."""
    habits = running.habits
    adapter.train()
    try:
        habits.samples_apart, habits.difference = questions.of_sampling(adapter)
        habits.samples_alike = habits.difference.is_alike
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
    elif habits.difference is not None and not habits.samples_alike:
        why = f"its sampler's log-probabilities differ from forward's {habits.difference}"
    elif not habits.samples_alike:
        why = "the server does not sample"
    if why is not None:
        habits.say("evaluation", f"by forward on a copy of the adapter, for {why}")
    elif habits.difference is not None and habits.difference.largest > questions.NOISE:
        habits.say("evaluation", f"its log-probabilities differ from forward's {habits.difference}")
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


def _try_settings(running: Running, opened: Session, rank: int, keys: list[str]) -> None:
    habits, plain = running.habits, None
    running.asked.update((opened.base_model, key) for key in keys)
    try:
        plain = questions.plain_step(opened, rank)
    except Refused as error:
        if error.is_no_answer:
            raise
    if plain is None:
        named = ", ".join(keys)
        habits.say("settings", f"it could not be told whether the server heeds {named}")
        return
    for key in keys:
        if questions.ignores(opened, rank, key, plain):
            habits.ignored[key] = questions.SETTINGS[key][1]
        else:
            habits.heeded.add(key)


def _try_checkpoints(running: Running, opened: Session, rank: int) -> None:
    running.asked.add("checkpoints")
    adapter = opened.adapter(rank)
    heeded = questions.of_checkpoints(adapter)
    opened.asking.post("unload_model", {"model_id": adapter.model_id})
    for (key, sentence), is_heeded in zip(CHECKPOINTS.items(), heeded, strict=True):
        if not is_heeded:
            running.habits.ignored[key] = sentence

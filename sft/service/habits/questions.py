"""What a run has to know of a server before it trains there, found by asking it.

Each question is put once to a server for as long as its proxy runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sft.service.habits import messages
from sft.service.habits.record import Difference
from sft.service.habits.trial import LONGER, Adapter, Asking, Session, checkpoint_url, sample
from sft.service.habits.upstream import PROTOBUF, Answer, Refused

if TYPE_CHECKING:
    import numpy as np

NOISE = 1e-4
"""Nats by which one and the same log-probability may differ between two passes."""
UNKNOWN_MODEL = "sft-\u00fcnknown"
"""Not ASCII, so that a server which reads the message as text shows that it does."""


class OlderWire(Exception):
    """The server does not read the SDK's binary messages."""


def speaks(asking: Asking) -> None:
    """Raise `OlderWire` if the server cannot read a `forward_backward` of today's SDK."""
    body = messages.training_request(UNKNOWN_MODEL, 1, [200, 201, 202], forward_only=True)
    answer = asking.ask("POST", "/api/v1/forward_backward", body, {"content-type": PROTOBUF})
    faults = answer.value.get("detail") if isinstance(answer.value, dict) else None
    of_the_body = isinstance(faults, list) and any(f.get("loc") == ["body"] for f in faults)
    if answer.status in (500, 501, 415) or answer.status == 422 and of_the_body:
        raise OlderWire(
            f"it answers forward_backward, a binary message since version 0.25 of the Tinker SDK, "
            f"with status {answer.status}: it speaks an older form of the API"
        )


def unlike(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two series, in nats."""
    import numpy

    if len(one) != len(other):
        return float("inf")
    return float(numpy.abs(one - other).max())


def difference(sampled: np.ndarray, true: np.ndarray) -> Difference:
    """Of a sampler's log-probabilities from those of `forward`. Raises `Refused` if they cannot be
    compared."""
    import numpy

    if len(sampled) != len(true):
        raise Refused(200, f"{len(sampled)} log-probabilities come for {len(true)} tokens")
    off = sampled - true
    if not numpy.isfinite(off).all():
        raise Refused(200, "log-probabilities come that are no numbers")
    error = off.std(ddof=1) / numpy.sqrt(len(off))
    size = numpy.abs(off)
    return Difference(float(size.max()), float(size.mean()), float(off.mean()), float(error))


def of_sampling(adapter: Adapter) -> tuple[bool | None, Difference]:
    """Whether sampling from saved weights leaves the adapter alone (None: cannot be told), and
    how the sampler's log-probabilities differ from those of `forward`. Raises `Refused`."""
    import numpy

    adapter.train()
    saved = adapter.logprobs(LONGER)
    sampler = adapter.snapshot()
    adapter.train(2)
    before = adapter.logprobs(LONGER)
    asking = adapter.session.asking
    answer = sample(asking, sampler, 1, LONGER, prompt_logprobs=True)
    after = adapter.logprobs(LONGER)
    moved = unlike(saved, before)
    apart = None if moved < 10 * NOISE else unlike(before, after) < max(NOISE, moved / 10)
    return apart, difference(numpy.array(answer.prompt_logprobs_np[1:]), saved)


def keeps_unloaded(adapter: Adapter) -> tuple[bool, bool]:
    """Whether adapters can be unloaded, and whether their checkpoints outlast it. It is unloaded.

    Raises `Refused` if it cannot be saved.
    """
    session = adapter.session
    for path in list(session.saved):  # a server may forget, with the adapter, how to delete them
        session.delete(path)
    path = adapter.save("save_weights", "sft-probe")
    try:
        adapter.unload()
    except Refused as error:
        if error.is_no_answer:
            raise
        return False, True
    return True, session.asking.post("weights_info", {"tinker_path": path}).status == 200


def of_checkpoints(adapter: Adapter) -> tuple[bool, bool]:
    """Whether the server says when a checkpoint ends that is to live for an hour, and whether it
    deletes one. Raises `Refused` if it cannot be saved."""
    asking = adapter.session.asking
    path = adapter.save("save_weights", "sft-probe-life")
    listed = asking.ask("GET", checkpoint_url(path).partition("/checkpoints/")[0] + "/checkpoints")
    found = listed.value.get("checkpoints") if isinstance(listed.value, dict) else None
    ends = any(one.get("expires_at") for one in found or () if one.get("tinker_path") == path)
    deleted = adapter.session.delete(path)
    lacks = "deleting checkpoints" in asking.running.habits.repairs
    return ends, deleted.status < 400 and not lacks


def acts_twice(adapter: Adapter) -> bool:
    """Whether a request that comes twice is done twice, or could be: the server promises a second
    result, and has one. Raises `Refused`."""
    asking = adapter.session.asking
    proxy = asking.running.proxy  # past its own memory of first answers
    body = adapter.backward_message()
    headers = {"content-type": PROTOBUF}
    path = "/api/v1/forward_backward"
    first = asking.ask("POST", path, body, headers)
    asking.result(first)
    if _is_new(asking, first, asking.running.do(proxy.upstream.ask("POST", path, body, headers))):
        return True
    message = adapter.step_message()
    first = asking.post("optim_step", message)
    asking.result(first)
    return _is_new(asking, first, asking.running.do(proxy.models.ask("optim_step", message)))


def _is_new(asking: Asking, first: Answer, second: Answer) -> bool:
    """Whether `second`, the answer to a repeated request, promises another result than `first`."""
    if second.status >= 400 or second.value["request_id"] == first.value["request_id"]:
        return False
    try:
        asking.result(second)
    except Refused:
        return False
    return True


def step_with(
    session: Session,
    rank: int,
    seed: int = 1,
    weight: float = 1.0,
    clip: float = 0.0,
    lora: Mapping[str, bool] | None = None,
) -> np.ndarray:
    """Log-probabilities after one step of a new adapter, proportional to its gradient (Adam's
    epsilon of 1 stands against its own scale). Raises `Refused`."""
    adapter = session.adapter(rank, seed, **(lora or {}))
    try:
        return adapter.after_step(weight, learning_rate=1.0, clip=clip, eps=1.0)
    finally:
        adapter.session.asking.post("unload_model", {"model_id": adapter.model_id})


def _lora(name: str) -> Callable[[Session, int], np.ndarray]:
    return lambda session, rank: step_with(session, rank, lora={name: False})


SETTINGS: dict[str, tuple[Callable[[Session, int], np.ndarray], str]] = {
    "lora.train_mlp": (_lora("train_mlp"), "the server adapts what it always does"),
    "lora.train_attn": (_lora("train_attn"), "the server adapts what it always does"),
    "lora.train_unembed": (_lora("train_unembed"), "the server adapts what it always does"),
    "optimizer.grad_clip_norm": (
        lambda session, rank: step_with(session, rank, clip=1e-4),
        "the server clips no gradient",
    ),
    "reduction": (
        lambda session, rank: step_with(session, rank, weight=0.1),
        "the server weighs every sequence by itself, as reduction=mean",
    ),
}
"""Settings that a server may ignore: a step with another value than the default, and what a server
does that ignores it."""


def plain_step(session: Session, rank: int) -> np.ndarray | None:
    """Log-probabilities after a step with the default of every setting; None if such a step does
    not come out the same twice, so that others cannot be compared with it. Raises `Refused`."""
    plain = step_with(session, rank)
    return plain if unlike(plain, step_with(session, rank)) < NOISE / 10 else None


def ignores(session: Session, rank: int, key: str, plain: np.ndarray) -> bool:
    """Whether a step with another value of the setting `key` comes out as `plain`, without it. A
    server that refuses the value does not ignore it."""
    try:
        return unlike(SETTINGS[key][0](session, rank), plain) < NOISE / 10
    except Refused as error:
        if error.is_no_answer:
            raise
        return False

"""What a run has to know of a server before it trains there, found by asking it.

Each question is put once to a server for as long as its proxy runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sft.service.habits import messages
from sft.service.habits.trial import Adapter, Asking, Session, sample
from sft.service.habits.upstream import PROTOBUF, Refused

if TYPE_CHECKING:
    import numpy as np

NOISE = 1e-4
"""Nats by which one and the same log-probability may differ between two passes."""
ALIKE = 0.1
"""Nats by which a sampler's log-probabilities may differ from `forward`'s in the mean: samplers
compute with less precision."""
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


def of_sampling(adapter: Adapter) -> tuple[bool | None, float]:
    """Whether sampling from saved weights leaves the adapter alone (None: cannot be told), and
    the mean difference in nats of the sampler's log-probabilities. Raises `Refused`."""
    import numpy

    adapter.train()
    saved = adapter.logprobs()
    sampler = adapter.snapshot()
    adapter.train(2)
    before = adapter.logprobs()
    answer = sample(adapter.session.asking, sampler, 1, prompt_logprobs=True)
    after = adapter.logprobs()
    sampled = numpy.array(answer.prompt_logprobs_np[1:])
    moved = unlike(saved, before)
    apart = None if moved < 10 * NOISE else unlike(before, after) < max(NOISE, moved / 10)
    same = len(sampled) == len(saved)
    return apart, float(numpy.abs(sampled - saved).mean()) if same else float("inf")


def keeps_unloaded(adapter: Adapter) -> tuple[bool, bool]:
    """Whether adapters can be unloaded, and whether their checkpoints outlast it. It is unloaded.

    Raises `Refused` if it cannot be saved.
    """
    path = adapter.save("save_weights", "sft-probe")
    try:
        adapter.unload()
    except Refused as error:
        if error.is_no_answer:
            raise
        return False, True
    asking = adapter.session.asking
    there = asking.post("weights_info", {"tinker_path": path}).status == 200
    run, _, name = path.removeprefix("tinker://").partition("/")
    asking.ask("DELETE", f"/api/v1/training_runs/{run}/checkpoints/{name}")
    return True, there


def acts_twice(adapter: Adapter) -> bool:
    """Whether a request that comes twice is done twice. Raises `Refused`."""
    asking = adapter.session.asking
    proxy = asking.running.proxy
    adapter.backward()
    message = adapter.step_message()
    first = asking.post("optim_step", message)
    asking.result(first)
    # Past the proxy's own memory of first answers.
    known = message | {"model_id": proxy.models.name(adapter.model_id)}
    second = asking.running.do(proxy.models.ask("optim_step", known))
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
        adapter.backward(weight)
        adapter.step(learning_rate=1.0, clip=clip, eps=1.0)
        return adapter.logprobs()
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

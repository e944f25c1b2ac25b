"""From the SDK's requests to operations in a model's queue.

What cannot be done becomes a `Refused` operation instead of an HTTP error: the request has a
seq_id, and one that is left open would hold up all that come behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinker import types

from sft.local.engine_api import LoraSpec
from sft.local.server import wire
from sft.local.server.queues import Create, Load, Operation, Refused, Save, Step
from sft.local.server.store import CheckpointPath, StoreError, check_ttl

MOST_RANK = 1024


def lora_spec(request: types.CreateModelRequest) -> LoraSpec | None:
    config = request.lora_config
    if config is None:
        return None
    return LoraSpec(
        rank=config.rank, seed=config.seed, train_attn=config.train_attn,
        train_mlp=config.train_mlp, train_unembed=config.train_unembed,
    )  # fmt: skip


def create(request: types.CreateModelRequest, served: Iterable[str]) -> Operation:
    wrong = unserved_model(request.base_model, served) or _unserved_optimizer(
        request.optimizer_config
    )
    return Refused(wrong, breaks=True) if wrong else _create_lora(lora_spec(request))


def _create_lora(lora: LoraSpec | None) -> Operation:
    if lora is None:
        wrong = "lora_config is missing: the local service trains LoRA adapters only"
    elif not 1 <= lora.rank <= MOST_RANK:
        wrong = f"the LoRA rank is {lora.rank}: expected 1 to {MOST_RANK}"
    elif not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        wrong = "lora_config trains nothing: set train_attn, train_mlp or train_unembed"
    else:
        return Create(lora)
    return Refused(wrong, breaks=True)


def unserved_model(name: str, served: Iterable[str]) -> str | None:
    """A sentence if there is no such base model here."""
    if name in served:
        return None
    return f"the base model {name!r} is not served here; there is {', '.join(sorted(served))}"


def _unserved_optimizer(config: types.OptimizerConfig | None) -> str | None:
    if config is None or config.type == "adamw":
        return None
    return (
        f"the optimizer {config.type!r} is not served here: the local service trains with adamw "
        "only (optimizer=adamw)"
    )


def step(request: types.OptimStepRequest) -> Operation:
    try:
        return Step(wire.adam_step(request))
    except wire.BadRequest as error:
        return Refused(str(error), breaks=True)


def save(
    request: types.SaveWeightsRequest | types.SaveWeightsForSamplerRequest,
    kind: str,
    overwrite: bool,
) -> Operation:
    return _save(request, kind, request.user_metadata, overwrite)


def save_external(request: types.SaveWeightsExternalRequest) -> Operation:
    if request.age_encryption_recipients:
        wrong = "age_encryption_recipients: the local service does not encrypt what it saves"
        return Refused(wrong, breaks=False)
    return _save(request, "external_weights", None, overwrite=False)


def _save(
    request: types.SaveWeightsRequest
    | types.SaveWeightsForSamplerRequest
    | types.SaveWeightsExternalRequest,
    kind: str,
    user_metadata: dict[str, str] | None,
    overwrite: bool,
) -> Operation:
    try:
        if request.path is None:
            raise StoreError("a checkpoint needs a name")
        check_ttl(request.ttl_seconds)
        path = CheckpointPath(request.model_id, kind, request.path)
        return Save(path, request.ttl_seconds, user_metadata, overwrite)
    except StoreError as error:
        return Refused(str(error), breaks=False)


def load(request: types.LoadWeightsRequest, served: Iterable[str]) -> Operation:
    wrong = _unserved_optimizer(request.optimizer_config)
    if request.base_model is not None:
        wrong = wrong or unserved_model(request.base_model, served)
    try:
        if wrong is not None:
            raise StoreError(wrong)
        path = CheckpointPath.parse(request.path)
        creates = request.session_id is not None
        return Load(path, request.optimizer, creates, request.base_model)
    except StoreError as error:
        return Refused(str(error), breaks=True)

"""The engine of the local service: base models, adapters, samplers, and what is done with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from sft.local.engine import choosing, decoding, loading, memory, optimizer, pieces, shared_passes
from sft.local.engine import models as base_models
from sft.local.engine.lora import Adapter, FrozenAdapter
from sft.local.engine.models import BaseModel
from sft.local.engine.totals import Totals
from sft.local.engine.workers import Workers
from sft.local.engine_api import (
    AdamStep,
    AdapterState,
    Answers,
    EngineError,
    LoraSpec,
    ModelInfo,
    SampleResult,
    SampleWork,
    Work,
)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_LOADING_TOKENIZER = threading.Lock()
SLOW_BFLOAT16 = (
    "bfloat16 is slower than float32 on this machine: choose the dtype float32, or auto, unless "
    "memory is short"
)


@dataclass
class _Served:
    """A base model by its public name; loaded when first needed."""

    source: str
    folder: Path
    config: dict
    base: BaseModel | None = None
    decode: Callable[[list[int]], str] | None = field(default=None, repr=False)  # its tokenizer's


class TorchEngine:
    """Computes with PyTorch on this machine's CPU or GPU; fulfils `engine_api.Engine`.

    Args:
        models: public name of each base model -> its folder, or None if the name is a folder
            or a Hub id itself. A single model is loaded at once, several at their first use.
        dtype: of the base model: auto, float32 or bfloat16. Adapters train in float32 always.
        device: auto, cpu or cuda.
        threads: CPU cores to use; None is all of them.
        tell: is called while a model is loaded: how many of its parts are there, of how many.

    Raises `EngineError` if a model cannot be read, or is of a kind this engine does not compute.

    Example:
        >>> engine = TorchEngine({"demo": "/models/demo"})                    # doctest: +SKIP
        >>> engine.create_adapter("run", "demo", LoraSpec(rank=8, seed=0))    # doctest: +SKIP
        >>> engine.run([Work("run", [sequence], True)], [AdamStep("run", 1e-4)])  # doctest: +SKIP
    """

    def __init__(
        self,
        models: dict[str, str | None],
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        tell: loading.Tell = lambda done, parts: None,
    ):
        self._tell = tell
        self._device = base_models.pick_device(device)
        # First: it says what oneDNN is to keep, which is read at the first product, maybe the next.
        self._workers = Workers(self._device, threads)
        self._dtype = base_models.pick_dtype(dtype, self._device)
        self._served = {
            name: _Served(source or name, *loading.find(name, source or name))
            for name, source in models.items()
        }
        self._adapters: dict[str, Adapter] = {}
        self._samplers: dict[str, tuple[str, FrozenAdapter]] = {}
        if len(self._served) == 1:
            self._base(next(iter(self._served)))

    def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(name, served.config["max_position_embeddings"], served.source)
            for name, served in self._served.items()
        ]

    def warnings(self) -> list[str]:
        if self._dtype == torch.bfloat16 and not base_models.is_fast_at_bfloat16(self._device):
            return [SLOW_BFLOAT16]
        return []

    # -- adapters

    def create_adapter(self, model_id: str, base_model: str, lora: LoraSpec) -> None:
        self._adapters[model_id] = Adapter(self._base(base_model), lora)

    def drop_adapter(self, model_id: str) -> None:
        self._adapters.pop(model_id, None)

    def state(self, model_id: str, optimizer: bool) -> AdapterState:
        return self._adapter(model_id).state(optimizer)

    def load(self, model_id: str, state: AdapterState, optimizer: bool) -> None:
        self._adapter(model_id).load(state, optimizer)

    # -- training

    def run(self, work: list[Work], steps: Sequence[AdamStep] = ()) -> Answers:
        """Compute all requests, then the optimizer steps; each adapter's as soon as it can be."""
        totals = Totals(work)
        queue: list[pieces.Piece] = []
        for index, one in enumerate(work):
            try:
                adapter = self._adapter(one.model_id)
                _check_work(one, adapter.base)
                queue += pieces.cut(index, adapter, one, self._workers)
            except EngineError as error:
                totals.fail(index, error)
        totals.expect(queue)
        due = {step.model_id: step for step in steps}
        stepped = {
            name: self._step(step, totals) for name, step in due.items() if not totals.waits(name)
        }
        groups = shared_passes.join(queue, self._workers)
        for group, results in zip(groups, self._workers.map(_compute, groups), strict=True):
            for piece in group:
                # popped: a gradient shall be gone when its adapter has stepped
                if totals.add(piece, results.pop(0)):
                    name = work[piece.request].model_id
                    totals.complete(name, piece.adapter)
                    if name in due:
                        stepped[name] = self._step(due[name], totals)
        return Answers(totals.results(), [stepped[step.model_id] for step in steps])

    def _step(self, step: AdamStep, totals: Totals) -> dict[str, float] | EngineError:
        if totals.failed(step.model_id):
            return EngineError("The step was not taken: a gradient for it could not be computed.")

        def take(step: AdamStep) -> dict[str, float]:
            return optimizer.adamw(self._adapter(step.model_id), step)

        return self._workers.beside(_guarded(take), step)

    # -- sampling

    def add_sampler(self, sampler_id: str, base_model: str, state: AdapterState | None) -> None:
        if state is not None and state.base_model != base_model:
            raise EngineError(
                f"The checkpoint is of the base model {state.base_model!r}, not {base_model!r}."
            )
        base = self._base(base_model)
        self._samplers[sampler_id] = (base_model, FrozenAdapter.of(sampler_id, base, state))

    def drop_sampler(self, sampler_id: str) -> None:
        self._samplers.pop(sampler_id, None)

    def sample(self, work: list[SampleWork]) -> list[SampleResult | EngineError]:
        results: dict[int, SampleResult | EngineError] = {}
        by_model: dict[str, list[int]] = {}
        for index, one in enumerate(work):
            try:
                if one.sampler_id not in self._samplers:
                    raise EngineError(f"There is no sampler {one.sampler_id!r}: create it again.")
                name = self._samplers[one.sampler_id][0]
                base = self._base(name)
                choosing.check(one, base.vocab, base.context)
                by_model.setdefault(name, []).append(index)
            except EngineError as error:
                results[index] = error
        for name, indices in by_model.items():
            requests = [(self._samplers[work[i].sampler_id][1], work[i]) for i in indices]
            answers = decoding.sample(
                self._base(name), requests, self._decoder(name), self._workers
            )
            results |= zip(indices, answers, strict=True)
        return [results[index] for index in range(len(work))]

    # -- what is served

    def _base(self, name: str) -> BaseModel:
        served = self._served.get(name)
        if served is None:
            raise EngineError(
                f"The base model {name!r} is not served here: choose one of "
                f"{', '.join(sorted(self._served)) or 'none'}."
            )
        if served.base is None:
            served.base = loading.load(
                name, served.folder, served.config, self._dtype, self._device, self._tell
            )
            memory.hand_back()  # converting takes as much as the model once more
        return served.base

    def _adapter(self, model_id: str) -> Adapter:
        if model_id not in self._adapters:
            raise EngineError(f"There is no model {model_id!r}: create it, or load its checkpoint.")
        return self._adapters[model_id]

    def _decoder(self, name: str) -> Callable[[list[int]], str]:
        """Turns tokens into text; the tokenizer is loaded when a stop string first needs it."""
        served = self._served[name]

        def decode(tokens: list[int]) -> str:
            # Two threads that import transformers at once can find half of it.
            with _LOADING_TOKENIZER:
                if served.decode is None:
                    from transformers import AutoTokenizer

                    served.decode = AutoTokenizer.from_pretrained(served.source).decode
            return served.decode(tokens)

        return decode


def _check_work(work: Work, base: BaseModel) -> None:
    """Raises `EngineError` if a sequence cannot be computed; it names the datum by its place."""
    if not work.sequences:
        raise EngineError("The request holds no data: expected at least one datum.")
    for index, sequence in enumerate(work.sequences):
        lengths = (len(sequence.tokens), len(sequence.targets), len(sequence.weights))
        if len(set(lengths)) != 1 or sequence.targets.shape != sequence.weights.shape:
            raise EngineError(
                f"datum {index} has {lengths[0]} tokens, {lengths[1]} targets and {lengths[2]} "
                "weights: expected targets for each token, and a weight for each of them."
            )
        if work.loss.policy and (
            sequence.sampled is None or sequence.sampled.shape != sequence.targets.shape
        ):
            raise EngineError(f"datum {index} lacks a logprob for each target.")
        choosing.check_tokens(f"datum {index}", sequence.tokens, base.vocab, base.context)
        choosing.check_tokens(
            f"target_tokens of datum {index}", sequence.targets, base.vocab, base.context
        )
        if not np.isfinite(sequence.weights).all():
            raise EngineError(f"datum {index} has a weight that is not finite.")


def _compute(group: list[pieces.Piece]) -> list[pieces.PieceResult | EngineError]:
    """One pass; if it fails, one for each of its pieces: a request fails by itself alone."""
    results = _guarded(pieces.compute)(group)
    if not isinstance(results, EngineError):
        return [*results]
    return [results] if len(group) == 1 else [_compute([piece])[0] for piece in group]


def _guarded(compute: Callable[[Item], Answer]) -> Callable[[Item], Answer | EngineError]:
    """`compute` with its failures as answers: one request's failure is its own."""

    def guarded(item: Item) -> Answer | EngineError:
        try:
            return compute(item)
        except EngineError as error:
            return error
        except RuntimeError as error:  # torch's kernels: out of memory, for one
            return EngineError(f"The computation failed: {error}", user=False)

    return guarded

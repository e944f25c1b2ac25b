"""The engine of the local service: base models, adapters, samplers, and what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sft.local import choosing, decoding, loading, optimizer, passes
from sft.local import models as base_models
from sft.local.engine_api import (
    AdamStep,
    AdapterState,
    EngineError,
    LoraSpec,
    ModelInfo,
    SampleResult,
    SampleWork,
    Work,
    WorkResult,
)
from sft.local.lora import Adapter, FrozenAdapter
from sft.local.models import BaseModel
from sft.local.workers import Workers


@dataclass
class _Served:
    """A base model by its public name; loaded when first needed."""

    source: str
    folder: Path
    config: dict
    base: BaseModel | None = None
    tokenizer: object = field(default=None, repr=False)


class TorchEngine:
    """Computes with PyTorch on this machine's CPU or GPU; fulfils `engine_api.Engine`.

    Args:
        models: public name of each base model -> its folder, or None where the name is a folder
            or a Hub id itself. A single model is loaded at once, several at their first use.
        dtype: of the base model: auto, float32 or bfloat16. Adapters train in float32 always.
        device: auto, cpu or cuda.
        threads: CPU cores to use; None is all of them.

    Raises:
        EngineError: a model cannot be read, or is of a kind this engine does not compute.

    Example:
        >>> engine = TorchEngine({"demo": "/models/demo"})                    # doctest: +SKIP
        >>> engine.create_adapter("run", "demo", LoraSpec(rank=8, seed=0))    # doctest: +SKIP
        >>> engine.run([Work("run", [sequence], backward=True)])              # doctest: +SKIP
    """

    def __init__(
        self,
        models: dict[str, str | None],
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ):
        self._device = base_models.pick_device(device)
        self._dtype = base_models.pick_dtype(dtype, self._device)
        self._workers = Workers(self._device, threads)
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

    def run(self, work: list[Work]) -> list[WorkResult | EngineError]:
        """Compute all requests; a failed one is an `EngineError` in its place.

        Logprobs of a `backward` request are 0.0 where the weight is zero: they are not computed.
        """
        tally = _Tally(work)
        queue: list[passes.Piece] = []
        for index, one in enumerate(work):
            try:
                adapter = self._adapter(one.model_id)
                _check_work(one, adapter.base)
                queue += passes.pieces(index, adapter, one, self._workers)
            except EngineError as error:
                tally.fail(index, error)
        groups = passes.join(queue)
        answers = self._workers.map(_guarded(passes.compute), groups)
        for group, answer in zip(groups, answers, strict=True):
            for position, piece in enumerate(group):
                if isinstance(answer, EngineError):
                    tally.fail(piece.request, answer)
                else:
                    tally.add(piece, answer[position])
        for index, one in enumerate(work):
            gradient = tally.gradients[index]
            if gradient is not None and tally.errors[index] is None:
                adapter = self._adapter(one.model_id)
                adapter.gradient = (
                    gradient if adapter.gradient is None else adapter.gradient.add_(gradient)
                )
        return tally.results()

    def optim_step(self, steps: list[AdamStep]) -> list[dict[str, float] | EngineError]:
        """One AdamW step of each adapter named. A step without a gradient is an error."""

        def one(step: AdamStep) -> dict[str, float]:
            return optimizer.adamw(self._adapter(step.model_id), step)

        return list(self._workers.map(_guarded(one), steps))

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
        results: list[SampleResult | EngineError | None] = [None] * len(work)
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
            for index, answer in zip(indices, answers, strict=True):
                results[index] = answer
        return results

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
                name, served.folder, served.config, self._dtype, self._device
            )
        return served.base

    def _adapter(self, model_id: str) -> Adapter:
        if model_id not in self._adapters:
            raise EngineError(f"There is no model {model_id!r}: create it, or load its checkpoint.")
        return self._adapters[model_id]

    def _decoder(self, name: str) -> Callable[[list[int]], str]:
        """Turns tokens into text; the tokenizer is loaded when a stop string first needs it."""
        served = self._served[name]

        def decode(tokens: list[int]) -> str:
            if served.tokenizer is None:
                from transformers import AutoTokenizer

                served.tokenizer = AutoTokenizer.from_pretrained(served.source)
            return served.tokenizer.decode(tokens)

        return decode


class _Tally:
    """Adds the pieces of each request up, in their order."""

    def __init__(self, work: list[Work]):
        self.work = work
        self.errors: list[EngineError | None] = [None] * len(work)
        self.gradients: list[torch.Tensor | None] = [None] * len(work)
        self.logprobs: list[list[np.ndarray | None]] = [[None] * len(w.sequences) for w in work]

    def fail(self, index: int, error: EngineError) -> None:
        self.errors[index] = error
        self.gradients[index] = None

    def add(self, piece: passes.Piece, result: passes.PieceResult) -> None:
        index = piece.request
        for sequence, logprobs in zip(piece.indices, result.logprobs, strict=True):
            self.logprobs[index][sequence] = logprobs
        if result.gradient is not None and self.errors[index] is None:
            total = self.gradients[index]
            self.gradients[index] = (
                result.gradient if total is None else total.add_(result.gradient)
            )

    def results(self) -> list[WorkResult | EngineError]:
        return [
            error or WorkResult(logprobs, _loss(one, logprobs))
            for one, error, logprobs in zip(self.work, self.errors, self.logprobs, strict=True)
        ]


def _loss(work: Work, logprobs: list[np.ndarray]) -> float:
    """Sum of weight * -logprob in float64, sequence by sequence."""
    return float(
        sum(
            -np.dot(sequence.weights.astype(np.float64), values.astype(np.float64))
            for sequence, values in zip(work.sequences, logprobs, strict=True)
        )
    )


def _check_work(work: Work, base: BaseModel) -> None:
    """Raises EngineError for sequences that cannot be computed, naming the datum by its place."""
    if not work.sequences:
        raise EngineError("The request holds no data: expected at least one datum.")
    for index, sequence in enumerate(work.sequences):
        lengths = (len(sequence.tokens), len(sequence.targets), len(sequence.weights))
        if len(set(lengths)) != 1:
            raise EngineError(
                f"datum {index} has {lengths[0]} tokens, {lengths[1]} targets and {lengths[2]} "
                "weights: expected one target and one weight for each token."
            )
        choosing.check_tokens(f"datum {index}", sequence.tokens, base.vocab, base.context)
        choosing.check_tokens(
            f"target_tokens of datum {index}", sequence.targets, base.vocab, base.context
        )
        if not np.isfinite(sequence.weights).all():
            raise EngineError(f"datum {index} has a weight that is not finite.")


def _guarded(compute: Callable) -> Callable:
    """`compute` with its failures as answers, so that one request's failure is its own."""

    def guarded(item):
        try:
            return compute(item)
        except EngineError as error:
            return error
        except RuntimeError as error:  # torch's kernels: out of memory, for one
            return EngineError(f"The computation failed: {error}", user=False)

    return guarded

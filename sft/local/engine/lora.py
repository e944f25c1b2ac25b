"""LoRA adapters: flat float32 buffers, and views of them for each frozen projection.

An adapter adds scale * B A x to each projection it sits on, with scale = 32 / rank, A drawn
Kaiming-uniform as PEFT draws it and B zero (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
All weights of an adapter lie in one vector, and so do its gradients and both optimizer moments: an
optimizer step is a few passes over vectors, and a copy is one copy.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sft.local.engine.models import BaseModel
from sft.local.engine_api import AdapterState, EngineError, LoraSpec
from sft.local.peft_config import LORA_ALPHA

MAX_RANK = 1024


@dataclass(frozen=True)
class LoraViews:
    """The part of a vector that belongs to one frozen `Linear` of n modules.

    `a` is [n * rank, inputs], the modules' A below one another; `b[j]` is [outputs_j, rank].
    """

    a: Tensor
    b: tuple[Tensor, ...]

    def zeros(self) -> LoraViews:
        """Views of the same shapes, filled with zeros, which belong to no vector."""
        return LoraViews(torch.zeros_like(self.a), tuple(torch.zeros_like(b) for b in self.b))

    def add_(self, other: LoraViews) -> None:
        self.a.add_(other.a)
        for mine, theirs in zip(self.b, other.b, strict=True):
            mine.add_(theirs)


def views_of(views: list[LoraViews | None] | None, index: int) -> LoraViews | None:
    """The views for linear `index`; None if there are none at all, or none for it."""
    return None if views is None else views[index]


@dataclass
class Run:
    """Consecutive rows of a pack that go through one adapter.

    `lora` and `gradient` hold views for each Linear of the base model; `lora` None is the base
    model itself, `gradient` None a forward alone; runs of one request may add to the same one.
    `scale` may be one for each row, [rows, 1].
    """

    start: int
    end: int
    lora: list[LoraViews | None] | None = None
    scale: float | Tensor = 1.0
    gradient: list[LoraViews | None] | None = None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.end)


@dataclass(frozen=True)
class Layout:
    """Where each tensor of an adapter lies in its vector."""

    names: dict[str, tuple[int, tuple[int, int]]]  # PEFT name -> offset, shape
    groups: list[tuple[int, int, list[tuple[int, int]]] | None]  # per Linear: A's offset, n, B's
    inputs: list[int]
    rank: int
    size: int

    def views(self, vector: Tensor) -> list[LoraViews | None]:
        """The views of `vector` [size] for each Linear; None if the adapter does not sit on it."""
        views: list[LoraViews | None] = []
        for group, inputs in zip(self.groups, self.inputs, strict=True):
            if group is None:
                views.append(None)
                continue
            offset, modules, parts = group
            rows = modules * self.rank
            a = vector[offset : offset + rows * inputs].view(rows, inputs)
            b = tuple(
                vector[start : start + outputs * self.rank].view(outputs, self.rank)
                for start, outputs in parts
            )
            views.append(LoraViews(a, b))
        return views


def layout(base: BaseModel, lora: LoraSpec) -> Layout:
    """Lay out an adapter of this shape on this base model.

    Raises `EngineError` if the rank is out of bounds or no module is trained.
    """
    if not 1 <= lora.rank <= MAX_RANK:
        raise EngineError(f"The LoRA rank is {lora.rank}: expected 1 to {MAX_RANK}.")
    trained = {"attn": lora.train_attn, "mlp": lora.train_mlp, "unembed": lora.train_unembed}
    if not any(trained.values()):
        raise EngineError(
            "The LoRA trains nothing: set at least one of train_attn, train_mlp, train_unembed."
        )
    names: dict[str, tuple[int, tuple[int, int]]] = {}
    groups: list[tuple[int, int, list[tuple[int, int]]] | None] = []
    size = 0
    for linear in base.linears:
        if not trained[linear.kind]:
            groups.append(None)
            continue
        first = size
        for module in linear.modules:
            names[_peft_name(module.path, "A")] = (size, (lora.rank, module.inputs))
            size += lora.rank * module.inputs
        parts = []
        for module in linear.modules:
            names[_peft_name(module.path, "B")] = (size, (module.outputs, lora.rank))
            parts.append((size, module.outputs))
            size += lora.rank * module.outputs
        groups.append((first, len(linear.modules), parts))
    inputs = [linear.modules[0].inputs for linear in base.linears]
    return Layout(names, groups, inputs, lora.rank, size)


class Adapter:
    """One adapter and what training it needs. All vectors are float32 [layout.size].

    `gradient`, `exp_avg` and `exp_avg_sq` are None until there is something in them.
    """

    def __init__(self, base: BaseModel, lora: LoraSpec):
        self.base = base
        self.lora = lora
        self.layout = layout(base, lora)
        self.scale = LORA_ALPHA / lora.rank
        self.weights = _initial_weights(self.layout, lora.seed).to(base.device)
        self.gradient: Tensor | None = None
        self.exp_avg: Tensor | None = None
        self.exp_avg_sq: Tensor | None = None
        self.step = 0

    def compute(self) -> list[LoraViews | None]:
        """The weights in the base model's dtype; a copy for one pass, kept by nobody after it."""
        return self.layout.views(self.weights.to(self.base.dtype))

    def state(self, optimizer: bool) -> AdapterState:
        """A copy of the weights and, if asked for, of the optimizer's state."""
        saved = None
        if optimizer:
            saved = {"step": np.array(self.step, dtype=np.int64)}
            for key, vector in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
                vector = torch.zeros_like(self.weights) if vector is None else vector
                saved |= {f"{key}.{name}": value for name, value in self._unpack(vector).items()}
        return AdapterState(self.base.name, self.lora, self._unpack(self.weights), saved)

    def load(self, state: AdapterState, optimizer: bool) -> None:
        """Replace the weights; gradients are cleared, the optimizer's state replaced or reset.

        Raises `EngineError` if the state is of another base model or shape; then nothing is
        changed.
        """
        if state.base_model != self.base.name:
            raise EngineError(
                f"The checkpoint is of the base model {state.base_model!r} and cannot be loaded "
                f"into an adapter of {self.base.name!r}."
            )
        weights = self._pack(state.weights, "")
        exp_avg = exp_avg_sq = None
        step = 0
        if optimizer:
            if state.optimizer is None:
                raise EngineError("The checkpoint holds no optimizer state: load it without.")
            exp_avg = self._pack(state.optimizer, "exp_avg.")
            exp_avg_sq = self._pack(state.optimizer, "exp_avg_sq.")
            step = int(state.optimizer["step"])
        self.weights, self.gradient = weights, None
        self.exp_avg, self.exp_avg_sq, self.step = exp_avg, exp_avg_sq, step

    def _unpack(self, vector: Tensor) -> dict[str, np.ndarray]:
        host = vector.detach().cpu().numpy().copy()
        return {
            name: host[offset : offset + math.prod(shape)].reshape(shape)
            for name, (offset, shape) in self.layout.names.items()
        }

    def _pack(self, tensors: dict[str, np.ndarray], prefix: str) -> Tensor:
        return _pack(self.layout, tensors, prefix).to(self.base.device)


@dataclass(frozen=True)
class FrozenAdapter:
    """An adapter to sample from: a copy in the base model's dtype that nothing changes.

    `views` None is the base model itself. Samples are sorted by `key`: neighbours share an adapter.
    """

    key: str
    views: list[LoraViews | None] | None = None
    scale: float = 1.0

    @staticmethod
    def of(key: str, base: BaseModel, state: AdapterState | None) -> FrozenAdapter:
        """Raises `EngineError` if the state does not fit the base model."""
        if state is None:
            return FrozenAdapter(key)
        where = layout(base, state.lora)
        vector = _pack(where, state.weights, "").to(base.device, base.dtype)
        return FrozenAdapter(key, where.views(vector), LORA_ALPHA / state.lora.rank)

    def run(self, start: int, end: int) -> Run:
        """The rows `start` to `end` of a pack through this adapter."""
        return Run(start, end, self.views, self.scale)


def _pack(layout: Layout, tensors: dict[str, np.ndarray], prefix: str) -> Tensor:
    """Copy named tensors into one float32 vector.

    Raises `EngineError` if a tensor is missing, unexpected or of another shape.
    """
    found = {name for name in tensors if name.startswith(prefix or "base_model.")}
    expected = {prefix + name for name in layout.names}
    if found != expected:
        name = min(found ^ expected)
        raise EngineError(
            f"The checkpoint does not fit the adapter: {name} is "
            f"{'not in it' if name in expected else 'not expected in it'}. Was it trained with "
            "other settings of train_attn, train_mlp or train_unembed?"
        )
    vector = np.empty(layout.size, dtype=np.float32)
    for name, (offset, shape) in layout.names.items():
        value = tensors[prefix + name]
        if tuple(value.shape) != shape:
            raise EngineError(
                f"The checkpoint does not fit the adapter: {name} has the shape "
                f"{tuple(value.shape)}, expected {shape} (rank {layout.rank})."
            )
        vector[offset : offset + math.prod(shape)] = np.asarray(value).ravel()
    return torch.from_numpy(vector)


def _initial_weights(layout: Layout, seed: int | None) -> Tensor:
    """A uniform in +-1/sqrt(inputs) (kaiming_uniform_ with a = sqrt(5), as PEFT), B zero."""
    if seed is None:
        seed = int.from_bytes(os.urandom(7), "big")
    generator = torch.Generator().manual_seed(seed % 2**63)
    weights = torch.zeros(layout.size)
    for name, (offset, shape) in layout.names.items():
        if ".lora_A." in name:
            part = weights[offset : offset + math.prod(shape)]
            part.uniform_(-(shape[1] ** -0.5), shape[1] ** -0.5, generator=generator)
    return weights


def _peft_name(path: str, which: str) -> str:
    return f"base_model.model.{path}.lora_{which}.weight"

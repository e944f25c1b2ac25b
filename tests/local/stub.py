"""An engine that computes nothing, and the real service around it in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sft.local.engine_api import (
    AdamStep,
    AdapterState,
    Answers,
    EngineError,
    LoraSpec,
    ModelInfo,
    SampledTokens,
    SampleResult,
    SampleWork,
    Work,
    WorkResult,
)
from sft.local.server.core import Core
from sft.local.server.server import Announcement, Ending, listening, serve, url_of
from sft.local.server.store import Store

MODEL = "stub/model"
KEY = "tml-stub"
POISON = 666  # a target token that makes the engine fail its sequence
CRASH = 667  # one that makes it raise something unexpected


class StubEngine:
    """Keeps a step count for weights; remembers its calls in `calls`."""

    def __init__(self, model: str = MODEL, max_context_length: int = 4096):
        self.info = ModelInfo(model, max_context_length, "stub/tokenizer")
        self.adapters: dict[str, AdapterState] = {}
        self.samplers: dict[str, AdapterState | None] = {}
        self.calls: list[tuple] = []

    def models(self) -> list[ModelInfo]:
        return [self.info]

    def warnings(self) -> list[str]:
        return []

    def create_adapter(self, model_id: str, base_model: str, lora: LoraSpec) -> None:
        self.calls.append(("create", model_id))
        weights = {"base_model.model.q_proj.lora_A.weight": np.zeros(lora.rank, np.float32)}
        moments = {"step": np.zeros((), np.float32)}
        self.adapters[model_id] = AdapterState(base_model, lora, weights, moments)

    def drop_adapter(self, model_id: str) -> None:
        self.adapters.pop(model_id, None)

    def run(self, work: list[Work], steps: Sequence[AdamStep] = ()) -> Answers:
        if work:
            self.calls.append(("run", [(item.model_id, item.backward) for item in work]))
        results = [self._run_one(item) for item in work]
        pairs = zip(work, results, strict=True)
        failed = {item.model_id for item, result in pairs if isinstance(result, EngineError)}
        taken = [step.model_id for step in steps if step.model_id not in failed]
        if taken:
            self.calls.append(("step", taken))
        refused = EngineError("its gradient has failed")
        return Answers(
            results, [self.step(s.model_id) if s.model_id in taken else refused for s in steps]
        )

    def step(self, model_id: str) -> dict[str, float]:
        state = self.adapters[model_id]
        weights = {name: array + 1 for name, array in state.weights.items()}
        moments = {"step": np.asarray(state.optimizer["step"] + 1)}
        self.adapters[model_id] = replace(state, weights=weights, optimizer=moments)
        return {"grad_norm": 1.0}

    def _run_one(self, item: Work) -> WorkResult | EngineError:
        targets = np.concatenate([sequence.targets.ravel() for sequence in item.sequences])
        if CRASH in targets:
            raise RuntimeError("out of memory")
        if POISON in targets:
            return EngineError(f"token {POISON} is not in the vocabulary")
        nll = loss_after(self._steps(self.adapters[item.model_id]))
        logprobs = [np.full(seq.targets.shape, -nll, np.float32) for seq in item.sequences]
        return WorkResult(logprobs, nll * sum(float(seq.weights.sum()) for seq in item.sequences))

    def state(self, model_id: str, optimizer: bool) -> AdapterState:
        self.calls.append(("state", model_id))
        state = self.adapters[model_id]
        return state if optimizer else replace(state, optimizer=None)

    def load(self, model_id: str, state: AdapterState, optimizer: bool) -> None:
        self.calls.append(("load", model_id, optimizer))
        mine = self.adapters[model_id]
        if state.lora.rank != mine.lora.rank:
            raise EngineError(f"the state has rank {state.lora.rank}, not {mine.lora.rank}")
        moments = state.optimizer if optimizer else {"step": np.zeros((), np.float32)}
        self.adapters[model_id] = replace(state, optimizer=moments)

    def add_sampler(self, sampler_id: str, base_model: str, state: AdapterState | None) -> None:
        self.calls.append(("add_sampler", sampler_id))
        self.samplers[sampler_id] = state

    def drop_sampler(self, sampler_id: str) -> None:
        self.samplers.pop(sampler_id, None)

    def sample(self, work: list[SampleWork]) -> list[SampleResult | EngineError]:
        """Says the adapter's step count, over and over."""
        self.calls.append(("sample", [item.sampler_id for item in work]))
        return [self._sample_one(item) for item in work]

    def _sample_one(self, item: SampleWork) -> SampleResult | EngineError:
        if CRASH in item.prompt:
            raise RuntimeError("out of memory")
        said = self._steps(self.samplers[item.sampler_id])
        tokens = SampledTokens([said] * item.max_tokens, [-0.5] * item.max_tokens, "length")
        logprobs = [None, *([-loss_after(said)] * (len(item.prompt) - 1))]
        return SampleResult([tokens] * item.num_samples, logprobs if item.prompt_logprobs else None)

    @staticmethod
    def _steps(state: AdapterState | None) -> int:
        return 0 if state is None else int(next(iter(state.weights.values()))[0])


def loss_after(steps: int) -> float:
    """Nats a token; falls from 3 to 1."""
    return 1 + 2 * math.exp(-steps / 20)


@contextlib.contextmanager
def serving(core_of, root: Path, key: str = KEY) -> Iterator[tuple[str, Core]]:
    """The URL and core of a service in a thread of this process.

    `core_of()` makes the core; it is called on the service's event loop.
    """
    ready, started, ending = threading.Event(), {}, Ending()

    async def main() -> None:
        started["core"] = core_of()
        with listening("127.0.0.1", 0) as bound:
            started["url"] = url_of(bound)
            announcement = Announcement(started["url"], key, {MODEL: None}, "auto")
            await serve(
                started["core"], bound, announcement, root, ending=ending, on_ready=ready.set
            )

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(60), "the service did not start"
    try:
        yield started["url"], started["core"]
    finally:
        ending.end()
        thread.join(30)


@contextlib.contextmanager
def serving_stub(root: Path, engine: StubEngine | None = None, **options):
    """The URL, the core and the engine of a service that computes nothing."""
    engine = engine or StubEngine()
    with serving(lambda: Core(engine, Store(root), **options), root) as (url, core):
        yield url, core, engine

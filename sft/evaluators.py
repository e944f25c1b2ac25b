"""What a run measures beside training: held-out NLL and sampled answers.

An evaluator is given a sampling client that holds the weights at one step and returns metrics.
It runs beside training, on a snapshot, and never stands between two steps. Each has a name of its
own, and metrics of its own: those of this module are `eval/METRIC` under their default name and
`eval/NAME/METRIC` under another.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sft.errors import BadInput
from sft.models.tokenizers import load_tokenizer
from sft.record.fingerprints import sequences
from sft.record.metrics import NOT_METRICS, UNITS, Nats, nats, summarize
from sft.renderers import get_renderer
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import tinker

CONCURRENT_REQUESTS = 64
"""Requests of one evaluation in flight: enough to fill the service, few enough to hold."""

Result = TypeVar("Result")


class Evaluator(Protocol):
    """Measures one set of weights.

    An evaluator may also have

    - a `name`, which no other of the run may have; else it goes by that of its class or function;
    - `metrics`, the names of what it measures: a sweep looks there, before it starts, for the
      metric that it compares;
    - a `table` after a call, rows as plain dicts, which is logged under its name.
    """

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]: ...


@dataclass
class EvaluatorBuilder:
    """A dataclass of plain values that says what to measure, and builds the evaluator when called.

    The command line sets its fields: `evaluators.builder=my_eval:Judge
    evaluators.args.path=questions.jsonl`. From Python any callable will do, but only a run whose
    builders are of this kind can be reproduced.
    """

    def __call__(self) -> Evaluator:
        raise NotImplementedError


def name_of(evaluator: Evaluator) -> str:
    """The name of an evaluator in tables, messages and the names of files."""
    own = getattr(evaluator, "name", None) or getattr(evaluator, "__name__", None)
    return str(own or type(evaluator).__name__)


def check_names(evaluators: Iterable[Evaluator]) -> None:
    """Refuse two evaluators of one name. Raises `BadInput`."""
    names: dict[str, tuple[str, Evaluator]] = {}
    for evaluator in evaluators:
        name = name_of(evaluator)
        # As the files of their tables are called, on every file system.
        other = names.setdefault(re.sub(r"\W+", "-", name).casefold(), (name, evaluator))
        if other[1] is not evaluator:
            raise BadInput(
                f"evaluator_builders: two evaluators are called '{name}' "
                f"({type(other[1]).__name__} and {type(evaluator).__name__}), so that one would "
                "write over what the other measured; give each a `name` of its own"
            )


def numbers(measured: object) -> dict[str, float]:
    """What an evaluator returned, as plain numbers by name. Raises `TypeError` or `ValueError`."""
    if not isinstance(measured, dict):
        raise TypeError(f"expected a dict of metrics, not {type(measured).__name__}")
    for name, value in measured.items():
        if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
            raise TypeError(f"{name}: expected a number, not {value!r}")
    return {str(name): float(value) for name, value in measured.items()}


def claim(writers: dict[str, str], evaluator: Evaluator, measured: Iterable[str]) -> None:
    """Enter in `writers` that `evaluator` writes the metrics `measured`.

    Raises `BadInput` if training or another evaluator writes one of them: a step's row has one
    place for each.
    """
    name = name_of(evaluator)
    for key in measured:
        of_training = key.startswith("train/") or key in UNITS and not key.startswith("eval/")
        if key in NOT_METRICS or of_training:
            raise BadInput(
                f"evaluators: '{name}' measures '{key}', which is what training writes; "
                f"call it eval/{name}/…"
            )
        other = writers.setdefault(key, name)
        if other != name:
            raise BadInput(
                f"evaluators: '{other}' and '{name}' both measure '{key}', so that one would "
                f"write over the other; call one of them eval/{name}/…"
            )


async def gather_bounded(jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
    """The results of `jobs`, in order, `CONCURRENT_REQUESTS` of them at a time."""
    slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(job: Callable[[], Awaitable[Result]]) -> Result:
        async with slots:
            return await job()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(job)) for job in jobs]
    return [task.result() for task in tasks]


class NLLEvaluator:
    """Held-out NLL in nats per trained token (`eval/nll`) and bits per byte (`eval/bpb`).

    Another data set beside the held-out one has another name: `NLLEvaluator(dataset, "code")`
    measures `eval/code/nll`.
    """

    def __init__(self, dataset: SupervisedDataset, name: str = "nll"):
        self.dataset = dataset
        self.name = name
        self.prefix = _prefix(name, "nll")
        self.metrics = (f"{self.prefix}/nll", f"{self.prefix}/bpb")
        self._read: tuple[list[tinker.Datum], int | None] | None = None
        self.digest: str | None = None
        """Of all held-out sequences, once they were read."""

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]:
        if self._read is None:
            self._read = await asyncio.to_thread(_whole, self.dataset)
            self.digest = await asyncio.to_thread(sequences, self._read[0])
        data, num_bytes = self._read
        special_tokens: frozenset[int] = getattr(self.dataset, "special_tokens", frozenset())

        async def score(datum: tinker.Datum) -> Nats:
            # Logprob i of the full sequence belongs to its token i: target i is token i + 1.
            logprobs = await sampling_client.compute_logprobs(full_sequence(datum))
            return nats(datum, logprobs[1:], special_tokens)

        scores = await gather_bounded([partial(score, datum) for datum in data])
        return summarize(sum(scores, Nats()), num_bytes, self.prefix)


def _prefix(name: str, default: str) -> str:
    return "eval" if name == default else f"eval/{name}"


def _whole(dataset: SupervisedDataset) -> tuple[list[tinker.Datum], int | None]:
    """Every sequence of `dataset`, and the bytes of their trained text or None."""
    num_bytes = getattr(dataset, "num_bytes", None)
    data: list[tinker.Datum] = []
    total = 0
    for index in range(len(dataset)):
        data += dataset.get_batch(index)
        total += num_bytes(index) if num_bytes else 0
    return data, total or None


def full_sequence(datum: tinker.Datum) -> tinker.ModelInput:
    """The sequence that `datum`'s shifted input and targets were cut from: one token longer."""
    import tinker

    tokens = datum.model_input.to_ints()
    last = int(datum.loss_fn_inputs["target_tokens"].to_numpy()[-1])
    return tinker.ModelInput.from_ints([*tokens, last])


@dataclass
class Prompt:
    """A prompt as tokens and text, and the answer that it should get, if there is one."""

    tokens: list[int]
    text: str
    reference: str | None = None
    compared: bool = True
    """Whether an answer can match the reference: it is not too long and ends as answers do. A
    prompt without that is shown, but does not count in exact match."""


@dataclass
class SamplingEvaluator:
    """Answers to fixed prompts, as a table, and the share of them that is exactly the reference.

    The share is `eval/exact_match`; under another name than `answers` it is
    `eval/NAME/exact_match`. Texts are compared as the tokenizer writes them, without special
    tokens, the end of the turn, and the white space around them.

    Temperature 0 takes the most likely token. Above 0, answer i of a call is seeded by `seed` + i:
    the same weights give the same answers.
    """

    prompts: list[Prompt]
    tokenizer: Any
    stop: list[int] | list[str]
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    name: str = "answers"
    table: list[dict[str, Any]] = field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured."""
        compared = [p for p in self.prompts if p.reference is not None and p.compared]
        return (f"{_prefix(self.name, 'answers')}/exact_match",) if compared else ()

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]:
        import tinker

        async def answer(index: int, prompt: Prompt) -> dict[str, Any]:
            response = await sampling_client.sample(
                prompt=tinker.ModelInput.from_ints(prompt.tokens),
                num_samples=1,
                sampling_params=tinker.SamplingParams(
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    seed=self.seed + index,
                    stop=self.stop,
                ),
            )
            sequence = response.sequences[0]
            text = answer_text(sequence.tokens, self.tokenizer, self.stop)
            row = {"prompt": prompt.text, "answer": text, "stop_reason": sequence.stop_reason}
            if prompt.reference is not None:
                row["reference"] = prompt.reference
                if prompt.compared:
                    written = _encode(prompt.reference, self.tokenizer)
                    same = text == answer_text(written, self.tokenizer, self.stop)
                    row["exact_match"] = same
            return row

        jobs = [partial(answer, index, prompt) for index, prompt in enumerate(self.prompts)]
        self.table = await gather_bounded(jobs)
        matches = [row["exact_match"] for row in self.table if "exact_match" in row]
        if not matches:
            return {}
        prefix = _prefix(self.name, "answers")
        return {f"{prefix}/exact_match": sum(matches) / len(matches)}


@dataclass
class SamplingEvaluatorBuilder(EvaluatorBuilder):
    """Builds a `SamplingEvaluator` for prompts given as text, each one user message.

    Its table is called `name`, its metric `eval/NAME/exact_match`.
    """

    prompts: list[str]
    model_name_for_tokenizer: str
    renderer_name: str | None = None
    references: list[str] | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = "prompts"

    def __call__(self) -> SamplingEvaluator:
        tokenizer = load_tokenizer(self.model_name_for_tokenizer)
        renderer = get_renderer(self.renderer_name, tokenizer, self.chat_template_kwargs)
        nothing: list[str | None] = [None] * len(self.prompts)
        for number, reference in enumerate(self.references or [], start=1):
            words = answer_text(_encode(reference, tokenizer), tokenizer, renderer.stop_sequences())
            if (length := len(_encode(words, tokenizer))) > self.max_tokens:
                raise BadInput(
                    f"evaluators.references: entry {number} has {length} tokens, more than "
                    f"evaluators.max_tokens={self.max_tokens}, so that no answer could match it; "
                    f"set evaluators.max_tokens={length}, or shorten it"
                )
        prompts = [
            Prompt(renderer.generation_prompt([{"role": "user", "content": text}]), text, reference)
            for text, reference in zip(self.prompts, self.references or nothing, strict=True)
        ]
        return SamplingEvaluator(
            prompts,
            tokenizer,
            renderer.stop_sequences(),
            self.max_tokens,
            self.temperature,
            self.seed,
            self.name,
        )


def held_out_prompts(
    dataset: SupervisedDataset,
    count: int,
    tokenizer: Any,
    stop: list[int] | list[str],
    max_tokens: int,
) -> list[Prompt]:
    """The first `count` held-out sequences as prompts.

    A prompt is what comes before a sequence's first trained token; the trained tokens that follow
    are its reference. It is compared if it is one whole answer: at most `max_tokens` long without
    its end, and with an end, which is missing if the sequence was cut.
    """
    prompts: list[Prompt] = []
    for index in range(len(dataset)):
        for datum in dataset.get_batch(index):
            if len(prompts) == count:
                return prompts
            tokens = full_sequence(datum).to_ints()
            trained = datum.loss_fn_inputs["weights"].to_numpy() > 0
            start = int(trained.argmax()) + 1
            length = int((~trained[start - 1 :]).argmax()) or len(trained) - start + 1
            prompt, answer = tokens[:start], tokens[start : start + length]
            end = _end(answer, tokenizer, stop)
            prompts.append(
                Prompt(
                    prompt,
                    tokenizer.decode(prompt, skip_special_tokens=True).strip(),
                    answer_text(answer, tokenizer, stop),
                    compared=end is not None and end <= max_tokens,
                )
            )
    return prompts


def _encode(text: str, tokenizer: Any) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def answer_text(tokens: list[int], tokenizer: Any, stop: list[int] | list[str]) -> str:
    """The text of an answer, without what ends it and the white space around it."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for end in stop:
        if isinstance(end, str):
            text = text.partition(end)[0]
        elif tokens[-1:] == [end]:  # a marker that is no special token
            text = text.removesuffix(tokenizer.decode([end], skip_special_tokens=True))
    return text.strip()


def _end(answer: list[int], tokenizer: Any, stop: list[int] | list[str]) -> int | None:
    """How many tokens stand before the end of an answer; None: it has none, or another before."""
    words = [end for end in stop if isinstance(end, str)]
    if not words:
        ends = [index for index, token in enumerate(answer) if token in stop]
        return ends[0] if ends == [len(answer) - 1] else None
    text = tokenizer.decode(answer, skip_special_tokens=True)
    if not any(text.endswith(end) and text.find(end) == len(text) - len(end) for end in words):
        return None
    return len(_encode(answer_text(answer, tokenizer, stop), tokenizer))

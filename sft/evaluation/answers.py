"""Answers to fixed prompts, and how many of them are exactly the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sft.cost.usage import Usage
from sft.errors import BadInput
from sft.evaluation.interface import EvaluatorBuilder, gather_bounded, prefix
from sft.evaluation.nll import full_sequence
from sft.models.tokenizers import load_tokenizer
from sft.record.examples import Examples, digest_of, share_of
from sft.renderers import get_renderer
from sft.types import SupervisedDataset

if TYPE_CHECKING:
    import tinker


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
    examples: dict[str, Examples] = field(default_factory=dict)

    @functools.cached_property
    def _expected(self) -> list[str | None]:
        """For each prompt its reference as an answer would be written; None without one."""
        return [
            None if prompt.reference is None
            else as_written(prompt.reference, self.tokenizer, self.stop)
            for prompt in self.prompts
        ]  # fmt: skip

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured."""
        compared = [p for p in self.prompts if p.reference is not None and p.compared]
        return (f"{prefix(self.name, 'answers')}/exact_match",) if compared else ()

    def usage(self) -> Usage:
        """Of a call, with answers as long as they may be."""
        return of_answers((prompt.tokens for prompt in self.prompts), self.max_tokens)

    async def __call__(self, sampling_client: tinker.SamplingClient) -> dict[str, float]:
        self.examples = {}
        said = await sampled(
            sampling_client,
            [prompt.tokens for prompt in self.prompts],
            self.tokenizer,
            self.stop,
            self.max_tokens,
            self.temperature,
            self.seed,
        )
        self.table = []
        for prompt, expected, (answer, reason) in zip(
            self.prompts, self._expected, said, strict=True
        ):
            row: dict[str, Any] = {"prompt": prompt.text, "answer": answer, "stop_reason": reason}
            if prompt.reference is not None:
                row["reference"] = prompt.reference
                if prompt.compared:
                    row["exact_match"] = answer == expected
            self.table.append(row)
        compared = [row for row in self.table if "exact_match" in row]
        if not compared:
            return {}
        metric = f"{prefix(self.name, 'answers')}/exact_match"
        self.examples[metric] = share_of(
            [row["exact_match"] for row in compared],
            digest_of([row["prompt"], row["reference"]] for row in compared),
        )
        return {metric: self.examples[metric].value}


def of_answers(prompts: Iterable[list[int]], max_tokens: int) -> Usage:
    """What an answer to each prompt uses at most."""
    lengths = [len(prompt) for prompt in prompts]
    return Usage(prefill=sum(lengths), sample=max_tokens * len(lengths))


async def sampled(
    sampling_client: tinker.SamplingClient,
    prompts: list[list[int]],
    tokenizer: Any,
    stop: list[int] | list[str],
    max_tokens: int,
    temperature: float,
    seed: int,
) -> list[tuple[str, str]]:
    """The text of an answer to each prompt (its tokens), and why it ended: `stop` or `length`.

    Answer i is seeded by `seed` + i.
    """
    import tinker

    async def answer(index: int, tokens: list[int]) -> tuple[str, str]:
        response = await sampling_client.sample(
            prompt=tinker.ModelInput.from_ints(tokens),
            num_samples=1,
            sampling_params=tinker.SamplingParams(
                max_tokens=max_tokens, temperature=temperature, seed=seed + index, stop=stop
            ),
        )
        sequence = response.sequences[0]
        return answer_text(sequence.tokens, tokenizer, stop), sequence.stop_reason

    jobs = [partial(answer, index, tokens) for index, tokens in enumerate(prompts)]
    return await gather_bounded(jobs)


@dataclass
class SamplingEvaluatorBuilder(EvaluatorBuilder):
    """Builds a `SamplingEvaluator` for prompts given as text, each one user message.

    Its table is called `name`, its metric `eval/NAME/exact_match`.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    prompts: list[str]
    model_name_for_tokenizer: str
    renderer_name: str | None = None
    references: list[str] | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = "prompts"
    date: str | None = None
    """The day that a chat template may write, as `2026-11-30`; None: that of the run."""

    def __call__(self) -> SamplingEvaluator:
        tokenizer = load_tokenizer(self.model_name_for_tokenizer)
        renderer = get_renderer(
            self.renderer_name, tokenizer, self.chat_template_kwargs, date=self.date
        )
        stop = renderer.stop_sequences()
        nothing: list[str | None] = [None] * len(self.prompts)
        for number, reference in enumerate(self.references or [], start=1):
            words = as_written(reference, tokenizer, stop)
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
            stop,
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
    question: Callable[[list[int]], str | None] = lambda prompt: None,
) -> list[Prompt]:
    """The first `count` held-out sequences as prompts.

    `question` gives the words that the tokens of a prompt ask; for None all of it is shown.

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
                    question(prompt) or tokenizer.decode(prompt, skip_special_tokens=True).strip(),
                    answer_text(answer, tokenizer, stop),
                    compared=end is not None and end <= max_tokens,
                )
            )
    return prompts


def _encode(text: str, tokenizer: Any) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def as_written(text: str, tokenizer: Any, stop: list[int] | list[str]) -> str:
    """`text` as it would come back if a model had answered it: as the tokenizer writes it."""
    return answer_text(_encode(text, tokenizer), tokenizer, stop)


def answer_text(tokens: list[int], tokenizer: Any, stop: list[int] | list[str]) -> str:
    """The text of an answer, without what ends it and the white space around it."""
    return without_end(tokens, tokenizer, stop).strip()


def without_end(tokens: list[int], tokenizer: Any, stop: list[int] | list[str]) -> str:
    """The text of an answer, without what ends it."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for end in stop:
        if isinstance(end, str):
            text = text.partition(end)[0]
        elif tokens[-1:] == [end]:  # a marker that is no special token
            text = text.removesuffix(tokenizer.decode([end], skip_special_tokens=True))
    return text


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

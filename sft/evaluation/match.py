"""Generated answers against references: the share of questions that are answered right."""

# No postponed annotations: the keys of the builder are checked by their types, and it says that it
# is of the module from which it is imported.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft.cost.usage import Usage
from sft.data.mixing.named_sets import check_names
from sft.errors import not_one_of
from sft.evaluation import questions
from sft.evaluation.answers import as_written, of_answers, sampled
from sft.evaluation.interface import EvaluatorBuilder
from sft.evaluation.matching import HOW, Matches
from sft.evaluation.share import Share
from sft.keys import key
from sft.rendering.conversations import Messages
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import tinker

REFERENCES = ("answer", "reference")


@dataclass(frozen=True)
class Task:
    """A question, and what a right answer is."""

    asked: Messages
    prompt: list[int]
    """The tokens that an answer is sampled behind."""
    reference: str
    matches: Matches


@dataclass
class MatchEvaluator(Share):
    """The share of questions that are answered right: `eval/NAME/accuracy`.

    Temperature 0 takes the most likely token. Above 0, answer i of a call is seeded by `seed` + i:
    the same weights give the same answers.
    """

    tasks: list[Task]
    tokenizer: Any
    stop: list[int] | list[str]
    how: str = "normalised"
    """How `matches` of the tasks compares: a key of `HOW`."""
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def usage(self) -> Usage:
        """Of a call, with answers as long as they may be."""
        return of_answers((task.prompt for task in self.tasks), self.max_tokens)

    async def __call__(self, sampling_client: "tinker.SamplingClient") -> dict[str, float]:
        said = await sampled(
            sampling_client,
            [task.prompt for task in self.tasks],
            self.tokenizer,
            self.stop,
            self.max_tokens,
            self.temperature,
            self.seed,
        )
        self.table = [
            {
                "prompt": questions.as_text(task.asked),
                "answer": answer,
                "reference": task.reference,
                "right": task.matches(answer),
                "stop_reason": reason,
            }
            for task, (answer, reason) in zip(self.tasks, said, strict=True)
        ]
        return self.measured([self.how, task.asked, task.reference] for task in self.tasks)


@dataclass
class MatchBuilder(EvaluatorBuilder):
    """Builds a `MatchEvaluator` of a file of questions with their answers:

        {"question": "2 + 2?", "answer": "4"}
        {"prompt": [{"role": "user", "content": "2 + 2?"}], "reference": "4"}

    Raises `BadInput` for a row that is none, by file and line.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    common_config: ChatDatasetBuilderCommonConfig
    path: str = field(metadata={"help": "file of questions and answers, JSON lines"})
    how: str = key("normalised", "how answer and reference are compared", choices=tuple(HOW))
    max_tokens: int = key(256, "longest answer, tokens", minimum=1)
    temperature: float = key(0.0, "of the answers; 0: the likeliest token", minimum=0)
    seed: int = key(0, "of the answers, above temperature 0", minimum=0)
    name: str = key("match", "a name of its own: it measures eval/NAME/accuracy")

    def __call__(self) -> MatchEvaluator:
        check_names([self.name], "evaluators.args.name")
        if self.how not in HOW:
            raise not_one_of("evaluators.args.how", self.how, HOW)
        tokenizer, renderer = questions.tokenizer_and_renderer(self.common_config)
        stop = renderer.stop_sequences()

        def task(row: Mapping[str, Any], where: str) -> Task:
            asked = questions.conversation(row, where)
            reference = _reference(row, where)
            # As an answer of the same words comes back from the tokenizer.
            written = as_written(reference, tokenizer, stop) if self.how == "exact" else reference
            try:
                matches = HOW[self.how](written)
            except ValueError as error:
                raise questions.bad(where, f"the answer {reference!r} {error}") from None
            prompt = questions.prompt_of(renderer, asked, where)
            return Task(asked, prompt, reference, matches)

        tasks = [task(row, where) for where, row in questions.rows(self.path)]
        return MatchEvaluator(
            tasks,
            tokenizer,
            stop,
            self.how,
            self.max_tokens,
            self.temperature,
            self.seed,
            name=self.name,
        )


def _reference(row: Mapping[str, Any], where: str) -> str:
    """What the row says is right. Raises `BadInput`."""
    given = questions.column(row, REFERENCES, where)
    if isinstance(given, int | float) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or not given.strip():
        raise questions.bad(where, f"the answer is {given!r}; expected text or a number")
    return given

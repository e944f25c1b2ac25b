"""An evaluator that runs a task of a harness and answers what it asks."""

# No postponed annotations: the keys of builders are checked by their types.

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sft.data.mixing.named_sets import check_names
from sft.errors import BadInput
from sft.evaluation.harnesses.process import Harness
from sft.record.examples import Examples
from sft.rendering.base import Renderer

if TYPE_CHECKING:
    import tinker

Log = Mapping[str, Any]


class LogReader(Protocol):
    """What the log of a harness says, as its `GROUP_log.py` reads it."""

    def names(self, log: Log, name: str) -> tuple[str, ...] | None:
        """What a task will measure; None if that is not known beforehand."""
        ...

    def metrics(self, log: Log, name: str) -> dict[str, float]: ...

    def examples(self, log: Log, name: str) -> dict[str, Examples]:
        """What those metrics are made of that are means of a number for each example."""
        ...

    def rows(self, log: Log) -> list[dict[str, Any]]: ...


@dataclass
class TaskEvaluator:
    """Base of evaluators of a harness's task: its metrics, as `eval/NAME/METRIC`.

    A subclass says how one `question` of the task is answered.
    """

    harness: Harness
    reader: LogReader
    request: dict[str, Any]
    tokenizer: Any
    renderer: Renderer
    measures: tuple[str, ...] | None
    """Names of what is measured; None if that is not known beforehand."""
    name: str
    table: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, Examples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.measures is not None:  # an evaluator that does not know them has no `metrics`
            self.metrics = self.measures

    async def __call__(self, sampling_client: "tinker.SamplingClient") -> dict[str, float]:
        asked: Counter[str] = Counter()

        async def answer(question: dict[str, Any]) -> dict[str, Any]:
            return await self.answer(sampling_client, question, asked)

        log = await self.harness.log(self.request, answer)
        self.table = self.reader.rows(log)
        self.examples = self.reader.examples(log, self.name)
        return self.reader.metrics(log, self.name)

    async def answer(
        self,
        sampling_client: "tinker.SamplingClient",
        question: dict[str, Any],
        asked: Counter[str],
    ) -> dict[str, Any]:
        """The answer to a `question`. Raises `BadInput` if it cannot be asked.

        `asked` counts how often each prompt was sampled from in this evaluation.
        """
        raise NotImplementedError


async def sampled(
    sampling_client: "tinker.SamplingClient",
    prompt: list[int],
    stop: list[int] | list[str],
    config: Mapping[str, Any],
    asked: Counter[str],
) -> tuple[list[int], str]:
    """The tokens of an answer to `prompt`, and why it ended: `stop` or `length`.

    The nth answer to one prompt is seeded by the seed of `config` + n, whatever is asked beside it.
    """
    import tinker

    seed = config.get("seed", 0) + asked[str(prompt)]
    asked[str(prompt)] += 1
    response = await sampling_client.sample(
        prompt=tinker.ModelInput.from_ints(prompt),
        num_samples=1,
        sampling_params=tinker.SamplingParams(**{**config, "stop": stop, "seed": seed}),
    )
    [sequence] = response.sequences
    return sequence.tokens, sequence.stop_reason


def cut(text: str, ends: list[str]) -> str:
    """`text` up to the first of `ends`, none of which is empty."""
    for end in ends:
        text = text.partition(end)[0]
    return text


def check(harness: Harness, name: str, task: str, ending: str, expected: str) -> None:
    """Raise `BadInput` for a bad name, without the harness, and for a missing file of a task."""
    check_names([name], "evaluators.args.name")
    harness.check_installed()
    file = task.rpartition("@")[0] or task
    if file.endswith(ending) and not Path(file).is_file():
        raise BadInput(f"evaluators.args.task: {file}: there is no such file; expected {expected}")

"""A task of Inspect AI (inspect.aisi.org.uk), answered by the weights that are evaluated.

Inspect runs in a process of its own (`inspect_child.py`) and asks for each answer: the messages
go through the run's renderer, the answer comes from the sampling client.
"""

# No postponed annotations: the keys of the builder are checked by their types, and it says that it
# is of the module from which it is imported.

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sft.evaluation.answers import answer_text
from sft.evaluation.harnesses import inspect_log
from sft.evaluation.harnesses.process import Harness
from sft.evaluation.harnesses.tasks import TaskEvaluator, check, cut, sampled
from sft.evaluation.interface import EvaluatorBuilder
from sft.evaluation.questions import tokenizer_and_renderer
from sft.keys import key
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import tinker

HARNESS = Harness("inspect", "Inspect AI", "inspect-ai")
STOP_REASONS = {"stop": "stop", "length": "max_tokens"}


@dataclass
class InspectEvaluator(TaskEvaluator):
    """The metrics of an Inspect task, as `eval/NAME/METRIC`."""

    async def answer(
        self,
        sampling_client: "tinker.SamplingClient",
        question: dict[str, Any],
        asked: Counter[str],
    ) -> dict[str, Any]:
        prompt = self.renderer.generation_prompt(question["messages"])
        config = dict(question["config"])
        ends = config.pop("stop_seqs", None) or []
        stop = self.renderer.stop_sequences()
        tokens, reason = await sampled(sampling_client, prompt, stop, config, asked)
        whole = answer_text(tokens, self.tokenizer, stop)
        text = cut(whole, ends)
        return {"text": text, "stop_reason": STOP_REASONS["stop" if text != whole else reason]}


@dataclass
class InspectBuilder(EvaluatorBuilder):
    """Builds an `InspectEvaluator`.

    Raises `BadInput` if there is no such task, or Inspect AI is not installed.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    common_config: ChatDatasetBuilderCommonConfig
    task: str = field(metadata={"help": "my_task.py@NAME, or the name of a registered task"})
    task_args: dict[str, Any] = key({}, "arguments of the task")
    limit: int | None = key(None, "samples at most; null: all", minimum=1)
    max_tokens: int = key(256, "longest answer, tokens, if the task does not say", minimum=1)
    temperature: float = key(0.0, "of the answers, if the task does not say", minimum=0)
    seed: int = key(0, "of the answers, if the task does not say", minimum=0)
    name: str = key("inspect", "a name of its own: it measures eval/NAME/METRIC")

    def __call__(self) -> InspectEvaluator:
        expected = "FILE.py@NAME, or the name of a registered task"
        check(HARNESS, self.name, self.task, ".py", expected)
        tokenizer, renderer = tokenizer_and_renderer(self.common_config)
        chosen = ("max_tokens", "temperature", "seed")
        request = {
            "task": self.task,
            "task_args": self.task_args,
            "limit": self.limit,
            "config": {name: getattr(self, name) for name in chosen},
        }
        measures = inspect_log.names(HARNESS.described(request), self.name)
        return InspectEvaluator(
            HARNESS, inspect_log, request, tokenizer, renderer, measures, self.name
        )

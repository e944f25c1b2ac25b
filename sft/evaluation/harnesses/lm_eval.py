"""A task of lm-evaluation-harness (github.com/EleutherAI/lm-evaluation-harness), answered by the
weights that are evaluated.

The harness runs in a process of its own (`lm_eval_child.py`). Its messages go through the run's
renderer; what it scores stands right behind the prompt that an answer would be sampled after.
"""

# No postponed annotations: the keys of the builder are checked by their types, and it says that it
# is of the module from which it is imported.

import functools
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sft.evaluation.answers import without_end
from sft.evaluation.harnesses import lm_eval_log
from sft.evaluation.harnesses.process import Harness
from sft.evaluation.harnesses.tasks import TaskEvaluator, check, cut, sampled
from sft.evaluation.harnesses.texts import Scored, Texts
from sft.evaluation.interface import EvaluatorBuilder
from sft.evaluation.questions import tokenizer_and_renderer
from sft.keys import key
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import tinker

HARNESS = Harness("lm_eval", "lm-evaluation-harness", "lm-eval")


@dataclass
class LmEvalEvaluator(TaskEvaluator):
    """The metrics of a task of the harness, as `eval/NAME/METRIC`."""

    @functools.cached_property
    def texts(self) -> Texts:
        return Texts(self.tokenizer, self.renderer)

    async def answer(
        self,
        sampling_client: "tinker.SamplingClient",
        question: dict[str, Any],
        asked: Counter[str],
    ) -> dict[str, Any]:
        if "text" in question:
            windows = self.texts.windows(question["text"], self.request["max_length"])
            scores = [await score(sampling_client, window) for window in windows]
            return {"logprob": sum(score["logprob"] for score in scores)}
        messages, behind = question["messages"], question["behind"]
        if "continuation" in question:
            scored = self.texts.continuation(messages, behind, question["continuation"])
            return await score(sampling_client, scored)
        prompt = self.texts.prompt(messages, behind)
        in_chat = messages is not None
        stop = self.renderer.stop_sequences() if in_chat else [self.tokenizer.eos_token_id]
        config = question["config"] | {"seed": self.request["seed"]}
        # The service takes tokens as ends or texts, not both: the task's own are cut off here.
        tokens, _ = await sampled(sampling_client, prompt, stop, config, asked)
        return {"text": cut(without_end(tokens, self.tokenizer, stop), question["until"])}


async def score(sampling_client: "tinker.SamplingClient", scored: Scored) -> dict[str, Any]:
    """The log-probability in nats of the last tokens, and whether each was the likeliest."""
    import tinker

    response = await sampling_client.sample(
        prompt=tinker.ModelInput.from_ints(scored.tokens),
        num_samples=1,
        sampling_params=tinker.SamplingParams(max_tokens=1),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=1,
    )
    logprobs, likeliest = response.prompt_logprobs, response.topk_prompt_logprobs
    assert logprobs is not None and likeliest is not None
    own = range(scored.start, len(scored.tokens))
    values = [logprobs[place] for place in own]
    best = [found[0][0] if (found := likeliest[place]) else None for place in own]
    return {
        "logprob": sum(value for value in values if value is not None),
        "greedy": best == scored.tokens[scored.start :],
    }


@dataclass
class LmEvalBuilder(EvaluatorBuilder):
    """Builds a `LmEvalEvaluator`.

    Raises `BadInput` if there is no such task, or lm-evaluation-harness is not installed.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    common_config: ChatDatasetBuilderCommonConfig
    task: str = field(metadata={"help": "my_task.yaml, or the name of a registered task or group"})
    num_fewshot: int | None = key(None, "examples in a prompt; null: as the task says", minimum=0)
    limit: int | None = key(None, "examples of each task at most; null: all", minimum=1)
    apply_chat_template: bool = key(True, "ask in messages; false: in plain text")
    max_gen_toks: int = key(256, "longest answer, tokens, if the task does not say", minimum=1)
    max_length: int = key(2048, "tokens of a window in which a long text is scored", minimum=2)
    seed: int = key(0, "of answers that the task wants sampled", minimum=0)
    confirm_run_unsafe_code: bool = key(False, "run what the model writes, if the task does so")
    name: str = key("lm_eval", "a name of its own: it measures eval/NAME/METRIC")

    def __call__(self) -> LmEvalEvaluator:
        check(HARNESS, self.name, self.task, ".yaml", "FILE.yaml, or the name of a registered task")
        tokenizer, renderer = tokenizer_and_renderer(self.common_config)
        request = asdict(self)
        del request["common_config"]
        measures = lm_eval_log.names(HARNESS.described(request), self.name)
        return LmEvalEvaluator(
            HARNESS, lm_eval_log, request, tokenizer, renderer, measures, self.name
        )

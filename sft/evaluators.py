"""What a run measures beside training: held-out NLL, sampled answers, questions, tasks.

An evaluator is given a sampling client that holds the weights at one step and returns metrics.
It runs beside training, on a snapshot, and never stands between two steps. Each has a name of its
own, and metrics of its own: those of this module are `eval/METRIC` under their default name and
`eval/NAME/METRIC` under another.
"""

from __future__ import annotations

from sft.evaluation.answers import (
    Prompt,
    SamplingEvaluator,
    SamplingEvaluatorBuilder,
    answer_text,
    held_out_prompts,
    without_end,
)
from sft.evaluation.choice import ChoiceBuilder, ChoiceEvaluator
from sft.evaluation.harnesses.inspect import InspectBuilder, InspectEvaluator
from sft.evaluation.harnesses.lm_eval import LmEvalBuilder, LmEvalEvaluator
from sft.evaluation.interface import (
    CONCURRENT_REQUESTS,
    Evaluator,
    EvaluatorBuilder,
    check_names,
    claim,
    examples_of,
    gather_bounded,
    name_of,
    numbers,
    table_of,
)
from sft.evaluation.match import MatchBuilder, MatchEvaluator
from sft.evaluation.nll import NLLEvaluator, full_sequence
from sft.record.examples import Examples

__all__ = [
    "BUILDERS",
    "CONCURRENT_REQUESTS",
    "ChoiceBuilder",
    "ChoiceEvaluator",
    "Evaluator",
    "EvaluatorBuilder",
    "Examples",
    "InspectBuilder",
    "InspectEvaluator",
    "LmEvalBuilder",
    "LmEvalEvaluator",
    "MatchBuilder",
    "MatchEvaluator",
    "NLLEvaluator",
    "Prompt",
    "SamplingEvaluator",
    "SamplingEvaluatorBuilder",
    "answer_text",
    "check_names",
    "claim",
    "examples_of",
    "full_sequence",
    "gather_bounded",
    "held_out_prompts",
    "name_of",
    "numbers",
    "table_of",
    "without_end",
]

BUILDERS: dict[str, type[EvaluatorBuilder]] = {
    "choice": ChoiceBuilder,
    "match": MatchBuilder,
    "inspect": InspectBuilder,
    "lm_eval": LmEvalBuilder,
}
"""Those that come with the product, as `evaluators=NAME` chooses them."""

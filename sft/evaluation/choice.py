"""Multiple choice by log-probability: the share of questions whose right choice is the likeliest.

Each choice is scored as the assistant's answer to the question, as lm-evaluation-harness does it
(github.com/EleutherAI/lm-evaluation-harness, `process_results` of lm_eval/api/task.py): by the sum
of the log-probabilities of its tokens, without what ends the turn. `tokens` and `bytes` divide the
sum by the number of them; the harness's `acc` divides by nothing, its `acc_bytes` by bytes. Unlike
there, a tie is no right answer, whichever choice comes first, and of two choices that say the same
either will do.
"""

# No postponed annotations: the keys of the builder are checked by their types, and it says that it
# is of the module from which it is imported.

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sft.cost.usage import Usage
from sft.data.mixing.named_sets import check_names
from sft.errors import BadInput, not_one_of
from sft.evaluation import questions
from sft.evaluation.choice_rows import Question, question
from sft.evaluation.interface import EvaluatorBuilder, gather_bounded
from sft.evaluation.share import Share
from sft.keys import key
from sft.rendering.base import Rendered, Renderer
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import tinker

NORMALISE = ("none", "tokens", "bytes")


@dataclass(frozen=True)
class Choice:
    """A choice as the assistant's answer."""

    tokens: list[int]
    """The question, the answer up to its last word, nothing behind it."""
    start: int
    """The first token of the choice's own."""
    num_bytes: int
    """Of its text, as UTF-8."""

    def score(self, logprobs: list[float | None], normalise: str) -> float:
        """Its log-probability in nats, given those of all `tokens`, divided as `normalise` says."""
        own = sum(value for value in logprobs[self.start :] if value is not None)
        count = {"none": 1, "tokens": len(self.tokens) - self.start, "bytes": self.num_bytes}
        return own / count[normalise]


@dataclass
class ChoiceEvaluator(Share):
    """The share of questions whose right choice is the likeliest: `eval/NAME/accuracy`."""

    questions: list[Question]
    choices: list[list[Choice]]
    """Of each question."""
    normalise: str = "none"

    def usage(self) -> Usage:
        """Of a call: every choice behind its question, as a prompt."""
        lengths = [len(choice.tokens) for choices in self.choices for choice in choices]
        return Usage(prefill=sum(lengths), sample=len(lengths))

    async def __call__(self, sampling_client: "tinker.SamplingClient") -> dict[str, float]:
        import tinker

        async def score(choice: Choice) -> float:
            whole = tinker.ModelInput.from_ints(choice.tokens)
            logprobs = await sampling_client.compute_logprobs(whole)
            return choice.score(logprobs, self.normalise)

        jobs = [partial(score, choice) for choices in self.choices for choice in choices]
        scores = iter(await gather_bounded(jobs))
        self.table = []
        for asked, choices in zip(self.questions, self.choices, strict=True):
            own = [next(scores) for _ in choices]
            right = max(value for place, value in enumerate(own) if asked.is_right(place))
            others = [place for place in range(len(own)) if not asked.is_right(place)]
            best = max(others, key=own.__getitem__)
            self.table.append(
                {
                    "prompt": questions.as_text(asked.asked),
                    "answer": asked.choices[asked.right if right > own[best] else best],
                    "reference": asked.choices[asked.right],
                    "right": right > own[best],
                    "margin": right - own[best],
                }
            )
        return self.measured(
            [self.normalise, asked.asked, asked.choices, asked.right] for asked in self.questions
        )


@dataclass
class ChoiceBuilder(EvaluatorBuilder):
    """Builds a `ChoiceEvaluator` of a file of questions (see `choice_rows.py`).

    Raises `BadInput` for a row that is none, by file and line.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    common_config: ChatDatasetBuilderCommonConfig
    path: str = field(metadata={"help": "file of questions, JSON lines"})
    normalise: str = key("none", "what a choice's log-probability is divided by", choices=NORMALISE)
    name: str = key("choice", "a name of its own: it measures eval/NAME/accuracy")

    def __call__(self) -> ChoiceEvaluator:
        check_names([self.name], "evaluators.args.name")
        if self.normalise not in NORMALISE:
            raise not_one_of("evaluators.args.normalise", self.normalise, NORMALISE)
        tokenizer, renderer = questions.tokenizer_and_renderer(self.common_config)
        asked = [question(row, where) for where, row in questions.rows(self.path)]
        choices = [_choices(one, renderer, tokenizer) for one in asked]
        return ChoiceEvaluator(asked, choices, self.normalise, name=self.name)


def _choices(asked: Question, renderer: Renderer, tokenizer: Any) -> list[Choice]:
    """The choices of a question, each written as the answer to it. Raises `BadInput`."""
    prompt = questions.prompt_of(renderer, asked.asked, asked.where)
    answers = [{"role": "assistant", "content": choice} for choice in asked.choices]
    written = renderer.render_batch(
        [[*asked.asked, answer] for answer in answers], "last_assistant_message"
    )
    made = []
    for number, (text, found) in enumerate(zip(asked.choices, written, strict=True)):
        if isinstance(found, BadInput):
            raise questions.bad(asked.where, f"choice {number}: {found}")
        [rendered] = found
        start, end = _words(rendered, len(prompt), text.strip(), tokenizer)
        made.append(Choice(rendered.tokens[:end], start, len(text.strip().encode())))
    return made


def _words(rendered: Rendered, prompt: int, words: str, tokenizer: Any) -> tuple[int, int]:
    """The first token of an answer's `words`, and that behind them.

    What a template writes before them (an empty thought, say) and what ends the turn is the same
    for each choice. A token that holds a part of the words and more is theirs.
    """
    text = tokenizer.decode(
        rendered.tokens[prompt:], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    behind = len(text[text.rfind(words) + len(words) :].encode())
    end = len(rendered.tokens)
    while end > prompt and behind >= (size := int(rendered.num_bytes[end - 1])):
        behind -= size
        end -= 1
    start, left = end, len(words.encode()) + behind
    while start > prompt and left > 0:
        start -= 1
        left -= int(rendered.num_bytes[start])
    return start, end

"""What a run is about to do, known once its data has been read: before anything is created."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.config.schema import AUTO
from sft.cost.estimate import Estimate
from sft.cost.prices import Prices
from sft.cost.usage import Usage
from sft.data.mixing.held_out import built
from sft.errors import BadInput
from sft.evaluation.interface import usage_of
from sft.evaluators import (
    Evaluator,
    NLLEvaluator,
    SamplingEvaluator,
    check_names,
    claim,
    held_out_prompts,
    name_of,
)
from sft.files import read_yaml
from sft.models.lora_size import trained_parameters
from sft.models.names import folder_or_name
from sft.prior.first_guess import FirstGuess, first_guess
from sft.prior.setting import Setting
from sft.record import fingerprints
from sft.record.metrics import TRAINING_METRICS, contrary
from sft.run.batches import epoch_seed, steps_in_total
from sft.stages.threads import in_thread
from sft.types import ChatDatasetBuilder, SupervisedDataset

if TYPE_CHECKING:
    from sft.config.training import Config


@dataclass
class Plan:
    """Data, steps and evaluators of one run."""

    data: SupervisedDataset
    held_out: SupervisedDataset | None
    eval_sets: dict[str, str | None]
    """The digests of further held-out sets, by name."""
    total_steps: int
    max_length: int | None
    evaluators: list[Evaluator]
    infrequent: list[Evaluator]
    notes: list[str]
    """What the user should know of what is measured; told at the start."""
    trained_parameters: int | None = None
    code: dict[str, str] = field(default_factory=dict)
    """Digests of the files of a builder of the user's own, by module."""
    model: dict[str, str] | None = None
    """Digests of the model's files by name, where they are on this machine."""

    @classmethod
    async def make(cls, config: Config) -> Plan:
        """Read the data and build the evaluators, in a thread. Raises `BadInput`."""
        return await in_thread(cls._make, config)

    @classmethod
    def _make(cls, config: Config) -> Plan:
        found = built(config.dataset_builder)
        data, held_out = found.train, found.held_out
        total_steps = steps_in_total(data, config.num_epochs, config.max_steps)
        if total_steps == 0:
            raise BadInput("the data gives no batch to train on")
        evaluators = [build() for build in config.evaluator_builders]
        notes: list[str] = []
        infrequent = [build() for build in config.infrequent_evaluator_builders]
        sets = [NLLEvaluator(dataset, name) for name, dataset in found.eval_sets.items()]
        evaluators = [*sets, *evaluators]
        if held_out is not None:
            evaluators.insert(0, NLLEvaluator(held_out))
            if config.held_out_answers and isinstance(config.dataset_builder, ChatDatasetBuilder):
                answers = _answers(config, config.dataset_builder, held_out)
                infrequent.append(answers)
                notes = _notes(answers)
        check_names(evaluators + infrequent)
        writers: dict[str, str] = {}
        for evaluator in evaluators + infrequent:
            claim(writers, evaluator, getattr(evaluator, "metrics", None) or ())
        common = getattr(config.dataset_builder, "common_config", None)
        return cls(
            data=data,
            held_out=held_out,
            total_steps=total_steps,
            max_length=getattr(common, "max_length", None),
            eval_sets=found.named_digests(),
            evaluators=evaluators,
            infrequent=infrequent,
            notes=notes + contrary(config.metric, config.direction),
            trained_parameters=common and _trained_parameters(config, common),
            code=fingerprints.code_of(
                config.dataset_builder,
                *config.evaluator_builders,
                *config.infrequent_evaluator_builders,
            ),
            model=fingerprints.model_files(config.model_name),
        )

    def origin(self) -> dict[str, Any]:
        """What tells whether a later run of the same config is made from the same things."""
        return {
            "digest": getattr(self.data, "digest", None),
            "held_out_digest": getattr(self.held_out, "digest", None),
            "has_held_out": self.held_out is not None,
            "eval_set_digests": self.eval_sets,
            "code": self.code,
            "model": self.model,
        }

    def facts(self) -> dict[str, Any]:
        """What hooks are told: sizes, digest and what the datasets count of themselves."""
        return {
            "steps": self.total_steps,
            "steps_per_epoch": len(self.data),
            "digest": getattr(self.data, "digest", None),
            "data": getattr(self.data, "statistics", None),
            "held_out": getattr(self.held_out, "statistics", None),
            "held_out_digest": getattr(self.held_out, "digest", None),
            "eval_set_digests": self.eval_sets,
            "trained_parameters": self.trained_parameters,
        }

    @property
    def held_out_sequences(self) -> int:
        """How many sequences are held out, if the dataset counts them; else its batches."""
        if self.held_out is None:
            return 0
        counted = getattr(self.held_out, "statistics", None)
        return getattr(counted, "datums", None) or len(self.held_out)

    def metrics(self) -> set[str] | None:
        """What the run will measure; None if an evaluator does not say what it does."""
        evaluated = self.evaluated()
        return None if evaluated is None else evaluated | set(TRAINING_METRICS)

    def evaluated(self) -> set[str] | None:
        """What its evaluators will measure; None if one of them does not say what it does."""
        found: set[str] = set()
        for evaluator in [*self.evaluators, *self.infrequent]:
            if (names := getattr(evaluator, "metrics", None)) is None:
                return None
            found |= set(names)
        return found

    def estimate(self, config: Config, prices: Prices) -> Estimate:
        """What the run will be billed for, by part, and what that costs."""
        trained, unknown = self._trained_tokens(config), []
        if trained is None:
            unknown.append("training (the data does not count its tokens)")
        parts = {"training": Usage(train=trained or 0), "evaluations": Usage(), "answers": Usage()}
        rates = ((self.evaluators, config.eval_every),
                 (self.infrequent, config.infrequent_eval_every))  # fmt: skip
        for evaluators, every in rates:
            times = 2 + ((self.total_steps - 1) // every if every else 0)
            for evaluator in evaluators:
                if (usage := usage_of(evaluator)) is None:
                    unknown.append(f"the evaluation '{name_of(evaluator)}'")
                    continue
                part = "answers" if getattr(evaluator, "max_tokens", None) else "evaluations"
                parts[part] += usage * times
        return Estimate(parts, prices, tuple(unknown))

    def _trained_tokens(self, config: Config) -> int | None:
        """Tokens of all model inputs of the run: exact if batches know theirs, else by the mean
        length of a sequence; None if the data does not count itself."""
        counted = getattr(self.data, "statistics", None)
        if counted is None or not counted.datums:
            return None
        epoch = counted.tokens - counted.datums  # a model input lacks the last token
        num_tokens = getattr(self.data, "num_tokens", None)

        def until(step: int) -> int:
            epochs, rest = divmod(step, len(self.data))
            if num_tokens is None:
                size = getattr(self.data, "batch_size", counted.datums / len(self.data))
                return round(epoch / counted.datums * size * step)
            if rest:
                self.data.set_epoch(epoch_seed(config.seed, epochs))
            return epochs * epoch + sum(num_tokens(index) for index in range(rest))

        return until(self.total_steps) - until(config.load_checkpoint_step or 0)

    def due(self, config: Config, step: int) -> list[Evaluator]:
        """The evaluators that measure the weights after `step` updates."""
        edge = step in (0, self.total_steps)
        frequent = edge or (config.eval_every and step % config.eval_every == 0)
        every = config.infrequent_eval_every
        infrequent = edge or (every and step % every == 0)
        return (self.evaluators if frequent else []) + (self.infrequent if infrequent else [])


def _trained_parameters(config: Config, common: Any) -> int | None:
    return trained_parameters(
        folder_or_name(common.model_name_for_tokenizer),
        config.lora_rank,
        config.train_attn,
        config.train_mlp,
        config.train_unembed,
    )


def _answers(
    config: Config, builder: ChatDatasetBuilder, held_out: SupervisedDataset
) -> SamplingEvaluator:
    tokenizer, renderer = builder.tokenizer, builder.renderer
    stop = renderer.stop_sequences()
    max_tokens = min(config.held_out_answer_tokens, builder.common_config.max_length or 1 << 30)
    return SamplingEvaluator(
        prompts=held_out_prompts(
            held_out,
            config.held_out_answers,
            tokenizer,
            stop,
            max_tokens,
            getattr(renderer, "question", lambda prompt: None),
        ),
        tokenizer=tokenizer,
        stop=stop,
        max_tokens=max_tokens,
        seed=config.seed,
    )


def _notes(answers: SamplingEvaluator) -> list[str]:
    """What the user should know of the held-out answers."""
    compared = sum(prompt.compared for prompt in answers.prompts)
    if compared == len(answers.prompts):
        return []
    return [
        f"eval/exact_match is of {compared} of the {len(answers.prompts)} held-out answers: the "
        f"others' references are longer than evaluators.max_tokens={answers.max_tokens}, or have "
        "no end (cut at max_length), so that no answer could match them"
    ]


def with_learning_rate(config: Config, plan: Plan) -> tuple[Config, FirstGuess | None]:
    """`config` with a number for its learning rate, and the guess that gave it, if one did.

    A run that began in `config.log_path` keeps the rate with which it began.
    """
    if config.learning_rate != AUTO:
        return config, None
    saved = Path(config.log_path) / "config.yaml"
    if saved.is_file() and (began := read_yaml(saved).get("lr")) is not None:
        return replace(config, learning_rate=began), None
    common = getattr(config.dataset_builder, "common_config", None)
    size = getattr(common, "batch_size", None) or len(plan.data.get_batch(0))
    setting = Setting(size, plan.total_steps)
    guess = first_guess(config.model_name, config.lora_rank, setting, config.lr_schedule)
    return replace(config, learning_rate=guess.lr), guess

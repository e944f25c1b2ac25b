"""Evaluators of one's own, and sampled answers."""

import asyncio
from dataclasses import dataclass

from sft import metrics
from sft.evaluators import Prompt, SamplingEvaluator, SamplingEvaluatorBuilder
from tests.test_train import TINY_MODEL, chats, make_config, run  # noqa: F401 - fixtures


@dataclass
class CountCalls:
    """A metric that says how often it was measured."""

    name: str
    calls: int = 0

    async def __call__(self, sampling_client):
        self.calls += 1
        return {f"eval/{self.name}": float(self.calls)}


def test_evaluators_of_ones_own_run_at_their_own_cadence(make_config):  # noqa: F811
    config = make_config(
        num_epochs=2,
        evaluator_builders=[lambda: CountCalls("often")],
        eval_every=2,
        infrequent_evaluator_builders=[lambda: CountCalls("rarely")],
        infrequent_eval_every=5,
    )
    from sft.compose import compose
    from sft.config import to_saved

    settings = to_saved(compose(["model=folder", "model.name=tiny"]))
    assert run(config, settings=settings).status == "FINISHED"
    from pathlib import Path

    rows = metrics.read(Path(config.log_path) / "metrics.jsonl")
    assert [r["step"] for r in rows if "eval/often" in r] == [0, 2, 4, 6, 8, 10]
    assert [r["step"] for r in rows if "eval/rarely" in r] == [0, 5, 10]


def test_answers_are_compared_with_their_references(local_service, tiny_model):
    from sft.client import Connection, Service, await_client
    from sft.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    tokens = tokenizer.encode("Hello")

    async def answers(references):
        connection = await Connection.open(await Service.reach(local_service))
        client = await await_client(
            lambda: connection.service.create_sampling_client(base_model=TINY_MODEL)
        )
        prompts = [Prompt(tokens, "Hello", reference) for reference in references]
        evaluator = SamplingEvaluator(
            prompts, tokenizer, stop=[tokenizer.eos_token_id], max_tokens=5
        )
        measured = await evaluator(client)
        await connection.close("success")
        return measured, evaluator.table

    measured, table = asyncio.run(answers([None]))
    assert measured == {} and set(table[0]) == {"prompt", "answer", "stop_reason"}
    said = table[0]["answer"]
    measured, table = asyncio.run(answers([said, said + "!"]))
    assert measured == {"eval/exact_match": 0.5}
    assert [row["exact_match"] for row in table] == [True, False]


def test_prompts_as_text_are_rendered_like_the_training_data(tiny_model):
    evaluator = SamplingEvaluatorBuilder(["Hi."], model_name_for_tokenizer=str(tiny_model))()
    text = evaluator.tokenizer.decode(evaluator.prompts[0].tokens)
    assert text == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"

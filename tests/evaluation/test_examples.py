"""What a metric is made of: the value of its examples is the number that is logged."""

import asyncio
from types import SimpleNamespace

import pytest

from sft.evaluators import NLLEvaluator, Prompt, SamplingEvaluator
from sft.record.fingerprints import sequences
from sft.run.plan import Plan
from sft.types import SupervisedDataset
from tests.test_train import chats, make_config  # noqa: F401 - fixtures


class Likely:
    """A sampling client to which token i of a sequence has the logprob -i / 8."""

    async def compute_logprobs(self, tokens):
        return [None, *(-place / 8 for place in range(1, len(tokens.to_ints())))]

    async def sample(self, prompt, num_samples, sampling_params):
        return SimpleNamespace(sequences=[SimpleNamespace(tokens=[65], stop_reason="length")])


class Listed(SupervisedDataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def get_batch(self, index):
        return [self.data[index]]


@pytest.fixture
def held_out(make_config):  # noqa: F811
    dataset = asyncio.run(Plan.make(make_config())).held_out
    return [datum for index in range(len(dataset)) for datum in dataset.get_batch(index)]


def test_held_out_nll_is_made_of_the_nats_and_trained_tokens_of_each_sequence(held_out):
    evaluator = NLLEvaluator(Listed(held_out))
    measured = asyncio.run(evaluator(Likely()))
    examples = evaluator.examples["eval/nll"]
    trained = [int((one.loss_fn_inputs["weights"].to_numpy() > 0).sum()) for one in held_out]
    assert list(examples.weights) == trained
    assert examples.value == pytest.approx(measured["eval/nll"], abs=1e-12)
    assert examples.digest == sequences(held_out) == evaluator.digest


def test_several_sequences_of_one_conversation_are_one_example(held_out):
    apart, together = Listed(held_out), Listed(held_out)
    together.conversations_of = lambda index: [index // 2]
    one_each, by_two = NLLEvaluator(apart), NLLEvaluator(together)
    measured = [asyncio.run(evaluator(Likely())) for evaluator in (one_each, by_two)]
    assert measured[0] == measured[1]
    many, few = (evaluator.examples["eval/nll"] for evaluator in (one_each, by_two))
    assert len(few.totals) == -(-len(many.totals) // 2)
    assert few.totals[0] == pytest.approx(many.totals[0] + many.totals[1])
    assert few.weights[0] == many.weights[0] + many.weights[1]
    assert few.digest != many.digest  # they cannot be compared example by example


def test_a_dataset_knows_which_sequences_are_of_one_conversation(make_config):  # noqa: F811
    dataset = asyncio.run(Plan.make(make_config())).held_out
    for index in range(len(dataset)):
        assert len(dataset.conversations_of(index)) == len(dataset.get_batch(index))
    every = [one for index in range(len(dataset)) for one in dataset.conversations_of(index)]
    assert len(set(every)) == dataset.statistics.conversations


def test_each_part_of_held_out_data_has_examples_and_a_digest_of_its_own(held_out):
    both = Listed(held_out)
    both.parts = {"one": Listed(held_out[:1]), "rest": Listed(held_out[1:])}
    evaluator = NLLEvaluator(both)
    measured = asyncio.run(evaluator(Likely()))
    assert set(evaluator.examples) == {"eval/nll", "eval/one/nll", "eval/rest/nll"}
    for metric, examples in evaluator.examples.items():
        assert examples.value == pytest.approx(measured[metric], abs=1e-12)
    assert evaluator.examples["eval/rest/nll"].digest == sequences(held_out[1:])
    assert evaluator.examples["eval/nll"].digest == sequences(held_out) == evaluator.digest


def exact_match(tiny_model, *prompts):
    from sft.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    evaluator = SamplingEvaluator(list(prompts), tokenizer, stop=[0])
    return asyncio.run(evaluator(Likely())), evaluator.examples


def test_exact_match_is_made_of_the_answers_that_are_compared(tiny_model):
    said = exact_match(tiny_model, Prompt([1], "a"))[0]
    assert said == {}
    one, other = Prompt([1], "a", "b"), Prompt([1], "c", "d", compared=False)
    measured, examples = exact_match(tiny_model, one, other, Prompt([2], "e", "f"))
    assert examples["eval/exact_match"].value == measured["eval/exact_match"]
    assert len(examples["eval/exact_match"].totals) == 2
    again = exact_match(tiny_model, one, Prompt([2], "e", "f"))[1]
    turned = exact_match(tiny_model, Prompt([2], "e", "f"), one)[1]
    digest = examples["eval/exact_match"].digest
    assert again["eval/exact_match"].digest == digest != turned["eval/exact_match"].digest

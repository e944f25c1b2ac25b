"""What the engine samples, and the logprobs it gives of prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import EngineError, LoraSpec, SampleWork, TrainingSequence, Work
from tests.local.engine_models import VOCAB, assert_same_logprobs, save, sequences

PROMPT = [5, 9, 31, 40, 2, 77, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def engine(folder):
    """Serves the model with an adapter that changes what it says: sampler "tuned"."""
    from sft.local.engine_api import AdamStep

    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=2)
    engine.add_sampler("base", "tiny", None)
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    for step in range(2):
        work = Work("a", sequences([30, 20], seed=step), backward=True)
        engine.run([work], [AdamStep("a", 0.05)])
    engine.add_sampler("tuned", "tiny", engine.state("a", optimizer=False))
    return engine


def sample(engine, sampler="base", prompt=PROMPT, **settings):
    settings = {"max_tokens": 12, "stop_at_eos": False, "seed": 0} | settings
    (result,) = engine.sample([SampleWork(sampler, prompt, **settings)])
    if isinstance(result, EngineError):
        raise result
    return result


def forward_logprobs(engine, tokens: list[int], model_id: str = "a") -> np.ndarray:
    """Logprobs of tokens[1:] by a training forward."""
    data = TrainingSequence(
        np.array(tokens[:-1]), np.array(tokens[1:]), np.zeros(len(tokens) - 1, np.float32)
    )
    (result,) = engine.run([Work(model_id, [data], backward=False)]).work
    return result.logprobs[0]


def test_greedy_sampling_says_what_transformers_generate_says(engine, folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, len(PROMPT) :].tolist()
    assert sample(engine, temperature=0).sequences[0].tokens == expected


@pytest.mark.parametrize("temperature", [0, 1.0, 0.5])
def test_logprobs_of_samples_are_those_of_the_unmodified_distribution(engine, temperature):
    (sampled,) = sample(engine, "tuned", temperature=temperature, top_k=20).sequences
    expected = forward_logprobs(engine, PROMPT + sampled.tokens)[len(PROMPT) - 1 :]
    assert_same_logprobs(sampled.logprobs, expected)


def test_prompt_logprobs_are_those_of_a_forward_and_the_first_is_none(engine):
    result = sample(engine, "tuned", max_tokens=0, prompt_logprobs=True)
    assert result.prompt_logprobs[0] is None
    assert_same_logprobs(result.prompt_logprobs[1:], forward_logprobs(engine, PROMPT))
    assert result.sequences[0].tokens == []
    assert result.sequences[0].stop_reason == "length"


def test_topk_prompt_logprobs_are_likeliest_first_and_agree_with_prompt_logprobs(engine):
    result = sample(engine, max_tokens=1, prompt_logprobs=True, topk_prompt_logprobs=VOCAB)
    assert result.topk_prompt_logprobs[0] is None
    for token, chosen, row in zip(
        PROMPT[1:], result.prompt_logprobs[1:], result.topk_prompt_logprobs[1:], strict=True
    ):
        values = [value for _, value in row]
        assert values == sorted(values, reverse=True)
        assert dict(row)[token] == pytest.approx(chosen, abs=1e-5)
        assert np.exp(values).sum() == pytest.approx(1, abs=1e-4)


def test_nothing_is_asked_of_the_prompt_nothing_is_given(engine):
    result = sample(engine)
    assert result.prompt_logprobs is None and result.topk_prompt_logprobs is None


def test_a_seed_repeats_and_samples_of_one_request_differ(engine):
    one, two = sample(engine, num_samples=2).sequences
    assert one.tokens != two.tokens
    again = sample(engine, num_samples=3).sequences
    assert [one, two] == again[:2]
    assert sample(engine, seed=1).sequences[0].tokens != one.tokens


def test_top_k_one_is_greedy_and_so_is_a_tiny_top_p(engine):
    greedy = sample(engine, temperature=0).sequences[0].tokens
    assert sample(engine, top_k=1).sequences[0].tokens == greedy
    assert sample(engine, top_p=1e-6).sequences[0].tokens == greedy


def test_frequencies_follow_the_filtered_distribution(engine):
    logprobs = dict(sample(engine, topk_prompt_logprobs=VOCAB, prompt=PROMPT + [0])
                    .topk_prompt_logprobs[-1])  # fmt: skip
    chances = {token: np.exp(value / 0.7) for token, value in logprobs.items()}
    top = dict(sorted(chances.items(), key=lambda item: -item[1])[:3])
    expected = {token: value / sum(top.values()) for token, value in top.items()}
    drawn = sample(engine, num_samples=1500, max_tokens=1, temperature=0.7, top_k=3).sequences
    counts = {token: 0 for token in top}
    for one in drawn:
        counts[one.tokens[0]] += 1
    for token, chance in expected.items():
        assert counts[token] / len(drawn) == pytest.approx(chance, abs=0.05)


def test_stop_sequences_end_a_sample_and_are_part_of_it(engine):
    tokens = sample(engine, temperature=0).sequences[0].tokens
    stop = tokens[3:5]
    (stopped,) = sample(engine, temperature=0, stop_token_ids=[[VOCAB - 1, 0], stop]).sequences
    assert stopped.tokens[-2:] == stop and stopped.stop_reason == "stop"
    assert stopped.tokens == tokens[: len(stopped.tokens)]


def test_end_of_text_stops_unless_it_is_told_not_to(engine):
    # 2 is the model's end of text; a sampler that draws for long enough says it.
    free = sample(engine, num_samples=20, max_tokens=60, temperature=3.0)
    held = sample(engine, num_samples=20, max_tokens=60, temperature=3.0, stop_at_eos=True)
    assert any(2 in one.tokens[:-1] for one in free.sequences)
    for one, other in zip(free.sequences, held.sequences, strict=True):
        end = one.tokens.index(2) + 1 if 2 in one.tokens else 60
        assert other.tokens == one.tokens[:end]
        assert other.stop_reason == ("stop" if 2 in other.tokens else "length")


def test_stop_strings_are_found_across_tokens(tiny_model):
    engine = TorchEngine({"tiny": str(tiny_model)}, dtype="float32", threads=1)
    engine.add_sampler("base", "tiny", None)
    prompt = [72, 101, 108]
    free = sample(engine, prompt=prompt, temperature=0, max_tokens=20).sequences[0].tokens
    text = engine._decoder("tiny")(free)
    stop = text[2:4]
    (stopped,) = sample(
        engine, prompt=prompt, temperature=0, max_tokens=20, stop_strings=[stop]
    ).sequences
    assert stopped.stop_reason == "stop"
    assert engine._decoder("tiny")(stopped.tokens).endswith(stop)
    assert len(stopped.tokens) < len(free)


def test_samples_end_at_the_context(engine):
    (sampled,) = sample(engine, prompt=PROMPT * 18, max_tokens=None).sequences
    assert len(PROMPT * 18) + len(sampled.tokens) == 128 + 1
    assert sampled.stop_reason == "length"
    whole = sample(engine, prompt=[3] * 128, max_tokens=1, prompt_logprobs=True)
    assert len(whole.prompt_logprobs) == 128


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [3, VOCAB]}, f"the token id {VOCAB}"),
        ({"prompt": [3] * 129}, "context of 128"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"sampler": "gone"}, "no sampler 'gone'"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_answered_says_why(engine, settings, words):
    with pytest.raises(EngineError, match=words) as caught:
        sample(engine, **settings)
    assert caught.value.user

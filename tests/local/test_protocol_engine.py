"""The SDK, a service process and the real engine on a tiny model: numbers that must agree."""

import contextlib

import numpy as np
import pytest
import tinker
from tinker import types

from sft.service import child

ADAM = types.AdamParams(learning_rate=1e-2)
TOKENS = [40, 7, 100, 3, 55, 90, 12, 12, 77, 4]


def datum(shift: int = 0) -> types.Datum:
    tokens = [(token + shift) % 256 for token in TOKENS]
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [0.0, 0.5] + [1.0] * 7},
    )


@contextlib.contextmanager
def session(url: str):
    with tinker.ServiceClient(base_url=url, api_key=child.api_key(url)) as client:
        yield client


@pytest.fixture
def client(local_service):
    with session(local_service) as client:
        yield client


def losses(client: tinker.ServiceClient, steps: int = 5) -> tuple[tinker.TrainingClient, list]:
    trainer = client.create_lora_training_client("tiny", rank=4, seed=7).result()
    return trainer, train(trainer, range(steps))


def train(trainer: tinker.TrainingClient, steps: range) -> list[float]:
    futures = []
    for step in steps:
        futures.append(trainer.forward_backward([datum(step % 2), datum(3)], "cross_entropy"))
        trainer.optim_step(ADAM)
    return [future.result().metrics["loss:sum"] for future in futures]


def test_training_learns_and_says_the_same_twice_whatever_runs_beside_it(local_service, client):
    _, alone = losses(client)
    assert alone[-1] < alone[0] - 0.5
    with session(local_service) as other:
        busy = other.create_lora_training_client("tiny", rank=16, seed=1).result()
        beside = [busy.forward_backward([datum(9)] * 3, "cross_entropy") for _ in range(10)]
        _, again = losses(client)
        for future in beside:
            future.result()
    assert again == alone


def test_a_snapshot_scores_as_the_trainer_does(client):
    trainer, _ = losses(client)
    sampler = trainer.save_weights_and_get_sampling_client().result()
    scores = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
    forward = trainer.forward([datum()], "cross_entropy").result()
    logprobs = forward.loss_fn_outputs[0]["logprobs"].to_numpy()
    np.testing.assert_allclose(scores[1:], logprobs, rtol=1e-5)
    assert not (logprobs == 0).any()  # also where the weight is zero


def test_training_resumed_from_a_checkpoint_goes_on_as_if_nothing_had_happened(client):
    trainer, _ = losses(client, 3)
    path = trainer.save_state("three").result().path
    whole = train(trainer, range(3, 6))
    resumed = client.create_training_client_from_state_with_optimizer(path).result()
    assert train(resumed, range(3, 6)) == whole
    fresh = client.create_training_client_from_state(path).result()
    assert train(fresh, range(3, 6))[0] == whole[0]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")
def test_peft_loads_a_sampler_checkpoint_with_the_same_logprobs(
    client, tiny_model, local_service_root
):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer, _ = losses(client)
    path = trainer.save_weights_for_sampler("final").result().path
    sampler = client.create_sampling_client(model_path=path).result()
    scores = sampler.compute_logprobs(types.ModelInput.from_ints(TOKENS)).result()
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, local_service_root / path.removeprefix("tinker://"))
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1]
    expected = logits.log_softmax(-1)[torch.arange(len(TOKENS) - 1), TOKENS[1:]]
    np.testing.assert_allclose(scores[1:], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_samples_are_seeded_and_end_where_they_are_told_to(client):
    sampler = client.create_sampling_client(base_model="tiny").result()
    prompt = types.ModelInput.from_ints(TOKENS)

    def sample(**parameters) -> list[list[int]]:
        response = sampler.sample(prompt, 2, types.SamplingParams(**parameters)).result()
        return [sequence.tokens for sequence in response.sequences]

    first = sample(max_tokens=12, seed=5)
    assert sample(max_tokens=12, seed=5) == first
    assert sample(max_tokens=12, seed=6) != first
    assert first[0] != first[1]
    stopped = sample(max_tokens=12, seed=5, stop=[first[0][4]])
    assert stopped[0] == first[0][: first[0].index(first[0][4]) + 1]
    assert len(sample(max_tokens=12, temperature=0, stop=[])[0]) == 12


def test_the_likeliest_tokens_of_the_prompts_end_are_told(client):
    sampler = client.create_sampling_client(base_model="tiny").result()
    response = sampler.sample(
        types.ModelInput.from_ints(TOKENS), 1, types.SamplingParams(max_tokens=1),
        include_prompt_logprobs=True, topk_prompt_logprobs=3, prompt_logprobs_last_n=2,
    ).result()  # fmt: skip
    rows = response.topk_prompt_logprobs
    assert [row and len(row) for row in rows] == [None] * 8 + [3, 3]
    assert rows[-1] == sorted(rows[-1], key=lambda pair: -pair[1])
    scores = response.prompt_logprobs
    assert scores[:8] == [None] * 8
    assert all(score <= row[0][1] for score, row in zip(scores[8:], rows[8:], strict=True))


def test_the_likeliest_tokens_at_each_sampled_place_are_told(client):
    sampler = client.create_sampling_client(base_model="tiny", record_stability_info=True).result()
    parameters = types.SamplingParams(max_tokens=6, temperature=0, stop=[])
    prompt = types.ModelInput.from_ints(TOKENS)
    (greedy,) = sampler.sample(prompt, 1, parameters, topk_sample_logprobs=4).result().sequences
    assert [len(row) for row in greedy.topk_logprobs] == [4] * 6
    assert [row[0][0] for row in greedy.topk_logprobs] == greedy.tokens
    assert [row[0][1] for row in greedy.topk_logprobs] == greedy.logprobs
    (plain,) = sampler.sample(prompt, 1, parameters).result().sequences
    assert plain.topk_logprobs is None and plain.tokens == greedy.tokens


def test_ids_named_at_each_place_of_the_prompt_are_scored_dense_or_sparse(client):
    import torch

    trainer, _ = losses(client)
    sampler = trainer.save_weights_and_get_sampling_client().result()
    prompt = types.ModelInput.from_ints(TOKENS)

    def scored(targets: types.TensorData) -> types.TensorData:
        parameters = types.SamplingParams(max_tokens=0)
        asked = sampler.sample(prompt, 1, parameters, target_prompt_logprobs=targets)
        return asked.result().target_prompt_logprobs

    wanted = torch.tensor([[token, 5, -1] for token in TOKENS[1:]])
    dense = scored(types.TensorData.from_torch(wanted))
    expected = sampler.compute_logprobs(prompt).result()[1:]
    assert dense.shape == [9, 3]
    np.testing.assert_allclose(dense.to_numpy()[:, 0], expected, rtol=1e-5)
    assert (dense.to_numpy()[:, 1] < 0).all() and (dense.to_numpy()[:, 2] == 0).all()
    wide = torch.full((9, 50), -1)
    wide[:, 7] = torch.tensor(TOKENS[1:])
    sparse = scored(types.TensorData.from_torch_sparse(wide, pad_value=-1))
    assert sparse.sparse_col_indices == [7] * 9
    np.testing.assert_allclose(sparse.to_numpy()[:, 7], expected, rtol=1e-5)
    with pytest.raises(tinker.UnprocessableEntityError, match="has the shape \\[8, 3\\]: expected"):
        scored(types.TensorData.from_torch(wanted[1:]))
    with pytest.raises(tinker.RequestFailedError, match="target_prompt_logprobs holds"):
        scored(types.TensorData.from_torch(torch.full((9, 1), 100_000)))


def test_a_policy_is_trained_on_what_it_sampled(client):
    """A token that is rewarded whenever it comes becomes likelier, with each loss."""
    prompt = types.ModelInput.from_ints(TOKENS[:3])
    for loss, config in (
        ("importance_sampling", None), ("ppo", None), ("cispo", None), ("dro", {"beta": 0.1}),
    ):  # fmt: skip
        trainer = client.create_lora_training_client("tiny", rank=4, seed=3).result()
        sampler = trainer.save_weights_and_get_sampling_client().result()
        parameters = types.SamplingParams(max_tokens=4, seed=1, stop=[])
        (said,) = sampler.sample(prompt, 1, parameters).result().sequences
        data = types.Datum(
            model_input=types.ModelInput.from_ints([*TOKENS[:3], *said.tokens[:-1]]),
            loss_fn_inputs={
                "target_tokens": [0, 0, *said.tokens],
                "logprobs": [0.0, 0.0, *said.logprobs],
                "advantages": [0.0, 0.0] + [1.0] * 4,
            },
        )
        found = []
        for _ in range(4):
            future = trainer.forward_backward([data], loss, config)
            trainer.optim_step(ADAM)
            found.append(future.result().loss_fn_outputs[0]["logprobs"].to_numpy()[2:].sum())
        assert found[0] == pytest.approx(sum(said.logprobs), rel=1e-4)
        assert found[-1] > found[0], loss


def test_a_prompt_that_fills_the_context_is_scored(client):
    sampler = client.create_sampling_client(base_model="tiny").result()
    scores = sampler.compute_logprobs(types.ModelInput.from_ints([1, 2] * 256)).result()
    assert len(scores) == 512
    with pytest.raises(tinker.UnprocessableEntityError, match="context holds 512"):
        sampler.compute_logprobs(types.ModelInput.from_ints([1] * 513)).result()


def test_what_the_engine_refuses_is_the_users_to_mend(client):
    trainer, _ = losses(client, 1)
    wrong = types.Datum(
        model_input=types.ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": [2, 100_000]},
    )
    with pytest.raises(tinker.RequestFailedError, match="100000") as caught:
        trainer.forward_backward([wrong], "cross_entropy").result()
    assert caught.value.category is types.RequestErrorCategory.User
    sampler = client.create_sampling_client(base_model="tiny").result()
    with pytest.raises(tinker.RequestFailedError, match="100000"):
        sampler.compute_logprobs(types.ModelInput.from_ints([1, 100_000])).result()

"""The unmodified SDK over a real socket, against an engine of constants."""

import logging
import pickle
import time

import pytest
import tinker
from tinker import types

from sft.local.server.sampling import MOST_SNAPSHOTS
from tests.local.stub import KEY, MODEL, POISON, StubEngine, loss_after, serving_stub

ADAM = types.AdamParams(learning_rate=1e-4)
PROMPT = types.ModelInput.from_ints([1, 2, 3])


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    with serving_stub(tmp_path_factory.mktemp("root")) as (url, core, engine):
        yield url, core, engine


@pytest.fixture
def client(stub):
    with tinker.ServiceClient(base_url=stub[0], api_key=KEY) as client:
        yield client


@pytest.fixture
def trainer(client):
    return client.create_lora_training_client(MODEL, rank=4, seed=1).result()


@pytest.fixture
def rest(stub):
    return tinker.RestClient(base_url=stub[0], api_key=KEY)


def datum(token: int = 4, **inputs) -> types.Datum:
    inputs = inputs or {"target_tokens": [2, 3, token], "weights": [0.0, 1.0, 0.5]}
    return types.Datum(model_input=PROMPT, loss_fn_inputs=inputs)


def rollout(**inputs) -> types.Datum:
    given = {"target_tokens": [2, 3, 4], "logprobs": [-1.0] * 3, "advantages": [1.0, 0.0, -1.0]}
    return datum(**{**given, **inputs})


def test_a_step_gives_losses_and_metrics(trainer):
    backward = trainer.forward_backward([datum(), datum()], "cross_entropy")
    step = trainer.optim_step(ADAM)
    result = backward.result()
    assert result.metrics == {"loss:sum": pytest.approx(2 * 1.5 * loss_after(0))}
    logprobs = [output["logprobs"].to_numpy().tolist() for output in result.loss_fn_outputs]
    assert logprobs == [[pytest.approx(-loss_after(0))] * 3] * 2
    assert step.result().metrics == {"grad_norm": 1.0}
    after = trainer.forward([datum()], "cross_entropy").result()
    assert after.metrics["loss:sum"] == pytest.approx(1.5 * loss_after(1))


def test_weights_that_are_left_out_are_ones(trainer):
    result = trainer.forward([datum(target_tokens=[2, 3, 4])], "cross_entropy").result()
    assert result.metrics["loss:sum"] == pytest.approx(3 * loss_after(0))


def test_a_batch_in_many_chunks_comes_back_whole_and_in_order(trainer, stub):
    """The SDK sends the first chunk last; all of them are computed in one cycle."""
    stub[2].calls.clear()
    data = [
        types.Datum(
            model_input=types.ModelInput.from_ints([1] * length),
            loss_fn_inputs={"target_tokens": [1] * length},
        )
        for length in range(1, 1501)
    ]
    result = trainer.forward_backward(data, "cross_entropy").result()
    shapes = [output["logprobs"].shape[0] for output in result.loss_fn_outputs]
    assert shapes == list(range(1, 1501))
    (call,) = [call for call in stub[2].calls if call[0] == "run"]
    assert len(call[1]) > 1


def test_a_custom_loss_is_computed_on_the_client(trainer):
    def loss(data, logprobs):
        return -sum(part.sum() for part in logprobs), {"custom": 1.0}

    result = trainer.forward_backward_custom([datum()], loss).result()
    assert result.metrics["loss:sum"] == pytest.approx(3 * loss_after(0), rel=1e-5)


def test_a_snapshot_samples_and_scores_with_the_weights_of_its_time(trainer):
    trainer.forward_backward([datum()], "cross_entropy")
    trainer.optim_step(ADAM)
    sampler = trainer.save_weights_and_get_sampling_client().result()
    trainer.optim_step(ADAM).result()
    scores = sampler.compute_logprobs(PROMPT).result()
    assert scores == [None, *[pytest.approx(-loss_after(1))] * 2]
    parameters = types.SamplingParams(max_tokens=3, stop=[7])
    response = sampler.sample(PROMPT, 2, parameters).result()
    assert [sequence.tokens for sequence in response.sequences] == [[1, 1, 1]] * 2
    assert len({sequence.sequence_id for sequence in response.sequences}) == 2


def test_only_the_last_logprobs_are_returned_where_that_is_asked_for(trainer):
    sampler = trainer.save_weights_and_get_sampling_client().result()
    scores = sampler.compute_logprobs(PROMPT, prompt_logprobs_last_n=1).result()
    assert scores[:2] == [None, None]
    assert scores[2] is not None


def test_many_scores_at_once(trainer):
    sampler = trainer.save_weights_and_get_sampling_client().result()
    futures = [sampler.compute_logprobs(PROMPT) for _ in range(600)]
    assert all(len(future.result()) == 3 for future in futures)


def test_snapshots_without_end_do_not_fill_the_memory(client, trainer, stub):
    for _ in range(MOST_SNAPSHOTS + 2):
        sampler = trainer.save_weights_and_get_sampling_client().result()
    session = client.holder.get_session_id()
    alive = [name for name in stub[2].samplers if name.startswith(session)]
    assert len(alive) == MOST_SNAPSHOTS
    sampler.compute_logprobs(PROMPT).result()


def test_a_copy_of_a_sampling_client_counts_its_own_requests(trainer):
    sampler = trainer.save_weights_and_get_sampling_client().result()
    copies = [pickle.loads(pickle.dumps(sampler)) for _ in range(2)]  # as the SDK offers
    parameters = types.SamplingParams(max_tokens=1)
    ids = [
        client.sample(PROMPT, 1, parameters).result().sequences[0].sequence_id
        for client in (sampler, *copies)
    ]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_training_goes_on_from_a_saved_state_in_a_new_client(client, trainer, stub, with_optimizer):
    trainer.optim_step(ADAM)
    path = trainer.save_state("one", user_metadata={"k": "v"}).result().path
    assert types.ParsedCheckpointTinkerPath.from_tinker_path(path).checkpoint_type == "training"
    load = client.create_training_client_from_state
    if with_optimizer:
        load = client.create_training_client_from_state_with_optimizer
    resumed = load(path).result()
    assert resumed.get_info().lora_rank == 4
    assert resumed.model_id != trainer.model_id
    assert stub[2].adapters[resumed.model_id].optimizer["step"] == int(with_optimizer)
    result = resumed.forward([datum()], "cross_entropy").result()
    assert result.metrics["loss:sum"] == pytest.approx(1.5 * loss_after(1))
    resumed.optim_step(ADAM).result()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_state_is_loaded_into_the_client_that_is_there(trainer, stub):
    path = trainer.save_state("zero").result().path
    trainer.optim_step(ADAM)
    assert trainer.load_state_with_optimizer(path).result().path == path
    result = trainer.forward([datum()], "cross_entropy").result()
    assert result.metrics["loss:sum"] == pytest.approx(1.5 * loss_after(0))


def test_a_saved_sampler_is_sampled_from_by_its_path(client, trainer, rest):
    trainer.optim_step(ADAM)
    path = trainer.save_weights_for_sampler("final", ttl_seconds=7200).result().path
    sampler = client.create_sampling_client(model_path=path).result()
    parameters = types.SamplingParams(max_tokens=1)
    assert sampler.sample(PROMPT, 1, parameters).result().sequences[0].tokens == [1]
    assert sampler.get_base_model() == MODEL
    base = client.create_sampling_client(base_model=MODEL).result()
    assert base.sample(PROMPT, 1, parameters).result().sequences[0].tokens == [0]


def test_checkpoints_are_listed_kept_and_deleted(trainer, rest):
    state = trainer.save_state("a", user_metadata={"step": "1"}).result().path
    sampler = trainer.save_weights_for_sampler("b", ttl_seconds=3600).result().path
    listed = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert [checkpoint.tinker_path for checkpoint in listed] == [sampler, state]
    assert [checkpoint.checkpoint_type for checkpoint in listed] == ["sampler", "training"]
    assert listed[0].expires_at is not None
    assert listed[1].user_metadata == {"step": "1"}
    with pytest.raises(tinker.UnprocessableEntityError, match="ttl_seconds is 60"):
        rest.set_checkpoint_ttl_from_tinker_path(sampler, 60).result()
    rest.set_checkpoint_ttl_from_tinker_path(sampler, None).result()
    rest.delete_checkpoint_from_tinker_path(state).result()
    (kept,) = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert kept.expires_at is None
    page = rest.list_user_checkpoints(limit=1).result()
    assert len(page.checkpoints) == 1
    assert page.cursor.total_count >= 1


def test_runs_weights_and_sessions_are_described(client, trainer, rest):
    path = trainer.save_state("a").result().path
    run = rest.get_training_run_by_tinker_path(path).result()
    assert (run.training_run_id, run.base_model) == (trainer.model_id, MODEL)
    assert run.last_checkpoint.tinker_path == path
    runs = rest.list_training_runs(limit=100).result().training_runs
    assert trainer.model_id in [run.training_run_id for run in runs]
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.base_model, info.lora_rank, info.train_mlp) == (MODEL, 4, True)
    session = client.holder.get_session_id()
    assert rest.get_session(session).result().training_run_ids == [trainer.model_id]
    assert session in rest.list_sessions().result().sessions
    capabilities = rest.get_server_capabilities().result().supported_models
    assert [(m.model_name, m.max_context_length) for m in capabilities] == [(MODEL, 4096)]


def test_a_failed_batch_says_why_and_the_next_client_trains(client, trainer):
    good = trainer.save_state("good").result().path
    bad = trainer.forward_backward([datum(POISON)], "cross_entropy")
    step = trainer.optim_step(ADAM)
    with pytest.raises(tinker.RequestFailedError, match=f"token {POISON}") as caught:
        bad.result()
    assert caught.value.category is types.RequestErrorCategory.User
    with pytest.raises(tinker.RequestFailedError, match="earlier request of this model failed"):
        step.result()
    resumed = client.create_training_client_from_state(good).result()
    resumed.forward_backward([datum()], "cross_entropy").result()


@pytest.mark.parametrize(
    ("data", "loss", "named"),
    [
        ([datum()], "gspo", "loss_fn is 'gspo': the local service computes cross_entropy, imp"),
        ([datum()], "dro", "loss_fn_config lacks 'beta'"),
        ([datum()], "ppo", "loss_fn_inputs lacks advantages, logprobs, needed by ppo"),
        ([rollout(weights=[1.0] * 3)], "ppo", "loss_fn_inputs holds weights: ppo takes advan"),
        ([rollout(logprobs=[-1.0])], "cispo", "logprobs has the shape \\[1\\]: expected that of"),
        ([rollout(advantages=[1.0, float("inf"), 0.0])], "ppo", "advantages holds a value that is"),
        (
            [
                rollout(
                    target_tokens=[[1, 2]] * 3,
                    advantages=[[1.0, 2.0]] * 3,
                    logprobs=[[-1.0, -1.0]] * 3,
                )
            ],
            "ppo",
            "ppo takes one target a token",
        ),
        ([datum(target_tokens=[[[1]]] * 3)], "cross_entropy", "one or two dimensions"),
        ([datum(target_tokens=[[1, 2]] * 3, weights=[1.0] * 3)], "cross_entropy", "weights has"),
        ([datum(target_tokens=[1, 2])], "cross_entropy", "3 input tokens, 2 target tokens"),
        ([datum(weights=[1.0, 1.0, 1.0])], "cross_entropy", "lacks target_tokens"),
        ([datum(target_tokens=[1, -2, 3])], "cross_entropy", "not negative"),
        ([datum(target_tokens=[1, 2, 3], weights=[1, 2, float("nan")])], "cross_entropy", "finite"),
        ([datum(target_tokens=[1, 2, 3], advantages=[1.0])], "cross_entropy", "advantages"),
        (
            [
                types.Datum(
                    model_input=types.ModelInput.from_ints([1] * 5000),
                    loss_fn_inputs={"target_tokens": [1] * 5000},
                )
            ],
            "cross_entropy",
            "context holds 4096",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_say_what_is_wrong(trainer, data, loss, named):
    with pytest.raises(tinker.UnprocessableEntityError, match=named):
        trainer.forward_backward(data, loss).result()
    with pytest.raises(tinker.RequestFailedError, match="earlier request"):
        trainer.optim_step(ADAM).result()


@pytest.mark.parametrize(
    ("loss", "config", "named"),
    [
        ("ppo", {"clip_low": 0.8}, "loss_fn_config holds 'clip_low': ppo takes clip_low_threshold"),
        ("ppo", {"clip_low_threshold": 2}, "clip_low_threshold is 2 and clip_high_threshold 1.2"),
        ("cispo", {"clip_high_threshold": "high"}, "clip_high_threshold is 'high': expected a num"),
        ("importance_sampling", {"beta": 0.1}, "importance_sampling takes no settings"),
    ],
)
def test_a_wrong_loss_config_is_refused_by_the_key(trainer, loss, config, named):
    with pytest.raises(tinker.UnprocessableEntityError, match=named):
        trainer.forward([rollout()], loss, config).result()
    trainer.forward([rollout()], "ppo", {"clip_low_threshold": 0.9}).result()  # breaks nothing


def test_a_refused_batch_of_many_chunks_holds_up_nothing_behind_it(trainer):
    with pytest.raises(tinker.UnprocessableEntityError, match="gspo"):
        trainer.forward([datum()] * 3000, "gspo").result()
    last = [datum()] * 2999 + [datum(target_tokens=[1])]
    with pytest.raises(tinker.RequestFailedError, match="3 input tokens, 1 target tokens"):
        trainer.forward(last, "cross_entropy").result()
    trainer.forward([datum()], "cross_entropy").result()


def test_several_targets_a_token_are_answered_in_their_shape_dense_or_sparse(trainer):
    import torch

    sparse = torch.zeros(3, 40, dtype=torch.int64)
    sparse[0, 0] = 7
    data = [
        datum(),
        datum(target_tokens=[[2, 3], [3, 4], [4, 5]], weights=[[0.5, 0.5]] * 3),
        datum(target_tokens=sparse, weights=(sparse > 0).float()),
    ]
    result = trainer.forward(data, "cross_entropy").result()
    shapes = [output["logprobs"].to_numpy().shape for output in result.loss_fn_outputs]
    assert shapes == [(3,), (3, 2), (3, 40)]
    assert result.metrics["loss:sum"] == pytest.approx((1.5 + 3 + 1) * loss_after(0))


def test_what_is_not_served_says_so_at_once(client, trainer, rest):
    with pytest.raises(tinker.RequestFailedError, match="dimuon"):
        client.create_lora_training_client(MODEL, optimizer=types.DimuonOptimizerConfig()).result()
    with pytest.raises(tinker.NotFoundError, match="does not serve POST .*/copy_weights"):
        rest.copy_weights("tinker://a/weights/b", "project").result()
    with pytest.raises(tinker.NotFoundError, match="no checkpoint tinker://a/weights/b"):
        client.create_sampling_client(model_path="tinker://a/weights/b").result()
    sampler = client.create_sampling_client(base_model=MODEL).result()
    with pytest.raises(tinker.UnprocessableEntityError, match="prompt_alt_tokens_k"):
        sampler.sample(
            PROMPT, 1, types.SamplingParams(max_tokens=1), prompt_alt_tokens_k=2
        ).result()
    trainer.forward([datum()], "cross_entropy").result()  # and breaks nothing


def test_names_that_are_no_file_names_are_refused(trainer):
    for name in ("../x", "a/b", ".hidden", ""):
        with pytest.raises(tinker.RequestFailedError, match="checkpoint name"):
            trainer.save_state(name).result()
    trainer.save_state("fine").result()
    with pytest.raises(tinker.RequestFailedError, match="exists already"):
        trainer.save_state("fine").result()
    trainer.save_state("fine", overwrite=True).result()
    with pytest.raises(tinker.RequestFailedError, match="ttl_seconds"):
        trainer.save_state("other", ttl_seconds=60).result()


def test_a_session_that_was_finished_takes_no_more_and_frees_its_memory(stub):
    client = tinker.ServiceClient(base_url=stub[0], api_key=KEY)
    trainer = client.create_lora_training_client(MODEL, rank=4).result()
    other = tinker.ServiceClient(base_url=stub[0], api_key=KEY)
    keeps = other.create_lora_training_client(MODEL, rank=4).result()
    client.close("success").result()
    keeps.forward([datum()], "cross_entropy").result()
    assert trainer.model_id not in stub[2].adapters
    other.close("success").result()


def test_a_wrong_key_is_told_apart(stub):
    with pytest.raises(tinker.AuthenticationError, match="key is missing or wrong"):
        client = tinker.ServiceClient(base_url=stub[0], api_key="tml-wrong")
        client.create_sampling_client(base_model=MODEL)


def test_waiting_for_a_slow_result_logs_nothing(trainer, monkeypatch, caplog):
    state = StubEngine.state

    def slow(*args):
        time.sleep(0.3)
        return state(*args)

    monkeypatch.setattr("sft.local.server.http.LONGEST_POLL", 0.05)
    monkeypatch.setattr(StubEngine, "state", slow)
    with caplog.at_level(logging.WARNING):
        trainer.save_state("slow").result()
    assert caplog.records == []

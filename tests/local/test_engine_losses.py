"""Every loss, with one target a token and with several, against a few lines of PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import EngineError, LoraSpec, TrainingSequence, Work
from sft.local.losses import Cispo, CrossEntropy, Dro, ImportanceSampling, Ppo, loss_of
from tests.local.engine_models import VOCAB, save
from tests.local.test_engine_gradients import gradients, peft_model, with_random_b

# As in test_engine_gradients.py.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]
LENGTHS = [3, 40, 17, 1, 29]


def importance_sampling(new, old, advantages):
    return -(torch.exp(new - old) * advantages).sum()


def ppo(low, high):
    def loss(new, old, advantages):
        ratio = torch.exp(new - old)
        clipped = torch.clamp(ratio, low, high)
        return -torch.min(ratio * advantages, clipped * advantages).sum()

    return loss


def cispo(low, high):
    def loss(new, old, advantages):
        clipped = torch.clamp(torch.exp(new - old), low, high)
        return -(clipped.detach() * new * advantages).sum()

    return loss


def dro(beta):
    return lambda new, old, advantages: -(new * advantages - 0.5 * beta * (new - old) ** 2).sum()


POLICY = {
    "importance_sampling": (ImportanceSampling(), importance_sampling),
    "ppo": (Ppo(), ppo(0.8, 1.2)),
    "ppo-tight": (Ppo(0.95, 1.02), ppo(0.95, 1.02)),
    "cispo": (Cispo(), cispo(0.0, 4.0)),
    "cispo-two-sided": (Cispo(0.9, 1.1), cispo(0.9, 1.1)),
    "dro": (Dro(0.05), dro(0.05)),
    "dro-strong": (Dro(2.0), dro(2.0)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen3-tied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(folder):
    return TorchEngine({"tiny": folder}, dtype="float32", threads=2)


def fresh(engine: TorchEngine, name: str = "a", seed: int = 3) -> None:
    engine.create_adapter(name, "tiny", LoraSpec(8, seed=1))
    engine.load(name, with_random_b(engine.state(name, optimizer=False), seed), optimizer=False)


def rollouts(engine: TorchEngine) -> list[TrainingSequence]:
    """Targets with advantages of both signs and zero, and logprobs of a policy not far away."""
    random = np.random.default_rng(0)
    data = []
    for length in LENGTHS:
        advantages = random.normal(size=length).astype(np.float32)
        advantages[random.random(length) < 0.2] = 0
        tokens, targets = random.integers(0, VOCAB, (2, length))
        data.append(TrainingSequence(tokens, targets, advantages))
    (scored,) = engine.run([Work("a", data, backward=False)]).work
    return [
        replace(one, sampled=(found + random.normal(size=len(found), scale=0.3)).astype(np.float32))
        for one, found in zip(data, scored.logprobs, strict=True)
    ]


def target_logprobs(model, sequence: TrainingSequence) -> torch.Tensor:
    """Shaped as the targets; in float64."""
    logits = model(torch.from_numpy(sequence.tokens)[None]).logits[0]
    targets = torch.from_numpy(sequence.targets)
    found = logits.log_softmax(-1).gather(1, targets.reshape(len(targets), -1))
    return found.reshape(targets.shape)


def assert_same(engine, folder, tmp_path, result, data, loss) -> None:
    """That value and gradient are those of `loss` of each sequence's logprobs, in float64.

    The value to 1e-6 of the sum of all factors; the gradient to what float32 leaves of one after a
    way through the whole model.
    """
    model = peft_model(folder, engine.state("a", optimizer=False), tmp_path, trainable=True)
    model.double()
    logprobs = [target_logprobs(model, sequence) for sequence in data]
    expected = sum(loss(new, one) for new, one in zip(logprobs, data, strict=True))
    expected.backward()
    size = float(sum(np.abs(one.weights).sum() for one in data))
    assert result.loss_sum == pytest.approx(expected.item(), rel=0, abs=1e-6 * size)
    ours = gradients(engine, "a")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            theirs = parameter.grad.numpy()
            difference = np.abs(ours[name.replace(".default", "")] - theirs).max()
            assert difference < 1e-5 * np.abs(theirs).max(), name


@pytest.mark.parametrize("name", POLICY)
def test_value_and_gradient_of_a_policy_loss_are_those_of_the_formula(
    engine, folder, tmp_path, name
):
    loss, formula = POLICY[name]
    fresh(engine)
    data = rollouts(engine)
    (result,) = engine.run([Work("a", data, backward=True, loss=loss)]).work

    def reference(new, one):
        return formula(new, torch.from_numpy(one.sampled), torch.from_numpy(one.weights))

    assert_same(engine, folder, tmp_path, result, data, reference)


@pytest.mark.parametrize("name", POLICY)
def test_the_gradient_is_that_of_a_cross_entropy_with_autograds_weights(engine, name):
    loss, formula = POLICY[name]
    fresh(engine)
    data = rollouts(engine)
    (result,) = engine.run([Work("a", data, backward=True, loss=loss)]).work
    ours = gradients(engine, "a")
    weighted = []
    for one, found in zip(data, result.logprobs, strict=True):
        new = torch.from_numpy(found).requires_grad_()
        formula(new, torch.from_numpy(one.sampled), torch.from_numpy(one.weights)).backward()
        weighted.append(replace(one, weights=-new.grad.numpy()))
    fresh(engine)
    engine.run([Work("a", weighted, backward=True)])
    for module, expected in gradients(engine, "a").items():
        np.testing.assert_allclose(
            ours[module], expected, rtol=0, atol=1e-6 * np.abs(expected).max()
        )


@pytest.mark.parametrize("name", POLICY)
def test_a_policy_loss_answers_with_the_logprob_of_every_target(engine, name):
    fresh(engine)
    data = rollouts(engine)
    forward, backward = engine.run(
        [Work("a", data, backward=way, loss=POLICY[name][0]) for way in (False, True)]
    ).work
    for one, other in zip(forward.logprobs, backward.logprobs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert forward.loss_sum == pytest.approx(backward.loss_sum, rel=1e-5)


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo"])
def test_a_target_without_advantage_counts_nothing_whatever_its_logprob_was(engine, name):
    """Cookbooks write 0, or a number that stands for minus infinity, at the tokens of a prompt."""
    fresh(engine)
    data = rollouts(engine)
    changed = [
        replace(one, sampled=np.where(one.weights == 0, np.float32(-1e9), one.sampled))
        for one in data
    ]
    assert any((one.weights == 0).any() for one in data)
    (plain,) = engine.run([Work("a", data, backward=True, loss=POLICY[name][0])]).work
    expected = gradients(engine, "a")
    fresh(engine)
    (result,) = engine.run([Work("a", changed, backward=True, loss=POLICY[name][0])]).work
    assert result.loss_sum == plain.loss_sum
    for module, found in gradients(engine, "a").items():
        np.testing.assert_array_equal(found, expected[module])


def test_a_ratio_beyond_all_numbers_is_clipped_by_ppo():
    new, old, advantage = torch.tensor([-5.0]), torch.tensor([-1e9]), torch.tensor([1.0])
    assert Ppo().pull(new, advantage, old).tolist() == [0.0]
    assert Ppo().total(new, advantage, old) == pytest.approx(-1.2)


def distilled(widths: list[int]) -> list[TrainingSequence]:
    """K targets a token, some of them twice, weighted as a teacher would."""
    random = np.random.default_rng(1)
    data = []
    for length, width in zip(LENGTHS, widths, strict=True):
        targets = random.integers(0, VOCAB, (length, width))
        targets[0, -1] = targets[0, 0]
        weights = random.dirichlet(np.ones(width), length).astype(np.float32)
        weights[random.random(length) < 0.2] = 0
        data.append(TrainingSequence(random.integers(0, VOCAB, length), targets, weights))
    return data


@pytest.mark.parametrize("widths", [[4] * 5, [1, 6, 3, 2, 5]], ids=["even", "uneven"])
def test_several_targets_a_token_are_a_weighted_sum_of_cross_entropies(
    engine, folder, tmp_path, widths
):
    fresh(engine)
    data = distilled(widths)
    (result,) = engine.run([Work("a", data, backward=True)]).work
    assert [found.shape for found in result.logprobs] == [one.targets.shape for one in data]

    def reference(new, one):
        return -(torch.from_numpy(one.weights) * new).sum()

    assert_same(engine, folder, tmp_path, result, data, reference)


def test_a_column_of_targets_is_the_same_as_a_list_of_them(engine):
    fresh(engine)
    (flat,) = engine.run([Work("a", rollouts(engine), backward=True)]).work
    one = gradients(engine, "a")
    fresh(engine)
    columns = [
        replace(s, targets=s.targets[:, None], weights=s.weights[:, None]) for s in rollouts(engine)
    ]
    (column,) = engine.run([Work("a", columns, backward=True)]).work
    assert column.loss_sum == flat.loss_sum
    for name, gradient in gradients(engine, "a").items():
        np.testing.assert_array_equal(gradient, one[name])


def test_the_numbers_of_a_request_do_not_depend_on_the_losses_of_others(engine):
    work = {name: loss for name, (loss, _) in POLICY.items()}
    fresh(engine)
    data = rollouts(engine)
    for name in work:
        fresh(engine, name)
    together = engine.run(
        [Work(name, data, True, loss) for name, loss in work.items()]
        + [Work("a", distilled([4] * 5), True)]
    ).work
    beside = {name: gradients(engine, name) for name in work}
    for (name, loss), result in zip(work.items(), together, strict=False):
        fresh(engine, name)
        (alone,) = engine.run([Work(name, data, True, loss)]).work
        assert alone.loss_sum == result.loss_sum
        for module, gradient in gradients(engine, name).items():
            np.testing.assert_array_equal(gradient, beside[name][module])


def test_a_policy_loss_without_logprobs_is_refused(engine):
    fresh(engine)
    data = [replace(one, sampled=None) for one in rollouts(engine)]
    (error,) = engine.run([Work("a", data, True, Ppo())]).work
    assert isinstance(error, EngineError)
    assert "datum 0 lacks a logprob for each target" in error.message


@pytest.mark.parametrize(
    ("name", "settings", "loss"),
    [
        ("cross_entropy", {}, CrossEntropy()),
        ("importance_sampling", {}, ImportanceSampling()),
        ("ppo", {}, Ppo(0.8, 1.2)),
        ("ppo", {"clip_high_threshold": 1.3}, Ppo(0.8, 1.3)),
        ("cispo", {}, Cispo(0.0, 4.0)),
        ("dro", {"beta": 0.05}, Dro(0.05)),
    ],
)
def test_a_loss_is_made_of_its_name_and_what_its_config_says(name, settings, loss):
    assert loss_of(name, settings) == loss


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("gspo", {}, "loss_fn is 'gspo': the local service computes cross_entropy, imp"),
        ("cross_entropy", {"beta": 1}, "holds 'beta': cross_entropy takes no settings"),
        ("ppo", {"clip": 1}, "holds 'clip': ppo takes clip_low_threshold, clip_high_threshold"),
        ("ppo", {"clip_low_threshold": "low"}, "clip_low_threshold is 'low': expected a number"),
        ("ppo", {"clip_low_threshold": 1.5}, "clip_low_threshold is 1.5 and clip_high_threshold"),
        ("ppo", {"clip_low_threshold": 0.2, "clip_high_threshold": 0.2}, "not their distances"),
        ("ppo", {"clip_high_threshold": 0.9}, "expected bounds of a ratio"),
        ("cispo", {"clip_low_threshold": 1.1}, "0 <= low <= 1 <= high"),
        ("ppo", {"clip_high_threshold": True}, "clip_high_threshold is True: expected a number"),
        ("cispo", {"clip_high_threshold": float("inf")}, "expected bounds of a ratio"),
        ("cispo", {"clip_high_threshold": float("nan")}, "is nan: expected a number"),
        ("dro", {}, "lacks 'beta': dro has no default for it"),
        ("dro", {"beta": -1}, "beta is -1: expected 0 or more"),
    ],
)
def test_a_wrong_loss_config_is_refused_by_the_key(name, settings, sentence):
    with pytest.raises(ValueError, match="loss_fn") as error:
        loss_of(name, settings)
    assert sentence in str(error.value)

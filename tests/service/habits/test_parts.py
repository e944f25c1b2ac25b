"""What the proxy is made of, one by one."""

import asyncio

import numpy
import pytest
from tinker.proto.response_conv import deserialize_sample_response

from sft.service.habits import messages
from sft.service.habits.record import Habits
from sft.service.habits.strict import StrictKeys
from sft.service.habits.turns import Turns
from sft.service.habits.upstream import Answer

# --- keys that a server does not know -----------------------------------------------------------


def forbidden(*path):
    return Answer.of({"detail": [{"type": "extra_forbidden", "loc": ["body", *path]}]}, 422)


@pytest.mark.parametrize(
    ("message", "path", "shorter"),
    [
        ({"rank": 1, "optimizer_config": {"type": "adamw"}}, ["optimizer_config"], {"rank": 1}),
        ({"user_metadata": {"a": "b"}}, ["user_metadata"], {}),
        ({"adam_params": {"lr": 1, "clip": 0.0}}, ["adam_params", "clip"],
         {"adam_params": {"lr": 1}}),
        ({"lora_config": {"train_mlp": True}}, ["lora_config", "train_mlp"], {"lora_config": {}}),
    ],
)  # fmt: skip
def test_an_unknown_key_is_left_out_from_then_on_if_nothing_is_lost(message, path, shorter):
    strict = StrictKeys(Habits("http://server"))
    assert strict.without_unknown("create_model", message) == message
    assert strict.learn("create_model", forbidden(*path))
    assert strict.without_unknown("create_model", message) == shorter
    assert not strict.learn("create_model", forbidden(*path))


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"optimizer_config": {"type": "dimuon"}}, ["optimizer_config"]),
        ({"adam_params": {"grad_clip_norm": 1.0}}, ["adam_params", "grad_clip_norm"]),
        ({"lora_config": {"train_mlp": False}}, ["lora_config", "train_mlp"]),
        ({"lora_config": {"seed": 3}}, ["lora_config", "seed"]),
    ],
)
def test_an_unknown_key_that_asks_for_something_is_refused(message, path):
    strict = StrictKeys(Habits("http://server"))
    strict.learn("create_model", forbidden(*path))
    answer = strict.without_unknown("create_model", message)
    assert answer.status == 400
    assert f"http://server does not know {'.'.join(path)}" in answer.detail


def test_another_422_is_no_habit():
    strict = StrictKeys(Habits("http://server"))
    assert not strict.learn("create_model", Answer.of({"detail": "no"}, 422))
    missing = {"detail": [{"type": "missing", "loc": ["body", "rank"]}]}
    assert not strict.learn("create_model", Answer.of(missing, 422))


# --- the order of a model's requests ------------------------------------------------------------


def test_requests_are_handed_on_in_the_order_of_their_numbers():
    async def run():
        turns, order = Turns(), []

        def ask(number):
            async def asked():
                order.append(number)
                return Answer.of({})

            return turns.take("model", number, "optim_step", asked)

        late = [asyncio.create_task(ask(number)) for number in (3, 2)]
        await asyncio.sleep(0.05)
        assert order == []
        await asyncio.gather(ask(1), *late)
        return order

    assert asyncio.run(run()) == [1, 2, 3]


def test_a_repeated_request_gets_the_first_answer_and_a_refused_one_is_asked_again():
    async def run():
        turns, statuses = Turns(), [200, 500, 200]

        async def asked():
            return Answer.of({"request_id": len(statuses)}, statuses.pop(0))

        first = [await turns.take("model", 1, "optim_step", asked) for _ in range(2)]
        second = [await turns.take("model", 2, "optim_step", asked) for _ in range(2)]
        return first, second

    (one, again), (failed, retried) = asyncio.run(run())
    assert one == again
    assert (failed.status, retried.status) == (500, 200)


# --- answers ------------------------------------------------------------------------------------


def test_log_probabilities_of_a_prompt_begin_with_none():
    content = messages.scored(numpy.array([-1.0, -2.0], numpy.float32))
    assert deserialize_sample_response(content).prompt_logprobs == [None, -1.0, -2.0]
    assert messages.with_first_logprob(content, 3) is None
    padded = messages.with_first_logprob(content, 4)
    assert len(deserialize_sample_response(padded).prompt_logprobs) == 4

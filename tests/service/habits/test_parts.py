"""What the proxy is made of, one by one."""

import asyncio

import numpy
import pytest
from tinker.proto.response_conv import deserialize_sample_response

from sft.service.habits import messages, questions, turns
from sft.service.habits.answers import Answers
from sft.service.habits.record import Habits
from sft.service.habits.strict import StrictKeys
from sft.service.habits.turns import Turns
from sft.service.habits.upstream import Answer, Refused

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


def test_a_request_is_waited_for_as_long_as_one_before_it_is_on_its_way(monkeypatch):
    monkeypatch.setattr(turns, "GAP_SECONDS", 0.05)

    async def run():
        taken, order = Turns(), []

        def ask(number, seconds=0.0):
            async def asked():
                await asyncio.sleep(seconds)
                order.append(number)
                return Answer.of({})

            return taken.take("model", number, "forward_backward", asked)

        await asyncio.gather(ask(3), ask(1, 0.3), ask(2))
        return order

    assert asyncio.run(run()) == [1, 2, 3]


def test_requests_behind_one_that_never_comes_go_on_in_their_order(monkeypatch):
    monkeypatch.setattr(turns, "GAP_SECONDS", 0.05)

    async def run():
        taken, order = Turns(), []

        def ask(number):
            async def asked():
                await asyncio.sleep(0.01)
                order.append(number)
                return Answer.of({})

            return taken.take("model", number, "forward_backward", asked)

        await asyncio.gather(ask(4), ask(3), ask(2))
        return order

    assert asyncio.run(run()) == [2, 3, 4]


def test_the_parts_of_a_large_batch_are_sent_one_after_the_other():
    answers = Answers(Habits("http://server"))
    assert answers.client_config(Answer.of({})).value["parallel_fwdbwd_chunks"] is False


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


# --- what a server's answer says ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sent", "may_have_acted"),
    [
        (502, True, True), (504, True, True), (500, True, True), (503, True, True),
        (408, True, True), (409, True, True), (429, True, False), (400, True, False),
        (503, False, False), (200, True, False),
    ],
)  # fmt: skip
def test_what_the_server_may_have_done_without_saying_so(status, sent, may_have_acted):
    assert Answer(status, b"", sent=sent).may_have_acted is may_have_acted


OFF = numpy.array([0.3, -0.3, 0.1, -0.1] * 10)


@pytest.mark.parametrize(
    ("off", "is_alike"),
    [
        (OFF / 10, True),  # a sampler of less precision
        (OFF / 10 + 0.09, False),  # and one that is off to one side
        (OFF, False),
    ],
)
def test_a_sampler_may_be_less_precise_but_not_off_to_one_side(off, is_alike):
    assert questions.difference(off - 3, numpy.full(40, -3.0)).is_alike is is_alike


@pytest.mark.parametrize("sampled", [numpy.zeros(8), numpy.full(9, numpy.nan)])
def test_what_is_no_log_probability_is_not_compared(sampled):
    with pytest.raises(Refused, match="log-probabilities come"):
        questions.difference(sampled, numpy.zeros(9))


# --- answers ------------------------------------------------------------------------------------


def test_log_probabilities_of_a_prompt_begin_with_none():
    content = messages.scored(numpy.array([-1.0, -2.0], numpy.float32))
    assert deserialize_sample_response(content).prompt_logprobs == [None, -1.0, -2.0]
    assert messages.with_first_logprob(content, 3) is None
    padded = messages.with_first_logprob(content, 4)
    assert len(deserialize_sample_response(padded).prompt_logprobs) == 4

"""One side of a chat, by the real SDK on the real local service."""

import asyncio
from contextlib import aclosing

import pytest

from sft.chat.speaker import Speaker, settled
from sft.errors import BadInput
from sft.models.tokenizers import load_tokenizer
from sft.renderers import get_renderer
from sft.run.client import Connection, Service, await_client

QUESTION = {"role": "user", "content": "Is a permit free?"}


@pytest.fixture(scope="module")
def speak(local_service, tiny_model):
    """Runs a function of a speaker of the tiny model on the local service."""

    async def spoken(use, **options):
        async with Connection.to(await Service.reach(local_service)) as connection:
            submit = connection.service.create_sampling_client
            client = await await_client(lambda: submit(base_model="tiny"))
            tokenizer = load_tokenizer(str(tiny_model))
            renderer = get_renderer(None, tokenizer)
            return await use(Speaker("tiny", client, tokenizer, renderer, **options))

    return lambda use, **options: asyncio.run(spoken(use, **options))


async def texts(speaker, words=QUESTION["content"]):
    return [text async for text in speaker.answer(words)]


def test_the_words_come_in_pieces_that_make_up_the_answer_as_it_is_sampled_whole(speak):
    import tinker

    async def both(speaker):
        prompt = speaker.renderer.generation_prompt([QUESTION])
        response = await speaker.client.sample(
            prompt=tinker.ModelInput.from_ints(prompt),
            num_samples=1,
            sampling_params=tinker.SamplingParams(max_tokens=50, temperature=0),
        )
        whole = speaker.tokenizer.decode(response.sequences[0].tokens, skip_special_tokens=True)
        return await texts(speaker), whole.strip()

    shown, whole = speak(both, max_tokens=50)
    assert shown[-1] == whole and len(shown) == 4  # after 4, 12, 28 and 50 tokens
    assert sorted(shown, key=len) == shown


def test_a_turn_is_answered_behind_the_turns_before_it(speak):
    async def two_turns(speaker):
        (*_, first), (*_, second) = await texts(speaker), await texts(speaker, "And a plan?")
        return speaker.history, first, second

    history, first, second = speak(two_turns, max_tokens=12, temperature=1.0)
    assert history == [
        QUESTION,
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And a plan?"},
        {"role": "assistant", "content": second},
    ]


def test_what_was_said_before_an_answer_was_stopped_stays(speak):
    async def stopped(speaker):
        async with aclosing(speaker.answer(QUESTION["content"])) as answer:
            said = await anext(answer)
        return said, speaker.history

    said, history = speak(stopped, temperature=1.0)
    assert history == [QUESTION, {"role": "assistant", "content": said}]


def test_another_seed_gives_another_answer_and_the_same_one_the_same(speak):
    one, again, other = (
        speak(texts, max_tokens=30, temperature=1.0, seed=seed)[-1] for seed in (1, 1, 2)
    )
    assert one == again != other


def test_an_answer_ends_where_the_context_of_the_model_does(speak):
    async def pieces(speaker):
        prompt = len(speaker.renderer.generation_prompt([QUESTION]))
        return len(await texts(speaker)), 512 - prompt

    count, room = speak(pieces, max_tokens=600)
    assert count == 3 + (room - (4 + 8 + 16)) // 32 + 1


def test_a_conversation_that_does_not_fit_is_refused_and_forgotten(speak):
    async def too_long(speaker):
        with pytest.raises(BadInput, match="the model's context holds 512"):
            await texts(speaker, "word " * 200)
        return speaker.history

    assert speak(too_long) == []


@pytest.mark.parametrize(
    "text, shown",
    [
        ("A fee. Us", "A fee. "),  # may become the end, User:
        ("A fee. Used", "A fee. Used"),
        ("f\N{REPLACEMENT CHARACTER}", "f"),  # the other bytes of a letter are still to come
    ],
)
def test_words_that_may_still_change_are_held_back(text, shown):
    assert settled(text, ["User:"]) == shown

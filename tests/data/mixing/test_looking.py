"""A first look at local files says what reading all of them would, without a tokenizer."""

import dataclasses

import pytest

from sft.data.builders import FromConversationFileBuilder, HFChatBuilder
from sft.data.mixing.builder import MixBuilder, Part
from sft.data.mixing.looking import ROWS, look
from sft.errors import BadInput
from sft.types import ChatDatasetBuilderCommonConfig, EvalSet
from tests.chat_data import conversation, write_jsonl

NO_TOKENIZER = ChatDatasetBuilderCommonConfig("no-such-model", batch_size=1)
"""Whoever asks for its tokenizer fails."""


@pytest.fixture
def good(tmp_path):
    return write_jsonl(tmp_path / "good.jsonl", [conversation(i) for i in range(4)])


@pytest.fixture
def bad(tmp_path):
    path = write_jsonl(tmp_path / "bad.jsonl", [conversation(0)])
    path.write_text(path.read_text() + "no JSON\n")
    return path


def chats(path, **values):
    return FromConversationFileBuilder(
        **{"common_config": NO_TOKENIZER, "path": str(path)} | values
    )


def test_a_line_that_cannot_be_used_is_named(bad):
    with pytest.raises(BadInput, match="line 2: not JSON"):
        look(chats(bad))


def test_a_part_and_a_further_held_out_set_are_named_by_their_keys(good, bad):
    mixture = MixBuilder(
        common_config=NO_TOKENIZER, parts={"a": Part(chats(good)), "b": Part(chats(bad))}
    )
    with pytest.raises(BadInput, match=r"^dataset\.parts\.b: .*line 2"):
        look(mixture)
    measured = dataclasses.replace(chats(good), eval_sets={"c": EvalSet(chats(bad))})
    with pytest.raises(BadInput, match=r"^dataset\.eval_sets\.c: .*line 2"):
        look(measured)


def test_what_is_to_be_skipped_is_skipped(bad):
    look(chats(bad, on_bad_line="skip"))


def test_a_file_named_as_data_of_the_hub_is_looked_at_too(bad):
    with pytest.raises(BadInput, match="line 2: not JSON"):
        look(HFChatBuilder(common_config=NO_TOKENIZER, path=str(bad)))


def test_only_the_first_rows_are_looked_at(good, bad):
    good.write_text(good.read_text() * ROWS + bad.read_text())
    look(chats(good))


def test_data_that_is_not_on_this_machine_is_left_alone():
    look(HFChatBuilder(common_config=NO_TOKENIZER, path="someone/chats"))


def common(**values):
    return {"common_config": dataclasses.replace(NO_TOKENIZER, **values)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (common(batch_size=5), "^batch_size: 5 is more than .* 4 conversations give"),
        ({"eval_size": 4}, r"^dataset\.eval_size: 4 conversations cannot be held out of 4;"),
        (common(train_on_what="customized"), "line 1: message 1 has no 'trainable'"),
    ],
)
def test_a_file_that_is_too_small_is_refused_before_it_is_tokenised(good, values, words):
    with pytest.raises(BadInput, match=words):
        look(dataclasses.replace(chats(good), **values))


def test_a_file_without_an_answer_is_refused_before_it_is_tokenised(tmp_path):
    questions = [conversation(i)[:1] for i in range(4)]
    with pytest.raises(BadInput, match="line 1: no row has an answer to train on"):
        look(chats(write_jsonl(tmp_path / "questions.jsonl", questions)))


def test_a_file_is_only_refused_for_what_no_template_could_change(good):
    look(dataclasses.replace(chats(good), eval_size=3, **common(batch_size=4)))
    look(chats(good, on_lost="leave_out", **common(train_on_what="customized")))


class Twice(FromConversationFileBuilder):
    """Makes two sequences of a message, for all that is known."""


def test_a_builder_of_ones_own_is_not_refused_for_few_rows(good):
    look(Twice(**common(batch_size=5), path=str(good)))

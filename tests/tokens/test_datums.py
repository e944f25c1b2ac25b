"""From tokens and weights to datums: right shift, truncation, reduction."""

import pytest

from sft.datasets import (
    conversation_to_datum,
    conversation_to_datums,
    datum_from_model_input_weights,
)
from sft.errors import BadInput
from tests.chat_data import chats as chats
from tests.chat_data import common as common
from tests.chat_data import conversation, jsonl


def test_a_datum_is_shifted_right_and_its_weights_sum_to_one():
    import tinker

    whole = tinker.ModelInput.from_ints([5, 6, 7, 8])
    datum = datum_from_model_input_weights(whole, [0, 0, 1, 1])
    assert datum.model_input.to_ints() == [5, 6, 7]
    assert datum.loss_fn_inputs["target_tokens"].to_numpy().tolist() == [6, 7, 8]
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("max_length", "reduction", "weights"),
    [(None, "none", [0, 2, 1]), (3, "none", [0, 2]), (3, "mean", [0, 1]), (2, "mean", [0])],
)
def test_truncation_comes_before_the_reduction(max_length, reduction, weights):
    import tinker
    import torch

    whole = tinker.ModelInput.from_ints([5, 6, 7, 8])
    given = torch.tensor([9.0, 0.0, 2.0, 1.0])
    datum = datum_from_model_input_weights(whole, given, max_length, reduction)
    assert datum.loss_fn_inputs["weights"].to_numpy().tolist() == weights
    assert datum.model_input.length == len(weights)


def test_a_conversation_becomes_a_datum_that_trains_its_answer(common, chats):
    renderer = jsonl(common, chats).renderer
    datum = conversation_to_datum(conversation(7), renderer, max_length=256)
    targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
    trained = datum.loss_fn_inputs["weights"].to_numpy() > 0
    text = jsonl(common, chats).tokenizer.decode(targets[trained])
    assert text.startswith("It is 14, så är det.") and "What" not in text
    [same] = conversation_to_datums(conversation(7), renderer, max_length=256)
    assert same.model_input.to_ints() == datum.model_input.to_ints()


def test_a_conversation_without_a_trained_token_left_takes_no_datum(common, chats):
    renderer = jsonl(common, chats).renderer
    assert conversation_to_datums(conversation(7), renderer, max_length=20) == []
    with pytest.raises(BadInput, match="takes 0 datums"):
        conversation_to_datum(conversation(7), renderer, max_length=20)


# Kinds

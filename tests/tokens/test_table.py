"""What is held out, in which order batches come, and what is counted of them."""

from dataclasses import replace

import numpy as np
import pytest

from tests.chat_data import chats as chats
from tests.chat_data import common as common
from tests.chat_data import conversation, jsonl, sequences, write_jsonl


def test_held_out_and_training_data_share_no_conversation_even_if_rows_repeat(common, tmp_path):
    repeated = [conversation(i % 20) for i in range(60)]
    path = write_jsonl(tmp_path / "repeated.jsonl", repeated)
    train, held_out = jsonl(common, path, eval_size=5)()
    trained, held = sequences(train), sequences(held_out)
    assert len(held) == len({tuple(tokens) for tokens in held}) == 5
    assert not {tuple(tokens) for tokens in held} & {tuple(tokens) for tokens in trained}
    assert len(trained) == 45
    assert (train.statistics.conversations, train.statistics.duplicates) == (45, 10)


def test_the_held_out_set_depends_on_the_split_seed_and_not_on_the_runs_seed(common, chats):
    first = sequences(jsonl(common, chats, eval_size=6)()[1])
    assert sequences(jsonl(replace(common, seed=5), chats, eval_size=6)()[1]) == first
    assert sequences(jsonl(common, chats, eval_size=6, split_seed=1)()[1]) != first


def test_rows_that_are_added_or_moved_leave_the_held_out_set_nearly_as_it_was(common, tmp_path):
    before = write_jsonl(tmp_path / "before.jsonl", [conversation(i) for i in range(50)])
    after = write_jsonl(tmp_path / "after.jsonl", [conversation(i) for i in range(54, -1, -1)])
    held = [
        set(map(tuple, sequences(jsonl(common, p, eval_size=10)()[1]))) for p in (before, after)
    ]
    assert len(held[0] & held[1]) >= 7


# Batches


def test_an_epoch_is_every_sequence_once_and_the_last_batch_is_short(common, chats):
    train, _ = jsonl(common, chats)()
    assert [len(train.get_batch(index)) for index in range(len(train))] == [4] * 7 + [2]
    plain = sequences(train)
    train.set_epoch(3)
    assert sequences(train) != plain and sorted(sequences(train)) == sorted(plain)


def test_the_order_of_an_epoch_depends_on_its_seed_alone(common, chats):
    first, second = jsonl(common, chats)()[0], jsonl(common, chats)()[0]
    first.set_epoch(1)
    second.set_epoch(2)
    second.set_epoch(1)
    assert sequences(first) == sequences(second)
    second.set_epoch(2**40 + 1)
    assert sequences(first) != sequences(second)


def test_a_batch_beyond_the_epoch_is_an_index_error(common, chats):
    train, _ = jsonl(common, chats)()
    for index in (-1, len(train)):
        with pytest.raises(IndexError):
            train.get_batch(index)


def test_reduction_none_gives_every_trained_token_the_weight_one(common, chats):
    mean, none = (
        jsonl(replace(common, reduction=reduction), chats)()[0].get_batch(0)[0]
        for reduction in ("mean", "none")
    )
    assert set(none.loss_fn_inputs["weights"].to_numpy().tolist()) == {0.0, 1.0}
    assert mean.loss_fn_inputs["weights"].to_numpy().sum() == pytest.approx(1)


# Counts


def test_statistics_count_what_is_trained_on(common, chats):
    train, held_out = jsonl(common, chats, eval_size=6)()
    found = train.statistics
    assert (found.conversations, found.datums, found.dropped, found.truncated) == (24, 24, 0, 0)
    batches = [datum for index in range(len(train)) for datum in train.get_batch(index)]
    assert found.tokens == sum(datum.model_input.length + 1 for datum in batches)
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in batches]
    assert found.trained_tokens == sum(int((weight > 0).sum()) for weight in weights)
    assert held_out.statistics.conversations == 6


def test_the_bytes_of_a_batch_are_those_of_its_trained_text(common, chats):
    train, _ = jsonl(common, chats)()
    train.set_epoch(4)
    sizes = [train.num_bytes(index) for index in range(len(train))]
    assert sum(sizes) == train.statistics.trained_bytes
    renderer = jsonl(common, chats).renderer
    answers = {}
    for i in range(30):
        [rendered] = renderer.render(conversation(i), "all_assistant_messages")
        answers[tuple(rendered.tokens)] = rendered.trained_bytes()
    first = [tuple(tokens) for tokens in sequences(train)[:4]]
    assert sizes[0] == sum(answers[tokens] for tokens in first)


def test_a_cut_sequence_counts_the_bytes_of_the_tokens_it_keeps(common, tmp_path):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * 400}]
    path = write_jsonl(tmp_path / "long.jsonl", [messages] * 4)
    train, _ = jsonl(replace(common, max_length=200), path)()
    assert train.statistics.truncated == 4 and train.statistics.tokens == 800
    kept = train.statistics.trained_tokens // 4
    assert train.num_bytes(0) == 4 * kept  # a byte a token


@pytest.mark.parametrize("max_length", [None, 90, 91, 92, 93])
@pytest.mark.parametrize(
    "train_on_what", ["all_assistant_messages", "all_messages", "all_tokens", "last_assistant_turn"]
)
def test_the_bytes_of_a_batch_are_those_of_its_trained_tokens_that_are_not_special(
    common, tmp_path, train_on_what, max_length
):
    """With a token for each byte: whatever is trained, headers too, and cut within a character."""
    messages = [
        {"role": "system", "content": "\nKurz, bitte."},
        {"role": "user", "content": "Was heißt 日本🙂?"},
        {"role": "assistant", "content": "日本は🙂🙂 — «naïve» " * 3},
    ]
    common = replace(common, train_on_what=train_on_what, max_length=max_length)
    builder = jsonl(common, write_jsonl(tmp_path / "chats.jsonl", [messages] * 4))
    train, _ = builder()
    special = builder.tokenizer.all_special_ids
    trained = 0
    for datum in train.get_batch(0):
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        trained += int((~np.isin(targets, special) & (weights > 0)).sum())
    assert train.num_bytes(0) == trained > 0
    assert train.special_tokens == frozenset(special)


def test_a_conversation_with_no_trained_token_left_is_dropped_and_counted(common, tmp_path):
    long = [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "yes"}]
    path = write_jsonl(tmp_path / "mixed.jsonl", [conversation(i) for i in range(6)] + [long])
    train, _ = jsonl(common, path)()
    found = train.statistics
    assert (found.conversations, found.datums, found.dropped) == (7, 6, 1)
    assert [len(train.get_batch(index)) for index in range(len(train))] == [4, 2]


def test_the_digest_is_of_the_conversations_and_not_of_their_place(common, chats, tmp_path):
    train, held_out = jsonl(common, chats, eval_size=3)()
    moved = tmp_path / "elsewhere" / "other-name.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(chats.read_bytes())
    again, _ = jsonl(replace(common, max_length=100, batch_size=2), moved, eval_size=3)()
    assert again.digest == train.digest and len(train.digest) <= 36
    assert held_out.digest != train.digest
    moved.write_text(chats.read_text().replace("What is 7", "What was 7"))
    assert jsonl(common, moved, eval_size=3)()[0].digest != train.digest


def test_a_permutation_is_the_same_everywhere():
    from sft.tokens.table import permutation

    assert permutation(8, 0).tolist() == [3, 7, 0, 1, 2, 4, 6, 5]
    assert sorted(permutation(8, 10**12).tolist()) == list(range(8))
    assert not np.array_equal(permutation(100, 1), permutation(100, 1 + 2**32))

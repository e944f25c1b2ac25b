"""Which part each sequence of a mixture is of: exactly, and always the same."""

import pytest

from sft.data.mixing.order import counts, order
from tests.data.mixing.parts import digests, write_part


@pytest.mark.parametrize(
    ("sizes", "weights", "exhausted", "expected"),
    [
        ({"a": 10, "b": 30}, {"a": 1, "b": 3}, "repeat", {"a": 10, "b": 30}),
        ({"a": 10, "b": 30}, {"a": 1, "b": 1}, "repeat", {"a": 20, "b": 20}),
        ({"a": 10, "b": 30}, {"a": 1, "b": 1}, "end", {"a": 10, "b": 10}),
        ({"a": 10, "b": 30}, {"a": 0.1, "b": 0.2}, "end", {"a": 10, "b": 20}),
        ({"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 1, "c": 1}, "repeat", {"a": 2, "b": 1, "c": 1}),
        ({"a": 7, "b": 10**9}, {"a": 0.7, "b": 0.3}, "end", {"a": 7, "b": 3}),
    ],
)
def test_shares_hold_exactly_over_an_epoch(sizes, weights, exhausted, expected):
    assert counts(sizes, weights, exhausted) == expected


def test_every_stretch_of_an_epoch_holds_nearly_the_shares():
    parts, numbers = order([300, 600, 100], seed=5)
    assert [int((parts == part).sum()) for part in range(3)] == [300, 600, 100]
    for start in range(0, 1000, 50):
        stretch = parts[start : start + 50]
        for part, share in enumerate((0.3, 0.6, 0.1)):
            assert abs(int((stretch == part).sum()) - 50 * share) <= 2
    for part in range(3):  # each part's sequences in their order
        assert sorted(numbers[parts == part]) == list(range([300, 600, 100][part]))
    assert (order([300, 600, 100], seed=6)[0] != parts).any()


def test_an_epoch_trains_every_sequence_of_parts_that_are_neither_repeated_nor_cut(mixed, texts_of):
    data = mixed().train
    data.set_epoch(3)
    texts = texts_of(data)
    assert len(data) == 10 and len(texts) == 40 and len(set(texts)) == 40


def test_a_part_whose_share_is_more_than_it_has_repeats_in_another_order(mixed, texts_of):
    data = mixed("dataset.parts.math.weight=3").train
    data.set_epoch(3)
    texts = texts_of(data)
    math_texts = [text for text in texts if "sum" in text]
    assert (len(texts), len(math_texts)) == (40, 20)
    assert sorted(math_texts[:10]) == sorted(math_texts[10:]) and len(set(math_texts)) == 10
    assert math_texts[:10] != math_texts[10:]


def test_the_epoch_ends_with_the_first_part_that_has_no_more(mixed, parts_of):
    data = mixed("dataset.parts.math.weight=3", "dataset.exhausted=end").train
    data.set_epoch(0)
    parts = parts_of(data)
    assert (parts.count("math"), parts.count("code")) == (10, 10)


def test_the_banner_says_how_often_parts_repeat_and_how_much_of_them_is_used(mixed):
    repeated = mixed("dataset.parts.math.weight=3").train.statistics.report
    assert "a mixture of code, math" in repeated.found
    assert repeated.lines()[:2] == [
        "part code (JSONL, layout messages): 50.0% of the sequences; 20 of its 30 sequences "
        "(66.7%) are trained an epoch, drawn anew for each",
        "part math (JSONL, layout messages): 50.0% of the sequences; its 10 sequences are "
        "trained 2 times an epoch",
    ]


def test_a_part_of_weight_0_is_not_trained_on_but_what_it_holds_out_is_measured(mixed, parts_of):
    found = mixed("dataset.parts.math.weight=0", "dataset.parts.math.eval_size=3")
    assert set(parts_of(found.train)) == {"code"} and found.train.length == 30
    assert list(found.held_out.parts) == ["math"] and found.held_out.statistics.datums == 3


def test_a_cap_takes_the_same_conversations_in_every_epoch(mixed, texts_of):
    data = mixed("dataset.parts.code.cap=6").train
    seen = []
    for seed in (1, 2):
        data.set_epoch(seed)
        seen.append({text for text in texts_of(data) if "loop" in text})
    assert seen[0] == seen[1] and len(seen[0]) == 6


# Always the same.


def test_a_batch_is_the_same_whatever_was_asked_before(mixed):
    words = ["dataset.parts.math.weight=3"]
    first, second = mixed(*words).train, mixed(*words).train
    forward = digests(first, 7, range(len(first)))
    backward = digests(second, 7, reversed(range(len(second))))
    assert forward == backward[::-1] and len(set(forward)) == len(forward)
    assert digests(first, 8, range(3)) != forward[:3]
    assert digests(first, 7, [5, 2, 9]) == [forward[5], forward[2], forward[9]]


def test_the_order_in_which_parts_are_written_changes_nothing(mixed, files):
    one = mixed().train
    config = {"dataset.parts.code.path": "code.jsonl", "dataset.parts.math.path": "math.jsonl"}
    other = mixed(*(f"{key}={value}" for key, value in config.items())).train
    assert one.digest == other.digest
    assert digests(one, 0, range(10)) == digests(other, 0, range(10))


def test_bytes_of_the_trained_text_are_those_of_the_batch(mixed):
    data = mixed().train
    data.set_epoch(1)
    for index in (0, 4, 4, 2):
        data.get_batch(index)
        # A token is a byte here, but for the end of the turn.
        trained = [d.loss_fn_inputs["weights"].to_numpy() > 0 for d in data.get_batch(index)]
        assert data.num_bytes(index) == sum(int(mask.sum()) - 1 for mask in trained)
    assert data.num_bytes(7) == data.num_bytes(7)


def test_the_digest_is_of_the_parts_and_of_their_shares(mixed, files):
    whole = mixed().train.digest
    assert mixed().train.digest == whole
    assert mixed("dataset.parts.math.weight=2").train.digest != whole
    write_part(files["math"].parent, "math", 11)
    assert mixed().train.digest != whole

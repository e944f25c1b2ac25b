"""What a part of a mixture may be, and what it holds out."""

import itertools

from sft.data.mixing.held_out import SeveralHeldOut
from tests.data.mixing.parts import digests, stream

MY_DATA = '''
from dataclasses import dataclass

from sft.datasets import conversation_to_datum
from sft.types import ChatDatasetBuilder, SupervisedDataset


class Odd(SupervisedDataset):
    """Batches of one and two sequences, in turn."""

    def __init__(self, renderer, count):
        def datum(i):
            chat = [{"role": "user", "content": "hello?"},
                    {"role": "assistant", "content": f"hello is {i}"}]
            return conversation_to_datum(chat, renderer)

        data = [datum(i) for i in range(count)]
        self.batches = [data[i : i + 1 + i // 3 % 2] for i in range(0, count, 2)]

    def __len__(self):
        return len(self.batches)

    def get_batch(self, index):
        return self.batches[index]


@dataclass
class MyBuilder(ChatDatasetBuilder):
    count: int = 9

    def __call__(self):
        return Odd(self.renderer, self.count), None
'''


def test_a_builder_of_ones_own_is_a_part(mixed, files, monkeypatch, parts_of):
    (files["math"].parent / "my_part.py").write_text(MY_DATA)
    monkeypatch.syspath_prepend(str(files["math"].parent))
    words = ["dataset.parts.chat.kind=custom", "dataset.parts.chat.builder=my_part:MyBuilder"]
    data = mixed(*words, "dataset.parts.chat.args.count=9").train
    forward = digests(data, 1, range(len(data)))
    parts = parts_of(data)
    assert parts.count("chat") == data.counts["chat"] > 0
    assert digests(data, 1, [8, 3]) == [forward[8], forward[3]]
    assert data.num_bytes is None and data.digest is None


def test_a_part_trains_on_what_it_says(mixed, text_of):
    data = mixed("dataset.parts.math.train_on_what=all_tokens").train
    data.set_epoch(0)
    for datum in itertools.chain.from_iterable(map(data.get_batch, range(len(data)))):
        untrained = (datum.loss_fn_inputs["weights"].to_numpy() == 0).any()
        assert untrained == ("loop" in text_of(datum))


def test_no_part_trains_on_what_another_one_holds_out(mixed, files, texts_of):
    (files["math"].parent / "chat.jsonl").write_text(files["math"].read_text())
    found = mixed("dataset.parts.chat.path=chat.jsonl", "dataset.parts.math.eval_size=4")
    held = set(texts_of(found.held_out))
    found.train.set_epoch(0)
    trained = set(texts_of(found.train))
    assert len(held) == 4 and not held & trained
    assert found.train.supplies["chat"].size == 6


def test_held_out_parts_are_one_set_with_a_digest(mixed):
    found = mixed("dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=3").held_out
    assert isinstance(found, SeveralHeldOut) and len(found) == 5
    assert {name: len(part) for name, part in found.parts.items()} == {"code": 3, "math": 2}
    assert found.statistics.datums == 5
    other = mixed("dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=4").held_out
    assert found.digest and found.digest != other.digest


def test_a_stream_is_a_part_like_any_other(mixed, chat, parts_of):
    data = mixed(*stream("dataset.parts.chat.weight=2")).train
    # 10 and 30, and the stream's 5 steps of 4 sequences.
    assert data.counts == {"chat": 20, "code": 30, "math": 10}
    forward = digests(data, 4, range(len(data)))
    assert parts_of(data).count("chat") == 20
    other = mixed(*stream("dataset.parts.chat.weight=2")).train
    assert digests(other, 4, range(6, 15)) == forward[6:]  # resumed at step 6
    assert digests(other, 4, [9, 3]) == [forward[9], forward[3]]
    assert data.digest is None
    said = data.statistics.report.lines()
    assert any(line.startswith("part chat (read as a stream): 33.3%") for line in said)


def test_a_cap_of_a_stream_and_what_it_holds_out(mixed, chat, texts_of):
    found = mixed(*stream("dataset.parts.chat.cap=4", "dataset.parts.chat.eval_size=3"))
    found.train.set_epoch(0)
    texts = {text for text in texts_of(found.train) if "hello" in text}
    held = set(texts_of(found.held_out.parts["chat"]))
    assert len(texts) == 4 and len(held) == 3 and not texts & held

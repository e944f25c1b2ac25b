"""Mixtures: which part each sequence is of, exactly and always the same, and what is measured."""

import itertools
import json
import math

import pytest

from sft.config.compose import compose
from sft.config.saved import dataset_builder, from_saved, from_train, to_saved, to_train
from sft.data.mixing.held_out import SeveralHeldOut, built
from sft.data.mixing.order import counts, order
from sft.errors import BadInput
from sft.files import dump_yaml, read_yaml
from sft.models.tokenizers import load_tokenizer
from sft.past.trust import check_untrusted
from sft.preview import main as preview
from sft.record.fingerprints import sequences
from tests.test_train import write_chats

WORDS = {"math": "sum", "code": "loop", "chat": "hello"}


def write_part(folder, name, count):
    """A file of `count` conversations, each with its part's own word and a number."""
    path = folder / f"{name}.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{WORDS[name]} {i}?"},
                {"role": "assistant", "content": f"{WORDS[name]} is {i}"},
            ]
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {name: write_part(tmp_path, name, n) for name, n in (("math", 10), ("code", 30))}


@pytest.fixture
def settings(files, tiny_model):
    """Settings of a mixture of both files, 1 to 3, with further words of the command line."""

    def make(*words):
        paths = [f"dataset.parts.{name}.path={path.name}" for name, path in files.items()]
        common = ["model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}"]
        common += ["batch_size=4", "max_length=128", "dataset.parts.code.weight=3"]
        return compose([*common, *paths, *words])

    return make


@pytest.fixture
def mixed(settings):
    return lambda *words: built(dataset_builder(settings(*words)))


@pytest.fixture
def text_of(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    return lambda datum: tokenizer.decode(datum.model_input.to_ints())


@pytest.fixture
def texts_of(text_of):
    """The texts of all sequences of an epoch, in order."""
    return lambda data: [text_of(d) for index in range(len(data)) for d in data.get_batch(index)]


@pytest.fixture
def parts_of(texts_of):
    """The part of every sequence of an epoch, by its word."""

    def parts(data):
        return [
            next(name for name, word in WORDS.items() if word in text) for text in texts_of(data)
        ]

    return parts


# Which part, and how many.


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
        "part code: 50.0% of the sequences; 20 of its 30 sequences (66.7%) are trained an "
        "epoch, drawn anew for each",
        "part math: 50.0% of the sequences; its 10 sequences are trained 2 times an epoch",
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


def digests(data, seed, indices):
    data.set_epoch(seed)
    return [sequences(data.get_batch(index)) for index in indices]


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


# Kinds of parts.


def stream(*more):
    return [
        "dataset.parts.chat.kind=hf_stream",
        "dataset.parts.chat.path=chat.jsonl",
        "dataset.parts.chat.steps_per_epoch=5",
        "dataset.parts.chat.shuffle_buffer=8",
        *more,
    ]


@pytest.fixture
def chat(files):
    return write_part(files["math"].parent, "chat", 12)


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
    assert any(line.startswith("part chat: 33.3%") and "stream" in line for line in said)


def test_a_cap_of_a_stream_and_what_it_holds_out(mixed, chat, texts_of):
    found = mixed(*stream("dataset.parts.chat.cap=4", "dataset.parts.chat.eval_size=3"))
    found.train.set_epoch(0)
    texts = {text for text in texts_of(found.train) if "hello" in text}
    held = set(texts_of(found.held_out.parts["chat"]))
    assert len(texts) == 4 and len(held) == 3 and not texts & held


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


# In the config.


def test_a_saved_mixture_is_plain_data_complete_and_comes_back(settings, tmp_path):
    made = settings("dataset.parts.math.cap=5", "dataset.exhausted=end", "dataset.on_lost=train")
    (tmp_path / "config.yaml").write_text(dump_yaml(to_saved(made)))
    saved = read_yaml(tmp_path / "config.yaml")
    assert from_saved(saved, "config.yaml") == made
    assert saved["dataset"]["parts"]["math"] == {
        "kind": "file", "weight": 1.0, "cap": 5, "train_on_what": None, "on_lost": "train",
        "control_tokens": "as_text", "path": "math.jsonl", "eval_size": 0, "split_seed": 0,
        "layout": "auto", "on_bad_line": "refuse",
    }  # fmt: skip
    assert from_train(to_train(made, "somewhere"))["dataset"] == saved["dataset"]


def test_a_file_of_ones_own_names_parts(tmp_path, files):
    from tests.config.test_conf_files import print_config

    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "both.yaml").write_text(
        "defaults:\n  - keys@_here_: mix\n"
        "parts:\n  math: {path: math.jsonl, weight: 2}\n  faq: {kind: faq}\n"
    )
    words = ["--config-dir", "mine", "dataset=both", "dataset.parts.math.weight=5"]
    assert print_config(*words, cwd=tmp_path)["dataset"]["parts"]["math"]["weight"] == 5


REFUSED = [
    ("dataset.parts.math.kind=fil", r"dataset\.parts\.math\.kind: 'fil' is not one of .*'file'"),
    ("dataset.parts.math.kind=mix", r"dataset\.parts\.math\.kind: 'mix' is not one of"),
    ("dataset.parts.math.wieght=1", r"dataset\.parts\.math\.wieght: .*'dataset\.parts\.math\.w"),
    ("dataset.parts.math.weight=-1", r"dataset\.parts\.math\.weight: -1.* of 0 or more"),
    ("dataset.parts.math.weight=much", r"dataset\.parts\.math\.weight: 'much' is not a number"),
    ("dataset.parts.math.weight=.inf", r"dataset\.parts\.math\.weight: "),
    ("dataset.parts.math.cap=0", r"dataset\.parts\.math\.cap: 0 is not a whole number of 1"),
    ("dataset.parts.math.train_on_what=al", r"dataset\.parts\.math\.train_on_what: 'al' is not"),
    ("dataset.parts.math.eval_sets.x.path=y", r"dataset\.parts\.math\.eval_sets: there is no"),
    ("dataset.parts.math=7", r"dataset\.parts\.math: '7' is not a group of keys"),
    ("dataset.parts.other.weight=1", r"dataset\.parts\.other\.kind: is missing; set dataset"),
    ("dataset.parts.nll.kind=faq", r"dataset\.parts\.nll: is the name of a metric"),
    ("dataset.parts.ALL.kind=faq", r"dataset\.parts\.ALL: is the name of a metric"),
    ("dataset.parts.Math.kind=faq", r"dataset\.parts\.(M|m)ath: both it and .ath would be"),
    ("dataset.parts={2x: {kind: faq}}", r"dataset\.parts: '2x' is no name"),
    ("dataset.exhausted=stop", r"dataset\.exhausted: 'stop' is not one of repeat, end"),
    ("dataset.part.math.weight=1", r"no such key as dataset\.part; did you mean 'dataset\.parts'"),
]


@pytest.mark.parametrize(("word", "words"), REFUSED, ids=[word for word, _ in REFUSED])
def test_what_is_refused_is_said_with_its_whole_key(settings, word, words):
    with pytest.raises(BadInput, match=words):
        settings(word)


def test_a_mixture_without_parts_or_weights_is_refused(settings):
    with pytest.raises(BadInput, match=r"dataset\.parts: is missing; name the parts"):
        compose(["dataset=mix"])
    with pytest.raises(BadInput, match=r"dataset\.parts: every part has weight 0"):
        settings("dataset.parts.math.weight=0", "dataset.parts.code.weight=0")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("dataset.parts.math.path=no.jsonl", r"^dataset\.parts\.math\.path: .*no\.jsonl"),
        ("dataset.parts.math.eval_size=99", r"^dataset\.parts\.math\.eval_size: 99 conversa"),
        ("dataset.parts.chat.kind=custom", r"dataset\.parts\.chat\.builder: is missing"),
        ("batch_size=41", r"batch_size: 41 is more than the 40 sequences of an epoch"),
    ],
)
def test_what_a_part_cannot_give_is_said_with_its_key(mixed, word, words):
    with pytest.raises(BadInput, match=words):
        mixed(word)


def test_a_mixture_from_elsewhere_needs_trust_as_any_data_does(settings):
    saved = to_saved(settings())
    with pytest.raises(BadInput, match=r"dataset\.parts\.code\.path names a place, 'code\.jsonl'"):
        check_untrusted(saved, "a config")
    parts = {"mine": {"kind": "custom", "builder": "os:system", "args": {}}}
    saved["dataset"] = {"kind": "mix", "parts": parts}
    with pytest.raises(BadInput, match=r"dataset\.parts\.mine\.builder would import 'os:system'"):
        check_untrusted(saved, "a config")


def test_the_preview_as_json_names_the_part_of_each_row(settings, files, tiny_model, capsys):
    words = [f"dataset.parts.{name}.path={path.name}" for name, path in files.items()]
    words += ["model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}"]
    assert preview(["--json", "--n", "2", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["part"], row["line"]) for row in rows] == [
        ("code", 1), ("code", 2), ("math", 1), ("math", 2),
    ]  # fmt: skip


# On a service.


@pytest.fixture
def train_mix(settings, local_service, tmp_path):
    """Trains a mixture on the tests' service; the config and the result."""
    import asyncio

    from sft import train

    def run(name, *words, hooks=(), **changes):
        import dataclasses

        made = settings(
            "dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=4", "lr=1e-2",
            "lora.rank=4", "evaluators.held_out_answers=0", *words,
        )  # fmt: skip
        config = to_train(made, str(tmp_path / name), local_service)
        config = dataclasses.replace(config, model_name="tiny", **changes)
        return config, asyncio.run(train.main(config, hooks=hooks))

    return run


def test_nll_of_the_parts_averages_to_that_of_the_whole_in_one_pass(train_mix, monkeypatch):
    import tinker

    passes = []
    compute = tinker.SamplingClient.compute_logprobs

    def counted(client, *args, **more):
        passes.append(1)
        return compute(client, *args, **more)

    monkeypatch.setattr(tinker.SamplingClient, "compute_logprobs", counted)
    config, result = train_mix("run")
    assert result.status == "FINISHED", result.error
    held_out = built(config.dataset_builder).held_out
    tokens = {name: part.statistics.trained_tokens for name, part in held_out.parts.items()}
    sizes = {name: part.statistics.trained_bytes for name, part in held_out.parts.items()}
    assert len(passes) == 2 * 6  # before and after, each sequence once
    for row in (result.first, result.last):
        for metric, weights in (("nll", tokens), ("bpb", sizes)):
            mean = sum(row[f"eval/{name}/{metric}"] * weights[name] for name in weights)
            assert row[f"eval/{metric}"] == pytest.approx(mean / sum(weights.values()))
        assert math.isfinite(row["train/bpb"])
    assert result.last["eval/nll"] < result.first["eval/nll"]


def test_a_run_resumed_in_the_middle_of_a_mixture_trains_the_same_batches(train_mix, chat):
    from pathlib import Path

    from sft.hooks import BaseHook
    from sft.record import metrics

    class StopAt(BaseHook):
        def on_start(self, run):
            self.run = run

        def on_progress(self, step, values):
            if step == 3:
                self.run.stop("for the test", "KILLED")

    words = stream("epochs=2", "eval_every=4")
    whole, done = train_mix("whole", *words)
    parts, stopped = train_mix("parts", *words, hooks=[StopAt()])
    assert stopped.status == "KILLED" and 4 <= stopped.steps < done.steps
    parts, resumed = train_mix("parts", *words)
    assert resumed.status == "FINISHED", resumed.error
    batches = [
        [row["digest"] for row in metrics.read(Path(config.log_path) / "batches.jsonl")]
        for config in (whole, parts)
    ]
    assert batches[0] == batches[1] and len(set(batches[0])) == done.steps
    assert resumed.last["eval/math/nll"] == done.last["eval/math/nll"]


def test_a_run_is_not_resumed_with_other_weights(train_mix):
    with_hook = train_mix("run", "max_steps=2")
    assert with_hook[1].status == "FINISHED"
    with pytest.raises(BadInput, match=r"run_dir: .*different|other"):
        train_mix("run", "max_steps=2", "dataset.parts.math.weight=2")


def test_weights_are_swept(files, tiny_model, local_service, monkeypatch, tmp_path):
    import sys

    from sft.__main__ import main
    from tests.sweeps.conftest import rows_of, study_of

    paths = [f"dataset.parts.{name}.path={path.name}" for name, path in files.items()]
    argv = [
        "--multirun", "model=folder", "model.name=tiny", f"model.tokenizer={tiny_model}", *paths,
        "dataset.parts.math.eval_size=2", "dataset.parts.code.eval_size=4", "batch_size=4",
        "max_length=128", "max_steps=2", "evaluators.held_out_answers=0", "service=custom",
        f"service.base_url={local_service}", "tracking.uri=null",
        "dataset.parts.math.weight=interval(0,1)", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.study_name=weights", "hydra.sweeper.metric=eval/math/nll",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sft", *argv])
    assert main(argv) == 0
    trials = study_of("weights").trials
    weights = [trial.params["dataset.parts.math.weight"] for trial in trials]
    assert len(set(weights)) == 2 and all(0 <= w <= 1 and w != int(w) for w in weights)
    for trial in trials:
        rows = rows_of("weights", trial.number)
        assert rows[-1]["eval/math/nll"] == trial.value


def test_runs_of_mixtures_are_compared_and_listed_by_their_parts(train_mix, monkeypatch, capsys):
    from sft import compare

    train_mix("one", "max_steps=2")
    train_mix("two", "max_steps=2", "dataset.parts.math.weight=2")
    capsys.readouterr()
    assert compare.main(["one", "two"]) == 0
    said = capsys.readouterr().out
    assert "dataset.parts.math.weight" in said and "eval/math/nll last" in said


def test_chats_without_a_held_out_part_leave_eval_nll_out(settings, tmp_path):
    write_chats(tmp_path / "more.jsonl")
    found = built(dataset_builder(settings("dataset.parts.more.path=more.jsonl")))
    assert found.held_out is None

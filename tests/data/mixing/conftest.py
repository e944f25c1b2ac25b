"""A mixture of two files of chats, and how its sequences are looked at."""

import pytest

from sft.config.compose import compose
from sft.config.saved import dataset_builder
from sft.data.mixing.held_out import built
from sft.models.tokenizers import load_tokenizer
from tests.data.mixing.parts import WORDS, write_part


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


@pytest.fixture
def chat(files):
    return write_part(files["math"].parent, "chat", 12)

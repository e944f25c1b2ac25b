"""Builders of the user's own, by import path: from Python and from the command line."""

import sys
from dataclasses import dataclass

import pytest

from sft.data.import_path import NOT_IMPORTABLE
from sft.datasets import FromConversationFileBuilder, custom_builder, import_path
from sft.errors import BadInput
from sft.types import SupervisedDatasetBuilder
from tests.chat_data import common as common
from tests.chat_data import conversation, write_jsonl

MY_DATA = '''
from dataclasses import dataclass, field

from sft.datasets import FromConversationFileBuilder
from sft.types import SupervisedDataset, SupervisedDatasetBuilder


class Words(SupervisedDataset):
    """The README's example: any text, a line a sequence."""

    def __init__(self, lines):
        self.lines = lines

    def __len__(self):
        return len(self.lines)

    def get_batch(self, index):
        return [self.lines[index]]


@dataclass
class MyBuilder(SupervisedDatasetBuilder):
    path: str
    repeat: int = 1
    names: list = field(default_factory=list)

    def __call__(self):
        return Words(open(self.path).read().split() * self.repeat), None


@dataclass
class MyChats(FromConversationFileBuilder):
    loud: bool = False


class Forgotten(SupervisedDatasetBuilder):
    path: str = "x"


class Plain(SupervisedDatasetBuilder):
    def __call__(self):
        return Words(["one"]), None


class NoBuilder:
    pass
'''


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(MY_DATA)
    (tmp_path / "broken_data.py").write_text("import no_such_package\n")
    (tmp_path / "wrong_data.py").write_text("1 / 0\n")
    (tmp_path / "words.txt").write_text("red green blue")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    for name in ("my_data", "broken_data", "wrong_data"):
        sys.modules.pop(name, None)


def test_a_builder_in_the_current_folder_is_found_and_takes_its_arguments(my_data, common):
    builder = custom_builder("my_data:MyBuilder", {"path": "words.txt", "repeat": 2}, common)
    train, _ = builder()
    assert len(train) == 6 and train.get_batch(1) == ["green"]


def test_a_chat_builder_is_given_the_common_config(my_data, common, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", [conversation(i) for i in range(8)])
    builder = custom_builder("my_data:MyChats", {"path": str(path), "loud": True}, common)
    assert builder.common_config is common and builder.loud
    assert len(builder()[0]) == 2


def test_a_builder_without_fields_need_not_be_decorated(my_data, common):
    assert len(custom_builder("my_data:Plain", {}, common)()[0]) == 1


@pytest.mark.parametrize(
    ("path", "args", "words"),
    [
        ("my_data", {}, "'my_data' is not of the form"),
        ("my_dta:MyBuilder", {}, "no module 'my_dta'"),
        ("my_data:MyBulder", {}, "has no MyBulder; did you mean 'MyBuilder'"),
        ("my_data:NoBuilder", {}, "not a subclass of sft.types.SupervisedDatasetBuilder"),
        ("my_data:Forgotten", {}, "not a dataclass; write @dataclass"),
        ("my_data:MyBuilder", {}, "dataset.args.path: is missing"),
        ("my_data:MyBuilder", {"pth": 1}, "dataset.args.pth: .*did you mean 'path'.*repeat"),
        ("my_data:Plain", {"path": 1}, "dataset.args.path: .*takes none"),
        ("broken_data:MyBuilder", {}, "broken_data cannot be imported: .*no_such_package"),
        ("wrong_data:MyBuilder", {}, "wrong_data cannot be imported: ZeroDivisionError"),
        ("os:getcwd", {}, "not a subclass"),
    ],
)
def test_what_names_no_builder_is_bad_input(my_data, common, path, args, words):
    with pytest.raises(BadInput, match=words):
        custom_builder(path, args, common)


@dataclass
class AtTheTopOfAModule(SupervisedDatasetBuilder):
    pass


def test_a_class_of_a_module_is_named_so_that_it_can_be_imported_again(common):
    path = import_path(AtTheTopOfAModule)
    assert path == f"{__name__}:AtTheTopOfAModule"
    assert isinstance(custom_builder(path, {}, common), AtTheTopOfAModule)


def test_a_class_of_a_script_or_a_function_is_marked_and_refused_later(common, monkeypatch):
    @dataclass
    class InAFunction(FromConversationFileBuilder):
        pass

    monkeypatch.setattr(AtTheTopOfAModule, "__module__", "__main__")
    for builder in (InAFunction, AtTheTopOfAModule):
        path = import_path(builder)
        assert path.startswith(NOT_IMPORTABLE) and builder.__qualname__ in path
        with pytest.raises(BadInput, match="defined in a script, a notebook or a function"):
            custom_builder(path, {}, common)


def test_further_sets_beside_a_builder_that_is_none_of_chats_are_refused_plainly(my_data):
    from sft.config.compose import compose
    from sft.config.saved import dataset_builder

    words = ["dataset=custom", "dataset.builder=my_data:MyBuilder", "dataset.args.path=words.txt"]
    settings = compose([*words, "dataset.eval_sets.easy.path=easy.jsonl"])
    with pytest.raises(BadInput, match=r"^dataset\.eval_sets: my_data:MyBuilder is no subclass of"):
        dataset_builder(settings)


def test_the_command_line_composes_a_builder_of_ones_own(my_data):
    from sft.config.compose import compose
    from sft.config.saved import dataset_builder

    settings = compose(
        ["dataset=custom", "dataset.builder=my_data:MyBuilder", "dataset.args.path=words.txt"]
    )
    assert len(dataset_builder(settings)()[0]) == 3


def test_a_text_that_yaml_reads_as_a_number_is_not_text(my_data):
    from sft.config.compose import compose
    from sft.config.saved import dataset_builder

    chosen = ["dataset=custom", "dataset.builder=my_data:MyBuilder", "dataset.args.path=nan"]
    with pytest.raises(BadInput, match="dataset.args.path: nan is not text; write it in quotes"):
        dataset_builder(compose(chosen))

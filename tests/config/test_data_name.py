"""Data is named by what it is, the same way everywhere."""

import pytest

from sft.command.naming import default_name
from sft.config.compose import compose
from sft.config.data_name import data_name
from sft.config.saved import to_saved
from sft.display.terminal import _describe_data
from sft.runs import listed
from sft.tracking import inputs

OVERRIDES = {
    "chats.jsonl": ["dataset=jsonl", "dataset.path=data/chats.jsonl"],
    "notes.csv": ["dataset=hf_chat", "dataset.path=/data/notes.csv"],
    "folder": ["dataset=hf_chat", "dataset.path=data/folder/"],
    "ultrachat_200k": ["dataset=hf_stream", "dataset.path=HuggingFaceH4/ultrachat_200k"],
    "gsm8k-main": ["dataset=hf_chat", "dataset.path=openai/gsm8k", "dataset.name=main"],
    "no_robots": ["dataset=no_robots"],
    "tulu-3-sft-mixture": ["dataset=tulu3"],
    "faq": [],
    "mix-faq-math": ["dataset.parts.faq.kind=faq", "dataset.parts.math.path=m.jsonl"],
    "MyBuilder": ["dataset=custom", "dataset.builder=my.data:MyBuilder"],
}


@pytest.mark.parametrize("name, overrides", OVERRIDES.items(), ids=OVERRIDES.keys())
def test_run_names_mlflow_the_banner_and_the_list_name_data_alike(name, overrides, tmp_path):
    from sft.files import dump_yaml

    settings = compose(overrides)
    saved = to_saved(settings)
    (tmp_path / "config.yaml").write_text(dump_yaml(saved))
    (tmp_path / "run.json").write_text("{}")
    mirror = type("Mirror", (), {"facts": {"digest": "d"}, "settings": saved})
    assert data_name(settings.dataset) == data_name(saved["dataset"]) == name
    assert default_name(settings).endswith(f"-{name}")
    assert [(one.name, one.digest) for one in inputs.of_run(mirror)] == [(name, "d")]
    assert _describe_data(data_name(settings.dataset), {}) == name
    assert listed(tmp_path).cells["data"] == name


def test_a_builder_that_cannot_be_imported_again_is_named_by_its_class():
    saved = {"kind": "custom", "builder": "not importable: __main__:make.<locals>.Mine"}
    assert data_name(saved) == "Mine"

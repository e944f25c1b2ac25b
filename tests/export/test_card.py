"""The model card of an export: what the Hub reads in it, and what a reader finds."""

import re

import pytest
import yaml

from sft.config.compose import compose
from sft.export.__main__ import main
from sft.export.card import base_licence, card
from sft.export.loading import Exported
from sft.past.choosing import choose
from sft.past.find import find


@pytest.fixture
def text(place, tmp_path):
    assert main(["run", str(tmp_path / "adapter")]) == 0
    return (tmp_path / "adapter" / "README.md").read_text()


def front_matter(text):
    return yaml.safe_load(re.match(r"---\n(.*?)---\n", text, flags=re.DOTALL)[1])


def test_the_front_matter_says_what_the_files_are(text):
    front = front_matter(text)
    assert front["library_name"] == "peft" and front["pipeline_tag"] == "text-generation"
    assert "base_model" not in front  # a folder of this machine is nothing for others


def test_data_in_files_is_named_without_its_folder_and_with_its_digest(text):
    assert re.search(r"- `chats.jsonl`, 24 rows, SHA-256 `[0-9a-f]{64}`", text)


def test_metrics_are_those_before_training_and_at_the_checkpoint(text):
    number = r"[\d.]+ ± [\d.]+"
    assert re.search(rf"\| `eval/nll` \| {number} \| {number} \|", text)


def test_the_settings_of_the_training_are_there_as_yaml(text):
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    saved = yaml.safe_load(block)
    assert saved["lr"] == 0.01 and saved["lora"]["rank"] == 4 and "tracking" not in saved


@pytest.fixture
def of_the_hub(place):
    """The card of the run as it would be of a model and data of the Hub."""
    words = ["model=qwen3", "lr=1e-4", "service=local"]
    words += ["dataset=hf_chat", "dataset.path=HuggingFaceH4/no_robots"]
    found = find("run")
    found.facts = dict
    exported = Exported("adapter", "me/faq", "Qwen/Qwen3-8B", 4, True, [7])
    return card(found, compose(words), choose(found), exported)


def test_base_and_data_of_the_hub_are_linked(of_the_hub):
    front = front_matter(of_the_hub)
    assert (
        front["base_model"].startswith("Qwen/Qwen3") and front["base_model_relation"] == "adapter"
    )
    assert front["datasets"] == ["HuggingFaceH4/no_robots"]


def test_a_licence_that_is_not_known_is_said_to_be(of_the_hub):
    assert "license" not in front_matter(of_the_hub)  # tests reach no hub
    assert "licence is not known" in of_the_hub


def test_the_licence_is_the_one_that_the_base_models_own_card_states(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n\nlicense: gpl\n")
    assert base_licence(str(tmp_path)) == "mit"

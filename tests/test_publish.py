"""A checkpoint on the Hugging Face Hub: the real client against a stand-in of the Hub's API."""

import os
import subprocess
import sys

import pytest

from sft.publish import main
from tests.finished_run import finished_run
from tests.hub import TOKEN, Hub


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    return finished_run(folder, tiny_model, "eval_every=0", "tracking=none").parent


@pytest.fixture(scope="module")
def hub():
    with Hub().serving() as running:
        yield running


def publish(place, hub, *words, token=TOKEN):
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token,
        "HF_HOME": str(place / "hf"),
    }
    line = [sys.executable, "-m", "sft.publish", "run", *words]
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True)
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def published(place, hub):
    return publish(place, hub, "me/faq")


def test_the_adapter_is_there_with_tokenizer_and_card_and_private(published, hub):
    assert published.returncode == 0, published.stderr
    assert hub.files["me/faq"].keys() >= {
        *("adapter_config.json", "adapter_model.safetensors", "README.md"),
        *("tokenizer.json", "chat_template.jinja"),
    }
    assert hub.visibility["me/faq"] == "private" and "private" in published.stdout
    assert hub.messages[0] == "Checkpoint final as adapter"


def test_what_is_published_names_no_path_of_this_machine(published, hub, place, tiny_model):
    texts = [c for n, c in hub.files["me/faq"].items() if not n.endswith(".safetensors")]
    for path in (place, tiny_model):
        assert not [text for text in texts if str(path).encode() in text]


def test_the_next_commands_and_the_card_name_the_model_on_the_hub(published, hub):
    assert "--lora-modules faq=me/faq" in published.stdout
    assert b'path = "me/faq"' in hub.files["me/faq"]["README.md"]


@pytest.mark.slow
def test_a_merged_model_takes_the_place_of_an_adapter(published, place, hub):
    hub.files["me/faq"]["notes.txt"] = b"mine"
    done = publish(place, hub, "me/faq", "--merge")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub.files["me/faq"]
    assert "adapter_model.safetensors" not in hub.files["me/faq"]
    assert hub.files["me/faq"]["notes.txt"] == b"mine"


@pytest.mark.slow
def test_a_public_model_is_written_to_only_if_that_is_said(place, hub):
    hub.files["me/seen"], hub.visibility["me/seen"] = {}, "public"
    done = publish(place, hub, "me/seen")
    assert done.returncode == 2 and "add --public" in done.stderr
    assert hub.files["me/seen"] == {}
    assert publish(place, hub, "me/seen", "--public").returncode == 0
    assert "README.md" in hub.files["me/seen"]


@pytest.mark.parametrize(
    "name, token, said",
    [
        ("me/faq", "hf_another", "does not know the token"),
        ("you/faq", TOKEN, "may not write there"),
        ("me/faq", "", "give it to `hf auth login`, or set HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(place, hub, name, token, said):
    done = publish(place, hub, name, token=token)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("sft.publish: ")
    assert said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["faq", "me/faq/x", "me/-faq"])
def test_a_name_that_no_model_can_have_is_refused(name, capsys):
    assert main(["run", name]) == 2
    assert name in capsys.readouterr().err


def test_without_a_network_nothing_is_tried(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["run", "me/faq"]) == 2  # the tests set HF_HUB_OFFLINE
    assert capsys.readouterr().err == (
        "sft.publish: the Hub cannot be reached: HF_HUB_OFFLINE is set\n"
    )

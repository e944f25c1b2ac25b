"""`python -m sft.models`: what a service offers, and the words that train it."""

import json

import pytest

from sft.cost.prices import published
from sft.models import __main__ as command
from sft.service.child import api_key
from tests import web_server


def test_a_services_models_are_listed_with_their_context_and_config(
    local_service, monkeypatch, capsys
):
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))
    where = ["service=custom", f"service.base_url={local_service}"]
    assert command.main(where) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["model", "context", "trainable"]
    assert row.split()[:3] == ["tiny", "512", "yes"] and "model=auto model.name=tiny" in row
    assert command.main([*where, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["name"], one["context"], one["train"]) == ("tiny", 512, None)


class Model:
    max_context_length = 32_768
    trainable = None

    def __init__(self, name):
        self.model_name = name


@pytest.mark.parametrize(
    "name, words, renderer",
    [
        ("Qwen/Qwen3-8B", "model=qwen3", command.TEMPLATE),
        ("zai-org/GLM-5.3:peft:262144", "model=glm_5_3", command.TEMPLATE),
        ("a/new-model", "model=auto model.name=a/new-model", command.TEMPLATE),
        (
            "Qwen/Qwen3.5-9B-Base",
            "model=auto model.name=Qwen/Qwen3.5-9B-Base model.renderer=role_colon",
            "role_colon",
        ),
    ],
)
def test_each_model_of_hosted_tinker_has_words_that_train_it(name, words, renderer):
    one = command._offered(Model(name), command.shipped(), hosted=True)
    assert (one.config, one.renderer, one.trainable) == (words, renderer, True)
    assert one.train == published(name).train


def test_prices_are_those_of_hosted_tinker_alone():
    one = command._offered(Model("Qwen/Qwen3-8B"), command.shipped(), hosted=False)
    assert one.train is None


@pytest.mark.parametrize(
    "answer",
    [
        (404, "application/json", b'{"detail": "Not Found"}'),
        (200, "text/html", b"<html>hello</html>"),
        (200, "application/json", b"{}"),
    ],
    ids=["nothing there", "a page", "JSON of another kind"],
)
def test_a_server_of_something_else_is_a_sentence(monkeypatch, capsys, answer):
    monkeypatch.setenv("TINKER_API_KEY", "tml-x")
    with web_server.serving(*answer) as url:
        assert command.main(["service=custom", f"service.base_url={url}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"cannot reach the service at {url}" in said


def test_a_missing_key_is_a_sentence(capsys):
    assert command.main(["service=tinker"]) == 2
    assert "TINKER_API_KEY" in capsys.readouterr().err


def test_a_longer_context_of_a_model_has_the_models_own_tokenizer():
    from sft.config.compose import compose
    from sft.config.saved import common_config

    settings = compose(["model=auto", "model.name=Qwen/Qwen3.8-27B:peft:262144"])
    assert common_config(settings).model_name_for_tokenizer == "Qwen/Qwen3.8-27B"

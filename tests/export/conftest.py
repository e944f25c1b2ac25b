"""A finished run to export from, and how its logits are computed with transformers and PEFT."""

import pytest

from tests.finished_run import finished_run


@pytest.fixture(scope="session")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    return finished_run(
        folder, tiny_model, "tracking=none", "model.chat_template_kwargs={polite: true}"
    )


@pytest.fixture
def place(original, monkeypatch):
    """The folder of the run `run`, as the working folder."""
    monkeypatch.chdir(original.parent)
    return original.parent

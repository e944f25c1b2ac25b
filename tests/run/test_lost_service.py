"""A run outlives the death of its service: it waits, and goes on from its last checkpoint."""

import json
import os
import signal

from sft.hooks import BaseHook
from sft.service import child
from tests.test_train import (  # noqa: F401 - fixtures
    TINY_MODEL,
    chats,
    comparable,
    make_config,
    run,
)


class KillTheService(BaseHook):
    """SIGKILL for the service's process at some steps, each once."""

    def __init__(self, root, steps):
        self.root = root
        self.steps = set(steps)
        self.messages = []

    def on_progress(self, step, metrics):
        if step in self.steps:
            self.steps.remove(step)
            pid = json.loads((self.root / "service.json").read_text())["pid"]
            os.kill(pid, signal.SIGKILL)

    def on_message(self, text):
        self.messages.append(text)


def test_a_run_whose_service_is_killed_ends_with_the_same_numbers(
    make_config, tiny_model, tmp_path  # noqa: F811
):  # fmt: skip
    undisturbed = make_config("undisturbed", eval_every=3, num_epochs=2)
    run(undisturbed)
    root = tmp_path / "service"
    hook = KillTheService(root, steps=[1, 6])
    with child.local(root, {TINY_MODEL: str(tiny_model)}, dtype="float32") as url:
        killed = make_config("killed", eval_every=3, num_epochs=2, save_every=2, base_url=url)
        result = run(killed, hooks=[hook])
    assert result.status == "FINISHED", result.error
    assert hook.steps == set()
    assert sum("was lost" in text for text in hook.messages) >= 2
    assert comparable(killed) == comparable(undisturbed)

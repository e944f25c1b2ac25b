"""What tests of failing runs share: configs on a service that computes nothing, and a listener."""

import asyncio
from contextlib import contextmanager

from sft import train
from sft.hooks import BaseHook
from sft.run import training
from tests.local.stub import KEY, MODEL, serving_stub
from tests.run.test_pipeline import Constant


class Listen(BaseHook):
    """Keeps what a run tells."""

    def __init__(self):
        self.events, self.messages, self.result = [], [], None

    def on_start(self, run):
        self.events.append("start")

    def on_message(self, text):
        self.messages.append(text)

    def on_end(self, result):
        self.events.append("end")
        self.result = result


@contextmanager
def configs(folder, monkeypatch):
    """Makes configs of ten steps on a service in `folder` that computes nothing; and its engine."""
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with serving_stub(folder / "service") as (url, _, engine):

        def config(**changes):
            fields = dict(
                log_path=str(folder / "run"),
                model_name=MODEL,
                dataset_builder=lambda: (Constant(10, 2), Constant(1, 2)),
                base_url=url,
            )
            return train.Config(**(fields | changes))

        yield config, engine


def go(config, **options):
    return asyncio.run(training.train(config, settings={"run_name": "failing"}, **options))


def trained_steps(engine):
    return sum(kind == "step" for kind, *_ in engine.calls)

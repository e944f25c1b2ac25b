"""The sweep's own run in MLflow, when its process is killed at a bad moment."""

import asyncio

from sft.sweeps.parent import Parent
from sft.tracking.run_in_store import KEY
from sft.tracking.store import open_client


def test_a_run_that_was_made_and_not_noted_is_gone_on_with(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def start(key):
        parent = Parent(uri, "sft", "s", print)
        return asyncio.run(parent.start(None, {"space.lr": "choice(1, 2)"}, {KEY: key}))

    first = start("one")
    assert start("one") == first and start("another") != first
    client = open_client(uri)
    runs = client.search_runs([client.get_experiment_by_name("sft").experiment_id])
    assert len(runs) == 2 and client.get_run(first).data.params == {"space.lr": "choice(1, 2)"}

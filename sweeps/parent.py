"""The sweep's own MLflow run, whose children are the trials' runs.

It is a view: if the tracking server is away, a message says so and the sweep goes on. All calls are
made in one thread, since MLflow waits for answers.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sft.config.secrets import fill
from sft.secrets import mask_urls
from sft.tracking.run_in_store import KEY, made_under
from sft.tracking.store import Store, be_quiet_in_this_thread

START_SECONDS = 30.0  # to wait for the run before the first trial starts without a parent
END_SECONDS = 60.0

log = logging.getLogger(__name__)


class Parent:
    """Use: `run_id = await parent.start(...)`, `parent.update(...)`, `await parent.end(...)`."""

    def __init__(self, uri: str, experiment: str, name: str, tell: Callable[[str], None]):
        self._store = Store(fill(uri, "tracking.uri"))
        self._experiment = experiment
        self._name = name
        self._tell = tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweep-mlflow")
        self._thread.submit(be_quiet_in_this_thread)
        self.run_id: str | None = None

    async def start(
        self, run_id: str | None, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> str | None:
        """Make the run, or go on with `run_id`; None if the server does not answer."""
        self.run_id = await self._wait(
            self._thread.submit(self._start, run_id, params, tags), START_SECONDS
        )
        return self.run_id

    def update(self, values: Mapping[str, float], tags: Mapping[str, str], step: int) -> None:
        """The best value so far (at the number of finished trials) and what gave it."""
        if self.run_id is not None:
            self._thread.submit(self._guarded, self._update, values, tags, step)

    async def end(self, status: str, artifacts: list[Path]) -> None:
        """End the run FINISHED, FAILED or KILLED, with files and folders as artifacts."""
        if self.run_id is not None:
            await self._wait(
                self._thread.submit(self._guarded, self._end, status, artifacts), END_SECONDS
            )
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, future: Future, seconds: float) -> Any:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except Exception as error:
            reason = mask_urls((str(error) or type(error).__name__).splitlines()[0])
            self._tell(f"tracking.uri: the sweep's own MLflow run is not written ({reason})")
            return None

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            log.warning("MLflow run of the sweep: %s", mask_urls(str(error)))

    def _start(self, run_id: str | None, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        client = self._store.client()
        if run_id is None:
            experiment = self._experiment_id(client)
            # One that a process made for the study, which was killed before it had noted that.
            made = made_under(client, experiment, tags[KEY])
            if made is None:
                made = client.create_run(experiment, run_name=self._name, tags=dict(tags))
            run_id = made.info.run_id
            for key, value in params.items():
                client.log_param(run_id, key, value)
        else:
            client.set_terminated(run_id, "RUNNING")
        return run_id

    def _experiment_id(self, client: Any) -> str:
        for _ in range(3):
            known = client.get_experiment_by_name(self._experiment)
            if known is not None:
                return known.experiment_id
            try:
                return client.create_experiment(
                    self._experiment, self._store.artifact_location(self._experiment)
                )
            except Exception as error:  # made by a trial of another sweep at the same moment
                problem = error
        raise problem

    def _update(self, values: Mapping[str, float], tags: Mapping[str, str], step: int) -> None:
        client = self._store.client()
        for key, value in values.items():
            client.log_metric(self.run_id, key, value, int(time.time() * 1000), step)
        for key, tag in tags.items():
            client.set_tag(self.run_id, key, tag)

    def _end(self, status: str, artifacts: list[Path]) -> None:
        client = self._store.client()
        for path in artifacts:
            log_it = client.log_artifacts if path.is_dir() else client.log_artifact
            log_it(self.run_id, str(path), *(["report"] if path.is_dir() else []))
        client.set_terminated(self.run_id, status)

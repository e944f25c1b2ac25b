"""Checkpoints outlive the service: the real one, on one root, killed again and again."""

import hashlib
import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tinker import types
from tinker.proto.request_conv import forward_backward_request_to_proto

from sft.service import child

SAVES = 10  # that are under way in a round


class Client:
    """Posts what the SDK would; a service that dies under it raises httpx.TransportError."""

    def __init__(self, url: str):
        headers = {"X-API-Key": child.api_key(url)}
        self._http = httpx.Client(base_url=url + "/api/v1", headers=headers, timeout=60)
        self._models = self._samplers = 0
        body = {"tags": [], "user_metadata": None, "sdk_version": "0.38.0"}
        self.session = self.post("create_session", body)["session_id"]

    def post(self, path: str, body: dict | bytes) -> dict:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self._http.post(path, content=content)
        assert response.status_code == 200, response.text
        return response.json()

    def result(self, future: dict) -> dict:
        body = {"request_id": future["request_id"]}
        response = self._http.post("retrieve_future", json=body)
        if response.headers["content-type"] != "application/json":
            return {}
        assert "error" not in response.json(), response.text
        return response.json()

    def model(self, **source) -> str:
        """A new model: with a `path` from that checkpoint, else a fresh one."""
        body = {"session_id": self.session, "model_seq_id": self._models, **source}
        self._models += 1
        if "path" in source:
            return self.result(self.post("load_weights", {**body, "optimizer": True}))["model_id"]
        lora = {"rank": 8, "seed": self._models}
        body |= {"base_model": "tiny", "lora_config": lora}
        return self.result(self.post("create_model", body))["model_id"]

    def train(self, model: str, seq_id: int) -> None:
        datum = types.Datum(
            model_input=types.ModelInput.from_ints([1, 2, 3]),
            loss_fn_inputs={"target_tokens": [2, 3, 4]},
        )
        request = types.ForwardBackwardRequest(
            types.ForwardBackwardInput([datum], "cross_entropy"), model, seq_id
        )
        self.post(
            "forward_backward", forward_backward_request_to_proto(request).SerializeToString()
        )
        step = {"model_id": model, "seq_id": seq_id + 1, "adam_params": {"learning_rate": 0.01}}
        self.post("optim_step", step)

    def sample(self, path: str) -> None:
        body = {"session_id": self.session, "sampling_session_seq_id": self._samplers}
        self._samplers += 1
        sampler = self.post("create_sampling_session", {**body, "model_path": path})
        body = {
            "sampling_session_id": sampler["sampling_session_id"], "seq_id": 0, "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
            "sampling_params": {"max_tokens": 1},
        }  # fmt: skip
        self.result(self.post("asample", body))

    def checkpoints(self) -> list[str]:
        listed = self._http.get("checkpoints", params={"limit": 10_000}).json()["checkpoints"]
        return [checkpoint["tinker_path"] for checkpoint in listed]


def digest(root: Path, path: str) -> str:
    folder = root / path.removeprefix("tinker://")
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def save_and_kill(client: Client, pid: int, root: Path, delay: float | None, number: int) -> dict:
    """The paths that were confirmed before the kill, with digests; `latest` is overwritten.

    `delay`: seconds from the first save to the kill; None: when all are confirmed.
    """
    model, seq_id, futures = client.model(), 1, []
    kill = threading.Timer(delay or 0, os.kill, (pid, signal.SIGKILL))
    confirmed: dict[str, str | None] = {}

    def wait(future: dict) -> None:
        try:
            path = client.result(future)["path"]
        except httpx.TransportError:
            return
        confirmed[path] = None if path.endswith("latest") else digest(root, path)

    with ThreadPoolExecutor(SAVES) as threads:
        try:
            if delay is not None:
                kill.start()
            for index in range(SAVES):
                client.train(model, seq_id)
                kind = "save_weights_for_sampler" if index % 3 == 1 else "save_weights"
                name = "latest" if index % 3 == 2 else f"round-{number}-{index}"
                body = {"model_id": model, "seq_id": seq_id + 2, "path": name}
                if kind == "save_weights":
                    body["overwrite"] = True
                futures.append(threads.submit(wait, client.post(kind, body)))
                seq_id += 3
        except httpx.TransportError:
            pass
        for future in futures:
            future.result()
    if delay is None:
        assert len(futures) == SAVES
        os.kill(pid, signal.SIGKILL)
    kill.join() if delay is not None else None
    return confirmed


def check_all(client: Client, root: Path, confirmed: dict[str, str | None], news: set[str]) -> None:
    """Every confirmed checkpoint is there as it was; the new ones, and all that is listed load."""
    listed = client.checkpoints()
    assert set(confirmed) <= set(listed)
    for path, expected in confirmed.items():
        assert expected in (None, digest(root, path))
    for path in listed:
        if path in news or path not in confirmed:
            client.sample(path)
            if "/weights/" in path:
                client.model(path=path)
    assert not list(root.glob("*/*/.*")), "leftovers of writes that were cut off"


@pytest.mark.parametrize(
    "kills", [3, pytest.param(10, marks=pytest.mark.slow)], ids=["a few times", "ten times"]
)
def test_a_killed_service_serves_every_confirmed_checkpoint(tmp_path, tiny_model, kills):
    noise = random.Random(kills)
    confirmed: dict[str, str | None] = {}
    news: set[str] = set()
    for number in range(kills + 1):
        with child.local(tmp_path, {"tiny": str(tiny_model)}, dtype="float32") as url:
            pid = json.loads((tmp_path / "service.json").read_text())["pid"]
            client = Client(url)
            check_all(client, tmp_path, confirmed, news if number < kills else set(confirmed))
            if number < kills:
                delay = None if number % 3 == 2 else noise.uniform(0, 0.2)
                fresh = save_and_kill(client, pid, tmp_path, delay, number)
                confirmed |= fresh
                news = set(fresh)
    assert len(confirmed) >= kills

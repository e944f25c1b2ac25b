"""Checkpoints leave the service: external weights, archives, the SDK's own command line."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time

import httpx
import pytest
import tinker
from safetensors.numpy import load_file

from sft.local.server import downloads
from sft.service import child
from tests.local.stub import KEY, MODEL, serving_stub
from tests.local.test_protocol_engine import losses

FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    with serving_stub(root) as (url, _, _):
        yield url, root


@pytest.fixture
def trainer(stub):
    with tinker.ServiceClient(base_url=stub[0], api_key=KEY) as client:
        yield client.create_lora_training_client(MODEL, rank=4).result()


@pytest.fixture
def rest(stub):
    return tinker.RestClient(base_url=stub[0], api_key=KEY)


def checkpoint_url(stub, path: str) -> str:
    run, kind, name = path.removeprefix("tinker://").split("/")
    return f"{stub[0]}/api/v1/training_runs/{run}/checkpoints/{kind}/{name}"


def test_external_weights_are_a_peft_folder_behind_urls_that_need_no_key(stub, trainer, rest):
    path = trainer.save_weights_external("out", ttl_seconds=3600).result().path
    assert path == f"tinker://{trainer.model_id}/external_weights/out"
    signed = rest.get_external_weights_urls(path).result()
    assert set(signed.urls) == FILES
    assert signed.expires.timestamp() > time.time() + 3000
    folder = stub[1] / path.removeprefix("tinker://")
    for name, url in signed.urls.items():
        assert httpx.get(url).content == (folder / name).read_bytes()
    (listed,) = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert (listed.checkpoint_type, listed.checkpoint_id) == ("external", "external_weights/out")
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert {httpx.get(url).status_code for url in signed.urls.values()} == {404}


def test_a_url_that_was_changed_or_is_too_old_opens_nothing(stub, trainer, rest, monkeypatch):
    path = trainer.save_weights_external("kept").result().path
    url = rest.get_external_weights_urls(path).result().urls["adapter_config.json"]
    assert httpx.get(url).status_code == 200
    wrong = [
        url.replace("adapter_config.json", "adapter_model.safetensors"),
        url.replace("adapter_config.json", "checkpoint.json"),
        url.replace("expires=1", "expires=2"),
        url.partition("?")[0],
        f"{url}0",
    ]
    assert {httpx.get(one).status_code for one in wrong} == {401}
    assert httpx.delete(url).status_code == 401
    query = url.partition("?")[2]
    assert httpx.get(f"{checkpoint_url(stub, path)}/archive?{query}").status_code == 401
    monkeypatch.setattr(downloads, "GOOD_FOR", -1.0)
    old = rest.get_external_weights_urls(path).result().urls["adapter_config.json"]
    assert httpx.get(old).status_code == 401


@pytest.mark.parametrize("kind", ["weights", "sampler_weights", "external_weights"])
def test_the_archive_of_any_checkpoint_is_a_peft_folder_without_optimizer(stub, trainer, kind):
    save = {
        "weights": trainer.save_state,
        "sampler_weights": trainer.save_weights_for_sampler,
        "external_weights": trainer.save_weights_external,
    }[kind]
    path = save("packed").result().path
    asked = httpx.get(f"{checkpoint_url(stub, path)}/archive", headers={"X-API-Key": KEY})
    assert asked.status_code == 302
    assert "GMT" in asked.headers["expires"]
    content = httpx.get(asked.headers["location"]).content
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        assert set(archive.getnames()) == FILES
        weights = archive.extractfile("adapter_model.safetensors").read()
    folder = stub[1] / path.removeprefix("tinker://")
    assert weights == (folder / "adapter_model.safetensors").read_bytes()


def test_a_checkpoint_of_an_older_version_without_peft_config_says_so(stub, trainer):
    path = trainer.save_state("old").result().path
    folder = stub[1] / path.removeprefix("tinker://")
    (folder / "adapter_config.json").unlink()
    meta = json.loads((folder / "checkpoint.json").read_text())
    del meta["files"]["adapter_config.json"], meta["public"]
    (folder / "checkpoint.json").write_text(json.dumps(meta))
    asked = httpx.get(f"{checkpoint_url(stub, path)}/archive", headers={"X-API-Key": KEY})
    assert asked.status_code == 404
    assert "saved by an older version of the local service" in asked.json()["detail"]
    with tinker.ServiceClient(base_url=stub[0], api_key=KEY) as client:
        client.create_training_client_from_state(path).result()  # it is there all the same


def test_a_checkpoint_is_published_and_taken_back(trainer, rest):
    path = trainer.save_state("shared").result().path

    def is_public() -> bool:
        return rest.list_checkpoints(trainer.model_id).result().checkpoints[0].public

    assert not is_public()
    rest.publish_checkpoint_from_tinker_path(path).result()
    assert is_public()
    rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()
    assert is_public()
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not is_public()
    with pytest.raises(tinker.NotFoundError, match="no checkpoint"):
        rest.publish_checkpoint_from_tinker_path("tinker://a/weights/b").result()


def test_encrypted_weights_are_refused_by_the_key(trainer):
    with pytest.raises(tinker.RequestFailedError, match="age_encryption_recipients"):
        trainer.save_weights_external("x", age_encryption_recipients=["age1x"]).result()
    trainer.save_state("fine").result()


@pytest.mark.slow
def test_the_sdks_command_line_lists_publishes_and_downloads(
    local_service, local_service_root, tmp_path
):
    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tinker.cli", "checkpoint", *words],
            env={**os.environ, "TINKER_BASE_URL": local_service, "TINKER_API_KEY": key},
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    key = child.api_key(local_service)
    with tinker.ServiceClient(base_url=local_service, api_key=key) as client:
        trainer, _ = losses(client, 2)
        state = trainer.save_state("trained").result().path
        outside = trainer.save_weights_external("outside").result().path
        trained = load_file(
            local_service_root / state.removeprefix("tinker://") / "adapter_model.safetensors"
        )
        run("publish", state)
        assert "trained" in run("list", "--run-id", trainer.model_id)
        for path in (state, outside):
            run("download", path)
            folder = tmp_path / path.removeprefix("tinker://").replace("/", "_")
            assert {file.name for file in folder.iterdir()} == FILES
            found = load_file(folder / "adapter_model.safetensors")
            assert found.keys() == trained.keys()
            assert all((found[name] == trained[name]).all() for name in found)
        run("delete", "--yes", outside)
        with pytest.raises(tinker.NotFoundError):
            rest = tinker.RestClient(base_url=local_service, api_key=key)
            rest.get_external_weights_urls(outside).result()

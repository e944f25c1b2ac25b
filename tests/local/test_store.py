"""Checkpoints on disk: whole or absent, found again, gone by TTL, named safely."""

import os
import shutil

import numpy as np
import pytest

from sft.local.engine_api import AdapterState, LoraSpec
from sft.local.server import durable
from sft.local.server.store import CheckpointPath, Store, StoreError

RUN = "0123abcd:train:0"
PATH = CheckpointPath(RUN, "weights", "step-10")
SAMPLER = CheckpointPath(RUN, "sampler_weights", "step-10")


def state(value: float = 1.0, optimizer: bool = True) -> AdapterState:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    weights = {name: np.full((2, 3), value, np.float32)}
    moments = {f"exp_avg.{name}": np.ones((2, 3), np.float32), "step": np.float32(7)}
    return AdapterState("tiny", LoraSpec(2, seed=3), weights, moments if optimizer else None)


def value_of(store: Store, path: CheckpointPath = PATH) -> float:
    return float(next(iter(store.read(path).weights.values()))[0, 0])


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_what_was_written_is_read_back_by_another_store_on_the_root(store, tmp_path):
    store.write(PATH, state(), user_metadata={"a": "b"})
    read = Store(tmp_path).read(PATH, optimizer=True)
    assert read.lora == LoraSpec(2, seed=3)
    assert read.base_model == "tiny"
    assert read.optimizer["step"] == 7
    assert read.optimizer["step"].shape == ()
    assert Store(tmp_path).get(PATH).user_metadata == {"a": "b"}
    np.testing.assert_array_equal(list(read.weights.values()), list(state().weights.values()))


def test_views_and_transposes_are_written_as_they_read(store):
    weights = {"x.lora_A.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    store.write(PATH, AdapterState("tiny", LoraSpec(2), weights))
    np.testing.assert_array_equal(
        store.read(PATH).weights["x.lora_A.weight"], weights["x.lora_A.weight"]
    )


def test_the_optimizer_is_read_only_where_it_is_asked_for_and_was_saved(store):
    store.write(PATH, state())
    assert store.read(PATH).optimizer is None
    store.write(SAMPLER, state())
    assert store.read(SAMPLER, optimizer=True).optimizer is None


def test_a_name_is_taken_once_unless_it_is_to_be_overwritten(store):
    store.write(PATH, state(1))
    with pytest.raises(StoreError, match="exists already.*overwrite"):
        store.write(PATH, state(2))
    assert value_of(store) == 1
    store.write(PATH, state(3), overwrite=True)
    assert value_of(store) == 3
    assert [p.name for p in store.folder(PATH).parent.iterdir()] == ["step-10"]


def test_a_write_that_fails_leaves_the_older_checkpoint_and_nothing_else(store, monkeypatch):
    store.write(PATH, state(1))

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("sft.local.server.store.save_file", full)
    with pytest.raises(OSError, match="no space"):
        store.write(PATH, state(2), overwrite=True)
    assert value_of(store) == 1
    assert [p.name for p in store.folder(PATH).parent.iterdir()] == ["step-10"]


@pytest.mark.parametrize("stop_before", ["fresh", "away", "into place", "removal"])
def test_an_overwrite_cut_off_anywhere_leaves_one_whole_checkpoint(
    store, tmp_path, monkeypatch, stop_before
):
    """A crash is played by an exception at each step and a fresh store on what is left."""

    class PowerCut(BaseException):
        pass

    store.write(PATH, state(1))
    rename, rmtree, moves = durable.Path.rename, shutil.rmtree, []

    def cut_rename(self, target):
        moves.append(target)
        if stop_before == "away" and len(moves) == 1 or stop_before == "into place" and moves[1:]:
            raise PowerCut
        return rename(self, target)

    def cut_rmtree(path, **options):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(durable.Path, "rename", cut_rename)
        patch.setattr(durable.shutil, "rmtree", cut_rmtree)
        if stop_before == "fresh":
            patch.setattr(
                "sft.local.server.store.save_file", lambda *args: (_ for _ in ()).throw(PowerCut)
            )
        with pytest.raises(PowerCut):
            store.write(PATH, state(2), overwrite=True)
    assert shutil.rmtree is rmtree
    again = Store(tmp_path)
    assert value_of(again) == (2 if stop_before == "removal" else 1)
    assert [p.name for p in again.folder(PATH).parent.iterdir()] == ["step-10"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: os.truncate(folder / "adapter_model.safetensors", 20),
        lambda folder: (folder / "optimizer.safetensors").unlink(),
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "checkpoint.json").write_text("{"),
    ],
)
def test_a_torn_checkpoint_is_not_served(store, harm):
    store.write(PATH, state())
    harm(store.folder(PATH))
    assert store.list() == []
    with pytest.raises(StoreError, match="no checkpoint"):
        store.read(PATH)
    store.write(PATH, state(5))  # and does not keep its name
    assert value_of(store) == 5


def test_a_checkpoint_whose_bytes_were_changed_says_that_it_cannot_be_read(store):
    store.write(PATH, state())
    weights = store.folder(PATH) / "adapter_model.safetensors"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    with pytest.raises(StoreError, match="step-10 cannot be read"):
        store.read(PATH)


def test_a_checkpoint_expires(tmp_path):
    now = [1000.0]
    store = Store(tmp_path, clock=lambda: now[0])
    store.write(PATH, state(), ttl_seconds=3600)
    store.write(SAMPLER, state())
    assert store.get(PATH).expires == 4600
    now[0] = 4600.0
    assert [checkpoint.path for checkpoint in store.list()] == [SAMPLER]
    with pytest.raises(StoreError):
        store.get(PATH)
    store.expire()
    assert not store.folder(PATH).exists()
    assert store.folder(SAMPLER).exists()


def test_a_ttl_can_be_set_and_taken_away(tmp_path):
    now = [1000.0]
    store = Store(tmp_path, clock=lambda: now[0])
    store.write(PATH, state())
    store.set_ttl(PATH, 7200)
    assert store.get(PATH).expires == 8200
    store.set_ttl(PATH, None)
    assert store.get(PATH).expires is None
    for wrong in (0, 3599, 10**9):
        with pytest.raises(StoreError, match="ttl_seconds"):
            store.set_ttl(PATH, wrong)


def test_a_deleted_checkpoint_is_gone(store, tmp_path):
    store.write(PATH, state())
    store.delete(PATH)
    assert Store(tmp_path).list() == []
    with pytest.raises(StoreError):
        store.delete(PATH)


def test_a_run_lists_its_own_checkpoints_the_newest_first(tmp_path):
    now = [1.0]
    store = Store(tmp_path, clock=lambda: now[0])
    other = CheckpointPath("other:train:0", "weights", "a")
    for path in (PATH, SAMPLER, other):
        store.write(path, state())
        now[0] += 1
    assert [checkpoint.path for checkpoint in store.list(RUN)] == [SAMPLER, PATH]
    assert [checkpoint.path for checkpoint in store.list()] == [other, SAMPLER, PATH]
    assert store.list("nobody") == []
    assert store.list("..") == []


@pytest.mark.parametrize(
    "text",
    [
        "tinker://run/weights",
        "tinker://run/weights/a/b",
        "tinker://../weights/a",
        "tinker://run/weights/..",
        "tinker://run/weights/.new-1",
        "tinker://run/weights/a\0b",
        "tinker://run/other/a",
        "tinker://run/weights/" + "a" * 300,
        "/run/weights/a",
        "",
    ],
)
def test_a_path_that_is_none_is_refused(text):
    with pytest.raises(StoreError):
        CheckpointPath.parse(text)


def test_a_path_reads_back_as_it_was_written():
    assert CheckpointPath.parse(str(PATH)) == PATH

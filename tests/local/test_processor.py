"""What a processor can do is asked: which dtype it is fast at, and whether oneDNN takes weights."""

import os
import subprocess
import sys

import pytest
import torch

from sft.local.engine import models, products
from sft.local.engine.engine import SLOW_BFLOAT16, TorchEngine
from sft.local.engine.products import Plain, Reordered, Widened
from sft.local.engine_api import AdamStep, LoraSpec, Work
from tests.chat_data import write_chats
from tests.finished_run import overrides
from tests.local.engine_models import save, sequences

CPU = torch.device("cpu")
BFLOAT16 = {"rtol": 0.02, "atol": 0.5}  # of a loss of tens: its numbers have 8 bits
REFUSAL = "mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx_ne_convert or …"


@pytest.fixture
def refused(monkeypatch):
    """As on a processor whose instructions do not suffice oneDNN."""

    def refuse(plain):
        raise RuntimeError(REFUSAL)

    monkeypatch.setattr(Reordered, "of", refuse)
    products.reorders.cache_clear()
    yield
    products.reorders.cache_clear()


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bfloat16_where_a_processor_multiplies_it_and_onednn_takes_the_weights(
    instructions, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True})
    for taken, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(products, "reorders", lambda taken=taken: taken)
        assert models.pick_dtype("auto", CPU) == dtype


def test_auto_is_float32_where_a_processor_has_to_widen_bfloat16_first(monkeypatch):
    monkeypatch.setattr(products, "reorders", lambda: True)
    for known in ({"avx512_bw": True, "avx512_bf16": False}, {"neon": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert models.pick_dtype("auto", CPU) == torch.float32


def test_auto_is_float32_on_a_gpu_that_only_emulates_bfloat16(monkeypatch):
    for emulates, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, emulates=emulates: including_emulation or not emulates,
        )
        assert models.pick_dtype("auto", torch.device("cuda")) == dtype


def test_where_reordering_is_refused_bfloat16_trains_in_float32_products_with_a_warning(
    refused, tmp_path
):
    folder = save("qwen3", tmp_path)
    first_and_last = {}
    for dtype in ("float32", "bfloat16"):
        engine = TorchEngine({"tiny": folder}, dtype=dtype, threads=1)
        kind = {"float32": Plain, "bfloat16": Widened}[dtype]
        assert all(type(linear.products) is kind for linear in engine._base("tiny").linears)
        assert engine.warnings() == ([SLOW_BFLOAT16] if dtype == "bfloat16" else [])
        engine.create_adapter("run", "tiny", LoraSpec(8, seed=0))
        work = [Work("run", sequences([20, 9, 31]), backward=True)]
        losses = [engine.run(work, [AdamStep("run", 1e-3)]).work[0].loss_sum for _ in range(5)]
        first_and_last[dtype] = torch.tensor([losses[0], losses[-1]])
    torch.testing.assert_close(first_and_last["bfloat16"], first_and_last["float32"], **BFLOAT16)


def test_a_product_that_is_refused_or_wrong_is_as_good_as_no_reordering(monkeypatch):
    def refuse(self, x):
        raise RuntimeError("could not create a primitive")

    for forward in (refuse, lambda self, x: [0 * x, x]):
        monkeypatch.setattr(Reordered, "forward", forward)
        assert not products.reorders.__wrapped__()


@pytest.mark.slow
def test_a_run_in_bfloat16_on_a_processor_without_it_trains_and_says_what_is_faster(
    tmp_path, tiny_model
):
    restricted = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    asked = "from sft.local.engine.products import reorders; print(reorders())"
    answer = subprocess.run(
        [sys.executable, "-c", asked], env=restricted, capture_output=True, text=True, check=True
    )
    if answer.stdout.strip() != "False":
        pytest.skip("oneDNN of this build or processor heeds no ONEDNN_MAX_CPU_ISA")
    write_chats(tmp_path / "chats.jsonl", count=24)
    command = [sys.executable, "-m", "sft", *overrides(tiny_model), "service.dtype=bfloat16"]
    done = subprocess.run(
        command, cwd=tmp_path, env=restricted, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count(SLOW_BFLOAT16) == 1
    assert SLOW_BFLOAT16 in (tmp_path / "outputs" / "service" / "service.log").read_text()

"""Base models as they come: kinds, rotary embeddings, shards, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from sft.local.engine.engine import TorchEngine
from sft.local.engine_api import EngineError, LoraSpec, Work
from tests.local.engine_models import SHAPE, assert_same_logprobs, save, sequences

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def written(folder, family: str, shards: str | None = None, **settings) -> str:
    import transformers

    config = getattr(transformers, f"{family}Config")(**SHAPE | settings)
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):  # zeros would hide a bias that is left out
                weight.normal_()
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    return str(folder)


def assert_like_transformers(folder: str) -> None:
    from transformers import AutoModelForCausalLM

    engine = TorchEngine({"tiny": folder}, dtype="float32", threads=1)
    engine.create_adapter("a", "tiny", LoraSpec(4, seed=0))
    (data,) = sequences([60])
    (result,) = engine.run([Work("a", [data], backward=False)]).work
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(data.tokens)[None]).logits[0].log_softmax(-1)
    expected = logits.gather(1, torch.from_numpy(data.targets)[:, None])[:, 0]
    assert_same_logprobs(result.logprobs[0], expected.numpy())


@pytest.mark.parametrize("rope", [LLAMA3, YARN, LINEAR], ids=lambda rope: rope["rope_type"])
def test_rotary_embeddings_of_long_contexts_are_those_of_transformers(tmp_path, rope):
    assert_like_transformers(written(tmp_path, "Llama", rope_parameters=rope))


def test_qwen2_with_its_biases_and_mistral_are_computed(tmp_path):
    assert_like_transformers(written(tmp_path / "qwen2", "Qwen2"))
    assert_like_transformers(written(tmp_path / "mistral", "Mistral", sliding_window=None))


def test_weights_in_several_files_are_read(tmp_path):
    assert_like_transformers(written(tmp_path, "Llama", shards="60KB"))
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


def test_configs_as_older_transformers_wrote_them_are_read(tmp_path):
    folder = written(tmp_path, "Llama", rope_parameters={"rope_theta": 500.0})
    config = json.loads((tmp_path / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    assert parameters["rope_theta"] == 500.0
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"rope_theta": 500.0, "rope_scaling": None})
    )
    assert_like_transformers(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "of type 'gpt2'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "type 'dynamic'"),
        ({"layer_types": ["sliding_attention"]}, "sliding-window attention"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {}}, "quantised weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_computed_wrongly_is_refused(tmp_path, change, words):
    folder = save("qwen3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(EngineError, match=words):
        TorchEngine({"tiny": folder})


def test_a_model_without_its_weights_is_refused(tmp_path):
    folder = save("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="no model.*safetensors"):
        TorchEngine({"tiny": folder})


def test_a_model_that_is_nowhere_is_refused():
    with pytest.raises(EngineError, match="neither a folder nor"):
        TorchEngine({"tiny": "nobody/has-this"})


def test_several_models_are_loaded_when_first_used_and_one_by_one(tmp_path):
    folders = {kind: save(kind, tmp_path / kind) for kind in ("llama", "qwen3")}
    engine = TorchEngine(dict(folders), dtype="float32", threads=1)
    assert [info.max_context_length for info in engine.models()] == [128, 128]
    work = []
    for kind in folders:
        engine.create_adapter(kind, kind, LoraSpec(4, seed=0))
        work.append(Work(kind, sequences([20, 9]), backward=True))
    one, other = engine.run(work).work
    assert one.loss_sum != other.loss_sum


def test_loading_says_how_far_it_is(tmp_path):
    told = []
    folder = save("llama", tmp_path)
    TorchEngine({"tiny": folder}, threads=1, tell=lambda done, parts: told.append((done, parts)))
    reached = [done for done, _ in told]
    assert reached == sorted(reached) and reached[0] == 0
    assert {parts for _, parts in told} == {told[0][1]} and reached[-1] < told[0][1]

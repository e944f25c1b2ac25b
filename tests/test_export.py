"""Checkpoints of a real run as PEFT adapters and merged models."""

import http.server
import json
import threading

import pytest

from sft import export
from sft.errors import BadInput
from tests.finished_run import finished_run

pytestmark = [  # what peft says of transformers, and of tied embeddings
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("place")
    return finished_run(folder, tiny_model, "eval_every=0", "tracking=none")


@pytest.fixture
def place(original, monkeypatch):
    monkeypatch.chdir(original.parent)
    return original.parent


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(40)[None] + 60).logits


def adapted(tiny_model, folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)


def test_a_checkpoint_is_a_peft_adapter_that_names_its_base(place, tiny_model, tmp_path, capsys):
    assert export.main(["run", str(tmp_path / "adapter"), "--checkpoint", "000003"]) == 0
    assert "checkpoint 000003 as a PEFT adapter" in capsys.readouterr().out
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model) and config["r"] == 4
    assert adapted(tiny_model, tmp_path / "adapter").peft_config
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


def test_a_merged_model_computes_what_base_and_adapter_compute(place, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert export.main(["run", str(tmp_path / "adapter")]) == 0
    assert export.main(["run", str(tmp_path / "merged"), "--merge"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = logits(adapted(tiny_model, tmp_path / "adapter"))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(tiny_model))).abs().max() > 1e-3
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_a_merged_model_ends_its_answers_where_they_were_trained_to(place, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    assert export.main(["run", str(tmp_path / "merged"), "--merge"]) == 0
    end = AutoTokenizer.from_pretrained(tmp_path / "merged").convert_tokens_to_ids("<|im_end|>")
    assert end in GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id


def test_a_run_started_elsewhere_is_exported_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export.main([str(place / "run"), "adapter"]) == 0


def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(place, tmp_path, capsys):
    assert export.main(["run", str(tmp_path / "x"), "--checkpoint", "finl"]) == 2
    assert "did you mean 'final'" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert export.main(["run", str(tmp_path / "full")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def adapter(place, tmp_path):
    export.main(["run", str(tmp_path / "adapter")])
    return tmp_path / "adapter"


def rewrite(adapter, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(adapter / export.WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / export.WEIGHTS)


def test_a_torn_file_is_found(adapter):
    file = adapter / export.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not whole"):
        export.check_adapter(adapter)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "no half"),
        (lambda tensors: next(iter(tensors.values())).fill(float("nan")), "not finite"),
        (lambda tensors: tensors.clear(), "no weights"),
    ],
)
def test_weights_that_cannot_be_right_are_found(adapter, change, said):
    rewrite(adapter, change)
    with pytest.raises(BadInput, match=said):
        export.check_adapter(adapter)


def test_another_rank_than_the_runs_is_found(adapter):
    with pytest.raises(BadInput, match="rank 4, the run has 8"):
        export.check_adapter(adapter, 8)


def test_downloads_stay_inside_their_folder(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_text("a")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        export.fetch({"sub/a.txt": f"{url}/a.txt"}, tmp_path / "got")
        assert (tmp_path / "got" / "sub" / "a.txt").read_text() == "a"
        with pytest.raises(BadInput, match="outside the folder"):
            export.fetch({"../a.txt": f"{url}/a.txt"}, tmp_path / "got")
        with pytest.raises(BadInput, match="download failed"):
            export.fetch({"b": f"{url}/b"}, tmp_path / "got")
    finally:
        server.shutdown()
        server.server_close()

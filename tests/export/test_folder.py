"""Checkpoints of a real run as adapters and merged models, as other programs load them."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pytest

from sft.export.__main__ import main
from sft.export.loading import Exported, commands, remarks
from sft.export.weights import CONFIG, WEIGHTS, name_as_peft

pytestmark = [  # what peft says of transformers, and of tied embeddings
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning"),
]


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(40)[None] + 60).logits


def adapted(tiny_model, folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)


def test_a_checkpoint_is_a_peft_adapter_that_names_its_base(place, tiny_model, tmp_path, capsys):
    assert main(["run", str(tmp_path / "adapter"), "--checkpoint", "000003"]) == 0
    assert "checkpoint 000003 as a PEFT adapter" in capsys.readouterr().out
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model) and config["r"] == 4
    assert adapted(tiny_model, tmp_path / "adapter").peft_config
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


def test_a_merged_model_computes_what_base_and_adapter_compute(place, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["run", str(tmp_path / "adapter")]) == 0
    assert main(["run", str(tmp_path / "merged"), "--merge"]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = logits(adapted(tiny_model, tmp_path / "adapter"))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(tiny_model))).abs().max() > 1e-3
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_an_adapter_with_the_names_of_hosted_tinker_loads_with_peft(place, tiny_model, tmp_path):
    import torch
    from safetensors.numpy import load_file, save_file

    assert main(["run", str(tmp_path / "adapter")]) == 0
    expected = logits(adapted(tiny_model, tmp_path / "adapter"))
    weights, config = (tmp_path / "adapter" / name for name in (WEIGHTS, CONFIG))
    named = {
        name.replace(".lm_head.", ".model.unembed_tokens."): tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(named, weights)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"target_modules": "all-linear"}))
    name_as_peft(tmp_path / "adapter")
    assert torch.equal(logits(adapted(tiny_model, tmp_path / "adapter")), expected)


def test_a_merged_model_ends_its_answers_where_they_were_trained_to(place, tmp_path):
    from transformers import AutoTokenizer, GenerationConfig

    assert main(["run", str(tmp_path / "merged"), "--merge"]) == 0
    end = AutoTokenizer.from_pretrained(tmp_path / "merged").convert_tokens_to_ids("<|im_end|>")
    assert end in GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id


def test_a_run_started_elsewhere_is_exported_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(place / "run"), "adapter"]) == 0


def test_what_cannot_be_exported_is_one_sentence_and_leaves_nothing(place, tmp_path, capsys):
    assert main(["run", str(tmp_path / "x"), "--checkpoint", "finl"]) == 2
    assert "did you mean 'final'" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["run", str(tmp_path / "full")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options", [[], ["--merge"]])
def test_the_tokenizer_has_the_template_and_its_arguments_as_trained(place, tmp_path, options):
    from transformers import AutoTokenizer

    assert main(["run", str(tmp_path / "folder"), *options]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.chat_template.startswith("{%- set polite = true -%}\n{% for message in")
    chat = [{"role": "user", "content": "Hi"}]
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert written == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_files_have_the_modes_that_the_umask_gives(place, tmp_path):
    before = os.umask(0o027)
    try:
        assert main(["run", str(tmp_path / "adapter")]) == 0
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "adapter").iterdir()}
    assert modes == {0o640}
    assert stat.S_IMODE((tmp_path / "adapter").stat().st_mode) == 0o750


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(place, tmp_path, number):
    line = [sys.executable, "-m", "sft.export", "run", str(tmp_path / "m"), "--merge"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_the_program_of_the_card_answers(place, tmp_path):
    assert main(["run", str(tmp_path / "adapter")]) == 0
    card = (tmp_path / "adapter" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_what_to_type_next_is_printed(place, tmp_path, capsys):
    assert main(["run", "out/faq", "--merge"]) == 0
    said = capsys.readouterr().out
    assert "vllm serve out/faq\n" in said
    assert "cd out/faq && ollama create faq -f Modelfile && ollama run faq" in said
    assert (place / "out/faq/Modelfile").read_text() == 'FROM .\nPARAMETER stop "<|im_end|>"\n'


def exported(form="adapter", rank=4, trains_lm_head=True):
    return Exported(form, "faq", "Qwen/Qwen3-8B", rank, trains_lm_head, [7])


@pytest.mark.parametrize("rank, most", [(4, 8), (8, 8), (33, 64)])
def test_vllm_is_told_a_largest_rank_that_it_takes(rank, most):
    assert f"--max-lora-rank {most} " in commands(exported(rank=rank))["vLLM"]


def test_an_adapter_of_lm_head_says_who_does_not_load_it():
    assert "vLLM takes that of some models only" in remarks(exported())[0]
    assert "vLLM" not in " ".join(remarks(exported(trains_lm_head=False)))
    assert remarks(exported("merged")) == []

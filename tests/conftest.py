"""What tests of several parts share: a tiny model, and a local service that serves it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

collect_ignore = ["local/stub_server.py"]  # a script: it takes torch from its own process

TINY_MODEL = "tiny"  # its name on the local service

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# Before anything imports transformers or tinker: no model hub and no stored key by accident, few
# threads (tests run side by side), no progress bars.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["TINKER_TELEMETRY"] = "0"
for _name in ("TINKER_API_KEY", "TINKER_BASE_URL", "OPTUNA_STORAGE"):
    os.environ.pop(_name, None)
# Signals as a terminal's child has them: what nohup ignores, it and its children would ignore.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Nor a tracking store or a proxy of the user's own.
for _name in list(os.environ):
    if _name.startswith("MLFLOW_") or _name.lower().endswith("_proxy"):
        del os.environ[_name]


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command that is interrupted in this process goes on to ignore some signals, as a process
    on its last steps should. The children of later tests would inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGXCPU)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 60 thousand parameters and a tokenizer of bytes.

    Two layers, grouped-query attention, tied embeddings, a context of 512 tokens. The tokenizer
    knows every byte, so any text goes through it unchanged, and has a chat template like ChatML.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = _byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def local_service_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `local_service` keeps its checkpoints: ROOT/RUN/weights/NAME."""
    return tmp_path_factory.mktemp("service-root")


@pytest.fixture(scope="session")
def local_service(tiny_model: Path, local_service_root: Path) -> Iterator[str]:
    """The URL of a local service, a process of its own, that serves `tiny_model` as "tiny".

    Its key: `sft.service.child.api_key(url)`. In float32, so that numbers can be compared.
    """
    from sft.service import child

    models = {TINY_MODEL: str(tiny_model)}
    with child.local(local_service_root, models, dtype="float32") as url:
        yield url


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Makes configs of ten steps on a service that computes nothing; and its engine."""
    from tests.failing_runs import configs

    with configs(tmp_path, monkeypatch) as both:
        yield both

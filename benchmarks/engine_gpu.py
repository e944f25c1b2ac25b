"""The GPU rows of benchmarks/engine.py: a random Qwen3 model, several adapters, one process a row.

    python -m benchmarks.engine_gpu '{"size": "0.6B", "adapters": 8, "batch_size": 1, "steps": 5}'

Sequences of 512 random tokens, all trained on, rank 16. The peak is that of a large bfloat16
product measured in the same process. The reference: peft on the same model, batches and modules,
one run after another.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from statistics import median

import numpy as np
import torch

SHAPES = {
    "0.6B": dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
                 num_attention_heads=16, num_key_value_heads=8),
    "4B": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
               num_attention_heads=32, num_key_value_heads=8),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2),
}  # fmt: skip
TOKENS, VOCAB, RANK, WARM_UP = 512, 151936, 16, 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def row(size: str, adapters: int, batch_size: int, steps: int, device: str = "cuda") -> dict:
    """Tokens per second of all adapters in each cycle, and of peft one run after another."""
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(size, device)
        model.save_pretrained(folder)
        parameters = sum(p.numel() for p in model.parameters())
        reference = peft_rate(model, batch_size, steps, device)
        del model
        rate = engine_rate(folder, adapters, batch_size, steps, device)
    peak = product_rate(device)
    memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
    return {
        "tokens/s": rate,
        "peft tokens/s": reference,
        "share of peak": 4 * parameters * rate / peak,
        "peak TFLOP/s": peak / 1e12,
        "peak MB": memory,
    }


def random_model(size: str, device: str):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **SHAPES[size], head_dim=128, vocab_size=VOCAB, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device(device):
        return Qwen3ForCausalLM(config).to(torch.bfloat16)


def tokens_of(batch_size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (batch_size, TOKENS + 1))


def engine_rate(folder: str, adapters: int, batch_size: int, steps: int, device: str) -> float:
    from sft.local.engine.engine import TorchEngine
    from sft.local.engine_api import AdamStep, LoraSpec, TrainingSequence, Work

    engine = TorchEngine({"random": folder}, dtype="bfloat16", device=device)
    names = [f"{index}" for index in range(adapters)]
    for index, name in enumerate(names):
        engine.create_adapter(name, "random", LoraSpec(RANK, seed=index, train_unembed=False))
    seconds = []
    for step in range(WARM_UP + steps):
        work = []
        for index, name in enumerate(names):
            rows = tokens_of(batch_size, step * adapters + index)
            ones = np.ones(TOKENS, np.float32)
            work.append(
                Work(name, [TrainingSequence(ids[:-1], ids[1:], ones) for ids in rows], True)
            )
        start = time.perf_counter()
        engine.run(work, [AdamStep(name, 1e-4) for name in names])
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return adapters * batch_size * TOKENS / median(seconds[WARM_UP:])


def peft_rate(model, batch_size: int, steps: int, device: str) -> float:
    """One run of peft; runs one after another have the same rate."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, target_modules=TARGETS))
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    seconds = []
    for step in range(WARM_UP + steps):
        ids = torch.from_numpy(tokens_of(batch_size, step)).to(device)
        start = time.perf_counter()
        logits = tuned(ids[:, :-1]).logits.float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    tuned.unload()
    return batch_size * TOKENS / median(seconds[WARM_UP:])


def product_rate(device: str) -> float:
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(20):
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / median(seconds[5:])


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(row(**json.loads(sys.argv[1]))))

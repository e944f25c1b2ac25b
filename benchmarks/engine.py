"""The local service's engine beside TRL, beside itself and beside the machine's limit: one table.

    pip install '.[benchmark]'
    python benchmarks/engine.py             # about half an hour on 2 cores
    python benchmarks/engine.py --quick     # fewer runs at once

SmolLM2-135M with LoRA on this machine, every row in a process of its own, on the same data: medians
of 5 steps after 1 for warming up. The limit is measured in the same call, before and after the rows
that are held against it: matrix products per second on all cores, at 4 x parameters operations for
a token (forward, and backward to the inputs; the frozen weights need no gradient).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STEPS = 5
SAMPLED, PROMPT = 64, 64  # tokens


def measure(row: str, **settings) -> dict | None:
    """Run one function of engine_rows.py in its own process; None (and why) if it fails."""
    return run(["benchmarks.engine_rows", row, json.dumps(settings)])


def run(module_and_arguments: list[str]) -> dict | None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *module_and_arguments],
        cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{' '.join(module_and_arguments)} failed: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(what: str, *values: str) -> None:
    print(f"| {what} | {' | '.join(values)} |", flush=True)


def training() -> None:
    """One run alone against TRL and against the limit."""
    before = measure("limit")
    ours = measure("engine", batch_size=8, rank=16, unembed=False, steps=STEPS)
    trl = measure("trl", batch_size=8, rank=16, steps=STEPS)
    again = measure("engine", batch_size=8, rank=16, unembed=False, steps=STEPS)
    full = measure("engine", batch_size=8, rank=16, unembed=True, steps=STEPS)
    after = measure("limit")
    gflops = (before["gflops"] + after["gflops"]) / 2
    bound = gflops * 1e9 / (4 * before["parameters"])
    line(
        f"matrix products, {before['dtype']}, before and after",
        f"{before['gflops']:.0f} and {after['gflops']:.0f} GFLOP/s",
        f"limit {bound:.0f} tokens/s",
    )
    for name, row in (
        ("TRL SFTTrainer + peft, attention and MLP", trl),
        ("engine, attention and MLP", ours),
        ("engine, the same after TRL", again),
        ("engine, with the unembedding", full),
    ):
        if row is None:
            line(f"batch 8, rank 16: {name}", "failed", "see the messages")
            continue
        times = f"{row['tokens/s'] / trl['tokens/s']:.1f} x TRL, " if trl else ""
        line(
            f"batch 8, rank 16: {name}",
            f"{row['tokens/s']:.0f} tokens/s ({row['trained/s']:.0f} trained)",
            f"{times}{row['tokens/s'] / bound:.0%} of the limit, {row['peak MB']:.0f} MB",
        )
    line("first step against later ones", f"{full['first/later']:.2f} x", "to reach: at most 1.5 x")


def many_runs(quick: bool) -> None:
    """Several runs on one service."""
    one = measure("runs", count=1, batch_size=16, rank=16, steps=STEPS)
    line(
        "1 run of batch 16", f"{one['together']:.2f} s a step, {one['tokens']} tokens",
        f"{one['cycle MB']:.0f} MB",
    )  # fmt: skip
    for batch in (2, 8):
        for count in (1, 2, 4, 8, 16):
            if quick and (count * batch > 16 or count == 16):
                continue
            row = measure("runs", count=count, batch_size=batch, rank=16, steps=STEPS)
            against = f", {row['together'] / one['together']:.2f} x one run of batch 16"
            line(
                f"{count} runs of batch {batch}",
                f"{row['together']:.2f} s at once, {row['apart']:.2f} s one after another",
                f"{row['tokens']} tokens, {row['cycle MB']:.0f} MB"
                + (against if count * batch == 16 else ""),
            )
    many = measure("runs", count=16, batch_size=2, rank=32, steps=1)
    single = measure("runs", count=1, batch_size=2, rank=32, steps=1)
    line(
        "memory: 16 adapters of rank 32, batch 2", f"{many['cycle MB']:.0f} MB",
        f"two processes of one each: {2 * single['cycle MB']:.0f} MB",
    )  # fmt: skip
    trl = measure("trl", batch_size=2, rank=32, steps=1)
    if trl:
        line("memory: two TRL processes, batch 2", f"{2 * trl['peak MB']:.0f} MB", "")


def sampling() -> None:
    for count in (1, 16):
        settings = {"count": count, "tokens": SAMPLED, "prompt": PROMPT}
        ours, theirs = measure("sampling", **settings), measure("generate", **settings)
        line(
            f"sampling, {count} at once, {PROMPT} + {SAMPLED} tokens",
            f"{ours['base']:.0f} tokens/s, through an adapter {ours['adapter']:.0f}",
            f"transformers.generate, batch {count}: {theirs['base']:.0f}",
        )


def gpu() -> None:
    """A random Qwen3 model of 0.6 and of 4 billion parameters, batches of 512 tokens."""
    import torch

    if not torch.cuda.is_available():
        line("GPU rows (Qwen3 0.6B and 4B, 1 to 32 adapters)", "skipped", "no GPU at hand")
        return
    line("GPU", torch.cuda.get_device_name(), "")
    for size in ("0.6B", "4B"):
        for adapters, batch in ((1, 1), (1, 8), (8, 1), (32, 1), (32, 8)):
            settings = {"size": size, "adapters": adapters, "batch_size": batch, "steps": STEPS}
            row = run(["benchmarks.engine_gpu", json.dumps(settings)])
            if row is None:
                line(f"{size}: {adapters} adapters, batch {batch}", "failed", "see the messages")
                continue
            times = row["tokens/s"] / row["peft tokens/s"]
            line(
                f"{size}: {adapters} adapters, batch {batch}",
                f"{row['tokens/s']:.0f} tokens/s, {row['share of peak']:.0%} of "
                f"{row['peak TFLOP/s']:.0f} TFLOP/s, {row['peak MB']:.0f} MB",
                f"{times:.1f} x peft one run after another ({row['peft tokens/s']:.0f} tokens/s)",
            )


def machine() -> str:
    from importlib.metadata import version

    model = next(
        (text.split(":")[1].strip() for text in open("/proc/cpuinfo") if "model name" in text),
        platform.processor(),
    ) if os.path.exists("/proc/cpuinfo") else platform.processor()  # fmt: skip
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores; {packages}; load before the start {load}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out more than 16 sequences")
    options = parser.parse_args()
    print(f"{machine()}\n\n| what | measured | beside it |\n| --- | --- | --- |", flush=True)
    training()
    start = measure("start_up")
    line("process start to ready", f"{start['seconds']:.1f} s", "to reach: under 5 s")
    sampling()
    many_runs(options.quick)
    gpu()


if __name__ == "__main__":
    main()

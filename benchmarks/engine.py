"""The local service's engine beside TRL, beside itself and beside the machine's limit: one table.

    pip install '.[benchmark]'
    python benchmarks/engine.py             # half an hour to an hour on 2 cores
    python benchmarks/engine.py --quick     # fewer runs at once
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python benchmarks/engine.py --only sampling     # as on a lesser processor

SmolLM2-135M with LoRA on this machine, every row in a process of its own, on the same data: medians
of 5 steps after 1 for warming up. One run, TRL and the limit take turns, step by step, and so do
sampling and transformers. The limit:
matrix products per second on all cores, at 4 x parameters operations for a token (forward, and
backward to the inputs; the frozen weights need no gradient).
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
WARM_UP, STEPS = 1, 5
SAMPLED, PROMPT = 64, 64  # tokens
PROCESSOR = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def measure(row: str, **settings) -> dict | None:
    """Run one function of engine_rows.py in its own process; None (and why) if it fails."""
    return run(["benchmarks.engine_rows", row, json.dumps(settings)])


def run(module_and_arguments: list[str]) -> dict | None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *module_and_arguments],
        cwd=ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"{' '.join(module_and_arguments)} failed: {reason}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(what: str, *values: str) -> None:
    print(f"| {what} | {' | '.join(values)} |", flush=True)


def in_turns(rows: dict[str, list], steps: int) -> dict[str, dict]:
    """Run rows beside each other, a step of one and then a step of the next, to and fro.

    What else this machine does then weighs on all of them alike. One computes at a time.
    """
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.engine_rows", *arguments],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        for name, arguments in rows.items()
    }  # fmt: skip

    def answer(name: str) -> dict:
        for text in processes[name].stdout:
            if text.startswith("{"):
                try:
                    return json.loads(text)
                except ValueError:
                    continue  # a library's own words
        raise RuntimeError(f"{name} ended before its time")

    for name in processes:
        answer(name)  # that it is ready
    names, last = list(processes), {}
    for step in range(steps):
        for name in names if step % 2 == 0 else reversed(names):
            print("go", file=processes[name].stdin, flush=True)
            print(f"{name}: {answer(name)}", file=sys.stderr, flush=True)
            last[name] = answer(name)  # that it is ready for the next step, or its summary
    return {name: last[name] for name in names}


def training(steps: int) -> None:
    """One run alone against TRL and against the limit."""
    turns = WARM_UP + steps
    settings = {"batch_size": 8, "rank": 16, "steps": steps}
    rows = in_turns(
        {
            "limit": ["limit", json.dumps({"turns": turns})],
            "TRL SFTTrainer + peft, attention and MLP": ["trl", json.dumps(settings)],
            "engine, attention and MLP": ["engine", json.dumps(settings | {"unembed": False})],
            "engine, with the unembedding": ["engine", json.dumps(settings | {"unembed": True})],
        },
        turns,
    )
    limit, trl, *_ = rows.values()
    operations = 4 * limit["parameters"]
    bound = limit["gflops"] * 1e9 / operations
    bound_processor = limit["gflop/processor s"] * 1e9 / operations
    line(
        f"limit: matrix products, {limit['dtype']}",
        f"{limit['gflops']:.0f} GFLOP/s: {bound:.0f} tokens/s",
        f"per processor second {limit['gflop/processor s']:.0f} GFLOP: "
        f"{bound_processor:.0f} tokens",
    )
    for name, row in list(rows.items())[1:]:
        processor = row["tokens/processor s"]
        line(
            f"batch 8, rank 16: {name}",
            f"{row['tokens/s']:.0f} tokens/s ({row['trained/s']:.0f} trained), "
            f"{row['tokens/s'] / trl['tokens/s']:.1f} x TRL, {row['tokens/s'] / bound:.0%} of the "
            f"limit, {row['peak MB']:.0f} MB",
            f"per processor second {processor:.0f} tokens, "
            f"{processor / trl['tokens/processor s']:.1f} x TRL, "
            f"{processor / bound_processor:.0%} of the limit",
        )


def many_runs(quick: bool) -> None:
    """Several runs on one service."""
    one = measure("runs", count=1, batch_size=16, rank=16, steps=STEPS)
    line(
        "1 run of batch 16", f"{one['together']:.2f} s a step, {one['tokens']} tokens",
        f"{one['peak MB']:.0f} MB",
    )  # fmt: skip
    for batch in (2, 8):
        for count in (1, 2, 4, 8, 16):
            if quick and (count * batch > 16 or count == 16):
                continue
            row = measure("runs", count=count, batch_size=batch, rank=16, steps=STEPS)
            against = (
                f", {row['together'] / one['together']:.2f} x the time and "
                f"{row['processor'] / one['processor']:.2f} x the processor seconds of one run "
                "of batch 16"
            )
            line(
                f"{count} runs of batch {batch}",
                f"{row['together']:.2f} s at once, {row['apart']:.2f} s one after another",
                f"{row['tokens']} tokens, {row['peak MB']:.0f} MB"
                + (against if count * batch == 16 else ""),
            )


def memory() -> None:
    """Many adapters in one process, beside two processes of one, all on the same data."""
    for batch in (2, 8):
        settings = {"batch_size": batch, "rank": 32, "steps": 2}
        many, single = (measure("adapters", count=count, **settings) for count in (16, 1))
        trl = measure("trl", **settings)
        line(
            f"memory: 16 adapters of rank 32, batch {batch}", f"{many['peak MB']:.0f} MB",
            f"two processes of one each: {2 * single['peak MB']:.0f} MB, of TRL: "
            f"{2 * trl['peak MB']:.0f} MB",
        )  # fmt: skip


def start_up() -> None:
    row = measure("start_up")
    line("process start to ready", f"{row['seconds']:.1f} s", "to reach: under 5 s")
    times = sorted(
        measure("first_step", batch_size=8, rank=16, steps=3)["first/later"] for _ in range(5)
    )
    line(
        "time of a token in the first step against later ones",
        f"{times[2]:.2f} x ({times[0]:.2f} to {times[-1]:.2f} in 5 processes)",
        "to reach: at most 1.5 x",
    )


def sampling(steps: int) -> None:
    """The engine and transformers in turns, on this processor or on one that is imitated."""
    imitated = {name: os.environ[name] for name in PROCESSOR if name in os.environ}
    if imitated:
        line(
            "processor",
            "imitated",
            ", ".join(f"{name}={value}" for name, value in imitated.items()),
        )
    for count in (1, 16):
        turns = WARM_UP + steps
        settings = {
            "count": count, "tokens": SAMPLED, "prompt": PROMPT, "rank": 32, "turns": turns
        }  # fmt: skip
        rows = {name: [name, json.dumps(settings)] for name in ("sampling", "generate")}
        ours, theirs = in_turns(rows, turns).values()
        line(
            f"sampling, {count} at once, {PROMPT} + {SAMPLED} tokens",
            f"{ours['base']:.0f} tokens/s, through an adapter {ours['adapter']:.0f}",
            f"transformers.generate, batch {count}: {theirs['base']:.0f}, with peft "
            f"{theirs['adapter']:.0f}: {ours['base'] / theirs['base']:.2f} and "
            f"{ours['adapter'] / theirs['adapter']:.2f} x as fast",
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
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="of training alone and of sampling (%(default)s)"
    )
    parser.add_argument(
        "--only",
        choices=("training", "start", "sampling", "memory", "runs", "gpu"),
        help="one part of it",
    )
    options = parser.parse_args()
    print(f"{machine()}\n\n| what | measured | beside it |\n| --- | --- | --- |", flush=True)
    parts = {
        "training": lambda: training(options.steps),
        "start": start_up,
        "sampling": lambda: sampling(options.steps),
        "memory": memory,
        "runs": lambda: many_runs(options.quick),
        "gpu": gpu,
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()

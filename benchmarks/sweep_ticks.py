"""Ticks used, time and memory of 8 concurrent trials on a service that ticks and computes nothing.

    python benchmarks/sweep_ticks.py

Each trial: 20 steps, evaluation and saving every 10. The service ticks every 0.5 s by the wall's
clock, samples and saves take a tick beside it. Reference (the tinker-cookbook's sweep of the same
trials, a process each, on 2 cores): 56 s, 69 to 74% of the ticks.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.tick_service import TickService, running  # noqa: E402

TRIALS, STEPS, TICK = 8, 20, 0.5
WORDS = "red green blue black white one two three four five six seven eight nine ten".split()


def write_chats(path: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}: {WORDS[i % 15]} and {WORDS[i * 7 % 15]}."},
                {"role": "assistant", "content": f"{WORDS[i % 15]} {WORDS[i * 7 % 15]}"},
            ]
        }
        for i in range(4 * STEPS + 8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sweep(service: TickService, folder: Path, tokenizer: str, trials: int, track: bool):
    """Runs a sweep in a process of its own; returns seconds, peak memory in bytes."""
    learning_rates = ",".join(f"{(i + 1) * 1e-4:g}" for i in range(trials))
    command = [
        sys.executable, "-m", "sft", "--multirun", f"lr={learning_rates}", "model=folder",
        "model.name=tick", f"model.tokenizer={tokenizer}", "service=custom",
        f"service.base_url={service.url}", "dataset=jsonl",
        f"dataset.path={write_chats(folder / 'chats.jsonl')}", "dataset.eval_size=8",
        "batch_size=4", "max_length=128", f"max_steps={STEPS}", "eval_every=10", "save_every=10",
        "evaluators.held_out_answers=0", f"hydra.sweeper.n_jobs={trials}",
        f"hydra.sweeper.study_name=ticks{trials}",
    ]  # fmt: skip
    if not track:
        command.append("tracking.uri=null")
    environment = os.environ | {
        "TINKER_API_KEY": service.key,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TINKER_TELEMETRY": "0",
    }
    start = time.monotonic()
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{(folder / 'log.txt').read_text()}\nexit code {process.returncode}")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def main() -> None:
    tokenizer = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"
    if len(sys.argv) <= 1:
        from sft.models import demo

        tokenizer = str(demo.folder())
    for track in (False, True):
        clock = dict(steps=STEPS, tick=TICK, patience=0)
        with tempfile.TemporaryDirectory() as name, running(**clock, model="tick") as service:
            folder = Path(name)
            alone, _ = sweep(service, folder, tokenizer, 1, track)
            before = set(service.engine.ticks)
            seconds, memory = sweep(service, folder, tokenizer, TRIALS, track)
            print(f"with{'' if track else 'out'} MLflow:")
            for model in service.engine.ticks:
                used, missed = service.used(model), service.missed(model)
                label = "alone" if model in before else "side by side"
                share = used / (used + missed)
                print(f"  {label:13s} {used} steps, {missed} ticks missed: {share:.0%} used")
            print(f"  one trial {alone:.1f} s, {TRIALS} trials {seconds:.1f} s "
                  f"({seconds / alone:.2f} x), peak memory {memory / 2**20:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()

"""Ticks used, time and memory of trials side by side on a service that ticks and computes nothing.

    python benchmarks/sweep_ticks.py [TRIALS:HELD_OUT ...]

Each trial: 20 steps of 4 sequences, evaluation and saving every 10; every sequence has about 200
tokens. A row is TRIALS at once with HELD_OUT held-out sequences each; by default 8:8, 8:128 and
32:64. The service ticks every 0.5 s by the wall's clock, samples and saves take a tick beside it;
it runs in this process and takes its share of the processors, which is printed. Reference (the
tinker-cookbook's sweep of 8:8, a process each, on 2 cores): 56 s, 69 to 74% of the ticks.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.tick_service import TickService, running  # noqa: E402

ROWS = ("8:8", "8:128", "32:64")
STEPS, TICK, BATCH = 20, 0.5, 4
WORDS = "red green blue black white one two three four five six seven eight nine ten".split()
WORDS_A_TURN = 76  # about 200 tokens a sequence of the demo model's tokenizer


@dataclass(frozen=True)
class Spent:
    """What a sweep in a process of its own took."""

    seconds: float
    processor: float
    """Seconds of the processors, the process and its children."""
    memory: int
    """Bytes at most, of its largest process."""


def write_chats(path: Path, held_out: int) -> Path:
    def words(first: int) -> str:
        return " ".join(WORDS[(first * 7 + i * i) % 15] for i in range(WORDS_A_TURN))

    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i}: {words(i)}."},
                {"role": "assistant", "content": words(i + 1)},
            ]
        }
        for i in range(BATCH * STEPS + held_out)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sweep(service: TickService, folder: Path, tokenizer: str, trials: int, held_out: int) -> Spent:
    """Runs a sweep in a process of its own, with MLflow."""
    folder.mkdir()
    learning_rates = ",".join(f"{(i + 1) * 1e-5:g}" for i in range(trials))
    command = [
        sys.executable, "-m", "sft", "--multirun", f"lr={learning_rates}", "model=folder",
        "model.name=tick", f"model.tokenizer={tokenizer}", "service=custom",
        f"service.base_url={service.url}", "dataset=jsonl",
        f"dataset.path={write_chats(folder / 'chats.jsonl', held_out)}",
        f"dataset.eval_size={held_out}", f"batch_size={BATCH}", "max_length=512",
        f"max_steps={STEPS}", "eval_every=10", "save_every=10",
        "evaluators.held_out_answers=0", f"hydra.sweeper.n_jobs={trials}",
        "hydra.sweeper.study_name=ticks",
    ]  # fmt: skip
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
    seconds = time.monotonic() - start
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def measure(tokenizer: str, trials: int, held_out: int) -> None:
    clock = dict(steps=STEPS, tick=TICK, patience=0)
    with tempfile.TemporaryDirectory() as name, running(**clock, model="tick") as service:
        before = resource.getrusage(resource.RUSAGE_SELF)
        spent = sweep(service, Path(name) / "sweep", tokenizer, trials, held_out)
        after = resource.getrusage(resource.RUSAGE_SELF)
        models = list(service.engine.ticks)
        shares = [service.used(m) / (service.used(m) + service.missed(m)) for m in models]
    of_service = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{trials:2d} trials, {held_out:3d} held out: {min(shares):4.0%} of the ticks by the "
        f"slowest trial, {sum(shares) / len(shares):4.0%} on average; {spent.seconds:.1f} s, "
        f"{spent.memory / 2**20:.0f} MiB, {spent.processor:.1f} s of processors (service: "
        f"{of_service:.1f} s)",
        flush=True,
    )


def main() -> None:
    from sft.models import demo

    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load before the start {load:.1f}", flush=True)
    for row in sys.argv[1:] or ROWS:
        trials, held_out = map(int, row.split(":"))
        measure(str(demo.folder()), trials, held_out)


if __name__ == "__main__":
    main()

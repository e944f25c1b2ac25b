"""One real sweep of 16 trials, with pauses and without: tokens, time, best.

    python benchmarks/real_sweep.py            # SmolLM2-135M on this machine; a quarter of an hour

Learning rate and rank of SmolLM2 on the first data set of `benchmarks/curves/make.py`, with the
space, sampler and first guess of `sweep=lr_rank`: once each trial to its end
(`hydra.sweeper.scheduler=none`), once with `freeze_thaw`. One after the other on the same machine;
its load is printed, for the time depends on it. Both sweeps stay in `outputs/sweeps`, with reports.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from curves.make import BATCH, DATA, HELD_OUT  # noqa: E402

TRIALS, STEPS, EVERY = 16, 30, 3


def write_data(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        for question, answer in DATA["docs"]():
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path.resolve()


def sweep(name: str, scheduler: str, data: Path) -> float:
    """Runs the sweep; the seconds it took."""
    started = time.monotonic()
    subprocess.run(
        [
            sys.executable, "-m", "sft", "--multirun", "sweep=lr_rank", "model=smollm2",
            "dataset=file", f"dataset.path={data}", f"dataset.eval_size={HELD_OUT}",
            "max_length=256", f"batch_size={BATCH}", f"max_steps={STEPS}", f"eval_every={EVERY}",
            "evaluators.held_out_answers=0", "tracking=none", "hydra.sweeper.n_jobs=2",
            f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.scheduler={scheduler}",
            f"hydra.sweeper.study_name={name}",
        ],
        check=True,
    )  # fmt: skip
    return time.monotonic() - started


def main() -> None:
    from sft.sweeps.findings.results import Results
    from sft.sweeps.study import storage

    data = write_data(Path("outputs/real_sweep/docs.jsonl"))
    rows = []
    for scheduler in ("none", "freeze_thaw"):
        load = os.getloadavg()[0]
        seconds = sweep(f"real-{scheduler}", scheduler, data)
        results = Results.of(storage.load_study(f"real-{scheduler}")[0])
        best = results.best()
        states = [trial.state for trial in results.trials]
        rows.append(
            f"| {scheduler} | {len(states)}, {states.count('complete')} to the end | "
            f"{results.tokens:,} | {seconds / 60:.1f} min (load {load:.1f} to "
            f"{os.getloadavg()[0]:.1f}) | {best.values[0]:.4f}: lr={best.params['lr']:.2g}, rank "
            f"{best.params['lora.rank']} |"
        )
    print("\n| scheduler | trials | tokens trained | time | best |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

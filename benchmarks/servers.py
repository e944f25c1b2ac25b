"""What the harness does on a server that speaks the Tinker API, set beside the local service.

    TINKER_API_KEY=… python benchmarks/servers.py http://HOST:PORT MODEL --folder MODEL_FOLDER

MODEL is the server's name of the model in MODEL_FOLDER. It prints a line for each thing tried: a
run with and without evaluations, one that is stopped and resumed, a sweep of four, an answer of a
checkpoint, and its export. A server that computes nothing (TuFT with TUFT_CPU_TEST=1) is set beside
the local service in vain: --no-numbers.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "red green blue black white one two three four five six seven eight nine ten".split()
STEPS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("--folder", required=True, help="of the model, for the local service")
    parser.add_argument("--no-numbers", action="store_true", help="the server computes nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="servers-") as place:
        tried = Tried(Path(place), arguments)
        rows = [
            tried.run(),
            tried.step_0(),
            tried.without_evaluations(),
            tried.resume(),
            tried.sweep(),
            tried.sample(),
            tried.export(),
        ]
    for what, is_right, found in rows:
        print(f"{what:<42}{'ok' if is_right else 'NOT':<5}{found}")
    return int(not all(is_right for _, is_right, _ in rows))


class Tried:
    """Commands in the folder `place`, as a user gives them."""

    def __init__(self, place: Path, arguments: argparse.Namespace):
        self.place, self.arguments = place, arguments
        for name, rows in (("chats", range(11)), ("exam", range(11, 15))):
            lines = [json.dumps({"messages": [
                {"role": "user", "content": f"Say {WORDS[i % 15]} and {WORDS[i * 7 % 15]}."},
                {"role": "assistant", "content": f"{WORDS[i % 15]} {WORDS[i * 7 % 15]}"},
            ]}) for i in rows]  # fmt: skip
            (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        self.common = [
            "dataset=jsonl", "dataset.path=chats.jsonl", "dataset.eval_size=0", "model=folder",
            "batch_size=2", "max_length=128", f"max_steps={STEPS}", "epochs=2", "lora.rank=4",
            "tracking.uri=null", "evaluators=none",
        ]  # fmt: skip
        self.there = [
            "service=custom", f"service.base_url={arguments.url}", f"model.name={arguments.model}",
            f"model.tokenizer={arguments.folder}",
        ]  # fmt: skip
        self.here = ["service=local", f"model.name={arguments.folder}", "service.dtype=float32"]
        self.held_out = ["dataset.eval_sets.exam.path=exam.jsonl", "eval_every=2", "save_every=2"]

    def do(self, module: str, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *words], cwd=self.place, capture_output=True, text=True
        )

    def nll(self, name: str, metric: str = "train/nll") -> dict[int, float]:
        file = self.place / name / "metrics.jsonl"
        rows = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        return {row["step"]: row[metric] for row in rows if metric in row}

    def run(self) -> tuple[str, bool, str]:
        started = time.monotonic()
        self.do("sft", *self.common, *self.there, *self.held_out, "lr=1e-2", "run_dir=run")
        measured = self.nll("run", "eval/exam/nll")
        seconds = time.monotonic() - started
        found = f"eval/exam/nll at {', '.join(f'{s}: {v:.4f}' for s, v in measured.items())}"
        return "a run with evaluations", len(measured) == 5, f"{found} ({seconds:.0f} s)"

    def step_0(self) -> tuple[str, bool, str]:
        what = "train/nll at step 0, the local service's"
        if self.arguments.no_numbers:
            return what, True, "not compared: the server computes nothing"
        self.do("sft", *self.common, *self.here, "lr=1e-2", "run_dir=here")
        there, here = self.nll("run").get(0, 9e9), self.nll("here").get(0, -9e9)
        return what, abs(there - here) < 1e-3, f"{there:.7f}, {here:.7f}: {abs(there - here):.1g}"

    def without_evaluations(self) -> tuple[str, bool, str]:
        what = "train/nll with and without evaluations"
        self.do("sft", *self.common, *self.there, "lr=1e-2", "save_every=2", "run_dir=alone")
        one, other = self.nll("run"), self.nll("alone")
        if self.arguments.no_numbers:
            return what, len(other) == STEPS, "not compared: the server computes nothing"
        apart = [abs(one[step] - other[step]) for step in one] if one.keys() == other.keys() else []
        found = f"{len(apart)} steps, largest difference {max(apart, default=9e9):.1g}"
        return what, len(apart) == STEPS and max(apart) == 0, found

    def resume(self) -> tuple[str, bool, str]:
        what = "stopped after a checkpoint, and resumed"
        words = [*self.common, *self.there, "lr=1e-2", "save_every=2", "run_dir=stopped"]
        saved = self.place / "stopped" / "checkpoints.jsonl"
        run = subprocess.Popen(
            [sys.executable, "-m", "sft", *words], cwd=self.place,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while run.poll() is None and not (saved.exists() and saved.read_text()):
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        first = saved.read_text().splitlines()[0] if saved.exists() else '{"step": -1}'
        saved.write_text(first + "\n")
        done = self.do("sft.resume", "stopped")
        one, other = self.nll("alone"), self.nll("stopped")
        apart = [abs(one[step] - other.get(step, 9e9)) for step in one]
        found = f"from step {json.loads(first)['step']}: largest difference {max(apart):.1g}"
        if self.arguments.no_numbers:
            return what, done.returncode == 0, f"from step {json.loads(first)['step']}"
        return what, done.returncode == 0 and max(apart) == 0, found

    def sweep(self) -> tuple[str, bool, str]:
        done = self.do(
            "sft", "--multirun", *self.common, *self.there, *self.held_out, "sweep=lr",
            "lr=interval(1e-4,1e-1)", "hydra.sweeper.n_trials=4",
            "hydra.sweeper.metric=eval/exam/nll", "hydra.sweeper.study_name=s",
        )  # fmt: skip
        last = [line for line in done.stdout.splitlines() if line.startswith("study s:")]
        found = [*last, *done.stderr.splitlines()[-1:], "nothing was said"][0]
        return "a sweep of four", found.endswith("(4 complete)"), found

    def sample(self) -> tuple[str, bool, str]:
        done = self.do("sft.sample", "run", "Say red and one.", "--max-tokens", "8")
        return "an answer of its checkpoint", done.returncode == 0, repr(done.stdout + done.stderr)

    def export(self) -> tuple[str, bool, str]:
        done = self.do("sft.export", "run", "adapter")
        return "its export", done.returncode == 0, (done.stdout + done.stderr).strip()[:160]


if __name__ == "__main__":
    sys.exit(main())

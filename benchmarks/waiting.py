"""Seconds until a command shows its first word, its banner and its first step, on a terminal.

    python benchmarks/waiting.py [--rounds 3] [CHECKOUT ...]

Each CHECKOUT (by default this one) runs the same commands, in turn, so that what else the machine
does meets all of them: two steps of the demo model on data that is tokenised and on data that is
not, a question to it, and data that is bad. Printed are medians, and beside each the seconds of the
processors up to the end, which another program's work changes less.
"""

import argparse
import json
import os
import pty
import resource
import select
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = (
    "-m", "sft", "max_steps=2", "batch_size=2", "evaluators=none", "dataset.eval_size=0",
    "tracking=none",
)  # fmt: skip
CASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "a run": ((*RUN, "dataset=faq"), {"banner": "LoRA rank", "step": "train/nll"}),
    "a run on new data": (
        (*RUN, "dataset.path=new.jsonl"),
        {"banner": "LoRA rank", "step": "train/nll"},
    ),
    "a question": (("-m", "sft.sample", "asked", "Hello"), {}),
    "bad data": ((*RUN, "dataset.path=bad.jsonl"), {}),
}
"""Arguments of the command, and what shows that it has come so far."""


def timed(checkout: Path, arguments: tuple[str, ...], marks: dict[str, str]) -> dict[str, float]:
    """Seconds until each of `marks`, the first word and the end; `processor`: what was used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = str(checkout)
        os.execv(sys.executable, [sys.executable, *arguments])
    found: dict[str, float] = {}
    text = ""
    while True:
        select.select([terminal], [], [])
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the command has ended
            break
        seconds = time.monotonic() - began
        found.setdefault("first word", seconds)
        for name, mark in marks.items():
            if mark in text:
                found.setdefault(name, seconds)
    os.close(terminal)
    os.waitpid(child, 0)
    found["end"] = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found | {"processor": used}


def prepare(folder: Path, number: int) -> None:
    """Data that was never tokenised, data that is bad, and a run to ask."""
    rows = [
        {"messages": [{"role": "user", "content": f"{number} {i}?"},
                      {"role": "assistant", "content": f"It is {i}. " * 20}]}
        for i in range(1000)
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "new.jsonl").write_text(lines)
    (folder / "bad.jsonl").write_text(lines + "no JSON\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times (%(default)s)")
    parser.add_argument("checkouts", nargs="*", type=Path, default=[ROOT], metavar="CHECKOUT")
    options = parser.parse_args()
    checkouts = [path.resolve() for path in options.checkouts]
    times = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        timed(checkouts[0], (*RUN, "dataset=faq", "run_dir=asked"), {})  # it fills the caches
        for number in range(options.rounds):
            for case, (arguments, marks) in CASES.items():
                for checkout in checkouts:
                    prepare(Path(place), hash((number, checkout)))
                    for name, seconds in timed(checkout, arguments, marks).items():
                        times[case, name, checkout].append(seconds)
    print(f"| seconds until | {' | '.join(path.name for path in checkouts)} |")
    print("| --- " * (len(checkouts) + 1) + "|")
    for case, name in dict.fromkeys((case, name) for case, name, _ in times):
        cells = (statistics.median(times[case, name, path]) for path in checkouts)
        print(f"| {case}: {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    print(f"load at the end: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

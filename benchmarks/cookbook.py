"""Recipes of tinker-cookbook on the local service, unmodified: recipe, steps, what it measured.

    python -m venv /tmp/cookbook
    /tmp/cookbook/bin/pip install torch==2.13.0 'tinker-cookbook[math-rl]==0.5.8'
    python benchmarks/cookbook.py /tmp/cookbook/bin/python        # a quarter of an hour on 2 cores

Starts `python -m sft.local` with SmolLM2-135M under the name of a model that the cookbook knows,
runs each recipe for a few steps in the cookbook's own environment, then the SDK's command line on a
checkpoint of the last one that saved any. Exit code 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = "Qwen/Qwen3-4B-Instruct-2507"  # its renderer writes turns as SmolLM2's template does
RENDERER = "qwen3_instruct"


@dataclass(frozen=True)
class Recipe:
    """`words` are its settings; `measured`: a metric of each step of its metrics.jsonl."""

    module: str
    words: list[str]
    measured: str

    @property
    def name(self) -> str:
        return self.module.removeprefix("preference.").removesuffix(".train")


def recipes(data: Path, steps: int) -> list[Recipe]:
    short = ["batch_size=4", "max_length=512", f"max_steps={steps}"]
    sampled = ["max_tokens=32", f"max_steps={min(steps, 2)}", "lora_rank=8", "save_every=0"]
    nll, distilled = "train_mean_nll", f"file_path={data / 'distilled.jsonl'}"
    return [
        Recipe("sl_loop", [*short, "lora_rank=8"], nll),
        Recipe("sl_basic", [*builder("chat_sl.chat_datasets:NoRobotsBuilder", chats=True),
                            f"max_steps={steps}", "lora_rank=8"], nll),
        Recipe("chat_sl.train", [*short, "lora_rank=8"], nll),
        Recipe("prompt_distillation.train", [*short, "lora_rank=8", distilled], nll),
        Recipe("preference.dpo.train", short, "dpo_loss"),
        Recipe("rl_loop", ["batch_size=4", "group_size=8", *sampled], "reward/total"),
        Recipe("rl_basic", [*builder("math_rl.math_env:Gsm8kDatasetBuilder", chats=False),
                            *sampled], "env/all/reward/total"),
    ]  # fmt: skip


def builder(name: str, chats: bool) -> list[str]:
    """The data set of a recipe that fixes its size (128 in a batch), in smaller batches."""
    given = {"batch_size": 4, "renderer_name": RENDERER, "model_name_for_tokenizer": MODEL}
    given |= {"max_length": 512} if chats else {"group_size": 8}
    place = "dataset_builder.common_config" if chats else "dataset_builder"
    words = [f"{place}.{key}={value}" for key, value in given.items()]
    return [f"dataset_builder=tinker_cookbook.recipes.{name}", *words]


def tables() -> dict[str, dict[str, list[dict]]]:
    """Rows shaped as those of the data sets that the recipes load."""

    def chat(index: int) -> list[dict]:
        question = f"What is {index} plus {index + 1}?"
        answer = f"{index} plus {index + 1} is {2 * index + 1}."
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def preference(index: int) -> dict:
        asked, answer = (message["content"] for message in chat(index))
        begun = f"\n\nHuman: {asked}\n\nAssistant: "
        return {"chosen": begun + answer, "rejected": begun + "I do not know."}

    # The prefix of the recipes holds one answer, \boxed{3}: a small model repeats it now and then.
    sums = [
        {"question": f"What is {3 - part} plus {part}?", "answer": "It is 3.\n#### 3"}
        for part in (0, 1, 2, 3)
    ] * 4
    chats = [{"messages": chat(index)} for index in range(32)]
    pairs = [preference(index) for index in range(32)]
    return {
        "HuggingFaceH4/no_robots": {"train": chats, "test": chats[:4]},
        "Anthropic/hh-rlhf": {"train": pairs, "test": pairs[:4]},
        "openai/gsm8k": {"train": sums, "test": sums[:4]},
    }


def write_data(folder: Path, model_folder: Path) -> None:
    data = tables()
    settings = {"model": MODEL, "folder": str(model_folder), "data": data}
    (folder / "settings.json").write_text(json.dumps(settings))
    lines = [json.dumps(row) for row in data["HuggingFaceH4/no_robots"]["train"]]
    (folder / "distilled.jsonl").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def service(root: Path, model_folder: Path) -> Iterator[dict[str, str]]:
    """The two exports that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sft.local", "--root", root, "--model", f"{MODEL}={model_folder}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        exports = {}
        for printed in process.stdout:
            if printed.strip().startswith("export "):
                name, _, value = printed.strip().removeprefix("export ").partition("=")
                exports[name] = value
            if len(exports) == 2:
                break
        yield exports
    finally:
        process.terminate()
        process.wait(30)


def run(recipe: Recipe, python: str, folder: Path, env: dict[str, str]) -> str:
    """What it measured, step by step. Raises `CalledProcessError`."""
    log = folder / recipe.name
    words = [f"model_name={MODEL}", f"log_path={log}", *recipe.words]
    script = str(Path(__file__).with_name("cookbook_offline.py"))
    module = f"tinker_cookbook.recipes.{recipe.module}"
    subprocess.run(
        [python, script, str(folder / "settings.json"), module, *words],
        env=env, cwd=folder, stdin=subprocess.DEVNULL, check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    values = [row[recipe.measured] for row in rows if recipe.measured in row]
    return f"| {recipe.name} | {len(values)} | {recipe.measured} " + " ".join(
        f"{value:.3f}" for value in values
    )


def download(python: str, folder: Path, env: dict[str, str]) -> str:
    """The files that `tinker checkpoint download` brings of the last training state."""
    files = sorted(folder.glob("*/checkpoints.jsonl"), key=lambda file: file.stat().st_mtime)
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    path = [row["state_path"] for row in rows if row.get("state_path")][-1]
    subprocess.run(
        [python, "-m", "tinker.cli", "checkpoint", "download", path, "--output", folder / "taken"],
        env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (taken,) = (folder / "taken").iterdir()
    return "| tinker checkpoint download | | " + " ".join(
        f"{file.name} ({file.stat().st_size:,} bytes)" for file in sorted(taken.iterdir())
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", help="of the environment that tinker-cookbook is installed in")
    parser.add_argument("--steps", type=int, default=3, help="of each recipe (%(default)s)")
    parser.add_argument("--only", nargs="*", help="names of recipes (all)")
    options = parser.parse_args()
    from sft.models import demo

    model_folder, failed = demo.folder(), False
    print("| recipe | steps | result | seconds |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_data(folder, model_folder)
        with service(folder / "root", model_folder) as exports:
            env = {**os.environ, **exports, "HF_HUB_OFFLINE": "1"}
            chosen = [
                recipe
                for recipe in recipes(folder, options.steps)
                if not options.only or recipe.name in options.only
            ]
            jobs = [lambda r=recipe: run(r, options.python, folder, env) for recipe in chosen]
            for job in [*jobs, lambda: download(options.python, folder, env)]:
                begun = time.perf_counter()
                try:
                    line = job()
                except subprocess.CalledProcessError as error:
                    failed = True
                    line = f"| {' '.join(map(str, error.cmd[3:5]))} | | failed"
                    print(error.stderr[-3000:], file=sys.stderr)
                print(f"{line} | {time.perf_counter() - begun:.0f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

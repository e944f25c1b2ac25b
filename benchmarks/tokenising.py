"""Tokenising 100,000 conversations: beside a plain loop, in how much memory, and the second start.

    python benchmarks/tokenising.py [--conversations 100000]

The data is a file of JSON lines with chats of two to six messages, made from the texts of the demo
data; the tokenizer is SmolLM2's. The plain loop calls `apply_chat_template` for one conversation
after another: once (rendered and tokenised, no more), and as cookbooks do it for the loss mask,
once more for the prefix before each answer. Both loops are timed before and after, on a part of
the data. Memory is the sum over all processes of what is resident, sampled 20 times a second.
Processor time is beside it, for a machine that does other things too: it is all cores' together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PLAIN = 1500  # conversations of a plain loop: enough for a rate


def write_conversations(path: Path, count: int) -> None:
    import importlib.util

    spec = importlib.util.find_spec("zaragoza_construction_faq")
    faq = Path(spec.submodule_search_locations[0]) / "data" / "faq-en-sharegpt.jsonl"
    rows = [json.loads(line)["conversations"] for line in faq.open(encoding="utf-8")]
    pairs = [(question["value"], answer["value"]) for question, answer in rows]
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            messages = []
            for question, answer in draw.choices(pairs, k=draw.randint(1, 3)):
                messages.append({"role": "user", "content": f"{index}: {question}"})
                # Numbered: other data does not repeat its answers as this would.
                messages.append({"role": "assistant", "content": f"{answer} ({index})"})
            file.write(json.dumps({"messages": messages}) + "\n")


def plain_loop(path: Path, count: int, mask: bool) -> tuple[float, float]:
    """Seconds a conversation, one after another: on the clock and of the processor."""
    from sft.models import demo
    from sft.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(demo.NAME)
    with path.open(encoding="utf-8") as file:
        conversations = [json.loads(next(file))["messages"] for _ in range(min(count, PLAIN))]
    start, processor = time.perf_counter(), time.process_time()
    for messages in conversations:
        tokens = tokenizer.apply_chat_template(messages, return_dict=False)
        if mask:
            weights = [0] * len(tokens)
            for index, message in enumerate(messages):
                if message["role"] == "assistant":
                    before = tokenizer.apply_chat_template(
                        messages[:index], add_generation_prompt=True, return_dict=False
                    )
                    after = tokenizer.apply_chat_template(messages[: index + 1], return_dict=False)
                    weights[len(before) : len(after)] = [1] * (len(after) - len(before))
    seconds = time.perf_counter() - start, time.process_time() - processor
    return seconds[0] / len(conversations), seconds[1] / len(conversations)


def build(path: Path) -> dict:
    """Build the dataset in this process; seconds with and without loading the tokenizer."""
    from sft.datasets import FromConversationFileBuilder
    from sft.models import demo
    from sft.types import ChatDatasetBuilderCommonConfig

    common = ChatDatasetBuilderCommonConfig(demo.NAME)
    builder = FromConversationFileBuilder(common_config=common, path=str(path), eval_size=500)
    start = time.perf_counter()
    assert builder.renderer  # the tokenizer is loaded
    loaded, processor = time.perf_counter(), time.process_time()
    train, _ = builder()
    train.set_epoch(1)
    train.get_batch(0)
    end = time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "data": end - loaded,
        "whole": end - start,
        "processor": time.process_time() - processor + children.ru_utime + children.ru_stime,
        "tokens": train.statistics.tokens,
    }


def in_a_process(path: Path, cache: str) -> tuple[dict, float]:
    """`build` in a fresh process; its result and the peak memory of it and its children, in GB."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--build", str(path)],
        env=os.environ | {"SFT_CACHE": cache},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(map(resident, tree(process.pid))))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    return json.loads(output), peak / 1e9


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += tree(int(child))
        except OSError:
            pass
    return found


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build)))
        return
    from sft.models import demo

    count = options.conversations
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "chats.jsonl", Path(folder) / "cache"
        write_conversations(path, count)
        # The converted model is not what is measured.
        (cache / "models").mkdir(parents=True)
        (cache / "models" / demo.NAME).symlink_to(demo.folder())
        size = path.stat().st_size
        before = {mask: plain_loop(path, count, mask) for mask in (False, True)}
        first, first_memory = in_a_process(path, str(cache))
        second, second_memory = in_a_process(path, str(cache))
        after = {mask: plain_loop(path, count, mask) for mask in (False, True)}
    once, masked = (
        [(one + other) / 2 for one, other in zip(before[mask], after[mask], strict=True)]
        for mask in (False, True)
    )
    ours = [first["data"] / count, first["processor"] / count]
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n"
        f"{count:,} conversations, {size / 1e6:.0f} MB of JSONL, {first['tokens']:,} tokens\n"
    )

    def rate(seconds: list[float]) -> str:
        return f"{1 / seconds[0]:,.0f} conversations/s"

    def processor(seconds: list[float]) -> str:
        return f"{seconds[1] * 1e6:,.0f} us of processor time each"

    ratios = f"{once[0] / ours[0]:.1f} x once, {masked[0] / ours[0]:.1f} x with the mask"
    rows = [
        ("plain loop, rendered and tokenised once", rate(once), processor(once)),
        ("plain loop, with the mask", rate(masked), processor(masked)),
        ("sft, first start", rate(ours), processor(ours)),
        ("  speed-up", ratios, ""),
        ("  time", f"{first['data']:.1f} s", f"{first['whole']:.1f} s with loading the tokenizer"),
        ("  memory at most", f"{first_memory:.2f} GB", "all processes"),
        ("sft, second start", f"{second['data']:.2f} s", f"{second['whole']:.1f} s with loading"),
        ("  memory at most", f"{second_memory:.2f} GB", ""),
    ]
    for name, value, note in rows:
        print(f"{name:<42}{value:>34}  {note}")


if __name__ == "__main__":
    main()

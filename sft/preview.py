"""`python -m sft.preview [OVERRIDES]`: the first examples as the model will see them.

Trained tokens stand out in colour and bold; masked ones are dim. Where there is no terminal,
trained text stands in ⟦double brackets⟧.
"""

from __future__ import annotations

import html
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.command.main import add_config_dir, command, new_parser
from sft.config.compose import compose
from sft.config.saved import dataset_builder
from sft.config.shadows import check_working_folder
from sft.data.mixing.builder import MixBuilder
from sft.data.mixing.held_out import built
from sft.data.mixing.named_sets import with_common
from sft.data.streaming import ChatStream
from sft.display.example_rows import ExampleRows
from sft.display.stages import shown
from sft.display.terminal import HELD_OUT_TOO
from sft.errors import BadInput
from sft.evaluators import full_sequence
from sft.models.tokenizers import load_tokenizer
from sft.run.batches import epoch_seed
from sft.stages.stages import preparing
from sft.types import ChatDatasetBuilder, SupervisedDatasetBuilder

if TYPE_CHECKING:
    from sft.config.schema import Settings

TRAINED = "bold #0072b2"  # blue of the Okabe-Ito palette: told from grey by all
MASKED = "#767676"

LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""What JSON leaves as it is and some readers take for the end of a line, escaped."""


@dataclass
class Example:
    """One sequence as runs of text, trained or masked."""

    runs: list[tuple[str, bool]]
    tokens: int
    trained: int
    cut: bool
    """Whether it reaches `max_length`, so its end may be missing."""


@dataclass
class Preview:
    """The first sequences of the data, and what it counts in all."""

    examples: list[Example]
    summary: str


@command("sft.preview")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.preview", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="those of a run")
    add_config_dir(parser)
    parser.add_argument("--n", type=int, help="examples (3), or with --json rows (all)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="what becomes of each row of the data, as one JSON object a line; exit code 2 if a "
        "run would refuse the data",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead")
    arguments = parser.parse_intermixed_args(argv)

    check_working_folder()
    if arguments.n is not None and arguments.n < 1:
        raise BadInput(f"--n: {arguments.n} is below 1")
    with shown("checking the settings", lines=False):
        settings = compose(arguments.overrides, arguments.config_dir)
        if not arguments.json:
            preparing("reading the data")
            seen = preview(settings, arguments.n or 3)
    if arguments.json:
        return print_rows(settings, arguments.n)
    if arguments.html:
        try:
            arguments.html.write_text(page(seen), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--html: {error}") from error
        print(f"wrote {arguments.html}")
    else:
        show(seen)
    return 0


def print_rows(settings: Settings, n: int | None) -> int:
    """Print what becomes of the first `n` rows of the data; None: of all. The exit code.

    Of a mixture, of the first `n` rows of each part, which have its name as `part`.
    """
    builder = dataset_builder(settings)
    builders: dict[str, SupervisedDatasetBuilder] = {"": builder}
    if isinstance(builder, MixBuilder):
        common = builder.common_config
        builders = {
            name: with_common(part.builder, common, part.train_on_what)
            for name, part in sorted(builder.parts.items())
        }
    sound = True
    for name, one in builders.items():
        if not isinstance(one, ChatDatasetBuilder):
            raise BadInput("--json: is for data of chats; without it any data is shown")
        rows = ExampleRows(one)
        for row in itertools.islice(rows, n):
            text = json.dumps({"part": name, **row} if name else row, ensure_ascii=False)
            print(text.translate(LINE_ENDS))
        sound = sound and not rows.refused and (rows.trained or n is not None)
    return 0 if sound else 2


def preview(settings: Settings, n: int) -> Preview:
    """The first `n` sequences that a run with `settings` would train on. Raises `BadInput`."""
    dataset = built(dataset_builder(settings)).train
    dataset.set_epoch(epoch_seed(settings.seed, 0))
    # Not the builder's own: one of the user's need not have any.
    tokenizer = load_tokenizer(settings.model.tokenizer or settings.model.name)
    max_length = settings.max_length
    examples: list[Example] = []
    for index in range(len(dataset)):
        for datum in dataset.get_batch(index):
            if len(examples) == n:
                break
            examples.append(_example(datum, tokenizer, max_length))
        if len(examples) == n:
            break
    if isinstance(dataset, ChatStream):
        found, lines = f"{dataset.report.found}, layout {dataset.layout}", dataset.report.lines()
        found += "; of the rows read so far:" * bool(lines)
        return Preview(examples, "\n".join([found, *lines]))
    return Preview(examples, _summary(getattr(dataset, "statistics", None)))


def _example(datum: Any, tokenizer: Any, max_length: int | None) -> Example:
    tokens = full_sequence(datum).to_ints()
    trained = [False, *(datum.loss_fn_inputs["weights"].to_numpy() > 0).tolist()]
    runs: list[tuple[str, bool]] = []
    start = 0
    for index in range(1, len(tokens) + 1):
        if index == len(tokens) or trained[index] != trained[start]:
            runs.append((tokenizer.decode(tokens[start:index]), trained[start]))
            start = index
    cut = max_length is not None and len(tokens) >= max_length
    return Example(runs, len(tokens), sum(trained), cut)


def _summary(statistics: Any) -> str:
    if statistics is None:
        return ""
    share = statistics.trained_tokens / max(1, statistics.tokens)
    counted = (
        f"{statistics.conversations:,} conversations, {statistics.datums:,} sequences, "
        f"{statistics.tokens:,} tokens, {share:.0%} of them trained; "
        f"{statistics.truncated:,} cut at max_length, {statistics.dropped:,} dropped "
        "(no trained token left)"
    )
    if statistics.duplicates:
        counted += f"; {statistics.duplicates:,} {HELD_OUT_TOO}"
    return "\n".join([counted, *statistics.report.lines()])


def title(number: int, example: Example) -> str:
    """The line above an example: its tokens, the share that is trained, whether it was cut."""
    share = example.trained / example.tokens
    cut = ", cut at max_length" if example.cut else ""
    return (
        f"example {number}: {example.tokens} tokens, {example.trained} trained ({share:.0%}){cut}"
    )


def show(seen: Preview) -> None:
    """Print to the terminal, or as plain text if there is none."""
    from rich.text import Text

    from sft.display.console import Output

    console = Output()
    for number, example in enumerate(seen.examples, start=1):
        console.print(Text(title(number, example), style="bold"))
        if console.is_terminal:
            text = Text()
            for run, trained in example.runs:
                text.append(run, style=TRAINED if trained else MASKED)
            console.print(text)
        else:
            print("".join(f"⟦{run}⟧" if trained else run for run, trained in example.runs))
        console.print()
    if seen.summary:
        console.print(seen.summary, soft_wrap=True)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What the model will see</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto;
        padding: 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .75rem;
       border-radius: .4rem; color: #595959; font-size: .9rem; }}
mark {{ background: #d6eaf8; color: #003f66; font-weight: 600; }}
h2 {{ font-size: 1rem; margin: 1.5rem 0 .3rem; }}
</style></head><body>
<h1>What the model will see</h1>
<p>{summary}</p>
<p>Text that carries loss looks <mark>like this</mark>; the rest is context.</p>
{examples}
</body></html>
"""


def page(shown: Preview) -> str:
    """The preview as one page that needs nothing beside it."""
    sections = []
    for number, example in enumerate(shown.examples, start=1):
        body = "".join(
            f"<mark>{html.escape(run)}</mark>" if trained else html.escape(run)
            for run, trained in example.runs
        )
        sections.append(f"<h2>{html.escape(title(number, example))}</h2>\n<pre>{body}</pre>")
    return PAGE.format(summary=html.escape(shown.summary), examples="\n".join(sections))


if __name__ == "__main__":
    sys.exit(main())

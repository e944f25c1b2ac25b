"""What `python -m sft --help` prints: every group, every key with its default and meaning."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from sft.config.compose import groups, kinds_of_groups
from sft.config.schema import Settings
from sft.evaluators import BUILDERS
from sft.keys import keys_of

WIDEST = 120
"""Columns: longer lines are hard to follow."""
HELP = """Fine-tune a language model with LoRA through the Tinker API.

  python -m sft                               train SmolLM2 on questions
  python -m sft model=qwen3 lr=1e-4           train Qwen3 on hosted Tinker
  python -m sft 'tracking=[mlflow,wandb]'     two trackers
  python -m sft --multirun sweep=lr_rank      which learning rate, which rank

Commands (sft COMMAND, or python -m sft.COMMAND; COMMAND --help says more):
  train          the default: one run, or a sweep with --multirun
{commands}

Groups, one option each (GROUP=OPTION):
{groups}

Keys (KEY=VALUE), with their defaults:
{keys}

Keys of a kind, with the kinds that have them:
{kinds}

Fields of the evaluators that come with the product, and whose they are:
{evaluators}

  --yes            begin without a question, whatever it may cost
  --cfg job        print the composed config and stop
  --multirun, -m   run a sweep
  --config-dir     a folder of config files of your own
  -sc install=bash   lets Tab complete, by eval "$(sft -sc install=bash)"
"""


def help_text(commands: Mapping[str, str]) -> str:
    """The whole text, with what each command is for. Nothing heavy is imported for it."""
    evaluators = {
        name: dataclasses.make_dataclass(name, [k for k in keys_of(made) if k[2].metadata["help"]])
        for name, made in BUILDERS.items()
    }
    return HELP.format(
        commands="\n".join(f"  {name:<14} {what}" for name, what in commands.items()),
        groups="\n".join(
            _entry(name, ", ".join(options), indent=15) for name, options in groups().items()
        ),
        keys="\n".join(_keys(Settings(), "")),
        kinds="\n".join(_keys_of_kinds()),
        evaluators="\n".join(_shared("evaluators.args", evaluators)),
    )


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for item in dataclasses.fields(node):
        name, value = f"{prefix}{item.name}", getattr(node, item.name)
        if name in kinds_of_groups():
            continue
        if dataclasses.is_dataclass(value):
            yield from _keys(value, f"{name}.")
        elif item.name != "kind":
            yield _entry(*_told(name, value, item.metadata))


def _keys_of_kinds() -> Iterator[str]:
    for group, kinds in kinds_of_groups().items():
        yield from _shared(group, kinds)


def _shared(group: str, kinds: Mapping[str, type]) -> Iterator[str]:
    """The keys under `group` of all `kinds`, each once, with the kinds that have it."""
    told: dict[tuple[str, str], list[str]] = {}
    for kind, schema in kinds.items():
        defaults = schema()
        for item in dataclasses.fields(schema):
            if item.name != "kind":
                value = getattr(defaults, item.name)
                one = _told(f"{group}.{item.name}", value, item.metadata)
                told.setdefault(one, []).append(kind)
    for (key, meaning), having in told.items():
        those = "" if len(having) == len(kinds) else f" ({', '.join(having)})"
        yield _entry(key, meaning + those)


def _told(name: str, value: Any, metadata: Mapping[str, Any]) -> tuple[str, str]:
    """A key with its default, and what it means."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    choices = f" [{', '.join(metadata['choices'])}]" if "choices" in metadata else ""
    return f"{name}={shown}", f"{metadata['help']}{choices}"


def _entry(name: str, meaning: str, indent: int = 36) -> str:
    """A line, or several at the terminal's width: what it is about, and behind `indent` the rest.

    A name that leaves no room for a space has a line of its own.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    lines = textwrap.wrap(
        meaning, max(width - indent, 20), break_long_words=False, break_on_hyphens=False
    )
    margin = "\n" + " " * indent
    head = f"  {name:<{indent - 3}} " if len(name) <= indent - 3 else f"  {name}{margin}"
    return (head + margin.join(lines)).rstrip()

"""Files of questions: JSON lines, under the names of columns that published sets have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sft.data.files import json_values
from sft.data.files.opening import as_utf8
from sft.errors import BadInput, nearest
from sft.models.tokenizers import load_tokenizer
from sft.renderers import get_renderer
from sft.rendering.base import Renderer
from sft.rendering.conversations import Messages, check_conversation
from sft.types import ChatDatasetBuilderCommonConfig

KEY = "evaluators.args.path"
PROMPTS = ("question", "prompt", "messages", "ctx")


def rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of the file and its place, `questions.jsonl line 3`.

    The file may begin with a byte order mark, as a data file may. Raises `BadInput` if there is no
    such file, for a line that is no JSON object, and if the file holds none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "there is no such file"
        raise BadInput(f"{KEY}: {path}: {what}; expected a file of JSON lines, a question a line")
    found = False
    try:
        with file.open("rb") as stream:
            text, _ = as_utf8(stream, file)
            for number, row in json_values.lines(text, lambda number: f"{path} line {number}"):
                where = f"{path} line {number}"
                if isinstance(row, BadInput):
                    raise BadInput(f"{KEY}: {row}")
                if not isinstance(row, dict):
                    raise bad(where, f"expected a JSON object, not {type(row).__name__}")
                found = True
                yield where, row
    except BadInput as error:  # of its encoding; said as of a data file
        raise BadInput(str(error).replace("dataset.path:", f"{KEY}:", 1)) from None
    except OSError as error:
        raise BadInput(f"{KEY}: {path} cannot be read: {error.strerror}") from None
    if not found:
        raise BadInput(f"{KEY}: {path} is empty; expected a question a line")


def bad(where: str, problem: str) -> BadInput:
    """What is wrong with the row at `where`, as an error to raise."""
    return BadInput(f"{KEY}: {where}: {problem}")


def column(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    """What the row has under the first of `names` that is there. Raises `BadInput`."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    close = [near for own in row if (near := nearest(str(own), list(names), cutoff=0.7))]
    has = f"it has {', '.join(map(str, row))}" if row else "it has nothing"
    meant = close[0] if close else ""
    raise bad(where, f"has no {' or '.join(map(repr, names))}; {has}{meant}")


def conversation(row: Mapping[str, Any], where: str) -> Messages:
    """The question of a row: text is one user message. Raises `BadInput`."""
    asked = column(row, PROMPTS, where)
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    elif not isinstance(asked, list):
        raise bad(where, f"the question is {asked!r}; expected text, or a list of messages")
    check_conversation(asked, f"{KEY}: {where}")
    if not any(message["content"].strip() for message in asked):
        raise bad(where, "the question is empty")
    if asked[-1]["role"] == "assistant":
        raise bad(where, "the question ends with an assistant's message; expected a user's")
    return asked


def prompt_of(renderer: Renderer, asked: Messages, where: str) -> list[int]:
    """The tokens that an answer to `asked` stands behind. Raises `BadInput` that names the row."""
    try:
        return renderer.generation_prompt(asked)
    except BadInput as error:
        raise bad(where, str(error)) from None


def as_text(asked: Messages) -> str:
    """A question as a table shows it."""
    if len(asked) == 1:
        return str(asked[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in asked)


def tokenizer_and_renderer(common: ChatDatasetBuilderCommonConfig) -> tuple[Any, Renderer]:
    """Those of the run. Raises `BadInput` if the model has none."""
    tokenizer = load_tokenizer(common.model_name_for_tokenizer)
    renderer = get_renderer(
        common.renderer_name, tokenizer, common.chat_template_kwargs, date=common.date
    )
    return tokenizer, renderer

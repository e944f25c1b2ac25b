"""Rows of multiple choice: a question, its choices, and which of them is right.

{"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}
{"question": "2 + 2?", "choices": {"text": ["3", "4"], "label": ["A", "B"]}, "answerKey": "B"}
{"ctx": "The cat", "endings": ["sits.", "codes."], "label": "0"}
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sft.evaluation import questions
from sft.evaluation.questions import bad, column
from sft.rendering.conversations import Messages

CHOICES = ("choices", "options", "endings")
ANSWERS = ("answer", "answerKey", "label")


@dataclass(frozen=True)
class Question:
    """A question of several choices."""

    asked: Messages
    choices: list[str]
    right: int
    """The place of the right choice, from 0."""
    where: str
    """Its place in the file, for messages."""

    def is_right(self, place: int) -> bool:
        """Whether the choice at `place` says what the right one says: some sets hold one twice."""
        return self.choices[place].strip() == self.choices[self.right].strip()


def question(row: Mapping[str, Any], where: str) -> Question:
    """A row as a question. Raises `BadInput` that names its place."""
    asked = questions.conversation(row, where)
    choices, labels = _choices(column(row, CHOICES, where), where)
    right = _right(column(row, ANSWERS, where), choices, labels, where)
    return Question(asked, choices, right, where)


def _choices(given: Any, where: str) -> tuple[list[str], list[str] | None]:
    """The choices and, if the row has them, their labels."""
    labels = None
    if isinstance(given, Mapping):
        texts, labels = given.get("text"), given.get("label")
        if not isinstance(texts, list) or not isinstance(labels, list):
            raise bad(where, "the choices are an object without the lists 'text' and 'label'")
        if len(texts) != len(labels):
            raise bad(where, f"{len(texts)} choices have {len(labels)} labels")
        given, labels = texts, [str(label) for label in labels]
    if not isinstance(given, list) or len(given) < 2:
        raise bad(where, f"the choices are {given!r}; expected a list of two or more")
    for number, choice in enumerate(given):
        if not isinstance(choice, str) or not choice.strip():
            raise bad(where, f"choice {number} is {choice!r}; expected text")
    if len({choice.strip() for choice in given}) == 1:
        raise bad(where, f"all choices are {given[0]!r}; expected two that differ")
    return given, labels


def _right(answer: Any, choices: list[str], labels: list[str] | None, where: str) -> int:
    """Which choice `answer` means: by its label, its place from 0, its letter or its text."""
    if isinstance(answer, int) and not isinstance(answer, bool) and labels is None:
        if not 0 <= answer < len(choices):
            last = len(choices) - 1
            raise bad(where, f"the answer is {answer}; expected a choice's place, from 0 to {last}")
        return answer
    said = str(answer).strip()
    if labels is not None and said in labels:
        return labels.index(said)
    meant = {place for place, choice in enumerate(choices) if choice.strip() == said}
    if labels is None:
        letters = string.ascii_uppercase[: len(choices)]
        meant |= {letters.index(letter) for letter in letters if letter == said.upper()}
        meant |= {place for place in range(len(choices)) if str(place) == said}
    if len({choices[place].strip() for place in meant}) == 1:
        return min(meant)
    if meant:
        places = " or ".join(map(str, sorted(meant)))
        raise bad(
            where, f"the answer {answer!r} may mean choice {places}; write its place as a number"
        )
    known = f"one of the labels {', '.join(labels)}" if labels else "its place, letter or text"
    raise bad(where, f"the answer {answer!r} is none of the choices; expected {known}")

"""Errors that the user can mend."""

import difflib
from collections.abc import Iterable

from sft.secrets import mask_urls


class Sentence(Exception):
    """An error whose message is a sentence for people: it is shown without its class."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows, which asks for it by this name: no lines of the harness's own."""
        return [f"{type(self).__name__}: {self}"]


class BadInput(Sentence):
    """Something the user gave cannot be used: the command ends with exit code 2 and this sentence.

    The message names the key, file or line, says what was expected and what to do. It is raised
    before anything is created or billed. Passwords of URLs in it are masked.
    """

    def __init__(self, message: str):
        super().__init__(mask_urls(message))


def nearest(name: str, valid: list[str], cutoff: float = 0.5) -> str:
    """`"; did you mean 'lr'?"` if one of `valid` is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=cutoff)
    return f"; did you mean '{close[0]}'?" if close else ""


def not_one_of(key: str, value: object, valid: Iterable[object], cutoff: float = 0.5) -> BadInput:
    """That `value` is none of the `valid` ones of `key`, as an error to raise.

    >>> str(not_one_of("reduction", "meen", ["mean", "none"]))
    "reduction: 'meen' is not one of mean, none; did you mean 'mean'?"
    """
    known = [str(name) for name in valid]
    close = nearest(str(value), known, cutoff)
    return BadInput(f"{key}: '{value}' is not one of {', '.join(known)}{close}")

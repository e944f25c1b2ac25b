"""Ways to compare an answer with its reference, by name: exact, normalised, regex, number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal

Matches = Callable[[str], bool]
"""Whether an answer is right."""

NUMBER = re.compile(
    r"(?:(?<!\w)[-+])?"  # in 10-12 it is no sign
    r"(?:(?:(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3}(?!\d))?"
)
CURRENCY = re.compile(r"[$€£¥₹]\s?")


def exact(reference: str) -> Matches:
    """The same text but for the white space around it.

    >>> exact("Yes.")(" Yes."), exact("Yes.")("yes.")
    (True, False)
    """
    return lambda answer: answer.strip() == reference.strip()


def normalised(reference: str) -> Matches:
    """The same words: case, punctuation and white space do not count.

    Punctuation before a digit does: -5 is not 5, and 3.14 is not 314.

    >>> normalised("New York")("new  york."), normalised("5")("-5")
    (True, False)
    """
    expected = words(reference)
    if not expected:
        raise ValueError("holds no word that could be compared")
    return lambda answer: words(answer) == expected


def regex(reference: str) -> Matches:
    """The reference is a regular expression that fits somewhere in the answer.

    >>> regex("(?i)^yes")("Yes, it is."), regex("^yes$")("Yes, it is.")
    (True, False)
    """
    try:
        pattern = re.compile(reference)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return lambda answer: pattern.search(answer) is not None


def number(reference: str) -> Matches:
    """The last number of the answer is that of the reference: behind `####` if it has that
    (GSM8K), else its last.

    >>> number("She has 2 + 3 = 5. #### 5")("2 + 3, which makes $5.00.")
    True
    """
    expected = last_number(reference.rpartition("####")[2])
    if expected is None:
        raise ValueError("holds no number")
    return lambda answer: last_number(answer) == expected


HOW: dict[str, Callable[[str], Matches]] = {
    "exact": exact,
    "normalised": normalised,
    "regex": regex,
    "number": number,
}
"""By name. Each makes of a reference what compares answers with it, and raises `ValueError` if
nothing could ever match."""


def words(text: str) -> str:
    """`text` in one case and form, without punctuation and currencies and with single spaces.

    Marks of letters stay, and signs that tell words apart.

    >>> words("C++ isn't C#!"), words("It's -1.5 km.")
    ('c++ isnt c#', 'its -1.5 km')
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = [
        sign
        for sign, after in zip(text, f"{text[1:]} ", strict=False)
        if not _is_punctuation(sign) or (sign in "-+.,/:" and after.isdigit())
    ]
    return " ".join("".join(kept).split())


def _is_punctuation(sign: str) -> bool:
    category = unicodedata.category(sign)
    return (category[0] == "P" and sign not in "#%&@*") or category == "Sc"


def last_number(text: str) -> Decimal | None:
    """The last number of `text`, with a currency sign, commas between thousands, or neither.

    >>> last_number("From -$1,234.50 to 7%"), last_number("Between 10-12."), last_number("no")
    (Decimal('7'), Decimal('12'), None)
    """
    text = CURRENCY.sub("", text.replace("−", "-"))
    found = NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None

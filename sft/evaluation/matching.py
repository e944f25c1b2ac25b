"""Ways to compare an answer with its reference, by name: exact, normalised, regex, number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

Matches = Callable[[str], bool]
"""Whether an answer is right."""

DASH = re.compile("[\u2010-\u2013\u2212]")
"""Hyphens, the dash of ranges and the minus sign, all of which may stand before a number."""
CURRENCY = re.compile(r"[$€£¥₹]\s?")
SPACE = " \u00a0\u2009\u202f"
"""What may stand between thousands."""
NUMBER = re.compile(
    r"(?P<sign>(?<!\w)[-+])?"  # in 10-12 it is no sign
    rf"(?P<whole>\d+[{SPACE}](?=\d+/\d))?"  # the 2 of 2 1/2
    rf"(?P<digits>(?<![\d.,])(?<!\d[{SPACE}])[1-9]\d{{0,2}}(?:[{SPACE}]\d{{3}})+(?!\d)"
    r"(?:[.,]\d+)?"
    r"|\d+(?:[.,]\d+)*|\.\d+)"
    r"(?P<exponent>[eE][-+]?\d{1,3}(?!\d))?"
    r"(?P<below>(?:/\d+)+)?"
)
"""A number in any of its writings; `digits` may hold marks, which `_value` makes sense of."""
TEX_COMMA = re.compile(r"\{,\}|\\,")
FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")


def _numeral(thousands: str, point: str) -> re.Pattern[str]:
    """Digits with such marks: 1,234,567.8 and, as in India, 12,34,567.8."""
    in_threes = rf"[1-9]\d{{0,2}}(?:{thousands}\d{{3}})+"
    in_twos = rf"[1-9]\d?(?:{thousands}\d\d)+{thousands}\d{{3}}"
    return re.compile(rf"(?P<whole>\d*|{in_threes}|{in_twos})(?:{point}(?P<decimals>\d+))?")


ENGLISH, CONTINENTAL = _numeral(",", r"\."), _numeral(r"\.", ",")
REMARK = re.compile(r"(?<=[\d%])\s+\([^()]*\)")
"""In brackets behind a number, as in `42 (100%)`."""


def exact(reference: str) -> Matches:
    """The same text but for the white space around it.

    >>> exact("Yes.")(" Yes."), exact("Yes.")("yes.")
    (True, False)
    """
    return lambda answer: answer.strip() == reference.strip()


def normalised(reference: str) -> Matches:
    """The same words: case, punctuation and white space do not count.

    In numbers they do: -5 is not 5, 3.14 is not 314, and 3 4 is not 34.

    >>> normalised("New York")("new-york."), normalised("red, blue")("Red,blue")
    (True, True)
    >>> normalised("5")("-5"), normalised("−5")("-5")
    (False, True)
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
    (GSM8K), else its only one.

    >>> number("She has 2 + 3 = 5. #### 5")("2 + 3, which makes $5.00.")
    True
    """
    _, mark, last = reference.rpartition("####")
    found = numbers(last)
    if not found:
        raise ValueError("holds no number")
    if None in found:
        raise ValueError("holds a number that may be read in two ways; write it as 1234.5")
    if len(set(found)) > 1 and not mark:
        raise ValueError("holds several numbers; write the right one alone, or behind ####")
    return lambda answer: (numbers(answer) or [None])[-1] == found[-1]


HOW: dict[str, Callable[[str], Matches]] = {
    "exact": exact,
    "normalised": normalised,
    "regex": regex,
    "number": number,
}
"""By name. Each makes of a reference what compares answers with it, and raises `ValueError` if
nothing could ever match."""


def words(text: str) -> str:
    """`text` in one case and form, without punctuation, currencies and white space.

    Marks of letters stay, signs that tell words apart, and whatever is part of a number: between
    two digits there stays at least a space.

    >>> words("C++ isn't C#!"), words("It's -1.5 km, 3 (4)."), words("Covid-19")
    ('c++isntc#', 'its-1.5km3 4', 'covid19')
    """
    text = DASH.sub("-", unicodedata.normalize("NFKC", text).casefold())
    text = CURRENCY.sub("", text)
    kept = [
        " " if _is_punctuation(sign) and not (sign in "-+.,/:" and of_number) else sign
        for before, sign, after in zip(f" {text}", text, f"{text[1:]} ", strict=False)
        for of_number in [after.isdigit() and not before.isalpha()]
    ]
    return re.sub(r"(?<!\d) | (?!\d)", "", " ".join("".join(kept).split()))


def _is_punctuation(sign: str) -> bool:
    category = unicodedata.category(sign)
    return (category[0] == "P" and sign not in "#%&@*") or category == "Sc" or sign == "`"


def numbers(text: str) -> list[Fraction | None]:
    """The numbers of `text`, with a currency sign, with commas, points or spaces between thousands,
    with a decimal comma, as fractions. None stands for one that cannot be read for sure.

    >>> [str(one) for one in numbers("From -$1,234.50 to 7%, between 10-12, or 1/2 (50%).")]
    ['-2469/2', '7', '10', '12', '1/2']
    >>> numbers("1.2.3"), numbers("none")
    ([None], [])
    """
    text = TEX_COMMA.sub(",", CURRENCY.sub("", DASH.sub("-", text)))
    text = FRACTION.sub(r"\1/\2", text)
    return [_value(found) for found in NUMBER.finditer(REMARK.sub("", text))]


def _value(found: re.Match[str]) -> Fraction | None:
    # By way of Decimal, which takes any number of digits; int does not.
    digits = re.sub(f"[{SPACE}]", "", found["digits"])
    read = ENGLISH.fullmatch(digits) or CONTINENTAL.fullmatch(digits)
    below = [Decimal(part) for part in (found["below"] or "/1")[1:].split("/")]
    if read is None or len(below) > 1 or not below[0]:  # a date, a version, a list
        return None
    whole = re.sub("[.,]", "", read["whole"])
    exact = Decimal(f"{whole or 0}.{read['decimals'] or 0}{found['exponent'] or ''}")
    value = Fraction(Decimal(found["whole"] or 0)) + Fraction(exact) / Fraction(below[0])
    return -value if found["sign"] == "-" else value

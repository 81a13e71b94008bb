"""How a recogniser is written: a pattern that takes linear time, and what must stand in a text for it to match at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from med42.recipe.schema import PhiCategory

# One character for one character, so that places in the plain text are places in the text.
_PLAIN = {ord(odd): plain for plain, odds in (
    (" ", "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"), ("-", "\u2010\u2011\u2012\u2013\u2014\u2212\u00ad"), ("'", "\u2018\u2019\u02bc"),
    (".", "\u00b7\u2024\u2027"), ("@", "\uff20\ufe6b"), (":", "\uff1a"), ("/", "\u2215\uff0f"),
) for odd in odds}

_LETTERS = bytes(code if chr(code) in "abcdefghijklmnopqrstuvwxyz" else 32 for code in range(256))


class Text:
    """A text as recognisers see it: with plain spaces, hyphens and quotes, and once more in lower case; all of one length."""

    def __init__(self, text: str) -> None:
        self.plain = text if text.isascii() else text.translate(_PLAIN)
        lower = self.plain.lower()
        if len(lower) != len(text):  # the dotted capital I of Turkish becomes two characters
            lower = "".join(small if len(small := letter.lower()) == 1 else letter for letter in self.plain)
        self.lower = lower

    @cached_property
    def words(self) -> set[bytes]:
        """Its runs of the letters a to z; found in a tenth of the time that one pattern takes."""
        return set(self.lower.encode("ascii", "replace").translate(_LETTERS).split())


Check = Callable[[Text, int, int], bool]


@dataclass(frozen=True)
class Recogniser:
    """Finds one form of identifier.

    Attributes:
        name: what it looks for, in words.
        category: the Safe Harbor category.
        score: how certain a match is, 0 to 1: 0.9 a form that is nothing else, 0.7 a form with little else, 0.5 a guess.
        pattern: on the lower-cased text, unless `cased`. The group `it` is the identifier; without one, the whole match.
            Every repeat is bounded, or possessive behind a look-behind that lets it start at the start of a word only:
            a text of n characters takes O(n) steps.
        gate: a simpler pattern of the lower-cased text that matches wherever this one does; many recognisers share one.
        needs: words (a to z) and signs (anything else) of the lower-cased text; one of them stands wherever the pattern matches,
            a word with no letter before or after it. Empty: nothing is known.
        check: has the last word on a match.
        then: with it, the pattern only leads to the identifier, which this matches right after it, in the cased text.
    """

    name: str
    category: PhiCategory
    score: float
    pattern: re.Pattern[str]
    gate: re.Pattern[str] | None = None
    needs: tuple[str, ...] = ()
    cased: bool = False
    check: Check | None = None
    then: re.Pattern[str] | None = None

    def find(self, text: Text) -> Iterator[tuple[int, int]]:
        """Start and end of every identifier."""
        for match in self.pattern.finditer(text.plain if self.cased else text.lower):
            found = match if self.then is None else self.then.match(text.plain, match.end())
            if found is None:
                continue
            start, end = found.span("it" if "it" in found.re.groupindex else 0)
            if self.check is None or self.check(text, start, end):
                yield start, end


@dataclass(frozen=True)
class Group:
    """Recognisers with the same conditions, which are tried once a text."""

    gate: re.Pattern[str] | None
    words: frozenset[bytes]
    signs: tuple[str, ...]
    recognisers: tuple[Recogniser, ...]


def grouped(recognisers: Iterable[Recogniser]) -> list[Group]:
    """The recognisers by their conditions."""
    groups: dict[tuple[re.Pattern[str] | None, tuple[str, ...]], list[Recogniser]] = {}
    for recogniser in recognisers:
        groups.setdefault((recogniser.gate, recogniser.needs), []).append(recogniser)
    return [
        Group(gate, frozenset(need.encode() for need in needs if _is_word(need)), tuple(need for need in needs if not _is_word(need)),
              tuple(members))
        for (gate, needs), members in groups.items()
    ]


def _is_word(need: str) -> bool:
    return need.isascii() and need.isalpha()


def possible(groups: Iterable[Group], text: Text) -> Iterator[Recogniser]:
    """The recognisers that can find something in a text, told by cheap conditions that never change what is found.

    Of the hundred or so, a text of a kilobyte leaves ten to twenty to be tried.
    """
    lower, words, opened = text.lower, text.words, dict[re.Pattern[str] | None, bool]({None: True})
    for group in groups:
        if not opened.get(group.gate, True):
            continue
        if (group.words or group.signs) and group.words.isdisjoint(words) and not any(sign in lower for sign in group.signs):
            continue
        if group.gate is not None and group.gate not in opened:
            opened[group.gate] = group.gate.search(lower) is not None
        if opened[group.gate]:
            yield from group.recognisers


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def digits(least: int, most: int = 40) -> Check:
    """Between so many digits stand in the identifier."""
    return lambda text, start, end: least <= sum(letter.isdigit() for letter in text.lower[start:end]) <= most


def both(one: Check, other: Check) -> Check:
    """Both checks agree."""
    return lambda text, start, end: one(text, start, end) and other(text, start, end)


def luhn(number: str) -> bool:
    """The check digit of payment cards, IMEI and, with the prefix 80840, of NPI (ISO/IEC 7812-1 annex B)."""
    total = 0
    for place, digit in enumerate(reversed([int(letter) for letter in number if letter.isdecimal()])):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def iban(number: str) -> bool:
    """The check digits of an IBAN (ISO 13616): letters count from 10, the whole is 1 modulo 97."""
    compact = re.sub(r"[\s-]", "", number).upper()
    if not (15 <= len(compact) <= 34 and compact.isascii() and compact.isalnum()):
        return False
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


def vin(number: str) -> bool:
    """The check digit of a vehicle identification number (49 CFR 565.15): transliterated, weighted, modulo 11."""
    values = dict(zip("0123456789abcdefghjklmnprstuvwxyz", [*range(10), *range(1, 9), *range(1, 6), 7, 9, *range(2, 10)], strict=True))
    if len(number) != 17 or not set(number) <= values.keys():
        return False
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    return "0123456789x"[sum(weight * values[letter] for weight, letter in zip(weights, number, strict=True)) % 11] == number[8]

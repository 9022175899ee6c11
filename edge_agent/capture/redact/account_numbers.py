"""Numbers of payment cards and bank accounts.

They are found between other numbers, over line ends and with any usual separator, spaced out digit by digit, and with
letters that look like digits, as check digits tell them apart. Behind a word such as "card" or "IBAN" the length is
enough, so that a mistyped number is found, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.capture.redact.check_digits import IBAN_CHARACTERS, card, iban
from edge_agent.capture.redact.rule_types import Span, bare

_BLANKS = (
    "\n\r\t\v\f\u00a0\u00ad\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d"
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
_FLAT = str.maketrans(
    dict.fromkeys(_BLANKS, " ") | dict.fromkeys(_DASHES, "-") | {"_": "-", "\u00b7": ".", "\u2024": "."}
)
_LOOK_ALIKES = {
    "0": "OoQ\u039f\u03bf\u041e\u043e",
    "1": "Il|\u0406\u0456\u0399",
    "2": "Zz",
    "5": "Ss\u0405\u0455",
    "6": "b",
    "8": "B\u0392\u0412",
}
_DIGIT_OF = {letter: digit for digit, letters in _LOOK_ALIKES.items() for letter in letters}
_READ = str.maketrans(_DIGIT_OF)
_DIGIT = "[0-9" + "".join(map(re.escape, _DIGIT_OF)) + "]"
_DIGITS_MIN = 8
"""Of a number with look-alikes, so many are digits at the least."""


def flat(text: str) -> str:
    """Return the text with a blank for each line end, tab or zero-width character, and a hyphen for each dash.

    It has the length of the text, so a position in it is one in the text.
    """
    return text.translate(_FLAT)


_CARD_GROUPS_MAX = 6
_DIGIT_RUN = re.compile(r"\d(?<![\w.,]\d)(?:[ .\-/]{0,3}\d){11,40}(?!\w)")
_DISGUISED_RUN = re.compile(rf"{_DIGIT}(?<![\w.,].)(?:[ .\-/]{{0,3}}{_DIGIT}){{11,40}}(?!\w)")
_DISGUISED_GROUP = re.compile(rf"{_DIGIT}+")
_SEPARATORS = str.maketrans("", "", " .-/")
_CARD_WORD = re.compile(
    r"(?i)\b(?:card|credit|debit|visa|master ?card|amex|american express|maestro|diners|jcb|discover|cc|karte"
    r"|kreditkarte|ec-karte|carte|cb|tarjeta|carta|cart[ãa]o|karta|karty|kort|kortet|kreditkort|creditcard|pinpas"
    r"|bankpas)"
    r"\b[^\d]{0,30}\Z"
)
_WORD_REACH = 45


def find_cards(text: str) -> Iterator[Span]:
    """Find card numbers also between other numbers: each window of whole groups is tried, the longest first."""
    flattened = flat(text)
    for run in _DIGIT_RUN.finditer(flattened):
        groups = [(run.start() + group.start(), run.start() + group.end()) for group in re.finditer(r"\d+", run[0])]
        found = list(_cards(flattened, groups))
        yield from found or _announced_card(flattened, groups) or _spaced_card(run)
    for run in _DISGUISED_RUN.finditer(flattened):
        # A group of letters alone is a word; with letters read as digits only the numbers of whole groups count.
        groups = [group.span() for group in _DISGUISED_GROUP.finditer(run[0]) if any(map(str.isdigit, group[0]))]
        if not run[0].translate(_SEPARATORS).isdigit() and sum(map(str.isdigit, run[0])) >= _DIGITS_MIN:
            read = run[0].translate(_READ)
            yield from ((run.start() + start, run.start() + end) for start, end in _cards(read, groups))


def _cards(text: str, groups: list[Span]) -> Iterator[Span]:
    while groups:
        start = groups[0][0]
        ends = [end for _, end in reversed(groups[:_CARD_GROUPS_MAX]) if _is_card(text[start:end])]
        yield from [(start, end) for end in ends[:1]]
        groups = groups[1 + [end for _, end in groups].index(ends[0]) :] if ends else groups[1:]


def _is_card(written: str) -> bool:
    digits = bare(written)
    # Cards are written in groups of four and more; this also spares most windows the arithmetic.
    return written[:4].isdigit() and 12 <= len(digits) <= 19 and card(digits)


def _announced_card(text: str, groups: list[Span]) -> list[Span]:
    """Return the first 12 to 19 digits in whole groups behind a word for a card, whatever their check digit."""
    start = groups[0][0]
    if not _CARD_WORD.search(text, max(0, start - _WORD_REACH), start):
        return []
    ends = [end for _, end in groups if 12 <= len(bare(text[start:end])) <= 19]
    return [(start, ends[-1])] if ends else []


def _spaced_card(run: re.Match[str]) -> list[Span]:
    """Return the whole run if it is a card whose digits are grouped in an unusual way."""
    digits = bare(run[0])
    return [run.span()] if 14 <= len(digits) <= 19 and card(digits) else []


# Looks ahead only, so that the next one is found even where it follows at once.
_IBAN = re.compile(
    r"(?<![0-9A-Za-z])(?=([A-Za-z]{2}[ -]?[\dOoIl][ -]?[\dOoIl](?:[ .\-]{0,3}[0-9A-Za-z]){11,30}))", re.ASCII
)
_IBAN_CHARACTER = re.compile(r"[0-9A-Za-z]")
_IBAN_WORD = re.compile(
    r"(?i)\biban\b[^\w]{0,4}(?:(?:number|code|is|ist|no|nr|est|es|lautet|meine|my|to|an|auf|de)\b[^\w]{1,4}){0,4}\Z"
)


def find_ibans(text: str) -> Iterator[Span]:
    """Find IBANs of the length of their country, in groups or in one piece."""
    flattened = flat(text)
    for match in _IBAN.finditer(flattened):
        announced = bool(_IBAN_WORD.search(flattened, max(0, match.start() - _WORD_REACH), match.start()))
        end = match.start() + _iban_length(match[1], announced=announced)
        if end > match.start() and not text[end : end + 1].isalnum():
            yield match.start(), end


def _iban_length(written: str, *, announced: bool) -> int:
    """Return how many characters from the start on are an IBAN, blanks included; 0 = none."""
    wanted = IBAN_CHARACTERS.get(written[:2].upper(), 99)
    ends = [match.end() for match in _IBAN_CHARACTER.finditer(written)][wanted - 1 : wanted]
    if not ends:
        return 0
    number = written[: ends[0]]
    read = number[:2] + number[2:].translate(_READ)
    return ends[0] if announced or iban(bare(number)) or iban(bare(read)) else 0

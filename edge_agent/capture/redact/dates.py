"""Dates as people write them, and those that are dates of birth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from edge_agent.capture.redact.rule_types import Span

_BIRTH_YEARS = range(1900, 2016)
_BIRTH_WORD = re.compile(
    r"\b(?:born|birth|birthday|birthdate|b-?day|d\.?o\.?b|geb|geboren|geboren[er]|geburtstag|geburtsdatum"
    r"|naissance|née?|nacid[oa]|nacimiento|nat[oa]"
    r"|nascita|geboortedatum|geboren op|born on|född|födelsedatum|født|fødselsdato|fødselsdag|syntynyt|syntymäaika"
    r"|nascid[oa]|nascimento|urodz\w{0,5}|ur|data urodzenia|szül\w{0,8})",
    re.IGNORECASE,
)
_MONTHS = (
    r"jan(?:uary|uari|uar|vier|eiro)?|feb(?:ruary|ruari|ruar|braio|rero)?|fev(?:ereiro)?|févr(?:ier)?|mar(?:ch|s"
    r"|zo|ço)?|märz|maart|mrt|apr(?:il|ile)?|avr(?:il)?|abr(?:il)?"
    r"|mayo?|mai|maj|mei|maggio|maio|gennaio|giugno|luglio|enero|junio|julio|junho|julho"
    r"|june?|juni|juin|july?|juli|juillet|aug(?:ust|usti|ustus)?|août|agosto|ago|sept?(?:ember|embre|iembre)?"
    r"|set(?:tembre|embro)?|oct(?:ober|obre|ubre)?|okt(?:ober)?|ott(?:obre)?|out(?:ubro)?"
    r"|nov(?:ember|embre|iembre|embro)?|dec(?:ember)?|dez(?:ember|embro)?|déc(?:embre)?|dic(?:iembre|embre)?"
    r"|stycznia|lutego|marca|kwietnia|maja|czerwca|lipca|sierpnia|września|października|listopada|grudnia"
)
DATES = (
    re.compile(r"(?P<y>\d{4})(?<!\d{5})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)"),
    re.compile(r"(?P<d>\d(?<![\d.]\d)\d?)[-/.] ?(?P<m>\d{1,2})[-/.] ?(?P<y>\d{4}|\d{2})(?![\d.]\d)(?!\d)"),
    re.compile(
        rf"(?i)(?P<d>\d(?<!\w\d)\d?)(?:st|nd|rd|th|\.|er|º)? (?:of |de )?(?:{_MONTHS})\.?,? (?:de )?(?P<y>\d{{4}})\b"
    ),
)
_YEAR = re.compile(r"(?:19|20)\d\d\b")
_MONTH_AND_DAY = re.compile(rf"(?i)\b(?:{_MONTHS})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? \Z")
_IN_ONE_PIECE = re.compile(r"(?<![\w.,/-])(?P<d>\d{2})(?P<m>\d{2})(?P<y>(?:19|20)?\d{2})(?![\w/-])")
_MONTH_REACH, _WORD_REACH = 20, 40


def find_birth_dates(text: str) -> Iterator[Span]:
    """Find dates that a word announces as one of birth, and whole dates of years in which adults were born."""
    for pattern in DATES:
        yield from (found.span() for found in pattern.finditer(text) if _is_date(found) and _is_birth(text, found))
    for year in _YEAR.finditer(text):
        before = _MONTH_AND_DAY.search(text, max(0, year.start() - _MONTH_REACH), year.start())
        if before and _is_birth(text, before, int(year[0])):
            yield before.start(), year.end()
    for found in _IN_ONE_PIECE.finditer(text):
        if _is_date(found) and _is_announced(text, found):
            yield found.span()


def is_written_date(written: str) -> bool:
    """Return whether a text is a date and nothing else, by its form."""
    return any(pattern.fullmatch(written) for pattern in DATES)


def _is_birth(text: str, found: re.Match[str], year: int = 0) -> bool:
    return _is_announced(text, found) or (year or int(found["y"])) in _BIRTH_YEARS


def _is_announced(text: str, found: re.Match[str]) -> bool:
    return _BIRTH_WORD.search(text, max(0, found.start() - _WORD_REACH), found.start()) is not None


def _is_date(found: re.Match[str]) -> bool:
    parts = found.groupdict(default="1")
    year, month, day = int(parts["y"]) % 10_000 or 2000, int(parts.get("m", "1")), int(parts["d"])
    # American dates have the month first.
    return is_date(year, month, day) or is_date(year, day, month)


def is_date(year: int, month: int, day: int) -> bool:
    """Tell whether that day exists."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True

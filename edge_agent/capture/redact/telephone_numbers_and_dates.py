"""Telephone numbers and dates, which must be told apart."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from edge_agent.capture.redact import Finder, Span
from edge_agent.capture.redact.indexed_text import stands_before

_BIRTH_YEARS = range(1900, 2016)
_BIRTH_WORD = re.compile(
    r"\b(?:born|birth|birthday|birthdate|b-?day|d\.?o\.?b|geb|geboren|geboren[er]|geburtstag|geburtsdatum"
    r"|naissance|née?|nacid[oa]|nacimiento|nat[oa]"
    r"|nascita|geboortedatum|geboren op|born on|född|födelsedatum|født|fødselsdato|fødselsdag|syntynyt|syntymäaika"
    r"|nascid[oa]|nascimento|urodz\w{0,5}|ur|data urodzenia|szül\w{0,8})"
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
_DATE_DIGITS_MAX = 8
_YEAR = re.compile(r"(?:19|20)\d\d\b")
_MONTH_AND_DAY = re.compile(rf"(?i)\b(?:{_MONTHS})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? \Z")
_IN_ONE_PIECE = re.compile(r"(?P<d>\d(?<![\w.,/-]\d)\d)(?P<m>\d{2})(?P<y>(?:19|20)?\d{2})(?![\w/-])")
_MONTH_REACH, _WORD_REACH = 20, 40


def find_birth_dates(text: str) -> Iterator[Span]:
    """Find dates announced as a date of birth, and full dates in years in which adults were born."""
    for pattern in DATES:
        yield from (match.span() for match in pattern.finditer(text) if _is_date(match) and _is_birth(text, match))
    for year in _YEAR.finditer(text):
        month_and_day = _MONTH_AND_DAY.search(text, max(0, year.start() - _MONTH_REACH), year.start())
        if month_and_day and _is_birth(text, month_and_day, int(year[0])):
            yield month_and_day.start(), year.end()
    for match in _IN_ONE_PIECE.finditer(text):
        if _is_date(match) and _is_announced(text, match):
            yield match.span()


def is_written_date(text: str) -> bool:
    """Return whether a whole text has the form of a date."""
    return any(pattern.fullmatch(text) for pattern in DATES)


def _is_birth(text: str, match: re.Match[str], year: int = 0) -> bool:
    return _is_announced(text, match) or (year or int(match["y"])) in _BIRTH_YEARS


def _is_announced(text: str, match: re.Match[str]) -> bool:
    return stands_before(_BIRTH_WORD, text, match.start(), _WORD_REACH)


def _is_date(match: re.Match[str]) -> bool:
    parts = match.groupdict(default="1")
    year, month, day = int(parts["y"]) % 10_000 or 2000, int(parts.get("m", "1")), int(parts["d"])
    # American dates have the month first.
    return is_date(year, month, day) or is_date(year, day, month)


def is_date(year: int, month: int, day: int) -> bool:
    """Return whether that day exists."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


_PHONES = (
    # With the country code.
    re.compile(r"(?P<v>[+0](?<![\w+.,-].)0?(?:(?<=\+)|(?<=00))[1-9]\d{0,2}(?:[ .\-/()]{0,3}\d){6,12})(?![\w])"),
    # National, with the leading zero and the usual spaces, or in one piece of 10 or 11 digits.
    re.compile(r"(?P<v>[(0](?<![\w+.,-].)0?(?<=0)\d{1,5}\)?[ .\-/]{1,3}\d{2,8}(?:[ .\-/]\d{2,6}){0,4})(?![\w])"),
    re.compile(r"(?P<v>0(?<![\w+.,-]0)[1-9]\d{8,9})(?![\w])"),
    # North America.
    re.compile(r"(?<![\w+.,-])(?P<v>(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w])"),
    # An area code in parentheses; groups of three; of two, as in France and the north; of two or three, four and four.
    re.compile(
        r"(?<![\w+.,/-])(?P<v>\(\d{2,5}\) ?\d{2,5}(?:[ -]?\d{2,5}){1,3}|\d{3}([ -])\d{3}\2\d{3}"
        r"|\d{2}(?: \d{2}){3,4}|\d{3} \d{2} \d{2} \d{2}"
        r"|\d{2} \d{3} \d{2} \d{2}|\d{2,3}[ -]\d{4}[ -]\d{4}|\d{2} \d{4,5}-\d{4})(?![\w]|[ ./-]\d)"
    ),
)
# All of these have at least six digits, with these characters between them.
_DIGITS = re.compile(r"\d(?:[ .\-/()]{0,4}\d){5,}")
# Shorter numbers, after a word that announces one.
_SHORT_PHONE = re.compile(r"\+?\d(?<!\w\d)(?:[ .\-/()]{0,2}\d){5,13}(?!\w)")
_PHONE_WORD = re.compile(
    r"\b(?:tel|telefon|telephone|téléphone|phone|call|ring|mobile|mobil|cell|handy|fax|whatsapp|sms"
    r"|telef[oó]no|tel[ée]fono|telefone|telefoon|telefoonnummer|telefonnummer|telefonnr|rufnummer|handynummer"
    r"|m[oó]vil|cellulare|celular|telem[oó]vel"
    r"|portable|komórka|numer|mobilnummer|tlf|puh|puhelin|gsm|nummer|durchwahl|text|reach|contact|dial|llamar"
    r"|llame|llama|bel|ring[ae]?|zadzwo[ńn])\b[^\w+\n]{0,3}"
    r"(?:(?:number|nummer|num[ée]ro|número|no|nr|is|ist|est|es|è|me|us|him|her|them|back|on|at|unter|le|au|al|a|do"
    r"|på|op|pod|mij|mich|mig|sul|w|w[ae])\b[^\w+\n]{1,3}){0,4}\Z"
)
_PHONE_WORD_REACH = 40
_X_OF_EXTENSION = re.compile(r"[xX](?<=\d[xX])(?=\d{1,6}(?!\w))")
_EXTENSION = re.compile(r" ?(?:x|ext\.?|extension|durchwahl|poste|app\.)[ .:]{0,2}\d{1,6}(?!\w)", re.IGNORECASE)


def find_phones(text: str) -> Iterator[Span]:
    """Find telephone numbers of 6 to 15 digits (the maximum of ITU-T E.164) that are not dates, with extension."""
    for start, end in _find_without_extension(text):
        extension = _EXTENSION.match(text, end)
        yield start, extension.end() if extension else end


def _find_without_extension(text: str) -> Iterator[Span]:
    # An "x" directly after a digit begins an extension, so the number ends there.
    masked = _X_OF_EXTENSION.sub(" ", text) if "x" in text or "X" in text else text
    for run in _DIGITS.finditer(masked):
        # A sign or a parenthesis may come before, and the characters after it show whether the number ends.
        begin, end = max(0, run.start() - 3), run.end() + 3
        matches = (match for pattern in _PHONES for match in pattern.finditer(masked, begin, end))
        spans = {match.span("v") for match in matches if _is_phone(match["v"])}
        yield from sorted(spans)
        for match in _SHORT_PHONE.finditer(masked, begin, end):
            is_new = match.span() not in spans and _is_phone(match[0])
            if is_new and stands_before(_PHONE_WORD, text, match.start(), _PHONE_WORD_REACH):
                yield match.span()


def _is_phone(number: str) -> bool:
    digits = sum(map(str.isdigit, number))
    return 6 <= digits <= 15 and (digits > _DATE_DIGITS_MAX or not is_written_date(number))


_CANDIDATE = re.compile(r"[(+\d](?<![\w.,:/-].)(?:[ .\-/()]{0,2}\d){5,14}(?![\w]|[.,]\d)")


def regional_phones(regions: Sequence[str]) -> Finder:
    """Return a finder that also finds numbers without a prefix, by the numbering plans of the regions.

    Regions are codes of ISO 3166-1 such as "ES". A number in one piece counts only if it starts with the region's
    leading zero or follows a word, since article numbers are written in one piece, too.
    """

    def find(text: str) -> Iterator[Span]:
        yield from find_phones(text)
        for match in _CANDIDATE.finditer(text):
            digits = "".join(char for char in match[0] if char.isdecimal())
            is_grouped = not match[0].isdecimal() or match[0].startswith("0")
            if is_grouped and _is_phone(match[0]) and any(_is_in_plan(digits, region) for region in regions):
                yield match.span()

    return find


@functools.lru_cache(maxsize=4096)
def _is_in_plan(digits: str, region: str) -> bool:
    library = _phonenumbers()
    try:
        return bool(library.is_valid_number(library.parse(digits, region)))
    except library.NumberParseException:
        return False


@functools.cache
def _phonenumbers() -> Any:
    """Load phonenumbers: 5 MB, so only at a site that names its regions."""
    return importlib.import_module("phonenumbers")


def is_known_region(region: str) -> bool:
    """Return whether there is a numbering plan for a region code."""
    return region in _phonenumbers().SUPPORTED_REGIONS

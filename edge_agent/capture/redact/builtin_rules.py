"""The rules that are always there: what each finds, and the checks that keep it from finding too much.

A finder yields the places (start, end) of what it finds in a text, in Unicode code points. Rules run in the order of
the table, and what one found no later one finds again. Every pattern has a bounded reach, so that the time is linear in
the length of the text whatever it holds; tests/unit/capture/test_builtin_rules.py holds them to it. docs/redaction.md
has the recall and the false positives of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date

# Check digits of numbers that name people and accounts. Pure; each takes the bare number, without blanks.
# https://www.swift.com/standards/data-standards/iban: letters and digits in an IBAN, by country.
IBAN_CHARACTERS = {
    **{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28},
    **{"CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18},
    **{"FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22},
    **{"IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20},
    **{"LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15},
    **{"PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19},
    **{"SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20},
}
# The first four digits of a card's number, from and to, and how long such numbers are.
_ISSUERS = (
    (2221, 2720, (16,)),
    (3000, 3099, range(14, 20)),
    (3400, 3499, (15,)),
    (3528, 3589, range(16, 20)),
    (3600, 3699, range(14, 20)),
    (3700, 3799, (15,)),
    (3800, 3999, range(14, 20)),
    (4000, 4999, (16, 19)),
    (5000, 5099, range(16, 20)),
    (5100, 5599, (16,)),
    (5600, 6999, range(16, 20)),
)
_CF_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10,
    22, 25, 24, 23,
), strict=True))  # fmt: skip
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def card(digits: str) -> bool:
    """Tell whether a payment card has that number: an issuer's range of that length, and Luhn.

    Visa numbers of 13 digits are left out: none was issued for decades, and bar codes look like them.
    """
    first = int(digits[:4])
    return any(low <= first <= high and len(digits) in lengths for low, high, lengths in _ISSUERS) and luhn(digits)


def iban(number: str) -> bool:
    """ISO 13616, with ISO 7064 mod 97-10; upper case."""
    if IBAN_CHARACTERS.get(number[:2]) != len(number):
        return False
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


def us_ssn(digits: str) -> bool:
    """Social Security Number: it has no check digit, but areas, groups and serials that are never given."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def uk_nhs(digits: str) -> bool:
    """NHS number, modulo 11."""
    rest = 11 - _weighted(digits, range(10, 1, -1)) % 11
    return rest != 10 and rest % 11 == int(digits[9])


def de_tax_id(digits: str) -> bool:
    """Steuer-Identifikationsnummer: one of the first ten digits comes twice or thrice; ISO 7064 mod 11,10."""
    counts = sorted(Counter(digits[:10]).values(), reverse=True)
    one_repeats = counts[0] in (2, 3) and max(counts[1:]) == 1
    return digits[0] != "0" and one_repeats and _mod_11_10(digits[:10]) == int(digits[10])


def _mod_11_10(digits: str) -> int:
    product = 10
    for digit in digits:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10


def _weighted(digits: str, weights: Iterable[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def es_dni(number: str) -> bool:
    """DNI or NIE: eight digits (or X, Y, Z and seven) and a letter, modulo 23; upper case."""
    digits = number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return _DNI_LETTERS[int(digits) % 23] == number[-1]


def it_cf(code: str) -> bool:
    """Codice fiscale; upper case."""
    even = (int(char, 36) if char.isdigit() else int(char, 36) - 10 for char in code[1:15:2])
    return chr(65 + (sum(map(_CF_ODD.__getitem__, code[0:15:2])) + sum(even)) % 26) == code[15]


def fr_nir(number: str) -> bool:
    """Numéro de sécurité sociale: 13 characters and a key, modulo 97."""
    digits = number[:13].replace("2A", "19").replace("2B", "18")
    return digits.isdigit() and 97 - int(digits) % 97 == int(number[13:])


def pl_pesel(digits: str) -> bool:
    """PESEL: a date of birth, a serial and a check digit."""
    fits = 1 <= int(digits[2:4]) % 20 <= 12 and 1 <= int(digits[4:6]) <= 31
    return fits and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def se_personnummer(digits: str) -> bool:
    """Personnummer, ten digits: a date (day plus 60 for a samordningsnummer), a serial, Luhn."""
    return 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31 and luhn(digits)


def br_cpf(digits: str) -> bool:
    """Cadastro de Pessoas Físicas: two check digits, modulo 11."""
    first, second = _weighted(digits, range(10, 1, -1)), _weighted(digits, range(11, 1, -1))
    expected = f"{first * 10 % 11 % 10}{second * 10 % 11 % 10}"
    return digits[9:] == expected and len(set(digits)) > 1


def is_date(year: int, month: int, day: int) -> bool:
    """Tell whether that day exists."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


RULES_VERSION = "1"
Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

_REACH = 64
"""From what its gate finds, a match and the words that announce it lie at most so many characters away."""


@dataclass(frozen=True)
class RuleGate:
    """What a match of a rule needs at the least: cheap to look for, and missing in most texts."""

    pattern: re.Pattern[str]
    near: bool = True
    """Only the text around it has to be searched; otherwise all of it."""

    def windows(self, text: str) -> list[Span]:
        """Return the parts of a text that may hold a match, in order and apart from each other."""
        if not self.near:
            return [(0, len(text))] if self.pattern.search(text) else []
        found: list[Span] = []
        for match in self.pattern.finditer(text):
            start, end = max(0, match.start() - _REACH), match.end() + _REACH
            if found and start <= found[-1][1]:
                start, _ = found.pop()
            found.append((start, end))
        return found


_AT, _LINK = RuleGate(re.compile("@"), near=False), RuleGate(re.compile("://"), near=False)
# A tax code of Italy starts with letters, so its first digit stands behind one.
_MIXED = RuleGate(re.compile(r"\d(?<=[A-Za-z].)"))
_NUMBER = RuleGate(re.compile(r"\d(?:[ .\-/()]{0,4}\d){5,}"))
# Written to start with a digit: the engine skips to the next one much faster than it tries alternatives everywhere.
_DAY = RuleGate(re.compile(r"\d(?:(?:(?<=1)9|(?<=2)0)\d\d|[-/.] ?\d\d?[-/.])"))

GATES = (_AT, _LINK, _MIXED, _NUMBER, _DAY)

_BIRTH_YEARS = range(1900, 2016)
_BIRTH_WORD = re.compile(
    r"\b(?:born|birth|birthday|b-?day|d\.?o\.?b|geb|geboren|geburtstag|naissance|née?|nacid[oa]|nacimiento|nat[oa]"
    r"|nascita|geboortedatum|född|urodz)",
    re.IGNORECASE,
)
_MONTHS = (
    r"jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|févr(?:ier)?|mar(?:ch|s|zo)?|märz|apr(?:il)?|avr(?:il)?|abr(?:il)?|mayo?|mai|maggio|gennaio|giugno|luglio|enero|junio|julio"
    r"|june?|juni|juin|july?|juli|juillet|aug(?:ust)?|août|sept?(?:ember|embre)?|oct(?:ober|obre)?|okt(?:ober)?"
    r"|nov(?:ember|embre)?|dec(?:ember)?|dez(?:ember)?|déc(?:embre)?|dic(?:iembre)?"
)


@dataclass(frozen=True)
class RedactionRule:
    """One kind of personal data."""

    name: str
    placeholder: str
    """The word in its placeholders: CARD makes [CARD_1]."""
    find: Finder
    gate: RuleGate | None = None
    """A text in which it finds nothing cannot hold a match. Most texts are done with after the gates."""


def checked(pattern: str, check: Callable[[str], bool] = bool, *, flags: int = 0) -> Finder:
    """Make a finder of a pattern whose matches, without blanks and separators, pass a check.

    A group `v` is what is found; without it, the whole match is.
    """
    compiled = re.compile(pattern, flags)
    group: str | int = "v" if "v" in compiled.groupindex else 0

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if check(bare(match[group])):
                yield match.span(group)

    return find


def bare(number: str) -> str:
    """Drop what stands between the characters of a number; write it in upper case, digits of any script as 0 to 9."""
    if not number.isascii():
        number = "".join(str(int(char)) if char.isdecimal() else char for char in number)
    return re.sub(r"[^0-9A-Za-z]", "", number).upper()


_CARD_GROUPS_MAX = 6
_DIGIT_RUN = re.compile(r"\d(?<![\w.,]\d)(?:[ .-]?\d){12,40}(?!\w)")


def find_cards(text: str) -> Iterator[Span]:
    """Find card numbers also between other numbers: each window of whole groups is tried, the longest first."""
    for run in _DIGIT_RUN.finditer(text):
        yield from _cards(text, [(run.start() + m.start(), run.start() + m.end()) for m in re.finditer(r"\d+", run[0])])


def _cards(text: str, groups: list[Span]) -> Iterator[Span]:
    while groups:
        start = groups[0][0]
        ends = [end for _, end in reversed(groups[:_CARD_GROUPS_MAX]) if _is_card(text[start:end])]
        yield from [(start, end) for end in ends[:1]]
        groups = groups[1 + [end for _, end in groups].index(ends[0]) :] if ends else groups[1:]


def _is_card(written: str) -> bool:
    digits = bare(written)
    # Cards are written in groups of four and more; this also spares most windows the arithmetic.
    return written[:4].isdigit() and 14 <= len(digits) <= 19 and card(digits)


# Looks ahead only, so that the next one is found even where it follows at once.
_IBAN = re.compile(r"(?<![0-9A-Za-z])(?=([A-Za-z]{2}\d{2}(?:[ -]?[0-9A-Za-z]){11,30}))", re.ASCII)
_IBAN_CHARACTER = re.compile(r"[0-9A-Za-z]")


def find_ibans(text: str) -> Iterator[Span]:
    """Find IBANs of the length of their country, in groups or in one piece."""
    for match in _IBAN.finditer(text):
        end = match.start() + _iban_length(match[1])
        if end > match.start() and not text[end : end + 1].isalnum():
            yield match.start(), end


def _iban_length(written: str) -> int:
    """Return how many characters from the start on are an IBAN, blanks included; 0 = none."""
    wanted = IBAN_CHARACTERS.get(written[:2].upper(), 99)
    ends = [match.end() for match in _IBAN_CHARACTER.finditer(written)][wanted - 1 : wanted]
    return ends[0] if ends and iban(bare(written[: ends[0]])) else 0


_LOCAL = re.compile(r"[\w!#$%&*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")


def find_emails(text: str) -> Iterator[Span]:
    """Find addresses around each @ (RFC 5321: 64 characters before it at most)."""
    for at in _AT.pattern.finditer(text):
        domain = _DOMAIN.match(text, at.end())
        local = _LOCAL.search(text, max(0, at.start() - 64), at.start())
        if domain and local:
            yield local.start(), domain.end()


_PHONES = (
    # With the code of the country.
    re.compile(r"(?P<v>[+0](?<![\w+.,-].)0?(?:(?<=\+)|(?<=00))[1-9]\d{0,2}(?:[ .\-/()]{0,3}\d){6,12})(?![\w])"),
    # National, with its leading zero and the spaces that people write, or in one piece of 10 or 11 digits.
    re.compile(r"(?P<v>[(0](?<![\w+.,-].)0?(?<=0)\d{1,5}\)?[ .\-/]{1,3}\d{2,8}(?:[ .\-/]\d{2,6}){0,4})(?![\w])"),
    re.compile(r"(?P<v>0(?<![\w+.,-]0)[1-9]\d{8,9})(?![\w])"),
    # North America.
    re.compile(r"(?<![\w+.,-])(?P<v>(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w])"),
)
# Shorter numbers, where a word before them announces one.
_SHORT_PHONE = re.compile(r"\+?\d(?<!\w\d)(?:[ .\-/()]{0,2}\d){5,13}(?!\w)")
_PHONE_WORD = re.compile(
    r"\b(?:tel|telefon|telephone|téléphone|phone|call|ring|mobile|mobil|cell|handy|fax|whatsapp|sms)\b[^\w+\n]{0,3}"
    r"(?:(?:number|nummer|no|nr|is|me|us|him|her|back|on|at|unter|le|au|al)\b[^\w+\n]{1,3}){0,4}\Z",
    re.IGNORECASE,
)
_WORD_REACH = 40


def find_phones(text: str) -> Iterator[Span]:
    """Find telephone numbers of 6 to 15 digits (ITU-T E.164 has 15 at most) that are no dates."""
    for pattern in _PHONES:
        yield from (match.span("v") for match in pattern.finditer(text) if _is_phone(match["v"]))
    for match in _SHORT_PHONE.finditer(text):
        announced = _PHONE_WORD.search(text, max(0, match.start() - _WORD_REACH), match.start())
        if announced and _is_phone(match[0]):
            yield match.span()


def _is_phone(number: str) -> bool:
    digits = sum(char.isdigit() for char in number)
    return 6 <= digits <= 15 and not any(pattern.fullmatch(number) for pattern in _DATES)


_DATES = (
    re.compile(r"(?P<y>\d{4})(?<!\d{5})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)"),
    re.compile(r"(?P<d>\d(?<![\d.]\d)\d?)[-/.] ?(?P<m>\d{1,2})[-/.] ?(?P<y>\d{4}|\d{2})(?![\d.]\d)(?!\d)"),
    re.compile(
        rf"(?i)(?P<d>\d(?<!\w\d)\d?)(?:st|nd|rd|th|\.|er)? (?:of |de )?(?:{_MONTHS})\.?,? (?:de )?(?P<y>\d{{4}})\b"
    ),
)
_YEAR = re.compile(r"(?:19|20)\d\d\b")
_MONTH_AND_DAY = re.compile(rf"(?i)\b(?:{_MONTHS})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?,? \Z")
_MONTH_REACH = 20


def find_birth_dates(text: str) -> Iterator[Span]:
    """Find dates that a word announces as one of birth, and whole dates of years in which adults were born."""
    for pattern in _DATES:
        yield from (found.span() for found in pattern.finditer(text) if _is_date(found) and _is_birth(text, found))
    for year in _YEAR.finditer(text):
        before = _MONTH_AND_DAY.search(text, max(0, year.start() - _MONTH_REACH), year.start())
        if before and _is_birth(text, before, int(year[0])):
            yield before.start(), year.end()


def _is_birth(text: str, date: re.Match[str], year: int = 0) -> bool:
    announced = _BIRTH_WORD.search(text, max(0, date.start() - _WORD_REACH), date.start())
    return announced is not None or (year or int(date["y"])) in _BIRTH_YEARS


def _is_date(found: re.Match[str]) -> bool:
    parts = found.groupdict(default="1")
    year, month, day = int(parts["y"]) % 10_000 or 2000, int(parts.get("m", "1")), int(parts["d"])
    # American dates have the month first.
    return is_date(year, month, day) or is_date(year, day, month)


_SECRETS = "token|access_token|api_?key|key|password|passwd|pwd|secret|sig|signature|auth|session|code"

RULES = (
    RedactionRule("url_credentials", "URL", checked(
        r"(?i)(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{1,20}://[^\s/@:?#]{1,200}:[^\s/@]{1,200}@[^\s<>\"]{1,500}"
        rf"|https?://[^\s<>\"?]{{1,500}}\?(?:[^\s<>\"&]{{0,500}}&){{0,10}}(?:{_SECRETS})=[^\s<>\"]{{1,500}})"
    ), _LINK),
    RedactionRule("email", "EMAIL", find_emails, _AT),
    RedactionRule("iban", "IBAN", find_ibans, _NUMBER),
    RedactionRule("card", "CARD", find_cards, _NUMBER),
    RedactionRule("us_ssn", "ID", checked(r"\d(?<![\w-]\d)\d{2}-\d{2}-\d{4}(?![\w-])", us_ssn), _NUMBER),
    RedactionRule("uk_nhs", "ID", checked(
        r"(?i)\d(?<![\w+]\d)(?:\d\d[ -]\d{3}[ -]\d{4}|(?:(?<=nhs \d)|(?<=nhs: \d)|(?<=nhs number \d))\d{9})(?!\w)",
        uk_nhs,
    ), _NUMBER),
    RedactionRule("uk_nino", "ID", checked(
        r"(?i)(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)"
    ), _NUMBER),
    RedactionRule("de_tax_id", "ID", checked(r"[1-9](?<!\w\d)\d(?: ?\d{3}){3}(?!\w)", de_tax_id), _NUMBER),
    RedactionRule("es_dni", "ID", checked(
        r"(?i)[\dXYZ](?<!\w\w)(?:\d{7}|\d\.\d{3}\.\d{3}|(?<=[XYZ])-?\d{7})[ -]?[A-HJ-NP-TV-Z](?!\w)", es_dni
    ), _NUMBER),
    RedactionRule("it_cf", "ID", checked(
        r"(?i)(?<!\w)[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z](?!\w)", it_cf
    ), _MIXED),
    RedactionRule("fr_nir", "ID", checked(
        r"(?i)[12](?<!\w\d) ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w)", fr_nir
    ), _NUMBER),
    RedactionRule("pl_pesel", "ID", checked(r"\d(?<!\w\d)\d{10}(?!\w)", pl_pesel), _NUMBER),
    RedactionRule("se_personnummer", "ID", checked(
        r"\d(?:(?<!\w\d)|(?<=\W19\d)|(?<=\W20\d))\d{5}[-+]\d{4}(?!\w)", se_personnummer
    ), _NUMBER),
    RedactionRule("br_cpf", "ID", checked(r"\d(?<!\w\d)\d\d\.\d{3}\.\d{3}-\d{2}(?!\w)", br_cpf), _NUMBER),
    RedactionRule("birth_date", "DATE", find_birth_dates, _DAY),
    RedactionRule("phone", "PHONE", find_phones, _NUMBER),
)  # fmt: skip
"""In the order in which they run: what has a checksum comes before what has only a shape."""

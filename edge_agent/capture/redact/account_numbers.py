"""Numbers of payment cards and bank accounts, and the check digits of numbers that name people and accounts. Pure.

Check digits make it possible to find them between other numbers, across line ends, with any usual separator, spaced
out digit by digit, and with letters that look like digits. After a word such as "card" or "IBAN" the length is enough,
so that mistyped numbers are found, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from edge_agent.capture.redact import Span, strip_separators
from edge_agent.capture.redact.indexed_text import stands_before

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
_MAESTRO = (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)
# Of card numbers: the first four digits, from and to, and the lengths.
_ISSUERS = (
    *((prefix, prefix, range(12, 20)) for prefix in _MAESTRO),
    (1800, 1800, (15,)),
    (2131, 2131, (15,)),
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


def passes_luhn(digits: str) -> bool:
    """Check the Luhn digit (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def is_card_number(digits: str) -> bool:
    """Return whether it is a payment card number: an issuer's range of that length, and Luhn.

    Visa numbers of 13 digits are left out: none was issued for decades, and bar codes look like them.
    """
    first = int(digits[:4])
    is_issued = any(low <= first <= high and len(digits) in lengths for low, high, lengths in _ISSUERS)
    return is_issued and passes_luhn(digits)


def is_iban(number: str) -> bool:
    """Check an IBAN in upper case (ISO 13616, with ISO 7064 mod 97-10)."""
    if IBAN_CHARACTERS.get(number[:2]) != len(number):
        return False
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


def us_ssn(digits: str) -> bool:
    """Check a Social Security Number: no check digit, but areas, groups and serials that are never issued."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def uk_nhs(digits: str) -> bool:
    """Check an NHS number, modulo 11."""
    remainder = 11 - weighted_sum(digits, range(10, 1, -1)) % 11
    return remainder != 10 and remainder % 11 == int(digits[9])


def de_tax_id(digits: str) -> bool:
    """Check a Steuer-Identifikationsnummer: one of ten digits occurs two or three times; ISO 7064 mod 11,10."""
    counts = sorted(Counter(digits[:10]).values(), reverse=True)
    one_repeats = counts[0] in (2, 3) and max(counts[1:]) == 1
    return digits[0] != "0" and one_repeats and _mod_11_10(digits[:10]) == int(digits[10])


def _mod_11_10(digits: str) -> int:
    product = 10
    for digit in digits:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10


def weighted_sum(digits: str, weights: Iterable[int]) -> int:
    """Return the sum of the products of digits and weights, up to the shorter of the two."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def es_dni(number: str) -> bool:
    """Check a DNI or NIE in upper case: eight digits (or X, Y, Z and seven) and a letter, modulo 23."""
    digits = number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return _DNI_LETTERS[int(digits) % 23] == number[-1]


def it_cf(code: str) -> bool:
    """Check a codice fiscale in upper case."""
    even = (int(char, 36) if char.isdigit() else int(char, 36) - 10 for char in code[1:15:2])
    return chr(65 + (sum(map(_CF_ODD.__getitem__, code[0:15:2])) + sum(even)) % 26) == code[15]


def fr_nir(number: str) -> bool:
    """Check a numéro de sécurité sociale: 13 characters and a key, modulo 97."""
    digits = number[:13].replace("2A", "19").replace("2B", "18")
    return digits.isdigit() and 97 - int(digits) % 97 == int(number[13:])


def pl_pesel(digits: str) -> bool:
    """Check a PESEL: a date of birth, a serial and a check digit."""
    is_date = 1 <= int(digits[2:4]) % 20 <= 12 and 1 <= int(digits[4:6]) <= 31
    return is_date and weighted_sum(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def se_personnummer(digits: str) -> bool:
    """Check a personnummer of ten digits: a date (day plus 60 for a samordningsnummer), a serial, Luhn."""
    return 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31 and passes_luhn(digits)


def br_cpf(digits: str) -> bool:
    """Check a CPF (Cadastro de Pessoas Físicas): two check digits, modulo 11."""
    first, second = weighted_sum(digits, range(10, 1, -1)), weighted_sum(digits, range(11, 1, -1))
    expected = f"{first * 10 % 11 % 10}{second * 10 % 11 % 10}"
    return digits[9:] == expected and len(set(digits)) > 1


_BLANKS = (
    "\n\r\t\v\f\u00a0\u00ad\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d"
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
_FLATTENING = str.maketrans(
    dict.fromkeys(_BLANKS, " ") | dict.fromkeys(_DASHES, "-") | {"_": "-", "\u00b7": ".", "\u2024": "."}
)
_TO_FLATTEN = re.compile("[" + "".join(re.escape(chr(code)) for code in _FLATTENING) + "]")
_LOOK_ALIKES = {
    "0": "OoQ\u039f\u03bf\u041e\u043e",
    "1": "Il|\u0406\u0456\u0399",
    "2": "Zz",
    "5": "Ss\u0405\u0455",
    "6": "b",
    "8": "B\u0392\u0412",
}
_DIGIT_OF = {letter: digit for digit, letters in _LOOK_ALIKES.items() for letter in letters}
_AS_DIGITS = str.maketrans(_DIGIT_OF)
_DIGIT = "[0-9" + "".join(map(re.escape, _DIGIT_OF)) + "]"
_DIGITS_MIN = 8
"""Minimum digits in a number with look-alikes."""


def flatten(text: str) -> str:
    """Return the text with a blank for each line end, tab or zero-width character, and a hyphen for each dash.

    The length stays the same, so positions in both are equal.
    """
    return text.translate(_FLATTENING) if _TO_FLATTEN.search(text) else text


_CARD_GROUPS_MAX = 6
_CARD_LENGTHS = range(12, 20)
"""Digits of a card number; ISO/IEC 7812-1 has 19 at most."""
_DIGIT_RUN = re.compile(r"\d(?<![\w.,]\d)(?:[ .\-/]{0,3}\d){11,40}(?!\w)")
_DIGIT_GROUP = re.compile(r"\d+")
_DISGUISED_RUN = re.compile(rf"{_DIGIT}(?<![\w.,].)(?:[ .\-/]{{0,3}}{_DIGIT}){{11,40}}(?!\w)")
_DISGUISED_GROUP = re.compile(rf"{_DIGIT}+")
_SEPARATORS = str.maketrans("", "", " .-/")
_CARD_WORD = re.compile(
    r"\b(?:card|credit|debit|visa|master ?card|amex|american express|maestro|diners|jcb|discover|cc|karte"
    r"|kreditkarte|ec-karte|carte|cb|tarjeta|carta|cart[ãa]o|karta|karty|kort|kortet|kreditkort|creditcard|pinpas"
    r"|bankpas)"
    r"\b[^\d]{0,30}\Z"
)
_WORD_REACH = 45


def find_cards(text: str) -> Iterator[Span]:
    """Find card numbers, also between other numbers: every run of whole groups is tried, the longest first."""
    flat_text = flatten(text)
    for run in _DIGIT_RUN.finditer(flat_text):
        groups = [group.span() for group in _DIGIT_GROUP.finditer(flat_text, *run.span())]
        cards = list(_cards(flat_text, groups))
        yield from cards or _announced_card(flat_text, groups) or _spaced_card(run)
    for run in _DISGUISED_RUN.finditer(flat_text):
        if run[0].translate(_SEPARATORS).isdigit() or sum(map(str.isdigit, run[0])) < _DIGITS_MIN:
            continue
        # A group without digits is a word; with letters read as digits, only whole groups are tried.
        groups = [group.span() for group in _DISGUISED_GROUP.finditer(run[0]) if any(map(str.isdigit, group[0]))]
        as_digits = run[0].translate(_AS_DIGITS)
        yield from ((run.start() + start, run.start() + end) for start, end in _cards(as_digits, groups))


def _cards(text: str, groups: list[Span]) -> Iterator[Span]:
    while groups:
        start = groups[0][0]
        # Card numbers start with a group of four or more digits; this also skips most of the arithmetic.
        if not text[start : start + 4].isdigit():
            groups = groups[1:]
            continue
        ends = [end for _, end in reversed(groups[:_CARD_GROUPS_MAX]) if _is_written_card(text[start:end])]
        yield from [(start, end) for end in ends[:1]]
        groups = groups[1 + [end for _, end in groups].index(ends[0]) :] if ends else groups[1:]


def _is_written_card(candidate: str) -> bool:
    # The length rules out most candidates.
    return len(candidate.translate(_SEPARATORS)) in _CARD_LENGTHS and is_card_number(strip_separators(candidate))


def _announced_card(text: str, groups: list[Span]) -> list[Span]:
    """Return the first 12 to 19 digits, in whole groups, after a word for a card, with any check digit."""
    start = groups[0][0]
    if not stands_before(_CARD_WORD, text, start, _WORD_REACH):
        return []
    ends = [end for _, end in groups if len(strip_separators(text[start:end])) in _CARD_LENGTHS]
    return [(start, ends[-1])] if ends else []


def _spaced_card(run: re.Match[str]) -> list[Span]:
    """Return the whole run if it is a card whose digits are grouped in an unusual way."""
    digits = strip_separators(run[0])
    return [run.span()] if 14 <= len(digits) <= 19 and is_card_number(digits) else []


# Only a look-ahead, so that overlapping matches are found, too. One begins after "_", too, which `flatten` replaces.
_IBAN = re.compile(r"\b[A-Za-z](?=([A-Za-z][ -]?[\dOoIl][ -]?[\dOoIl](?:[ .\-]{0,3}[0-9A-Za-z]){11,30}))", re.ASCII)
_IBAN_CHARACTER = re.compile(r"[0-9A-Za-z]")
_IBAN_WORD = re.compile(
    r"\biban\b[^\w]{0,4}(?:(?:number|code|is|ist|no|nr|est|es|lautet|meine|my|to|an|auf|de)\b[^\w]{1,4}){0,4}\Z"
)


def find_ibans(text: str) -> Iterator[Span]:
    """Find IBANs of their country's length, in groups or in one piece."""
    flat_text = flatten(text)
    for match in _IBAN.finditer(flat_text):
        announced = stands_before(_IBAN_WORD, flat_text, match.start(), _WORD_REACH)
        end = match.start() + _iban_length(match[0] + match[1], announced=announced)
        if end > match.start() and not text[end : end + 1].isalnum():
            yield match.start(), end


def _iban_length(candidate: str, *, announced: bool) -> int:
    """Return how many characters at the start form an IBAN, blanks included; 0 = none."""
    length = IBAN_CHARACTERS.get(candidate[:2].upper(), 99)
    ends = [match.end() for match in _IBAN_CHARACTER.finditer(candidate)][length - 1 : length]
    if not ends:
        return 0
    number = candidate[: ends[0]]
    corrected = number[:2] + number[2:].translate(_AS_DIGITS)
    return ends[0] if announced or is_iban(strip_separators(number)) or is_iban(strip_separators(corrected)) else 0

"""Draws made-up values in the forms that redaction replaces: card numbers, addresses, names, by locale and seed.

Faker (https://faker.readthedocs.io) draws them. A row's text is not an input, so no real value can be an output. Each
value is checked against the rules of redaction: a type that they detect is detected again, with the same placeholder,
and in any other type they detect nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import faker
from faker.config import AVAILABLE_LOCALES

from edge_agent.capture.redact.builtin_rules import ANNOUNCED_NAME_RULE, RULES
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import InvalidRequest

# Some locales log a warning for each made-up bank number.
logging.getLogger("faker").setLevel(logging.ERROR)

FAKER_VERSION = faker.VERSION
DEFAULT_LOCALE = "en_US"
FALLBACK = "code"
"""The kind of a placeholder of unknown type."""
_TRIES = 40
_BORN_FROM, _BORN_DAYS = date(1935, 1, 1), 70 * 365
_FINDERS = {rule.name: rule.find for rule in RULES}
_SECRETS = string.ascii_lowercase + string.digits
_Make = Callable[[faker.Faker], str]


# --- kinds ------------------------------------------------------------------------------------------------------------


def _card(fake: faker.Faker) -> str:
    number = fake.credit_card_number()
    return _group_digits(number) if len(number) == 16 and fake.boolean() else number


def _iban(fake: faker.Faker) -> str:
    number = fake.iban()
    return _group_digits(number) if fake.boolean() else number


def _group_digits(number: str) -> str:
    return " ".join(number[start : start + 4] for start in range(0, len(number), 4))


def _email(fake: faker.Faker) -> str:
    return fake.email(safe=False)


_IN_WORDS = {
    **{"de": (" at ", " punkt "), "es": (" arroba ", " punto "), "fr": (" arobase ", " point ")},
    **{"it": (" chiocciola ", " punto "), "nl": (" apenstaartje ", " punt "), "pl": (" małpa ", " kropka ")},
    **{"pt": (" arroba ", " ponto "), "sv": (" snabel-a ", " punkt ")},
}
_IN_BRACKETS = ((" (at) ", "."), ("[at]", "[dot]"))


def _spoken_email(fake: faker.Faker) -> str:
    local, _, host = _email(fake).partition("@")
    language = str(fake.locales[0]).partition("_")[0]
    at, dot = fake.random.choice((_IN_WORDS.get(language, (" at ", " dot ")), *_IN_BRACKETS))
    return f"{local}{at}{host.replace('.', dot)}"


def _url(fake: faker.Faker) -> str:
    secret = "".join(fake.random.choices(_SECRETS, k=16))
    return f"https://{fake.domain_name()}/{fake.uri_path()}?token={secret}"


def _birth_date(fake: faker.Faker) -> date:
    # Not Faker's own, which counts back from today.
    return _BORN_FROM + timedelta(days=fake.random.randrange(_BORN_DAYS))


_DATES = {
    "US": ("%m/%d/%Y", "%B %d, %Y", "%Y-%m-%d"),
    "GB": ("%d/%m/%Y", "%d %B %Y", "%Y-%m-%d"),
    "DE": ("%d.%m.%Y",),
    "AT": ("%d.%m.%Y",),
    "CH": ("%d.%m.%Y",),
    "PL": ("%d.%m.%Y",),
    "SE": ("%Y-%m-%d",),
}
_OTHER_DATES = ("%d/%m/%Y", "%d-%m-%Y")


def _date(fake: faker.Faker) -> str:
    country = str(fake.locales[0]).rpartition("_")[2]
    return _birth_date(fake).strftime(fake.random.choice(_DATES.get(country, _OTHER_DATES)))


def _name(fake: faker.Faker) -> str:
    return f"{fake.first_name()} {fake.last_name()}"


def _city(fake: faker.Faker) -> str:
    if str(fake.locales[0]) != "it_IT":
        return fake.city()
    # Faker's list of Italian towns comes from a set: its order differs from one process to the next.
    return fake.postcode_city_province().partition(", ")[2].rpartition(" (")[0]


def _street(fake: faker.Faker) -> str:
    return " ".join(fake.street_address().split())


def _address(fake: faker.Faker) -> str:
    return ", ".join(line.strip(" ,") for line in fake.address().splitlines())


_RECORDS = (
    *("#" * length for length in (8, 9, 10, 11, 12, 13)),
    *(
        "?????####?",
        "?#######?",
        "?#########",
        "########?###",
        "######-###?",
        "7560#########",
        "1############",
        "#######??",
    ),
)
"""Forms of record numbers, and of national numbers that are only found after a word that announces them."""


def _by_pattern(pattern: str, fake: faker.Faker) -> str:
    # Faker's own patterns interpret more characters, such as @.
    alphabets = {"#": string.digits, "?": string.ascii_uppercase}
    return "".join(fake.random.choice(alphabets.get(char, char)) for char in pattern)


@dataclass(frozen=True)
class SurrogateKind:
    """How to make values of one kind, and what redaction must find in them."""

    make: _Make
    word: str | None = ""
    """The word of the placeholder that redaction puts there; empty = it finds nothing; None = not checked."""
    announced: str = ""
    """Redaction finds such a value only after a word that announces it, such as this one."""


KINDS: Mapping[str, SurrogateKind] = {
    "card": SurrogateKind(_card, "CARD"),
    "iban": SurrogateKind(_iban, "IBAN"),
    "email": SurrogateKind(_email, "EMAIL"),
    "phone": SurrogateKind(lambda fake: fake.phone_number(), "PHONE"),
    "date": SurrogateKind(_date, "DATE"),
    "url": SurrogateKind(_url, "URL"),
    "name": SurrogateKind(_name),
    "first_name": SurrogateKind(lambda fake: fake.first_name()),
    "last_name": SurrogateKind(lambda fake: fake.last_name()),
    "city": SurrogateKind(_city),
    "street": SurrogateKind(_street, None),
    "address": SurrogateKind(_address, "ADDRESS"),
    "ip": SurrogateKind(lambda fake: fake.ipv4_public(), "IP"),
    "mac": SurrogateKind(lambda fake: fake.mac_address(), "MAC"),
    "record": SurrogateKind(lambda fake: _by_pattern(fake.random.choice(_RECORDS), fake), "RECORD", announced="MRN: "),
    "plate": SurrogateKind(lambda fake: _by_pattern("??? ####", fake), "PLATE", announced="plate number "),
    "secret": SurrogateKind(lambda fake: f"sk-{''.join(fake.random.choices(_SECRETS, k=20))}", "SECRET"),
    "postcode": SurrogateKind(lambda fake: fake.postcode()),
    "company": SurrogateKind(lambda fake: fake.company()),
    "number": SurrogateKind(lambda fake: str(fake.random_int(1, 999))),
    FALLBACK: SurrogateKind(lambda fake: _by_pattern("??######", fake)),
}
"""Kind of value by name, except `id`, whose form is that of the rule that found it, below."""


# --- national numbers -------------------------------------------------------------------------------------------------


def _draw_until_found(rule: str, make: Callable[[], str]) -> str:
    """Draw until the rule finds the whole value: check digits are right at least once in 97 draws."""
    return next(number for number in iter(make, "") if (0, len(number)) in _FINDERS[rule](number))


def _uk_nhs(fake: faker.Faker) -> str:
    return _draw_until_found("uk_nhs", lambda: fake.numerify("### ### ####"))


def _uk_nino(fake: faker.Faker) -> str:
    return _draw_until_found("uk_nino", lambda: fake.bothify("?? ## ## ## ", letters="ABCEGHJKLMNPRSTWXYZ") + "ABCD"[
        fake.random_int(0, 3)
    ])  # fmt: skip


def _de_tax_id(fake: faker.Faker) -> str:
    def number() -> str:
        digits = fake.random.sample(string.digits, 9)
        digits.insert(fake.random_int(0, 9), fake.random.choice(digits))
        return "{}{} {}{}{} {}{}{} {}{}{}".format(*digits, fake.random_digit())

    return _draw_until_found("de_tax_id", number)


def _fr_nir(fake: faker.Faker) -> str:
    number = fake.ssn()
    cuts = ((0, 1), (1, 3), (3, 5), (5, 7), (7, 10), (10, 13), (13, 15))
    return " ".join(number[start:end] for start, end in cuts) if fake.boolean() else number


def _se_personnummer(fake: faker.Faker) -> str:
    birth_date = _birth_date(fake).strftime("%y%m%d")
    return _draw_until_found("se_personnummer", lambda: f"{birth_date}-{fake.numerify('####')}")


def _fi_hetu(fake: faker.Faker) -> str:
    birth_date, number = _birth_date(fake), f"{fake.random.randrange(2, 900):03}"
    check = _HETU_CHECKS[int(f"{birth_date:%d%m%y}{number}") % len(_HETU_CHECKS)]
    return f"{birth_date:%d%m%y}{'-' if birth_date.year < 2000 else 'A'}{number}{check}"


_HETU_CHECKS = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def _mrz(fake: faker.Faker) -> str:
    return f"P<USA{fake.last_name().upper()}<<{fake.first_name().upper()}".replace("'", "").ljust(44, "<")


_NUMBERS: Mapping[str, tuple[str, _Make]] = {
    "mrz": ("en_US", _mrz),
    "national_number": ("fi_FI", _fi_hetu),
    "us_ssn": ("en_US", lambda fake: fake.ssn()),
    "uk_nhs": ("en_GB", _uk_nhs),
    "uk_nino": ("en_GB", _uk_nino),
    "de_tax_id": ("de_DE", _de_tax_id),
    "es_dni": ("es_ES", lambda fake: fake.nif()),
    "it_cf": ("it_IT", lambda fake: fake.ssn()),
    "fr_nir": ("fr_FR", _fr_nir),
    "pl_pesel": ("pl_PL", lambda fake: fake.pesel(datetime.combine(_birth_date(fake), time()))),
    "se_personnummer": ("sv_SE", _se_personnummer),
    "br_cpf": ("pt_BR", lambda fake: fake.cpf()),
}
"""National number by the rule that finds it: the locale of Faker, and how to make it."""
NATIONAL_NUMBERS = tuple(_NUMBERS)
_NATIONAL_NUMBERS_OF = {
    **{"US": ("us_ssn",), "GB": ("uk_nhs", "uk_nino"), "DE": ("de_tax_id",), "ES": ("es_dni",), "IT": ("it_cf",)},
    **{"FR": ("fr_nir",), "PL": ("pl_pesel",), "SE": ("se_personnummer",), "BR": ("br_cpf",)},
}
_OTHER_NUMBERS = ("us_ssn",)


# --- drawing ----------------------------------------------------------------------------------------------------------


def check_kinds(kinds: Mapping[str, str]) -> None:
    """Raise InvalidRequest for a kind that is neither known nor a pattern."""
    known = sorted([*KINDS, "id"])
    for word, kind in kinds.items():
        if kind not in known and not (("#" in kind or "?" in kind) and _is_plain(kind) and len(kind) <= 100):
            raise InvalidRequest(
                f"there is no surrogate of kind {kind!r} for {word}",
                remedy=f"Use one of {', '.join(known)}, or a pattern: # stands for a digit, ? for a letter.",
            )


class SurrogateSource:
    """Draws values for one row after another; those of a row depend on the seed and its key, not on other rows."""

    def __init__(self, locales: Sequence[str], seed: str) -> None:
        """Draw with these locales, one for each row. Raises InvalidRequest for one that Faker lacks."""
        for locale in locales:
            if locale not in AVAILABLE_LOCALES:
                near = difflib.get_close_matches(locale, AVAILABLE_LOCALES, n=1)
                problem = f"Faker has no locale {locale!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                raise InvalidRequest(problem, remedy="Write locales as language and country: --locale de_DE,en_GB.")
        self._locales, self._seed = tuple(locales), seed
        self._fakes: dict[str, faker.Faker] = {}
        self._seeded: set[str] = set()
        self._row, self._locale = 0, self._locales[0]
        self._redaction = Redactor().start()

    def begin(self, key: str) -> None:
        """Begin with the row of that key."""
        digest = hashlib.sha256(f"{self._seed}\0{key}".encode()).digest()
        self._row, self._seeded = int.from_bytes(digest[:8]), set()
        self._locale = self._locales[int.from_bytes(digest[8:16]) % len(self._locales)]

    def draw(self, kind: str, rules: Collection[str] = ()) -> str:
        """Return a value of a kind or pattern, in a form that one of `rules` finds, which replaced values of the row.

        After 2 * _TRIES values that the rules do not find as `word_of`, the last one is returned anyway.
        """
        tries = (self._draw(kind, rules, self._locale if number < _TRIES else DEFAULT_LOCALE)
                 for number in range(2 * _TRIES))  # fmt: skip
        value, word, announcement = "", word_of(kind), KINDS[kind].announced if kind in KINDS else ""
        if kind == "name" and ANNOUNCED_NAME_RULE in rules:
            word, announcement = "NAME", "Mr. "  # a name that is found again has capital letters
        for value in filter(_is_plain, tries):
            if word is None or self._redacts_to(value, announcement) == word:
                break
        return value

    def _draw(self, kind: str, rules: Collection[str], locale: str) -> str:
        if kind == "id":
            fitting = [name for name in NATIONAL_NUMBERS if name in rules]
            usual = _NATIONAL_NUMBERS_OF.get(locale.rpartition("_")[2], _OTHER_NUMBERS)
            number_locale, make = _NUMBERS[self._fake(locale).random.choice(fitting or usual)]
            return make(self._fake(number_locale))
        if kind == "email" and "spoken_email" in rules and ("email" not in rules or self._fake(locale).boolean()):
            return _spoken_email(self._fake(locale))
        if kind in KINDS:
            return _make_or_empty(KINDS[kind].make, self._fake(locale))
        return _by_pattern(kind, self._fake(locale))

    def _fake(self, locale: str) -> faker.Faker:
        if locale not in self._fakes:
            self._fakes[locale] = faker.Faker(locale)
        if locale not in self._seeded:
            self._seeded.add(locale)
            self._fakes[locale].seed_instance(self._row)
        return self._fakes[locale]

    def _redacts_to(self, value: str, announcement: str = "") -> str | None:
        """Return the word that redaction puts in place of a value; empty = it finds nothing, None = a part of it."""
        findings = self._redaction.find_values(announcement + value)
        if len(findings) == 1 and findings[0][:2] == (len(announcement), len(announcement) + len(value)):
            return findings[0][3]
        return None if findings else ""


def _make_or_empty(make: _Make, fake: faker.Faker) -> str:
    try:
        return make(fake)
    except (AttributeError, ValueError):
        return ""  # a few locales of Faker have no telephone numbers, or invalid ones


def word_of(kind: str) -> str | None:
    """Return the word of redaction for a value of that kind, as `SurrogateKind.word`; unknown for a pattern."""
    if kind == "id":
        return "ID"
    return KINDS[kind].word if kind in KINDS else None


def _is_plain(value: str) -> bool:
    """Return whether a value needs no escape in JSON."""
    return bool(value) and json.dumps(value, ensure_ascii=False)[1:-1] == value

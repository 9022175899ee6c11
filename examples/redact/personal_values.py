"""Made-up personal values of many countries, in pieces with their labels; and values that are not personal.

Faker makes names, addresses, numbers by locale; this module writes them in the forms that people use: names turned
round, numbers grouped or spoken, addresses on one line or several. A piece is a text and its label, "" for none.
"""

from __future__ import annotations

import datetime as datetime_module
import random
import re
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo
from functools import cache
from types import SimpleNamespace
from typing import Any

import faker
import public_words
import varied_values

Piece = tuple[str, str]
"""Text and label; "" = not personal."""

LOCALES = {
    "en": "en_US en_US en_US en_US en_GB en_GB en_AU en_CA en_IE en_NZ en_IN",
    "de": "de_DE de_DE de_DE de_AT de_CH",
    "fr": "fr_FR fr_FR fr_FR fr_BE fr_CA fr_CH",
    "es": "es_ES es_ES es_ES es_MX es_AR es_CO es_CL",
    "it": "it_IT",
    "nl": "nl_NL nl_NL nl_BE",
    "pt": "pt_PT pt_PT pt_BR",
    "pl": "pl_PL",
    "sv": "sv_SE",
    "da": "da_DK",
    "no": "no_NO",
    "fi": "fi_FI",
}
_OTHER_LOCALES = """
cs_CZ hu_HU hr_HR ro_RO tr_TR sk_SK sl_SI et_EE lt_LT id_ID vi_VN en_NG en_PK en_KE de_CH fr_BE es_MX pt_BR it_IT
fi_FI da_DK no_NO sv_SE pl_PL nl_NL fr_FR de_AT es_CO en_IN
"""
OTHER_LOCALES = tuple(_OTHER_LOCALES.split())
VARIED_STREETS_SHARE = 0.4
VARIED_NAMES_SHARE = 0.4
"""Of the names of training and calibration, those of another package than Faker."""
TOWNS_SHARE, ENGLISH_TOWNS_SHARE, GOODS_SHARE, FIRMS_SHARE = 0.6, 0.3, 0.5, 0.4
"""Of towns, goods and brands of training and calibration, those of public_words.py."""
FOREIGN_SHARE, FOREIGN_SHARE_ENGLISH = 0.2, 0.35
"""Values of another country: guests, patients and names come from everywhere."""
_STREET_KINDS = """
Street St St. Road Rd Avenue Ave Ave. Boulevard Blvd Lane Ln Drive Dr Court Ct Place Pl Way Highway Hwy Square
Terrace Close Crescent Grove Parkway Pkwy Walk Hill Mews Gardens Row Trail Circle
"""
STREET_KINDS = tuple(_STREET_KINDS.split())
_STREET_WORDS = """
Oak Maple Cedar Mill Church Station High Park Victoria Albert King Queen Lake Hill Spring Sunset Washington Lincoln
Jefferson North South West East Meadow Forest Bridge Castle School Market Chapel Green Orchard Pine Elm 5th 2nd 42nd
First Third Ocean Bay Harbour London York Bristol Windsor
"""
STREET_WORDS = tuple(_STREET_WORDS.split())
_UNITS = "apt apt. appartamento suite ste ste. flat studio unit box piso puerta depto depto. interno interior etage"
_UNITS += " floor level room bus sal sc. bl. ap. edif. of. casa top stiege"
UNIT_WORDS = frozenset(_UNITS.split())
DOMAINS = ("gmail.com", "outlook.com", "web.de", "gmx.net", "orange.fr", "libero.it", "wp.pl", "ziggo.nl", "sapo.pt")
_TOKEN = re.compile(r"\S+")


_MADE = (2026, 11, 29, 22)
"""When the splits that docs/data.md describes were made: Faker counts the ages in national numbers back from now."""


class _Moment(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


class _FixedDatetime(datetime, metaclass=_Moment):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime(*_MADE, tzinfo=tz)


class _FixedDate(date):
    @classmethod
    def today(cls) -> date:  # type: ignore[override]
        return date(*_MADE[:3])


def _stop_the_clock() -> None:
    """Let Faker's providers read the same time on every day; they have no argument for it."""
    fixed = SimpleNamespace(**{**vars(datetime_module), "datetime": _FixedDatetime, "date": _FixedDate})
    replaced = {id(datetime_module): fixed, id(datetime): _FixedDatetime, id(date): _FixedDate}
    for name, module in list(sys.modules.items()):
        if name.startswith("faker.providers."):
            for key, value in list(vars(module).items()):
                if id(value) in replaced:
                    setattr(module, key, replaced[id(value)])


@cache
def faker_of(locale: str) -> Any:
    """Return the Faker of a locale; `seed_all` seeds them."""
    made = faker.Faker(locale)
    _stop_the_clock()
    return made


def seed_all(seed: str) -> None:
    """Seed every Faker by its locale."""
    for locale in sorted({*" ".join(LOCALES.values()).split(), *OTHER_LOCALES}):
        faker_of(locale).seed_instance(f"{seed} {locale}")


class ValueMaker:
    """Makes the values of one text: one country, now and then another."""

    def __init__(self, language: str, chance: random.Random, words: dict[str, Any], *, varied: bool = False) -> None:
        """Take a language of LOCALES, and the lists of words.json; `varied` adds the forms of varied_values.py."""
        self.language, self.chance, self._words, self._varied = language, chance, words, varied
        foreign = chance.random() < (FOREIGN_SHARE_ENGLISH if language == "en" else FOREIGN_SHARE)
        self._names_of = "" if foreign else language
        self._fake = faker_of(chance.choice(OTHER_LOCALES if foreign else LOCALES[language].split()))

    def make(self, slot: str) -> list[Piece]:
        """Return the pieces of a slot."""
        return _MAKERS[slot](self)

    # Personal values.
    def name(self) -> list[Piece]:
        """Return a full name in one of the orders in which people write it."""
        pieces = self._name()
        end, label = pieces[-1]
        if not self._inflects() or end.endswith("."):
            return pieces
        if self.language == "pl" and pieces[0][0].isalpha():  # Polish inflects both names, the others the last one.
            pieces[0] = (varied_values.inflected(pieces[0][0], "pl", self.chance), pieces[0][1])
        return [*pieces[:-1], (varied_values.inflected(end, self.language, self.chance), label)]

    def _name(self) -> list[Piece]:
        given, surname = self._given(), self._surname()
        order = self.chance.random()
        if order < 0.08:
            return [(surname, "SURNAME"), (", ", ""), (given, "GIVEN_NAME")]
        if order < 0.14:
            return [(f"{given[0]}.", "GIVEN_NAME"), (" ", ""), (surname, "SURNAME")]
        if order < 0.22:
            return [(f"{given} {self._given()}", "GIVEN_NAME"), (" ", ""), (surname, "SURNAME")]
        if order < 0.26:
            return [(f"{given} {self._given()[0]}.", "GIVEN_NAME"), (" ", ""), (surname, "SURNAME")]
        if order < 0.32:
            surname = f"{surname}{self.chance.choice(('-', ' '))}{self._surname()}"
        return [(given, "GIVEN_NAME"), (" ", ""), (surname, "SURNAME")]

    def given(self) -> list[Piece]:
        """Return a first name."""
        return [(self._bent(self._given()), "GIVEN_NAME")]

    def surname(self) -> list[Piece]:
        """Return a family name."""
        return [(self._bent(self._surname()), "SURNAME")]

    def phone(self) -> list[Piece]:
        """Return a telephone number: Faker's, grouped otherwise, or spoken."""
        number = self._fake.phone_number()
        way = self.chance.random()
        if way < 0.1:
            digits = [int(digit) for digit in re.sub(r"\D", "", number)][:11]
            words = self._words["digits"][self.language]
            number = " ".join(words[digit] for digit in digits)
        elif way < 0.3:
            digits = re.sub(r"\D", "", number)
            size, separator = self.chance.choice((2, 3, 4)), self.chance.choice((" ", "-", ".", "/", " "))
            number = separator.join(digits[at : at + size] for at in range(0, len(digits), size))
        return [(number, "PHONE")]

    def email(self) -> list[Piece]:
        """Return an address of e-mail, now and then as it is spoken."""
        written = self._fake.email(safe=False)
        if self.chance.random() < 0.4:
            joiner = self.chance.choice((".", "_", "", "-"))
            local = (
                re.sub(r"[^a-z]", "", _plain(self._given())) + joiner + re.sub(r"[^a-z]", "", _plain(self._surname()))
            )
            written = f"{local}@{self.chance.choice(DOMAINS)}"
        if self.chance.random() < 0.08:
            written = written.replace("@", " at ").replace(".", " dot ")
        return [(written, "EMAIL")]

    def street(self) -> list[Piece]:
        """Return a street with its number."""
        if self._varied and self.chance.random() < VARIED_STREETS_SHARE:
            return varied_values.street_of(self.language, self._fake, self.chance)
        if self.language == "en" and self.chance.random() < 0.35:
            return self._composed_street()
        return label_address(_joined(self._fake.street_address(), ", "))

    def address(self) -> list[Piece]:
        """Return an address with postal code and town, on one line or several."""
        separator = self.chance.choice((", ", ", ", ", ", "\n", "\n", " ", " - "))
        if self._varied and self.chance.random() < VARIED_STREETS_SHARE:
            streets = varied_values.street_of(self.language, self._fake, self.chance)
            return [*streets, (separator, ""), *varied_values.town_of(self.language, self._fake, self.chance)]
        if self.language == "en" and self.chance.random() < 0.35:
            fake = faker_of("en_US")
            tail: list[Piece] = [
                (fake.city(), "CITY"),
                (self.chance.choice((", ", " ")), ""),
                (fake.state_abbr(), "STATE"),
            ]
            if self.chance.random() < 0.2:
                tail[-1] = (fake.state(), "STATE")
            if self.chance.random() < 0.85:
                tail += [(" ", ""), (fake.postcode(), "ZIP_CODE")]
            return [*self._composed_street(), (separator, ""), *tail]
        return label_address(_joined(self._fake.address(), separator))

    def zip(self) -> list[Piece]:
        """Return a postal code."""
        return [(self._fake.postcode(), "ZIP_CODE")]

    def birth(self) -> list[Piece]:
        """Return a date of birth."""
        return [(self._day(1925, 90), "BIRTH_DATE")]

    def id(self) -> list[Piece]:
        """Return a national number."""
        if self.chance.random() < 0.15:
            return [(self._pattern("#########", "### ### ###", "??######?", "########-?"), "GOVERNMENT_ID")]
        return [(self._fake.ssn(), self.chance.choice(("GOVERNMENT_ID", "GOVERNMENT_ID", "TAX_ID")))]

    def record(self) -> list[Piece]:
        """Return the number of a record."""
        return [(self._pattern("#########", "#######", "??-######", "?#########", "####-####", "MRN######"), "RECORD")]

    def iban(self) -> list[Piece]:
        """Return a bank account."""
        number = self._fake.iban()
        spaced = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
        return [(self.chance.choice((number, spaced)), "BANK_ACCOUNT")]

    def card(self) -> list[Piece]:
        """Return the number of a payment card."""
        number, separator = self._fake.credit_card_number(), self.chance.choice((" ", "", "-", "."))
        return [(separator.join(number[at : at + 4] for at in range(0, len(number), 4)), "CARD")]

    def plate(self) -> list[Piece]:
        """Return a number plate."""
        usual = ("?-?? ####", "??-###-??", "?? ## ???", "??? ###", "## ??? #", "??####?")
        own = self._pattern(*(varied_values.PLATES if self._varied else usual))
        return [(self.chance.choice((self._fake.license_plate(), own)), "PLATE")]

    def passport(self) -> list[Piece]:
        """Return the number of a passport."""
        return [(self._pattern("?########", "??#######", "#########", "?#?#######"), "PASSPORT")]

    def licence(self) -> list[Piece]:
        """Return the number of a driving licence."""
        return [(self._pattern("?#######", "?###-####-####", "########", "??######?", "#####??###"), "DRIVERS_LICENSE")]

    def url(self) -> list[Piece]:
        """Return the address of a page."""
        host = self._fake.domain_name()
        return [(self.chance.choice((f"https://www.{host}/", f"www.{host}", host, self._fake.url())), "URL")]

    def ip(self) -> list[Piece]:
        """Return an address of the internet."""
        return [(self._fake.ipv6() if self.chance.random() < 0.2 else self._fake.ipv4(), "IP_ADDRESS")]

    # Values that are not personal.
    def clean(self, slot: str) -> list[Piece]:
        """Return a value that nobody need hide."""
        chance, words = self.chance, self._words
        number = chance.randrange
        articles: tuple[str, ...] = ("#####", "######", "####-###-#", "#######", "4006381######", "##-#####")
        codes: tuple[str, ...] = ("?####?", "##?# ### ###", "SN-##?#-####", "??-####", "####/####", "#.##.#")
        products, colors = words["products"][self.language], words["colors"].get(self.language, words["colors"]["en"])
        if self._varied:
            articles, codes = varied_values.ARTICLES, varied_values.CODES
            products = [*products, *words["more_products"][self.language]]
            colors = words["more_colors"].get(self.language, colors)
            if public := self._public(slot):
                return [(public, "")]
        made: dict[str, Callable[[], str]] = {
            "city": lambda: str(self._fake.city()),
            "n": lambda: str(number(1, 60)),
            "article": lambda: self._pattern(*articles),
            "code": lambda: self._pattern(*codes),
            "price": self._price,
            "dose": lambda: chance.choice(("5", "10", "40", "400", "1000"))
            + chance.choice((" mg", "mg", " ml", " µg")),
            "drug": lambda: chance.choice(words["drugs"]),
            "brand": lambda: chance.choice(words["brands"]),
            "product": lambda: chance.choice(products),
            "color": lambda: chance.choice(colors),
            "time": lambda: f"{number(6, 22)}{chance.choice((':', '.', ' h '))}{chance.choice(('00', '15', '30'))}",
            "date": lambda: self._day(2024, 4),
            "size": self._size,
            "reading": self._reading,
        }
        return [(made[slot](), "")]

    def _public(self, slot: str) -> str:
        """Return a word of others for a slot, "" for none."""
        chance, measured = self.chance, str(self._words["goods_measured"])
        shares = {"city": TOWNS_SHARE, "product": GOODS_SHARE, "brand": FIRMS_SHARE}
        lists: dict[str, Callable[[], tuple[str, ...]]] = {
            "city": lambda: public_words.towns("en" if chance.random() < ENGLISH_TOWNS_SHARE else self.language),
            "product": lambda: public_words.goods(self.language),
            "brand": lambda: public_words.firms(measured),
            "firm": lambda: public_words.firms(measured),
            "car": lambda: public_words.cars(measured),
            "job": lambda: public_words.jobs(self.language),
            "country": lambda: public_words.countries(self.language),
        }
        if slot not in lists or (slot in shares and chance.random() >= shares[slot]):
            return ""
        return chance.choice(lists[slot]())

    def _inflects(self) -> bool:
        return self._varied and self.chance.random() < varied_values.INFLECTED_SHARES.get(self.language, 0.0)

    def _bent(self, name: str) -> str:
        return varied_values.inflected(name, self.language, self.chance) if self._inflects() else name

    def _given(self) -> str:
        if self._varied and self.chance.random() < VARIED_NAMES_SHARE:
            return self.chance.choice(public_words.given_names(self._names_of))
        return str(self._fake.first_name())

    def _surname(self) -> str:
        if self._varied and self.chance.random() < VARIED_NAMES_SHARE:
            return self.chance.choice(public_words.surnames(self._names_of))
        return str(self._fake.last_name())

    def _composed_street(self) -> list[Piece]:
        chance = self.chance
        fake = faker_of("en_US")
        word = chance.choice((chance.choice(STREET_WORDS), fake.last_name(), fake.first_name(), fake.city()))
        pieces: list[Piece] = [(str(chance.randrange(1, 9000)), "BUILDING_NUMBER"), (" ", "")]
        pieces.append((f"{word} {chance.choice(STREET_KINDS)}", "STREET_NAME"))
        if chance.random() < 0.25:
            unit = f"{chance.choice(('Apt', 'Apt.', 'Suite', 'Unit', 'Flat', '#'))} {chance.randrange(1, 400)}"
            pieces += [(chance.choice((", ", " ", "\n")), ""), (unit, "SECONDARY_ADDRESS")]
        return pieces

    def _pattern(self, *patterns: str) -> str:
        return str(self._fake.bothify(self.chance.choice(patterns)).upper())

    def _price(self) -> str:
        amount, cents = self.chance.randrange(1, 2500), self.chance.randrange(100)
        point = "." if self.language == "en" else self.chance.choice((",", ",", "."))
        mark = self.chance.choice(("€", "EUR", "kr", "zł", "CHF") if self.language != "en" else ("$", "£", "USD", "€"))
        figure = self.chance.choice((f"{amount}{point}{cents:02}", f"{amount}", f"{amount * 10}"))
        return self.chance.choice((f"{figure} {mark}", f"{mark} {figure}", f"{figure}{mark}", figure))

    def _size(self) -> str:
        number = self.chance.randrange
        forms = (f"{number(34, 47)}", "XL", f"{number(16, 25)}5/55 R16", f"{number(2, 12)} x {number(30, 90)} mm")
        return self.chance.choice((*forms, f"{number(1, 20)} kg", f"0,{number(2, 9)} l"))

    def _reading(self) -> str:
        number = self.chance.randrange
        pressure = f"{number(95, 180)}/{number(55, 110)}"
        return self.chance.choice((pressure, f"{number(36, 40)}.{number(0, 9)}", f"{number(4, 12)},{number(0, 9)} %"))

    def _day(self, first: int, years: int) -> str:
        day = date(first, 1, 1) + timedelta(days=self.chance.randrange(years * 365))
        if self.language == "en":
            forms = ("%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%d.%m.%y")
        else:
            forms = ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y-%m-%d", "%d.%m.%y", "%d %m %Y")
        return day.strftime(self.chance.choice(forms))


_MAKERS: dict[str, Callable[[ValueMaker], list[Piece]]] = {
    slot: getattr(ValueMaker, slot)
    for slot in (
        *("name", "given", "surname", "phone", "email", "street", "address", "zip", "birth", "id", "record"),
        *("iban", "card", "plate", "passport", "licence", "url", "ip"),
    )
}
PERSONAL_SLOTS = frozenset(_MAKERS)


def label_address(written: str) -> list[Piece]:
    """Label the words of an address by what they are: number, street, unit, postal code, town.

    The last part of several that has a postal code is the town's; what stands before it are streets.
    """
    tokens = list(_TOKEN.finditer(written))
    town_from = _town_from(tokens)
    pieces: list[Piece] = []
    end, unit_next = 0, False
    for place, token in enumerate(tokens):
        word = token[0].strip(",")
        if place >= town_from:
            label = _town_label(word, pieces[-1][1] if pieces else "")
        elif unit_next or word.lower() in UNIT_WORDS:
            label, unit_next = "SECONDARY_ADDRESS", not unit_next
        else:
            label = "BUILDING_NUMBER" if _has_digit(word) else "STREET_NAME"
        begin = token.start() + token[0].index(word)
        _append(pieces, written[end:begin], word, label)
        end = begin + len(word)
    return [*((text, label if any(map(str.isalnum, text)) else "") for text, label in pieces), (written[end:], "")]


def _append(pieces: list[Piece], gap: str, word: str, label: str) -> None:
    """Append a word and the gap before it, or lengthen the last piece where it has the same label."""
    if pieces and pieces[-1][1] == label and gap == " ":
        pieces[-1] = (f"{pieces[-1][0]} {word}", label)
    else:
        pieces += [piece for piece in ((gap, ""), (word, label)) if piece[0]]


def _town_label(word: str, before: str) -> str:
    """Label a word of postal code and town, by the label of the word before it."""
    if _has_digit(word) or (before == "ZIP_CODE" and len(word) <= 3 and word.isupper()):
        return "ZIP_CODE"
    return "STATE" if len(word) == 2 and word.isupper() else "CITY"


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def _town_from(tokens: list[re.Match[str]]) -> int:
    """Return the place of the first word of postal code and town: behind the last break, if anything follows one."""
    breaks = [
        place
        for place in range(1, len(tokens))
        if tokens[place - 1][0].endswith(",")
        or "\n" in tokens[place].string[tokens[place - 1].end() : tokens[place].start()]
    ]
    long = [place for place in breaks if any(len(re.sub(r"\D", "", token[0])) >= 4 for token in tokens[place:])]
    return long[-1] if long else len(tokens)


def _joined(written: str, separator: str) -> str:
    lines = [line.strip(" ,") for line in written.splitlines() if line.strip(" ,")]
    return separator.join(lines)


def _plain(name: str) -> str:
    return name.lower().replace("ä", "ae").replace("ö", "oe").replace("ü", "ue").replace("ß", "ss")

"""Composed texts in twelve languages with their personal values marked: tills, receptions, pharmacies, workshops.

The sentences are written for this benchmark, the values are Faker's by locale, seeded: the same version of Faker gives
the same texts. A part is in lower case, broken over lines, or has a letter missing in an ordinary word. Nothing of it
is used to make rules or to train, so it says by language what the classes of an English set cannot. Values of Faker
are more regular than people's, and its names more common: figures are higher here than in the field.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta

import faker

from benchmarks.redacting.labelled_texts import MarkedText, MarkedValue

SEED = "redaction 1"
TEXTS_PER_SENTENCE = 10
LOWER_SHARE, BROKEN_SHARE, TYPO_SHARE = 0.15, 0.1, 0.1

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "en_GB": (
        "{name} wants the prescription sent to {address}, phone {phone}",
        "appointment for {name}, born {birth}, NHS or NI number {id}, please call {phone}",
        "refund to {iban}, the receipt goes to {email}",
        "the card {card} was declined twice, customer is {name}",
        "{first} left her coat here, she lives at {street}",
        "{name}'s car {plate_word} {plate} is ready, text {phone}",
    ),
    "de_DE": (
        "{name} hat angerufen, Rückruf unter {phone}, wohnt {address}",
        "Termin für {name}, geb. {birth}, Versichertennummer {record}",
        "bitte {amount} Euro auf {iban} überweisen, Beleg an {email}",
        "Karte {card} wurde abgelehnt, Kundin heißt {name}",
        "die Winterreifen von {last} sind da, {plate_word} {plate}",
        "Lieferung an {street}, zweiter Stock, bei {last} klingeln",
    ),
    "fr_FR": (
        "{name} habite {address}, tél {phone}",
        "rendez-vous pour {name}, né le {birth}, sécurité sociale {id}",
        "remboursement sur {iban}, le reçu à {email}",
        "la carte {card} est refusée, cliente {name}",
        "livrer chez {last}, {street}, sonner deux fois",
        "la voiture de {name}, immatriculation {plate}, est prête",
    ),
    "es_ES": (
        "{name} vive en {address}, teléfono {phone}",
        "cita para {name}, nacido el {birth}, DNI {id}",
        "devolución a {iban}, el recibo a {email}",
        "la tarjeta {card} no funciona, cliente {name}",
        "entregar a {first} en {street}",
        "historia clínica {record} de {name}, llamar al {phone}",
    ),
    "it_IT": (
        "{name} abita in {address}, telefono {phone}",
        "appuntamento per {name}, nato il {birth}, codice fiscale {id}",
        "rimborso su {iban}, ricevuta a {email}",
        "la carta {card} è bloccata, cliente {name}",
        "consegnare a {first} in {street}",
        "la macchina di {last}, targa {plate}, è pronta, chiamare {phone}",
    ),
    "nl_NL": (
        "{name} woont op {address}, bel {phone}",
        "afspraak voor {name}, geboren {birth}, BSN {id}",
        "terugbetaling op {iban}, bon naar {email}",
        "kaart {card} geweigerd, klant is {name}",
        "bezorgen bij {last}, {street}",
        "de auto van {name}, kenteken {plate}, is klaar",
    ),
    "pt_PT": (
        "{name} mora em {address}, telefone {phone}",
        "consulta para {name}, nascido em {birth}, NIF {record}",
        "reembolso para {iban}, recibo para {email}",
        "o cartão {card} foi recusado, cliente {name}",
        "entregar a {first} na {street}",
        "o carro de {last}, matrícula {plate}, está pronto",
    ),
    "pl_PL": (
        "{name} mieszka {address}, telefon {phone}",
        "wizyta dla {name}, urodzony {birth}, PESEL {id}",
        "zwrot na konto {iban}, paragon na {email}",
        "karta {card} odrzucona, klient {name}",
        "dostawa: {last}, {street}",
        "leki dla {first} {last} są gotowe, proszę dzwonić {phone}",
    ),
    "sv_SE": (
        "{name} bor på {address}, telefon {phone}",
        "tid för {name}, född {birth}, personnummer {id}",
        "återbetala till {iban}, kvitto till {email}",
        "kortet {card} nekades, kunden heter {name}",
        "leverera till {last}, {street}",
        "bilen {plate_word} {plate} är klar, ring {first} på {phone}",
    ),
    "da_DK": (
        "{name} bor {address}, tlf {phone}",
        "tid til {name}, født {birth}, cpr {id}",
        "tilbagebetaling til {iban}, kvittering til {email}",
        "kortet {card} blev afvist, kunden er {name}",
        "lever til {last}, {street}",
        "medicinen til {first} er klar, ring {phone}",
    ),
    "no_NO": (
        "{name} bor i {address}, tlf {phone}",
        "time til {name}, født {birth}, fødselsnummer {id}",
        "tilbakebetaling til {iban}, kvittering til {email}",
        "kortet {card} ble avvist, kunden er {name}",
        "lever til {last}, {street}",
        "bilen til {name} er klar, ring {phone}",
    ),
    "fi_FI": (
        "{name} asuu {address}, puhelin {phone}",
        "aika: {name}, syntynyt {birth}, hetu {id}",
        "palautus tilille {iban}, kuitti {email}",
        "kortti {card} hylättiin, asiakas {name}",
        "toimitus: {last}, {street}",
        "lääkkeet {first} ovat valmiit, soita {phone}",
    ),
}  # fmt: skip
_PLATE_WORDS = {"en_GB": "registration", "de_DE": "Kennzeichen", "sv_SE": "regnr"}
_SLOT = re.compile(r"\{(\w+)\}")
_LABELS = {
    **dict.fromkeys(("name", "first", "last"), "PERSON"),
    **dict.fromkeys(("address", "street"), "STREET_ADDRESS"),
    **{"phone": "PHONE_NUMBER", "email": "EMAIL_ADDRESS", "id": "NATIONAL_ID", "record": "RECORD", "plate": "PLATE"},
    **{"iban": "IBAN_CODE", "card": "CREDIT_CARD", "birth": "BIRTH_DATE"},
}
_NOT_MARKED = ("amount", "plate_word")


def composed_texts() -> list[MarkedText]:
    """Return the texts of all languages; `language` is the locale's."""
    return [text for locale in SENTENCES for text in _of_locale(locale)]


def _of_locale(locale: str) -> Iterator[MarkedText]:
    fake = faker.Faker(locale)
    fake.seed_instance(f"{SEED} {locale}")
    rng = random.Random(f"{SEED} {locale}")  # noqa: S311 - not for secrets
    for sentence in SENTENCES[locale]:
        for _ in range(TEXTS_PER_SENTENCE):
            yield _composed(sentence, locale, fake, rng)


def _composed(sentence: str, locale: str, fake: faker.Faker, rng: random.Random) -> MarkedText:
    lower, broken, typo = (rng.random() < share for share in (LOWER_SHARE, BROKEN_SHARE, TYPO_SHARE))
    text, values = "", []
    pieces = _SLOT.split(sentence)
    for at, piece in enumerate(pieces):
        if at % 2 == 0:
            text += _with_typo(piece, rng) if typo else piece
            continue
        value = _PLATE_WORDS.get(locale, "") if piece == "plate_word" else _VALUES[piece](fake, rng)
        if piece not in _NOT_MARKED:
            value = value.replace(" ", "\n", 1) if broken and rng.random() < 1 / 2 else value
            values.append(MarkedValue(len(text), len(text) + len(value), _LABELS[piece]))
        text += value
    # Of these alphabets no letter changes its length in lower case.
    return MarkedText(text.lower() if lower else text, tuple(values), locale[:2])


def _with_typo(words: str, rng: random.Random) -> str:
    """Leave a letter out of the longest word, if it has six."""
    longest = max(words.split() or [""], key=len)
    if len(longest) < 6:
        return words
    cut = rng.randrange(1, len(longest) - 1)
    return words.replace(longest, longest[:cut] + longest[cut + 1 :], 1)


def _born(fake: faker.Faker, rng: random.Random) -> str:
    day = date(1930, 1, 1) + timedelta(days=rng.randrange(85 * 365))
    forms = {"en": "%d/%m/%Y", "fr": "%d/%m/%Y", "es": "%d/%m/%Y", "it": "%d/%m/%Y", "pt": "%d/%m/%Y", "nl": "%d-%m-%Y"}
    forms |= {"da": "%d-%m-%Y", "sv": "%Y-%m-%d"}
    return day.strftime(forms.get(str(fake.locales[0])[:2], "%d.%m.%Y"))


def _grouped(number: str, rng: random.Random) -> str:
    separator = rng.choice((" ", " ", "", "-"))
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4))


def _iban(fake: faker.Faker, rng: random.Random) -> str:
    number = fake.iban()
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4)) if rng.random() < 1 / 2 else number


def _one_line(written: str) -> str:
    return ", ".join(line.strip(" ,") for line in written.splitlines() if line.strip())


_VALUES: Mapping[str, Callable[[faker.Faker, random.Random], str]] = {
    "name": lambda fake, _: f"{fake.first_name()} {fake.last_name()}",
    "first": lambda fake, _: fake.first_name(),
    "last": lambda fake, _: fake.last_name(),
    "address": lambda fake, _: _one_line(fake.address()),
    "street": lambda fake, _: _one_line(fake.street_address()),
    "phone": lambda fake, _: fake.phone_number(),
    "email": lambda fake, _: fake.email(safe=False),
    "id": lambda fake, _: fake.ssn(),
    "record": lambda _, rng: str(rng.randrange(10**8, 10**9)),
    "plate": lambda fake, _: fake.license_plate(),
    "iban": _iban,
    "card": lambda fake, rng: _grouped(fake.credit_card_number(card_type="mastercard"), rng),
    "birth": _born,
    "amount": lambda _, rng: str(rng.randrange(10, 400)),
}

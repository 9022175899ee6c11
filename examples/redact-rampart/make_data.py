"""Make the labelled texts that the redaction bundle is measured on: composed, so nobody's data are in them.

    python examples/redact-rampart/make_data.py            # into examples/redact-rampart/data

A template is a sentence of a till or a reception in one of six languages, with slots such as {given}; Faker fills them
by locale and seed. A template is one family and lies in one split whole. Clean templates have numbers and names that
are not personal: articles, doses, products, opening hours. The model has seen none of these texts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faker

HERE = Path(__file__).parent
SEED = 29
ROWS_PER_TEMPLATE = 4
LABELS = {
    **{"given": "GIVEN_NAME", "surname": "SURNAME", "phone": "PHONE", "email": "EMAIL", "street": "STREET_NAME"},
    **{"number": "BUILDING_NUMBER", "zip": "ZIP_CODE", "city": "CITY"},
}
_SLOT = re.compile(r"\{(\w+)\}")
_MAKE: dict[str, Callable[[faker.Faker, random.Random], str]] = {
    "given": lambda fake, _: fake.first_name(),
    "surname": lambda fake, _: fake.last_name(),
    "phone": lambda fake, _: fake.phone_number(),
    "email": lambda fake, _: fake.email(safe=False),
    "street": lambda fake, _: fake.street_name(),
    "number": lambda _, drawn: str(drawn.randrange(1, 180)),
    "zip": lambda fake, _: fake.postcode(),
    "city": lambda fake, _: fake.city(),
    "article": lambda _, drawn: f"{drawn.randrange(10_000, 99_999)}",
    "dose": lambda _, drawn: f"{drawn.choice((5, 10, 20, 400, 500))} mg",
    "price": lambda _, drawn: f"{drawn.randrange(2, 300)}.{drawn.randrange(10, 99)}",
}
# By locale: templates of the calibration split, then those of the test split.
TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en_GB": (
        (
            "The parcel for {given} {surname}, {number} {street}, {city}, has not arrived.",
            "Please call {given} back on {phone}.",
            "Does article {article} come in blue, and is it {price} pounds?",
            "Take {dose} of ibuprofen after a meal, twice a day.",
        ),
        (
            "Customer {surname} wants the invoice sent to {email}.",
            "My name is {given} {surname} and I live in {city}, {zip}.",
            "Ring {phone}, ask for {given}.",
            "The kettle with order number {article} leaks; I paid {price}.",
            "Is the shop open on Sundays between 10 and 4?",
        ),
    ),
    "de_DE": (
        (
            "Bitte senden Sie es an {given} {surname}, {street} {number}, {zip} {city}.",
            "Frau {surname} bittet um Rückruf unter {phone}.",
            "Artikel {article} ist für {price} Euro im Angebot.",
        ),
        (
            "Herr {given} {surname} holt die Hose morgen ab.",
            "Rechnung an {email}, wohnhaft in {city}.",
            "Ramipril {dose}, 30 Tabletten, einmal am Morgen.",
            "Der Drucker zeigt Fehler {article} und druckt nicht.",
        ),
    ),
    "fr_FR": (
        (
            "Madame {surname} habite au {number} {street}, {zip} {city}.",
            "Le produit {article} coûte {price} euros.",
        ),
        (
            "Rappelez {given} {surname} au {phone}, s'il vous plaît.",
            "Envoyez la facture à {email}.",
            "Le magasin ferme à 19 heures le samedi.",
        ),
    ),
    "es_ES": (
        ("El paquete es para {given} {surname}, de {city}.", "La talla 42 cuesta {price} euros."),
        (
            "Llame a la señora {surname} al {phone}.",
            "Paracetamol {dose}, una caja.",
            "Escriba a {email} si hay retraso.",
        ),
    ),
    "it_IT": (
        ("La signora {given} {surname} abita in {street} {number}, {city}.", "Il codice {article} è esaurito."),
        ("Chiami il signor {surname} al numero {phone}.", "Vorrei cambiare la lampada da {price} euro."),
    ),
    "nl_NL": (
        ("De bestelling van {given} {surname} gaat naar {street} {number}, {zip} {city}.", "Artikel {article} is op."),
        ("Mevrouw {surname} vraagt om een afspraak, tel. {phone}.", "Kan ik de jas van {price} euro ruilen?"),
    ),
}


def rows(locale: str, template: str, family: str) -> Iterator[dict[str, Any]]:
    """Fill a template a few times; a clean one once for each, as its numbers differ."""
    fake, drawn = faker.Faker(locale), random.Random(f"{SEED} {family}")  # noqa: S311 - not for secrets
    fake.seed_instance(f"{SEED} {family}")
    for _ in range(ROWS_PER_TEMPLATE if _SLOT.search(template) else 1):
        text, spans, end = "", [], 0
        for slot in _SLOT.finditer(template):
            text += template[end : slot.start()]
            value = _MAKE[slot[1]](fake, drawn)
            if slot[1] in LABELS:
                spans.append({"start": len(text), "end": len(text) + len(value), "label": LABELS[slot[1]]})
            text, end = text + value, slot.end()
        yield {"text": text + template[end:], "spans": spans, "family": family}


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "data")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split, place in (("calibration", 0), ("test", 1)):
        lines = [
            json.dumps(row, ensure_ascii=False)
            for locale, both in TEMPLATES.items()
            for number, template in enumerate(both[place])
            for row in rows(locale, template, f"{split}-{locale}-{number}")
        ]
        (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

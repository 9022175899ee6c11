"""Words and sentences that nobody need hide, and names, from the package mimesis: for training and calibration.

Goods (dishes, drinks, fruits, vegetables, spices), towns, occupations, firms, cars; questions and sentences of several
languages; names of people. The package's lists are read, its code is not run.

What `scripts/bench redaction` takes for clean is not learned by heart: an entry that stands in a line of
tests/data/clean_lookalikes.txt is left out, and so is a brand, firm, car or drug that stands in a name of goods of
examples/retail-categories. A dish, town or occupation that is called just as a person is left out, too, and a sentence
with a name of a person. A firm, car or country may be called after one, such as Ann Taylor, Alfa Romeo or Jordan.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "mimesis"
LOOKALIKES = Path(__file__).parents[2] / "tests" / "data" / "clean_lookalikes.txt"
FOODS = ("dishes", "drinks", "fruits", "vegetables", "spices")
NAMES_OF = {"pt": ("pt", "pt-br"), "de": ("de", "de-at"), "nl": ("nl", "nl-be"), "es": ("es", "es-mx")}
"""Folders of the package by language, where they are not just that of the language."""
OTHER_NAMES = ("cs", "hu", "is", "hr", "sk", "tr", "et", "da", "fi", "fr", "it", "nl", "no", "pl", "pt-br", "sv", "en")
_SAID = ("questions", "text")
_SAID_CHARACTERS_MAX = 110
_WORDS = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_NO_NAMES = frozenset(
    (
        *("are", "don", "made", "english", "french", "german", "love", "cash", "banks", "sales", "due", "via"),
        *("said", "weeks", "winter", "pain", "tea", "marks", "post", "brand", "una", "fare", "mai", "mia", "era"),
        *("anni", "del", "hai", "due", "hanno", "della", "dalla", "nella", "alla", "gusta", "eres", "perro", "gato"),
        *("tren", "foto", "caja", "kan", "heeft", "bent", "engels", "kwam", "vind", "mee", "elke", "kunt", "beste"),
        *("lange", "katten", "moe"),
    )
)
"""Words of sentences that are also names, and that Faker's lists of ordinary words lack."""
_NOT_FOR_A_COUNTER = re.compile(r"(?i)\b(sex|porn|nude|penis|vagin|rape|kill|suicid|masturb|blowjob|rimjob|breast)")


@cache
def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("mimesis is not installed: pip install --no-deps mimesis==22.2.0")
    return Path(spec.origin).parent / "datasets"


@cache
def _read(locale: str, file: str) -> dict[str, Any]:
    path = _folder() / locale / f"{file}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _flat(listed: Any) -> list[str]:
    return [each for part in listed.values() for each in _flat(part)] if isinstance(listed, dict) else list(listed)


def plain(text: str) -> str:
    """Return the words of a text in lower case, one blank between them and around them."""
    return f" {' '.join(_WORDS.findall(text.casefold()))} "


@cache
def _lookalikes() -> str:
    return plain(" | ".join(LOOKALIKES.read_text(encoding="utf-8").splitlines()))


def not_measured(entries: Iterable[str], goods: str = "") -> list[str]:
    """Return the entries that stand in no look-alike of the benchmark, and in none of its names of goods, if given."""
    return [each for each in entries if plain(each) not in _lookalikes() and plain(each) not in goods]


@cache
def people() -> frozenset[str]:
    """Return given and family names of all languages, in lower case."""
    found = {name for locale in {*OTHER_NAMES, "cs", "de", "es", "pt", "en-gb", "az"} for name in _names_of(locale)}
    return frozenset(name.casefold() for name in found if len(name) > 2)


def _names_of(locale: str) -> list[str]:
    person = _read(locale, "person")
    return [*_flat(person.get("names", {})), *_flat(person.get("surnames", {}))]


@cache
def given_names(language: str) -> tuple[str, ...]:
    """Return given names of a language; "" = of other languages."""
    return _names(language, "names")


@cache
def surnames(language: str) -> tuple[str, ...]:
    """Return family names of a language; "" = of other languages."""
    return _names(language, "surnames")


def _names(language: str, kind: str) -> tuple[str, ...]:
    locales = NAMES_OF.get(language, (language,)) if language else OTHER_NAMES
    names = [name for locale in locales for name in dict.fromkeys(_flat(_read(locale, "person").get(kind, {})))]
    return tuple(name for name in names if len(name) > 2 and name[:1].isupper())


@cache
def goods(language: str) -> tuple[str, ...]:
    """Return dishes, drinks, fruits, vegetables and spices; none is called just as a person."""
    food = _read(language, "food")
    listed = dict.fromkeys(each for kind in FOODS for each in _flat(food.get(kind, ())) if len(each) < 40)
    return tuple(not_measured(each for each in listed if each.casefold() not in people()))


@cache
def towns(language: str) -> tuple[str, ...]:
    """Return towns that are not called as a person."""
    listed = dict.fromkeys(map(str, _flat(_read(language, "address").get("city", ()))))
    return tuple(not_measured(each for each in listed if each.casefold() not in people()))


@cache
def jobs(language: str) -> tuple[str, ...]:
    """Return occupations."""
    listed = dict.fromkeys(_flat(_read(language, "person").get("occupation", ())))
    return tuple(not_measured(each for each in listed if each.casefold() not in people()))


@cache
def countries(language: str) -> tuple[str, ...]:
    """Return names of countries."""
    return tuple(not_measured(dict.fromkeys(_flat(_read(language, "address")["country"]["name"]))))


@cache
def firms(goods_measured: str) -> tuple[str, ...]:
    """Return firms and banks."""
    finance = _read("en", "finance")
    listed = dict.fromkeys([*finance["company"]["name"], *finance["banks"]])
    return tuple(not_measured((each for each in listed if len(each) < 30), goods_measured))


@cache
def cars(goods_measured: str) -> tuple[str, ...]:
    """Return makes and models of cars."""
    module = ast.parse((_folder() / "int" / "transport.py").read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CARS":
            return tuple(not_measured(ast.literal_eval(node.value), goods_measured))
    return ()


@cache
def sentences(language: str, ordinary: frozenset[str]) -> tuple[str, ...]:
    """Return questions and sentences without a name of a person.

    Args:
        language: "en" has questions of a web site, Dutch, Italian and Spanish short sentences, others few.
        ordinary: words of the language that are no sign of a name, in lower case, such as "will" and "best".
    """
    text = _read(language, "text")
    listed = dict.fromkeys(" ".join(each.split()) for kind in _SAID for each in text.get(kind, ()))
    suspicious = people() - ordinary - _NO_NAMES
    return tuple(
        not_measured(
            each
            for each in listed
            if 8 < len(each) < _SAID_CHARACTERS_MAX
            and not suspicious.intersection(_LETTERS.findall(each.casefold()))
            and not _NOT_FOR_A_COUNTER.search(each)
        )
    )

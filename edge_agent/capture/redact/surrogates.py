"""Made-up names in place of real ones, for a large model that writes better about Maria than about [GIVEN_NAME_1].

Names and places alone get them: an answer that reformats a made-up number would bring a number back that looks real, so
numbers, addresses of e-mail and all else keep their placeholders. A made-up name never stands in the text already, and
none is given twice in one example. Pure, apart from the draw that is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

_GIVEN = (
    *("Maria", "Jonas", "Elena", "Lukas", "Sofia", "Martin", "Clara", "Felix", "Nina", "Oscar", "Julia", "Simon"),
    *("Laura", "David", "Helena", "Victor", "Irene", "Emil", "Teresa", "Anton", "Vera", "Hugo", "Alma", "Leon"),
)
_SURNAMES = (
    *("Fischer", "Moreau", "Rossi", "Lindberg", "Novak", "Jansen", "Costa", "Keller", "Dubois", "Hansen", "Marin"),
    *("Weber", "Ferrari", "Nilsson", "Kowalski", "Bakker", "Silva", "Brandt", "Laurent", "Olsen", "Romano", "Berger"),
)
_CITIES = (
    *("Marburg", "Annecy", "Lucca", "Uppsala", "Zwolle", "Aveiro", "Odense", "Girona", "Linz", "Exeter", "Tours"),
    *("Bergamo", "Leiden", "Passau", "Vigo", "Malmö", "Braga", "Aarhus", "Graz", "Durham", "Nancy", "Siena"),
)
_STREETS = ("Mill Lane", "Park Road", "Station Street", "Garden Row", "Church Walk", "Bridge Street", "Orchard Way")
_BY_WORD: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("GIVEN_NAME", "FIRST_NAME"), _GIVEN),
    **dict.fromkeys(("SURNAME", "LAST_NAME"), _SURNAMES),
    "CITY": _CITIES,
    **dict.fromkeys(("STREET_NAME", "STREET"), _STREETS),
}
_FULL_NAMES = frozenset({"NAME", "PERSON"})

Draw = Callable[[int], int]
"""Returns a number from 0 to below another one, by chance."""


def made_up(value: str, word: str, avoid: str, taken: Collection[str], draw: Draw) -> str:
    """Return a made-up value for one of that type; empty = its type keeps a placeholder, or every one is in use.

    Args:
        value: the real one, whose case is kept.
        word: of its placeholder, such as GIVEN_NAME.
        avoid: the text: nothing that stands in it is returned.
        taken: what other values of the example got.
        draw: the draw.
    """
    if any(character.isdecimal() for character in value):
        return ""
    lowered, used = avoid.lower(), {each.lower() for each in taken}
    free = [each for each in _choices(value, word) if each.lower() not in lowered and each.lower() not in used]
    return _in_case_of(value, free[draw(len(free))]) if free else ""


def restoring(values: Mapping[str, str]) -> re.Pattern[str] | None:
    """Return the pattern that finds made-up values in an answer, as whole words; None without any."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)") if values else None


def unfinished(text: str, values: Collection[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a made-up value, or a whole one."""
    longest = max(map(len, values), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(each.startswith(text[-length:]) for each in values):
            return length
    return 0


def _choices(value: str, word: str) -> tuple[str, ...]:
    if word not in _FULL_NAMES:
        return _BY_WORD.get(word, ())
    if len(value.split()) < 2:
        return _GIVEN
    return tuple(f"{given} {surname}" for given, surname in zip(_GIVEN, _SURNAMES, strict=False))


def _in_case_of(value: str, made: str) -> str:
    if value.isupper() and len(value) > 1:
        return made.upper()
    return made.lower() if value.islower() else made

"""Harder forms of made-up values, for training and calibration: inflected names, streets as each country writes them,
and codes of shelves, models and vouchers.

Grammar is approximate: a name takes an ending that its language has, and not always the one that the sentence asks for.
"""

from __future__ import annotations

import random
import re
from typing import Any

Piece = tuple[str, str]
"""Text and label, "" for none."""

INFLECTED_SHARES = {"fi": 0.4, "pl": 0.4, "sv": 0.15, "da": 0.15, "no": 0.15, "de": 0.12, "nl": 0.08}
_FINNISH = ("n", "n", "lle", "lta", "lla", "sta", "ssa")
_POLISH_CASES = {
    "ski": ("skiego", "skiemu", "skim"),
    "cki": ("ckiego", "ckiemu", "ckim"),
    "ska": ("skiej", "ską"),
    "cka": ("ckiej", "cką"),
    "ek": ("ka", "kowi", "kiem"),
    "ka": ("ki", "ce", "kę", "ką"),
    "ga": ("gi", "dze", "gę", "gą"),
    "ia": ("ii", "ię", "ią"),
    "a": ("y", "ie", "ę", "ą"),
}
_STREETS = {
    "en": (
        "<U Flat {m}>, <B {n}> <S {w} Road>",
        "<B {n}{a}> <S {w} Street>",
        "<S {w} Cottage>, <S {v} Lane>",
        "<U Unit {m}>, <S {w} Industrial Estate>",
        "<B {n}> <S N {w} St>",
        "<B {n}> <S Highway {m}>",
        "<S P.O. Box> <B {n}>",
        "<B {m}-{n}> <S {w} Ave>",
        "<B {n}> <S The {w}>",
        "<B {n}> <S E {m}th St>, <U #{m}>",
        "<S {w} Rd> <B {n}>",
    ),
    "de": (
        "<S {w}straße> <B {n}>",
        "<S {w}str.> <B {n}{a}>",
        "<S {w}weg> <B {n}>",
        "<S Am {w}> <B {n}>",
        "<S An der {w}> <B {n} {a}>",
        "<S Zum {w}hof> <B {n}>",
        "<S Auf dem {w}berg> <B {n}-{m}>",
        "<S {w}gasse> <B {n}/{m}>",
        "<S {v}-{w}-Platz> <B {n}>",
        "<S Hof {w}>",
        "<S Im {w}> <B {n}>, <U {m}. Stock>",
        "<S {w}allee> <B {n}>",
    ),
    "fr": (
        "<B {n}> <S rue {w}>",
        "<B {n} bis> <S rue de {w}>",
        "<B {n}>, <S avenue {v} {w}>",
        "<B {n} ter> <S chemin des {w}>",
        "<S lieu-dit {w}>",
        "<U Bât. {a}>, <B {n}> <S allée {w}>",
        "<B {n}> <S bd {w}>, <U {m}e étage>",
        "<B {n}> <S impasse {w}>",
        "<B {n}> <S quai de {w}>",
        "<S rue {w}> <B {n}>",
        "<B {n}> <S place {w}>",
    ),
    "es": (
        "<S C/ {w}> <B {n}>, <U {m}º {a}>",
        "<S Calle {w}>, <B {n}>",
        "<S Avda. {v} {w}> <B {n}>",
        "<S Pza. {w}> <B {n}> <U bajo>",
        "<S Camino de {w}> <B s/n>",
        "<S Ctra. {w}> <B km {m}>",
        "<S Paseo {w}>, <B {n}>, <U esc. {a}>",
        "<S Ronda de {w}> <B {n}>",
        "<S Carrera {m}> <B # {m}-{n}>",
        "<S Urb. {w}> <B {n}>",
    ),
    "it": (
        "<S via {w}> <B {n}>",
        "<S Via {v} {w}>, <B {n}/{a}>",
        "<S viale {w}> <B {n}>",
        "<S Piazza {w}> <B {n}>, <U int. {m}>",
        "<S corso {w}>, <B {n}>",
        "<S vicolo {w}> <B {n}>",
        "<S loc. {w}> <B {n}>",
        "<S Largo {w}> <B {n}>",
        "<S strada {w}> <B {n} bis>",
        "<S contrada {w}> <B snc>",
    ),
    "nl": (
        "<S {w}straat> <B {n}>",
        "<S {w}laan> <B {n}{a}>",
        "<S {w}weg> <B {n}-{m}>",
        "<S {w}plein> <B {n}>",
        "<S Oude {w}> <B {n} {a}>",
        "<S {w}gracht> <B {n}-{m}>",
        "<S {w}kade> <B {n}> <U {m}hoog>",
        "<S Van {w}straat> <B {n}>",
        "<S {w}dreef> <B {n}> <U bus {m}>",
        "<S De {w}> <B {n}>",
    ),
    "pt": (
        "<S Rua {w}>, <B {n}>",
        "<S R. {v} {w}> <B nº {n}>, <U {m}º Esq>",
        "<S Av. {w}> <B {n}>",
        "<S Travessa {w}> <B {n}>",
        "<S Largo de {w}> <B {n}>",
        "<S Praça {w}>, <B {n}>, <U {m}º Dto>",
        "<S Estrada de {w}> <B {n}>",
        "<S Quinta {w}>, <U lote {m}>",
        "<S Beco {w}> <B {n}>",
        "<S Rua {w}> <B {n}> <U r/c>",
    ),
    "pl": (
        "<S ul. {w}> <B {n}>",
        "<S ul. {v} {w}> <B {n}/{m}>",
        "<S {w}> <B {n}/{m}>",
        "<S al. {w}> <B {n}>",
        "<S os. {w}> <B {n}> <U m. {m}>",
        "<S pl. {w}> <B {n}>",
        "<S {w}> <B {n}{a}>",
        "<S ulica {w}> <B {n}> <U lok. {m}>",
        "<S na {w}> <B {n}>",
        "<S {w} Wielkie> <B {n}>",
    ),
    "sv": (
        "<S {w}gatan> <B {n}>",
        "<S {w}vägen> <B {n} {a}>",
        "<S {w}stigen> <B {n}>",
        "<S {w} torg> <B {n}>",
        "<S {w}gränd> <B {n}>, <U lgh {m}>",
        "<S Södra {w}> <B {n}>",
        "<S {w}backen> <B {n}{a}>",
        "<S {w}s väg> <B {n}>, <U {m} tr>",
        "<S {w}gården> <B {n}>",
    ),
    "da": (
        "<S {w}vej> <B {n}>",
        "<S {w}gade> <B {n}>, <U {m}. tv>",
        "<S {w}allé> <B {n}{a}>",
        "<S {w}s Plads> <B {n}>",
        "<S {w}stræde> <B {n}>, <U st. th>",
        "<S Gammel {w}> <B {n}>",
        "<S {w}bakken> <B {n}>",
        "<S {w}parken> <B {n}>, <U {m}. mf>",
        "<S Ved {w}> <B {n}>",
    ),
    "no": (
        "<S {w}veien> <B {n}>",
        "<S {w}vegen> <B {n} {a}>",
        "<S {w}gata> <B {n}>",
        "<S {w}s gate> <B {n}{a}>",
        "<S {w}svingen> <B {n}>",
        "<S {w}bakken> <B {n}>",
        "<S {w} plass> <B {n}>, <U {m}. etg>",
        "<S Øvre {w}> <B {n}>",
        "<S {w}stien> <B {n}>",
        "<S {w}tunet> <B {n} {a}>",
    ),
    "fi": (
        "<S {w}katu> <B {n}>",
        "<S {w}ntie> <B {n}>",
        "<S {w}nkatu> <B {n}> <U {a} {m}>",
        "<S {w}kuja> <B {n} {a}>",
        "<S {w}npolku> <B {n}>, <U as {m}>",
        "<S Vanha {w}tie> <B {n}>",
        "<S {w}nranta> <B {n}>",
        "<S {w}nkaari> <B {n}> <U {a}{m}>",
        "<S Itäinen {w}> <B {n}>",
        "<S {w}raitti> <B {n}>",
    ),
}  # fmt: skip
"""<S street>, <B number>, <U unit>; {w}, {v} a word and another, {n} a number, {m} a small one, {a} a letter."""
_STREET_WORDS = {
    "en": "Rose Bishop Abbey Kingfisher Willow Ferry Priory Weaver Heather Manor Beacon Dock",
    "de": "Linden Mühlen Birken Schul Kirch Garten Bahnhof Rosen Alte Wiesen Brunnen Schiller",
    "fr": "Lilas Moulins Pasteur Gambetta Fontaine Écoles Vignes République Lavoir Tilleuls",
    "es": "Mayor Real Olivos Cervantes Molino Iglesia Constitución Huertas Pilar Fuente",
    "it": "Roma Garibaldi Mulino Mazzini Fontana Verdi Cavour Ulivi Castello Pini",
    "nl": "Molen Kerk Linden Dorp Beuken Haven Prinsen School Eiken Wilhelmina",
    "pt": "Flores Moinho Liberdade Igreja Oliveiras Camões Fonte Pinhal Ribeira",
    "pl": "Lipowa Polna Kościuszki Młyńska Słoneczna Mickiewicza Zamkowa Leśna Brzozowa Rynek Piastów",
    "sv": "Kungs Björk Kyrko Skol Strand Ängs Park Gran Sjö Lind",
    "da": "Birke Kirke Strand Skole Mølle Engle Lærke Skov Bøge Sø",
    "no": "Bjørke Kirke Strand Skole Mølle Elve Fjell Skog Gran Sjø",
    "fi": "Koivu Kirkko Koulu Mylly Ranta Mänty Puisto Lehto Järvi Kauppa",
}
_STREET_PART = re.compile(r"<([SBU]) ([^>]*)>")
_STREET_LABELS = {"S": "STREET_NAME", "B": "BUILDING_NUMBER", "U": "SECONDARY_ADDRESS"}
TOWN_FIRST = frozenset({"en"})
"""The postal code stands behind the town."""
CODES = (
    *("?####?", "##?# ### ###", "SN-##?#-####", "??-####", "####/####", "#.##.#", "??##", "?##", "##-###-##"),
    *("REF-####-??", "LOT ?####", "v#.#.##", "####.###.##", "?-##-##", "????####", "#####-??", "??? ###-#", "M# x ##"),
    *("EN ####", "RAL ####", "PO-#####", "?#", "?#-?#", "####-####-####", "????-????", "##########", "??###?"),
)
ARTICLES = (
    *("#####", "######", "####-###-#", "#######", "4006381######", "##-#####", "########", "### ### ##", "#########"),
    *("####.##", "5901234######", "#-####-###", "#### ####", "##.###.##", "###########"),
)
PLATES = (
    *("?-?? ####", "??-###-??", "?? ## ???", "??? ###", "## ??? #", "??####?", "?? #####", "???####", "#### ???"),
    *("??-??-##", "##-??-##", "?-###-??", "??? ##?", "?? ??? ##", "?? ???", "?##???", "???-###"),
)


def inflected(name: str, language: str, chance: random.Random) -> str:
    """Return a name with an ending of its language."""
    if language == "fi":
        return _finnish(name, chance)
    if language == "pl":
        return _polish(name, chance)
    if name.endswith(("s", "x", "z")):
        return name + ("'" if language in ("de", "nl") else "s" if language == "no" else "")
    return name + "s"


def _finnish(name: str, chance: random.Random) -> str:
    ending = chance.choice(_FINNISH)
    stem = name[:-3] + "se" if name.endswith("nen") else name
    if stem[-1].lower() not in "aeiouyäöåø":
        stem += "i"
    back = any(letter in "aouAOU" for letter in stem)
    return stem + (ending if back else ending.replace("a", "ä"))


def _polish(name: str, chance: random.Random) -> str:
    for ending, cases in _POLISH_CASES.items():
        if name.endswith(ending):
            return name[: -len(ending)] + chance.choice(cases)
    return name if name[-1] in "eiouyąęó" else name + chance.choice(("a", "owi", "em"))


def street_of(language: str, fake: Any, chance: random.Random) -> list[Piece]:
    """Return a street with its number in one of the forms of a language's countries."""
    words = [*_STREET_WORDS[language].split(), str(fake.last_name()), str(fake.first_name())]
    fills = {"w": chance.choice(words), "v": str(fake.first_name()), "n": str(chance.randrange(1, 240))}
    fills |= {"m": str(chance.randrange(1, 30)), "a": chance.choice("aAbBcCD")}
    pieces: list[Piece] = []
    end = 0
    form = chance.choice(_STREETS[language])
    for part in _STREET_PART.finditer(form):
        pieces += [(form[end : part.start()], ""), (part[2].format(**fills), _STREET_LABELS[part[1]])]
        end = part.end()
    return [piece for piece in pieces if piece[0]]


def town_of(language: str, fake: Any, chance: random.Random) -> list[Piece]:
    """Return the town of an address, most often with its postal code."""
    town: list[Piece] = [(str(fake.city()), "CITY")]
    if chance.random() < 0.2:
        return town
    code: Piece = (str(fake.postcode()), "ZIP_CODE")
    return [*town, (" ", ""), code] if language in TOWN_FIRST else [code, (" ", ""), *town]

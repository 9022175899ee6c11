"""National numbers of people in 45 countries: tax, health and social insurance, identity cards; and passports by MRZ.

A number is found in three ways. After a word that announces it ("BSN", "numéro de sécurité sociale") its shape is
enough, so that a mistyped number is found, too. Without such a word, only distinctive forms are tried, and the check
digits must be right, by python-stdnum or by a check in this module. Lines of a machine-readable zone (ICAO Doc 9303)
have a shape of their own.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.capture.redact import Span, strip_separators
from edge_agent.capture.redact.account_numbers import weighted_sum
from edge_agent.capture.redact.indexed_text import AnnouncedPattern, beginnings


@dataclass(frozen=True)
class NationalNumber:
    """One kind of number of one country."""

    module: str
    """Its check: a module below `stdnum`, or with a leading "." a function of this module."""
    shape: str
    """Pattern of the bare number, in upper case, without separators."""
    words: str = ""
    """Pattern of the words that announce it; empty = no words."""
    form: str = ""
    """Pattern of the forms that are found without a word if the check passes; empty = no form."""


_N = NationalNumber
NATIONAL_NUMBERS = (
    _N("ar.cuit", r"\d{11}", r"cui[tl]", r"\d{2}-\d{8}-\d"),
    _N("ar.dni", r"\d{7,8}", r"documento nacional|dni"),
    _N(
        "at.vnr", r"\d{10}", r"sv-?n(?:umme)?r|sozialversicherungs-?n(?:umme)?r|versicherungs-?n(?:umme)?r",
        r"\d{4} \d{6}",
    ),
    _N("au.tfn", r"\d{8,9}", r"tfn|tax file"),
    _N(".au_medicare", r"[2-6]\d{9,10}", r"medicare", r"[2-6]\d{3} \d{5} \d(?:[ /-]?\d)?"),
    _N(
        "be.nn", r"\d{11}", r"rijksregister\w{0,8}|registre national|nn|insz|niss",
        r"\d{2}[.]?\d{2}[.]?\d{2}[- ]?\d{3}[. ]?\d{2}",
    ),
    _N("bg.egn", r"\d{10}", r"\u0435\u0433\u043d|egn"),
    _N("br.cpf", r"\d{11}", r"cpf"),
    _N("ca.sin", r"\d{9}", r"sin|nas|social insurance|assurance sociale", r"\d{3}-\d{3}-\d{3}"),
    _N(
        "ch.ssn", r"756\d{10}", r"ahv(?:-?n(?:umme)?r)?|avs|navs13|assicurazione vecchiaia",
        r"756\.?\d{4}\.?\d{4}\.?\d{2}",
    ),
    _N("cl.rut", r"\d{7,8}[\dK]", r"rut|run", r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]"),
    _N("cn.ric", r"\d{17}[\dX]", r"身份证\w{0,4}", r"\d{17}[\dXx]"),
    _N("co.nit", r"\d{8,10}", r"c[ée]dula|nit"),
    _N("cz.rc", r"\d{9,10}", r"rodn[ée] č[íi]slo|rodné číslo|r\.?č\.?", r"\d{6}/\d{3,4}"),
    _N("de.idnr", r"\d{11}", r"steuer-?id(?:entifikationsnummer|nr)?|steuerliche identifikationsnummer|idnr"),
    _N("de.stnr", r"\d{10,13}", r"steuer-?n(?:umme)?r|st-nr"),
    _N(
        ".de_health", r"[A-Z]\d{9}",
        r"kvnr|krankenversicherten-?n(?:umme)?r|versicherten-?n(?:umme)?r|egk|krankenkassen-?n(?:umme)?r",
        r"[A-Z] ?\d{3} ?\d{3} ?\d{3}",
    ),
    _N(
        ".de_pension", r"\d{8}[A-Z]\d{3}",
        r"rvnr|sozialversicherungs-?n(?:umme)?r|rentenversicherungs-?n(?:umme)?r|sv-?n(?:umme)?r",
        r"\d{2} ?\d{6} ?[A-Z] ?\d{3}",
    ),
    _N("dk.cpr", r"\d{10}", r"cpr(?:-?n(?:umme)?r)?|personnummer", r"\d{6}-\d{4}"),
    _N("ee.ik", r"\d{11}", r"isikukood"),
    _N("es.nie", r"[XYZ]\d{7}[A-Z]", r"nie"),
    _N("es.dni", r"\d{8}[A-Z]", r"dni|nif"),
    _N(".es_social", r"\d{11,12}", r"seguridad social|nuss|naf"),
    _N(
        "fi.hetu", r"\d{6}[-+A-FU-Y]?\d{3}[0-9A-Z]", r"hetu|henkil[öo]tunnus",
        r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJK-NPR-Y]",
    ),
    _N(
        "fr.nir", r"[12]\d{12}(?:\d{2})?",
        r"s[ée]curit[ée] sociale|n° ?ss|nir|num[ée]ro insee|num[ée]ro de s[ée]cu|carte vitale",
    ),
    _N("gb.nhs", r"\d{10}", r"nhs"),
    _N("gb.utr", r"\d{10}K?", r"utr|unique taxpayer"),
    _N(".gb_nino", r"[A-Z]{2}\d{6}[A-D]", r"nino|national insurance|n\.?i\.? number"),
    _N("gr.amka", r"\d{11}", r"\u03b1\u03bc\u03ba\u03b1|amka"),
    _N("gr.vat", r"\d{9}", r"\u03b1\u03c6\u03bc|afm"),
    _N("hr.oib", r"\d{11}", r"oib"),
    _N(".hu_taj", r"\d{9}", r"taj(?:[- ]?sz[áa]m\w{0,3})?"),
    _N("hu.anum", r"\d{8,11}", r"ad[óo]azonos[íi]t[óo]\w{0,6}|ad[óo]sz[áa]m"),
    _N("ie.pps", r"\d{7}[A-W][A-IW]?", r"ppsn?|personal public service"),
    _N("il.idnr", r"\d{8,9}", r"תעודת זהות|ת\.?ז\.?|teudat zehut"),
    _N("in_.aadhaar", r"\d{12}", r"aadhaa?r|आधार", r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}"),
    _N("in_.pan", r"[A-Z]{5}\d{4}[A-Z]", r"pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"),
    _N("in_.epic", r"[A-Z]{3}\d{7}", r"epic|voter id"),
    _N("is_.kennitala", r"\d{10}", r"kennitala|kt"),
    _N("it.codicefiscale", r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", r"codice fiscale|c\.?f\.?"),
    _N("jp.in_", r"\d{12}", r"マイナンバー|個人番号|my number"),
    _N("kr.rrn", r"\d{13}", r"주민등록번호|rrn", r"\d{6}-[1-8]\d{6}"),
    _N("lt.asmens", r"\d{11}", r"asmens kodas"),
    _N(".lv_person", r"\d{11}", r"personas kods", r"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\d{2}-[012]\d{4}"),
    _N("lu.tva", r"\d{13}", r"matricule nationale|matricule"),
    _N("mx.curp", r"[A-Z]{4}\d{6}[A-Z]{6}[0-9A-Z]\d", r"curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d"),
    _N("mx.rfc", r"[A-ZÑ&]{3,4}\d{6}[0-9A-Z]{3}", r"rfc"),
    _N("my.nric", r"\d{12}", r"mykad|nric", r"\d{6}-\d{2}-\d{4}"),
    _N("nl.bsn", r"\d{8,9}", r"bsn|burgerservicen(?:umme)?r|sofi-?n(?:umme)?r"),
    _N("no.fodselsnummer", r"\d{11}", r"f[øo]dselsn(?:umme)?r\.?|personn(?:umme)?r|fnr", r"\d{6} ?\d{5}"),
    _N("nz.ird", r"\d{8,9}", r"ird"),
    _N(".nz_nhi", r"[A-Z]{3}\d{2}[0-9A-Z]{2}", r"nhi"),
    _N("pk.cnic", r"\d{13}", r"cnic", r"\d{5}-\d{7}-\d"),
    _N("pl.nip", r"\d{10}", r"nip"),
    _N("pl.pesel", r"\d{11}", r"pesel"),
    _N(".pl_identity", r"[A-Z]{3}\d{6}", r"dow[óo]d(?:u)? osobist\w{1,4}|dow[óo]d"),
    _N("pt.nif", r"\d{9}", r"nif|contribuinte"),
    _N(".pt_social", r"\d{11}", r"niss|segurança social"),
    _N(".pt_health", r"\d{9}", r"utente|sns"),
    _N("pt.cc", r"\d{9}[A-Z]{2}\d", r"cart[ãa]o d[eo] cidad[ãa]o|cc", r"\d{8} ?\d ?[A-Z]{2}\d"),
    _N("ro.cnp", r"\d{13}", r"cnp|cod numeric personal"),
    _N("rs.pib", r"\d{13}", r"jmbg|\u0458\u043c\u0431\u0433"),
    _N(".ru_snils", r"\d{11}", r"\u0441\u043d\u0438\u043b\u0441|snils", r"\d{3}-\d{3}-\d{3} \d{2}"),
    _N("ru.inn", r"\d{10,12}", r"\u0438\u043d\u043d"),
    _N(
        "se.personnummer", r"(?:\d{2})?\d{10}", r"personn(?:umme)?r|samordningsn(?:umme)?r|pnr",
        r"(?:19|20)\d{6}-?\d{4}",
    ),
    _N(".sg_nric", r"[STFGM]\d{7}[A-Z]", r"nric|fin"),
    _N("si.emso", r"\d{13}", r"em[šs]o"),
    _N("sk.rc", r"\d{9,10}", r"rodn[ée] č[íi]slo"),
    _N("th.pin", r"\d{13}", r"เลขบัตรประชาชน", r"\d-\d{4}-\d{5}-\d{2}-\d"),
    _N("tr.tckimlik", r"\d{11}", r"t\.?c\.?(?: kimlik)?|kimlik"),
    _N("ua.rntrc", r"\d{10}", r"\u0440\u043d\u043e\u043a\u043f\u043f|\u0456\u043f\u043d"),
    _N("us.ssn", r"\d{9}", r"ssn|social security|social"),
    _N("us.itin", r"\d{9}", r"itin", r"9\d{2}-\d{2}-\d{4}"),
    _N("us.ein", r"\d{9}", r"ein"),
    _N("za.idnr", r"\d{13}", r"rsa id|south african id"),
)  # fmt: skip
"""In the order of countries. Where a word announces numbers of several countries, each of their shapes is tried."""

_CONNECTOR = r"[\s:=#°º.,\-\u2013(\"']{0,4}"
_LINKS = (
    r"(?:(?:is|was|the|number|num|no|nr|n|card|id|code|nummer|numm?er[oa]?|numéro|número|núm|num[ée]ro|numer|číslo"
    r"|szám\w{0,3}|tunnus"
    r"|ist|lautet|meine?|est|es|è|e|é|er|är|on|to|jest|van|de|del|della|di|du|do|da|der|hier|here|of|for|für|pour"
    r"|para|per|voor"
    r"|my|mine|her|his|their|your|patient|holder|member)\b" + _CONNECTOR + r"){0,5}"
)
_GROUPS = re.compile(r"[0-9A-Za-z]{1,20}(?:[ .\-/+\u2013]{1,2}[0-9A-Za-z]{1,13}){0,7}")
_GROUP_END = re.compile(r"[0-9A-Za-z]+")


def _word_pattern(words: str) -> str:
    return rf"(?<!\w)(?:{words})(?!\w)"


_WORDS = "|".join(sorted({number.words for number in NATIONAL_NUMBERS if number.words}, key=len, reverse=True))
# The words must be registered before the first text is read; the patterns are compiled on first use.
beginnings(_WORDS)


@functools.cache
def announcers() -> tuple[AnnouncedPattern, dict[str, re.Pattern[str]]]:
    """Return the pattern of all words that announce a number, and each entry's own."""
    word_patterns = {
        number.words: re.compile(_word_pattern(number.words), re.IGNORECASE)
        for number in NATIONAL_NUMBERS
        if number.words
    }
    return AnnouncedPattern(f"(?i){_word_pattern(_WORDS)}", _WORDS), word_patterns


_LINK_WORDS = re.compile(_CONNECTOR + _LINKS, re.IGNORECASE)


def find_announced_national_numbers(text: str) -> Iterator[Span]:
    """Find numbers after a word that announces them, mistyped ones, too: the longest run of groups that has a shape."""
    announcing_pattern, patterns = announcers()
    for word in announcing_pattern.finditer(text):
        links = _LINK_WORDS.match(text, word.end())
        groups = _GROUPS.match(text, links.end() if links else word.end())
        if groups:
            shapes = [each.shape for each in NATIONAL_NUMBERS if each.words and patterns[each.words].fullmatch(word[0])]
            yield from _longest_number(text, groups, shapes)


def _longest_number(text: str, groups: re.Match[str], shapes: list[str]) -> Iterator[Span]:
    ends = [groups.start() + match.end() for match in _GROUP_END.finditer(groups[0])]
    for end in reversed(ends):
        number = strip_separators(text[groups.start() : end])
        if any(re.fullmatch(shape, number) for shape in shapes):
            yield groups.start(), end
            return


_WITH_FORM = tuple(number for number in NATIONAL_NUMBERS if number.form)


# Apart from the forms: the engine looks for a single character much faster than for alternatives.
_FORM_START = re.compile(r"[0-9A-Z](?<![\w.,/+-].)")


@functools.cache
def _any_form_pattern() -> re.Pattern[str]:
    """Return the pattern of all forms that are found without a word."""
    forms = (f"(?:{number.form})" for number in _WITH_FORM)
    return re.compile(rf"(?:{'|'.join(forms)})(?![\w/-])")


def find_written_national_numbers(text: str) -> Iterator[Span]:
    """Find numbers of a distinctive form whose check digits are right."""
    end, has_form = 0, _any_form_pattern().match
    for start in map(re.Match.start, _FORM_START.finditer(text)):
        if not has_form(text, start):
            continue
        # Forms of several countries may begin here, so they are tried one by one.
        for number, pattern in zip(_WITH_FORM, _form_patterns(), strict=True):
            match = pattern.match(text, start)
            if match and match.start() >= end and accepts(number, match[0]):
                end = match.end()
                yield match.span()
                break


@functools.cache
def _form_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rf"(?:{number.form})(?![\w/-])") for number in _WITH_FORM)


def accepts(number: NationalNumber, candidate: str) -> bool:
    """Return whether the check of that kind of number accepts a written one."""
    if number.module.startswith("."):
        compact = strip_separators(candidate)
        return bool(re.fullmatch(number.shape, compact)) and OWN_CHECKS[number.module](compact)
    separators = "-+" if number.module in ("fi.hetu", "se.personnummer") else ""
    compact = "".join(char for char in candidate if char.isalnum() or char in separators)
    return bool(_stdnum(number.module)(compact))


@functools.cache
def _stdnum(module: str) -> Callable[[str], bool]:
    """Return a check of python-stdnum; loaded on first use, as most daemons need few countries."""
    check: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return check


def _cross_sum(value: int) -> int:
    return sum(divmod(value, 10))


def de_health(number: str) -> bool:
    """Check a Krankenversichertennummer (§ 290 SGB V): a letter as two digits, weights 1 and 2, modulo 10."""
    digits = f"{ord(number[0]) - 64:02d}{number[1:]}"
    return sum(_cross_sum(int(d) * w) for d, w in zip(digits, (1, 2) * 5, strict=False)) % 10 == int(digits[-1])


def de_pension(number: str) -> bool:
    """Check a Rentenversicherungsnummer (VKVV): a day and month of birth, and a check digit."""
    digits = f"{number[:8]}{ord(number[8]) - 64:02d}{number[9:11]}"
    has_birth_day = 1 <= int(number[2:4]) <= 31 and 1 <= int(number[4:6]) <= 12
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    total = sum(_cross_sum(int(digit) * weight) for digit, weight in zip(digits, weights, strict=True))
    return has_birth_day and total % 10 == int(number[-1])


def au_medicare(number: str) -> bool:
    """Check a Medicare card number of Australia: the ninth digit is a weighted sum of the eight before, modulo 10."""
    return weighted_sum(number, (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == int(number[8])


def lv_person(number: str) -> bool:
    """Check a personas kods of Latvia."""
    return (1101 - weighted_sum(number, (1, 6, 3, 7, 9, 10, 5, 8, 4, 2))) % 11 % 10 == int(number[10])


def ru_snils(number: str) -> bool:
    """Check a SNILS: a weighted sum modulo 101, of which 100 is written 00."""
    return weighted_sum(number, (9, 8, 7, 6, 5, 4, 3, 2, 1)) % 101 % 100 == int(number[9:])


OWN_CHECKS: dict[str, Callable[[str], bool]] = {
    ".de_health": de_health,
    ".de_pension": de_pension,
    ".au_medicare": au_medicare,
    ".lv_person": lv_person,
    ".ru_snils": ru_snils,
}
"""Checks that python-stdnum lacks, for numbers that are found without a word."""

_MRZ = re.compile(r"(?<![0-9A-Za-z<])(?=[0-9A-Z<]{0,44}<<)[0-9A-Z<]{28,44}(?![0-9A-Za-z<])")


def find_machine_readable_lines(text: str) -> Iterator[Span]:
    """Find lines of the machine-readable zone of passports and identity cards: 30, 36 or 44 characters with fillers."""
    yield from (match.span() for match in _MRZ.finditer(text))

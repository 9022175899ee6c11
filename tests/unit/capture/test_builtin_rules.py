"""The rules of redaction on a labelled set of texts and on texts that are designed to be slow."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.capture.redact import account_numbers, addresses
from edge_agent.capture.redact.addresses import find_postal_addresses
from edge_agent.capture.redact.builtin_rules import RULES
from edge_agent.capture.redact.indexed_text import alternatives
from edge_agent.capture.redact.redactor import Redactor, compile_site_rules
from edge_agent.errors import ConfigInvalid

DATA = Path(__file__).parents[2] / "data" / "redaction.jsonl"
DOCUMENT = Path(__file__).parents[3] / "docs" / "redaction.md"
CHARACTERS = 32_768
PART = 8
GROWTH_MAX = 4 * PART  # a pattern that backtracks takes PART times PART as long, or more


def measured() -> dict[str, tuple[int, int, int]]:
    """Return the found, labelled and falsely found values of each rule on the labelled set."""
    found, labelled, wrong = Counter(), Counter(), Counter()
    redactor = Redactor()
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        spans = redactor.start().find_values(row["text"])
        places = [(row["text"].find(value), row["text"].find(value) + len(value)) for _, value in row["pii"]]
        covered = {at for start, end, *_ in spans for at in range(start, end)}
        for (rule, value), (begin, _) in zip(row["pii"], places, strict=True):
            labelled[rule] += 1
            found[rule] += all(begin + at in covered for at, char in enumerate(value) if char.isalnum())
        for start, end, rule, _ in spans:
            wrong[rule] += not any(start < stop and end > begin for begin, stop in places)
    return {rule.name: (found[rule.name], labelled[rule.name], wrong[rule.name]) for rule in RULES}


def test_document_has_the_measured_recall_of_each_rule():
    """docs/redaction.md has the measured recall and false positives of each rule."""
    rows = [f"| `{name}` | {found} of {labelled} | {wrong} |" for name, (found, labelled, wrong) in measured().items()]
    assert [] == [row for row in rows if row not in DOCUMENT.read_text(encoding="utf-8")]


def test_every_rule_has_a_minimum_recall():
    """Each rule finds at least 66% of its hard set, the rules for cards and IBANs at least 90%."""
    for name, (found, labelled, _) in measured().items():
        assert found / labelled >= (0.9 if name in ("card", "iban") else 0.66), name


@pytest.mark.parametrize("zero", ["\u0660", "\u09e6", "\uff10"])
def test_digits_of_other_scripts_are_recognized(zero: str):
    """Numbers in Arabic, Bengali or fullwidth digits are found like those in Western digits, and no text raises."""
    for line in DATA.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        written = text.translate({ord(digit): chr(ord(zero) + int(digit)) for digit in "0123456789"})
        Redactor().start().find_values(written)
    shifted = "".join(chr(ord(zero) + int(digit)) if digit.isdigit() else digit for digit in "4111 1111 1111 1111")
    assert [(5, 24, "card", "CARD")] == Redactor().start().find_values(f"card {shifted}")


def test_distant_text_does_not_change_what_is_found():
    """Text far from any digit does not change what is found, because a rule searches only around hits of its gate."""
    far, redaction = "so it was on that long day, " * 10, Redactor().start()
    for line in DATA.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        found = redaction.find_values(f"{far}\n{text}\n{far}")
        assert redaction.find_values(text) == [(a - len(far) - 1, b - len(far) - 1, *what) for a, b, *what in found], (
            text
        )


@pytest.mark.parametrize("words", [addresses._COMPOUNDS, addresses._STREET_WORDS], ids=["compounds", "words"])
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_house_number_is_found_after_every_street_word(words: str, data: st.DataObject):
    """Searching for streets only before a number that can be a house number misses no street."""
    for word in alternatives(words):
        flags = re.IGNORECASE if words == addresses._STREET_WORDS else re.NOFLAG
        street = "Xaver" + (" " if flags else "") + data.draw(st.from_regex(re.compile(word, flags), fullmatch=True))
        for link in (" ", "  ", ", ", ",  ", " nr. ", " nr.", " nr", ", no ", *([""] if street.endswith(".") else [])):
            text = f"{street}{link}5"
            assert (0, len(text)) in list(find_postal_addresses(text)), text


@pytest.mark.parametrize("code", ["SW1A 1AA", "M1 1AE", "EC1A1BB", "GIR 0AA", "K1A 0B1", "H0H-0H0", "Austin, TX 78701"])
def test_postal_code_of_a_distinctive_form_is_found(code: str):
    """A postal code of Great Britain, Canada or the United States is found in a text without other digits."""
    text = f"please send it to {code}"
    assert any(end == len(text) for _, end in find_postal_addresses(text))


SLOW = [
    "1",
    "1 ",
    "4111 ",
    "4111-",
    "a",
    "a@",
    "a.",
    "@a-",
    "http://",
    "http://a?a&",
    "http://a:",
    "DE89 ",
    "1 mai ",
    "(0",
]
SLOW += [
    "+1",
    "1.1.19 ",
    "call me ",
    "[A_1]",
    "0/",
    "nhs 1",
    " ",
    "a@b.co ",
    "-1",
    "ABCDEF",
    "\u00e9",
    "X-1",
    "born 1.1.",
]


SAMPLE = ("4111 ", "a@", "1 mai ")
"""Of the fast tier."""


def spent(redactor: Redactor, text: str) -> float:
    """Return the processor time for a text, the shortest of three runs."""
    tries = []
    for _ in range(3):
        redaction, started = redactor.start(), time.process_time()
        redaction.text(text)
        tries.append(time.process_time() - started)
    return min(tries)


@pytest.mark.parametrize(
    "unit", [unit if unit in SAMPLE else pytest.param(unit, marks=pytest.mark.slow) for unit in SLOW]
)
def test_time_of_the_rules_is_linear_in_the_length(unit):
    """The longest captured text takes time in proportion to its length, whatever it repeats."""
    text = (unit * CHARACTERS)[:CHARACTERS]
    assert spent(Redactor(), text) < GROWTH_MAX * spent(Redactor(), text[: CHARACTERS // PART])


def test_time_of_site_patterns_is_linear_in_the_length():
    """Site patterns on which a backtracking engine would hang take time in proportion to the length of the text."""
    rules = compile_site_rules(
        {"nested": "(a+)+$", "twice": "(a|aa)+$", "wide": "(.*)(.*)(.*)[0-9]x", "many": "(a?){200}a{200}"}
    )
    few, many = ("a" * length + "!" for length in (CHARACTERS // PART, CHARACTERS))
    assert spent(Redactor(rules), many) < GROWTH_MAX * spent(Redactor(rules), few)


@pytest.mark.parametrize(
    ("said", "pattern"),
    [
        ("not a regular expression", "(?=a)b"),
        ("not a regular expression", r"(a)\1"),
        ("not a regular expression", "("),
        ("not a regular expression", "(x{1000}){1000}"),
        ("not a regular expression", r"(\pL{1,300}\pN{1,300}){3}"),
        ("empty text", "a*"),
        ("the limit is", "a" * 1001),
    ],
)
def test_unsupported_site_pattern_is_refused_at_the_start(said, pattern):
    """The error names the rule and a remedy."""
    with pytest.raises(ConfigInvalid, match=f"examples.site_rules.bad .*{said}") as caught:
        compile_site_rules({"bad": pattern})
    assert said == "the limit is" or caught.value.remedy


def test_site_rule_takes_precedence():
    """A loyalty number that looks like a telephone number is redacted by the site's rule."""
    redaction = Redactor(compile_site_rules({"loyalty": "0171[0-9]{7}"})).start()
    assert "für [LOYALTY_1], nicht [PHONE_1]" == redaction.text("für 01711234567, nicht 0301234567")
    assert {"loyalty": 1, "phone": 1} == redaction.counts


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (account_numbers.is_card_number, "4111111111111111", "4111111111111112"),
        (account_numbers.is_card_number, "378282246310005", "4111111111111"),
        (account_numbers.is_iban, "GB82WEST12345698765432", "GB82WEST12345698765433"),
        (account_numbers.us_ssn, "536228765", "666228765"),
        (account_numbers.uk_nhs, "9434765919", "9434765918"),
        (account_numbers.de_tax_id, "86095742719", "86095742718"),
        (account_numbers.es_dni, "12345678Z", "12345678A"),
        (account_numbers.it_cf, "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
        (account_numbers.fr_nir, "255081416802538", "255081416802539"),
        (account_numbers.pl_pesel, "44051401458", "44051401459"),
        (account_numbers.se_personnummer, "8112289874", "8112289873"),
        (account_numbers.br_cpf, "52998224725", "52998224724"),
    ],
)
def test_check_digits(check, good, bad):
    """The published example of each number passes its check; with one digit changed it fails."""
    assert check(good)
    assert not check(bad)

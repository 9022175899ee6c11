"""Surrogates: made-up values in place of placeholders, with the right form, consistent, seeded, and found again by
redaction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faker.config import AVAILABLE_LOCALES
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.data.data_row import ChatMessage, DataRow, TextSpan
from convert.dataset.surrogate_values import KINDS, NATIONAL_NUMBERS, SurrogateSource, word_of
from convert.dataset.surrogates import FilledTexts, PlaceholderFiller, RowRedactor, SurrogateSettings
from edge_agent.capture.redact import account_numbers, strip_separators
from edge_agent.capture.redact.builtin_rules import RULES
from edge_agent.capture.redact.redactor import Redactor, compile_site_rules
from edge_agent.errors import InvalidRequest

DATA = Path(__file__).parents[3] / "data" / "redaction.jsonl"
LOCALES = ("en_US", "de_DE", "en_GB", "fr_FR", "pt_BR", "ja_JP")
WORDS = ("CARD", "EMAIL", "IBAN", "PHONE", "DATE", "URL", "ID")
REDACTOR = Redactor()
ANY = {rule.name: 1 for rule in RULES}


def filler(seed: str = "1", **changes: Any) -> PlaceholderFiller:
    return PlaceholderFiller(SurrogateSettings(**changes), seed)


def fill(text: str, *answers: str, key: str = "site-1/p-1", counts: Any = ANY, **changes: Any) -> FilledTexts:
    return filler(**changes).fill(key, counts, [text, *answers], 1 + len(answers))


# --- forms ------------------------------------------------------------------------------------------------------------


def test_every_redaction_rule_has_a_surrogate():
    """Each rule's placeholder has a kind of surrogate, and each national number can be made."""
    numbers = [rule.name for rule in RULES if rule.placeholder == "ID"]
    assert set(numbers) == set(NATIONAL_NUMBERS)
    assert [] == [rule.name for rule in RULES if rule.placeholder.lower() not in (*KINDS, "id")]
    assert ["CARD", "EMAIL"] == [word_of("card"), word_of("email")]


BEFORE = {"RECORD": "MRN: ", "PLATE": "plate number ", "SECRET": "password: "}
NAMED = [rule for rule in RULES if rule.placeholder != "NAME"]


def test_name_types_of_a_redaction_model_become_names():
    """GIVEN_NAME and SURNAME of a redaction model are filled with names, although no rule has these types."""
    made = filler()
    text = made.fill("1", {"model:given_name": 1, "model:surname": 1}, ["[GIVEN_NAME_1] [SURNAME_1] called"], 1).texts[
        0
    ]
    assert ({}, 2) == (made.report()["fallback"], len(text.removesuffix(" called").split()))
    assert not any(map(str.isdigit, text))


@pytest.mark.parametrize("rule", NAMED, ids=[rule.name for rule in NAMED])
def test_redaction_finds_each_surrogate_with_its_type(rule):
    """The surrogate of each rule is found whole and with the rule's type, in several locales."""
    before = BEFORE.get(rule.placeholder, "")
    for number, locale in enumerate(LOCALES):
        text = f"{before}[{rule.placeholder}_1]"
        filled = fill(text, key=str(number), counts={rule.name: 1}, locales=(locale,)).texts[0]
        found = [(start, end, word) for start, end, _, word in REDACTOR.start().find_values(filled)]
        assert [(len(before), len(filled), rule.placeholder)] == found, filled


def test_card_numbers_and_ibans_have_valid_check_digits():
    """Card numbers pass Luhn, and IBANs are of the locale's country with valid check digits."""
    for number in range(20):
        card = fill("[CARD_1]", key=str(number)).texts[0]
        iban = fill("[IBAN_1]", key=str(number), locales=("de_DE",)).texts[0]
        assert account_numbers.passes_luhn(strip_separators(card))
        assert account_numbers.is_iban(strip_separators(iban))
        assert "DE" == iban[:2]


def test_spoken_email_address_is_filled_with_a_spoken_one():
    """The row's rules determine the form of its addresses; if both rules matched, both forms occur."""
    spoken = [fill("[EMAIL_1]", key=str(row), counts={"spoken_email": 1}, locales=(locale,)).texts[0]
              for row in range(10) for locale in LOCALES]  # fmt: skip
    assert not any("@" in value for value in spoken)
    assert {"[at]", " (at) ", " punkt "} <= {
        part for value in spoken for part in ("[at]", " (at) ", " punkt ") if part in value
    }
    both = [fill("[EMAIL_1]", key=str(row), counts={"spoken_email": 1, "email": 1}).texts[0] for row in range(20)]
    assert {True, False} == {"@" in value for value in both}


def test_names_depend_on_the_locale():
    """A name has two parts and is not found by the rules; each locale gives another name."""
    names = {locale: fill("[NAME_1]", counts={"presidio": 1}, locales=(locale,)).texts[0] for locale in LOCALES}
    assert len(LOCALES) == len(set(names.values()))
    assert [] == [found for name in names.values() for found in REDACTOR.start().find_values(name)]
    assert all(" " in name for name in names.values())


@pytest.mark.slow
def test_every_locale_has_a_surrogate_of_every_type():
    """If Faker lacks a type, for example telephone numbers of the Philippines, the default locale provides it."""
    usable = sorted({*AVAILABLE_LOCALES} - {"fr_QC"})  # which warns that fr_CA is its name now
    for locale in [*usable[::4], "en_PH", "bn_BD"]:
        source = SurrogateSource([locale], "1")
        source.begin("row")
        for kind in filter(word_of, (*KINDS, "id")):
            before = KINDS[kind].announced if kind in KINDS else ""
            found = REDACTOR.start().find_values(before + (value := source.draw(kind)))
            whole = [(len(before), len(before) + len(value), word_of(kind))]
            assert whole == [(start, end, word) for start, end, _, word in found], (locale, kind, value)


# --- redaction undoes it ----------------------------------------------------------------------------------------------

PLAIN = st.sampled_from(
    ["please", "refund", "to", "is", "my", "and,", "(or)", "call", "at:", "the", "Rechnung", "5", "."]
)
PLACED = st.sampled_from(WORDS).flatmap(lambda word: st.integers(1, 2).map(lambda number: f"[{word}_{number}]"))


def numbered(parts: list[str]) -> str:
    """Return a text with placeholders numbered as redaction would number them."""
    numbers: dict[str, str] = {}
    counts = Counter[str]()
    for part in parts:
        word = part[1:].rpartition("_")[0]
        if part.startswith("[") and part not in numbers:
            counts[word] += 1
            numbers[part] = f"[{word}_{counts[word]}]"
    return " ".join(numbers.get(part, part) for part in parts)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.one_of(PLAIN, PLACED), min_size=1, max_size=8),
    key=st.integers(0, 9999),
    locale=st.sampled_from(LOCALES),
)
def test_redacting_a_filled_text_restores_its_placeholders(parts, key, locale):
    """Redaction of a filled text restores its placeholders, or the report counts the values that are not found
    again."""
    text = numbered(parts)
    made = filler(locales=(locale,))
    filled = made.fill(str(key), ANY, [text], 1).texts[0]
    if not made.counts.not_found_again:
        assert text == REDACTOR.start().text(filled), filled
    else:  # two numbers beside each other may read as one
        assert "] [" in text or "5 [" in text or "] 5" in text, (text, filled)


def test_labelled_redaction_texts_survive_a_round_trip():
    """Each labelled text of the redaction set that is redacted, filled and redacted again has the same placeholders."""
    made = filler(locales=LOCALES)
    for number, line in enumerate(DATA.read_text(encoding="utf-8").splitlines()):
        redaction = REDACTOR.start()
        stored = redaction.text(json.loads(line)["text"])
        filled = made.fill(str(number), redaction.counts, [stored], 1).texts[0]
        assert stored == REDACTOR.start().text(filled), (stored, filled)
    assert {} == made.report()["not_found_again"]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_placeholder_has_one_value_in_the_whole_row():
    """A placeholder has the same value everywhere in text and answer; another number has another value."""
    text, answer = fill("[CARD_1], no, [CARD_2]; yes [CARD_1]", '{"card":"[CARD_1]"}').texts
    first, second, third = text.replace("yes ", "").replace("no, ", "").replace(";", ",").split(", ")
    assert (first, {"card": first}) == (third, json.loads(answer))
    assert first != second


def test_values_depend_only_on_seed_and_row():
    """The same seed and row give the same values, whichever rows came before; another seed or row gives others."""
    alone = fill("mail [EMAIL_1]").texts
    made = filler()
    for number in range(3):
        made.fill(f"other/{number}", ANY, ["[NAME_1] [PHONE_1]"], 1)
    assert alone == made.fill("site-1/p-1", ANY, ["mail [EMAIL_1]"], 1).texts
    assert alone != fill("mail [EMAIL_1]", key="site-1/p-2").texts
    assert alone != fill("mail [EMAIL_1]", seed="2").texts


_EVERYTHING = """
import datetime, json, sys, types

class Today(datetime.date):
    @classmethod
    def today(cls):
        return datetime.date(2000 + int(sys.argv[1]), 2, 28)

module = sys.modules["datetime"]
patched = types.ModuleType("datetime")
patched.__dict__.update(module.__dict__, date=Today)
import faker.providers.ssn.fi_FI, faker.providers.ssn.it_IT, faker.providers.ssn.fr_FR, faker.providers.ssn.es_ES
for name, each in list(sys.modules.items()):
    if name.startswith("faker.") and getattr(each, "datetime", None) is module:
        each.datetime = patched
from convert.dataset.surrogate_values import KINDS, NATIONAL_NUMBERS, SurrogateSource

drawn = []
for locale in ("de_DE", "it_IT", "fi_FI"):
    source = SurrogateSource([locale], "1")
    for row in range(5):
        source.begin(str(row))
        drawn += [[source.draw(kind) for kind in KINDS], [source.draw("id", [rule]) for rule in NATIONAL_NUMBERS]]
print(json.dumps(drawn))
"""


def test_values_do_not_depend_on_date_or_hash_seed():
    """Another date and another PYTHONHASHSEED give the same values of every kind."""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", _EVERYTHING, year],
            env={**os.environ, "PYTHONHASHSEED": year},
            capture_output=True,
            check=True,
        ).stdout
        for year in ("24", "31")
    )
    assert json.loads(first) == json.loads(second)


def test_placeholder_of_a_site_rule_becomes_a_code_or_a_given_kind():
    """An unknown type becomes a code in which the rules find nothing, and is counted; the settings can give its
    kind."""
    counts = {"loyalty": 1, "schema_field": 2}
    made = filler()
    text = made.fill("k", counts, ["[LOYALTY_1] of [PATIENT_1]"], 1).texts[0]
    assert ("[LOYALTY_1]" in text, [], {"LOYALTY": 1, "PATIENT": 1}) == (
        False,
        REDACTOR.start().find_values(text),
        made.report()["fallback"],
    )
    told = filler(kinds={"LOYALTY": "LC########", "PATIENT": "name"})
    text = told.fill("k", counts, ["[LOYALTY_1] of [PATIENT_1]"], 1).texts[0]
    site = Redactor(compile_site_rules({"loyalty": "LC[0-9]{8}"})).start()
    assert ("[LOYALTY_1]", {}) == (site.text(text).split(" of ")[0], told.report()["fallback"])


def test_brackets_in_the_original_text_are_kept():
    """A placeholder that none of the row's rules makes was in the original text, so it stays and is counted as raw."""
    made = filler()
    assert "see [NOTE_1]" == made.fill("a", {}, ["see [NOTE_1]"], 1).texts[0]
    text = made.fill("b", {"card": 1}, ["see [NOTE_1] of [CARD_1]"], 1).texts[0]
    assert (True, False, {"NOTE": 2}) == ("[NOTE_1]" in text, "[CARD_1]" in text, made.report()["raw"])


def test_placeholder_in_a_correction_is_filled():
    """A placeholder that only the correction has comes from a separate redaction, which the row does not count."""
    filled = filler().fill("k", {}, ["no number", "", "call [PHONE_1]"], 2)
    assert ("no number", 1) == (filled.texts[0], filled.values)
    assert "call [PHONE_1]" == REDACTOR.start().text(filled.texts[2])


def test_positions_move_with_the_text():
    """`new_position` maps positions before, between and after placeholders to the same words in the filled text."""
    text = "a [CARD_1] b [NAME_1] c"
    filled = fill(text)
    assert ["a", "b", "c"] == [filled.texts[0][filled.new_position(text.index(each))] for each in "abc"]
    start, end = text.index("["), text.index("]") + 1
    assert "[CARD_1]" == REDACTOR.start().text(filled.texts[0][filled.new_position(start) : filled.new_position(end)])


def test_placeholders_can_be_kept():
    """With `placeholders: keep` no placeholder is filled, and the report counts them by type."""
    made = filler(placeholders="keep")
    assert "[CARD_1] [CARD_2]" == made.fill("k", ANY, ["[CARD_1] [CARD_2]"], 1).texts[0]
    assert {"placeholders": "kept", "kept": {"CARD": 2}} == made.report()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"locales": ("de_DD",)}, "no locale 'de_DD'; did you mean 'de_DE'"),
        ({"kinds": {"PATIENT": "person"}}, "no surrogate of kind 'person' for PATIENT"),
        ({"kinds": {"PATIENT": '"#"'}}, "no surrogate of kind"),
    ],
)
def test_unknown_locale_or_kind_is_refused(changes: dict[str, Any], said: str):
    """The error names the nearest locale, or the unknown kind."""
    with pytest.raises(InvalidRequest, match=said):
        filler(**changes)


CARD = "4111 1111 1111 1111"
MAIL = "anna.mueller@praxis-nord.de"


def redacted(row: DataRow) -> DataRow:
    """Redact one row that can be redacted."""
    found = RowRedactor().redact(row)
    assert found is not None
    return found.row


def test_value_is_replaced_by_a_surrogate_of_its_type():
    """Card and address are replaced, other words stay, and the counts name the rules."""
    found = RowRedactor().redact(DataRow(f"charge {CARD} and write to {MAIL}", "refund"))
    assert found is not None
    assert found.row.text.startswith("charge ")
    assert " and write to " in found.row.text
    assert not {CARD, MAIL} & {found.row.text[7:26], found.row.text.split()[-1]}
    assert {"card": 1, "email": 1} == dict(found.counts)


def test_a_row_without_values_is_unchanged():
    """A row without personal values is returned as the same object."""
    row = DataRow("two kettles, article 4711", "price")
    assert row is redacted(row)


def test_answer_has_the_surrogate_of_the_text():
    """The answer and the turns of a conversation have the same surrogate as the text."""
    row = redacted(DataRow(f"mail {MAIL}", completion=f'{{"to": "{MAIL}"}}'))
    assert f'{{"to": "{row.text.removeprefix("mail ")}"}}' == row.completion
    turns = (ChatMessage("user", f"mail {MAIL}"), ChatMessage("assistant", MAIL))
    talk = redacted(DataRow(turns[0].content, completion=MAIL, messages=turns))
    assert [talk.text, talk.completion] == [turn.content for turn in talk.messages]
    assert MAIL not in talk.text + talk.completion


def test_spans_move_with_their_text():
    """The span of a replaced value covers the surrogate, and a later span covers the same words as before."""
    text = f"mail {MAIL} about the kettle"
    at = text.index("kettle")
    row = redacted(DataRow(text, spans=(TextSpan(5, 5 + len(MAIL), "to"), TextSpan(at, at + 6, "item"))))
    first, second = (row.text[span.start : span.end] for span in row.spans)
    assert (row.text.split()[1], "kettle") == (first, second)
    assert MAIL != first


def test_row_with_a_span_that_ends_inside_a_value_is_left_out():
    """After the replacement the end of the span is undefined."""
    assert None is RowRedactor().redact(DataRow(f"mail {MAIL}", spans=(TextSpan(0, 8, "to"),)))


def test_the_same_row_gets_the_same_surrogates():
    """Surrogates are reproducible, so a bundle that is made again is identical."""
    row = DataRow(f"charge {CARD}")
    assert redacted(row) == redacted(row)

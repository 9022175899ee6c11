"""Made-up values in place of placeholders: of the right form, consistent, seeded, and found again by redaction."""

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


def test_every_type_that_redaction_replaces_has_a_surrogate():
    """Each rule's placeholder is a kind with a form of its own, and each national number can be made."""
    numbers = [rule.name for rule in RULES if rule.placeholder == "ID"]
    assert set(numbers) == set(NATIONAL_NUMBERS)
    assert [] == [rule.name for rule in RULES if rule.placeholder.lower() not in (*KINDS, "id")]
    assert ["CARD", "EMAIL"] == [word_of("card"), word_of("email")]


BEFORE = {"RECORD": "MRN: ", "PLATE": "plate number ", "SECRET": "password: "}
NAMED = [rule for rule in RULES if rule.placeholder != "NAME"]


def test_a_type_of_a_redaction_model_is_a_name_and_not_a_code():
    """A first name that a model found becomes a first name, though no rule knows the type."""
    made = filler()
    text = made.fill("1", {"model:given_name": 1, "model:surname": 1}, ["[GIVEN_NAME_1] [SURNAME_1] called"], 1).texts[
        0
    ]
    assert ({}, 2) == (made.report()["fallback"], len(text.removesuffix(" called").split()))
    assert not any(map(str.isdigit, text))


@pytest.mark.parametrize("rule", NAMED, ids=[rule.name for rule in NAMED])
def test_a_value_is_found_again_as_what_it_was(rule):
    """Of each rule: what stands in place of its placeholder is found whole and as that type, in several locales."""
    before = BEFORE.get(rule.placeholder, "")
    for number, locale in enumerate(LOCALES):
        text = f"{before}[{rule.placeholder}_1]"
        filled = fill(text, key=str(number), counts={rule.name: 1}, locales=(locale,)).texts[0]
        found = [(start, end, word) for start, end, _, word in REDACTOR.start().find_values(filled)]
        assert [(len(before), len(filled), rule.placeholder)] == found, filled


def test_check_digits_are_right():
    """Card numbers pass Luhn, and IBANs are of the locale's country with their check digits."""
    for number in range(20):
        card = fill("[CARD_1]", key=str(number)).texts[0]
        iban = fill("[IBAN_1]", key=str(number), locales=("de_DE",)).texts[0]
        assert account_numbers.passes_luhn(strip_separators(card))
        assert account_numbers.is_iban(strip_separators(iban))
        assert "DE" == iban[:2]


def test_an_address_in_words_takes_the_place_of_one_in_words():
    """The row's rules tell which forms its addresses had; where both were there, both forms come."""
    spoken = [fill("[EMAIL_1]", key=str(row), counts={"spoken_email": 1}, locales=(locale,)).texts[0]
              for row in range(10) for locale in LOCALES]  # fmt: skip
    assert not any("@" in value for value in spoken)
    assert {"[at]", " (at) ", " punkt "} <= {
        part for value in spoken for part in ("[at]", " (at) ", " punkt ") if part in value
    }
    both = [fill("[EMAIL_1]", key=str(row), counts={"spoken_email": 1, "email": 1}).texts[0] for row in range(20)]
    assert {True, False} == {"@" in value for value in both}


def test_names_are_those_of_the_locale():
    """A name has two parts and is nothing that the rules find; another locale has other names."""
    names = {locale: fill("[NAME_1]", counts={"presidio": 1}, locales=(locale,)).texts[0] for locale in LOCALES}
    assert len(LOCALES) == len(set(names.values()))
    assert [] == [found for name in names.values() for found in REDACTOR.start().find_values(name)]
    assert all(" " in name for name in names.values())


@pytest.mark.slow
def test_a_locale_has_every_type_that_redaction_finds():
    """Where Faker has a gap, as for telephone numbers of the Philippines, the default locale fills it."""
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
    """Return a text whose placeholders are numbered as redaction would."""
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
def test_redaction_finds_the_values_again(parts, key, locale):
    """Whatever the text: redacting what was filled in gives the text with placeholders, or says where it would not."""
    text = numbered(parts)
    made = filler(locales=(locale,))
    filled = made.fill(str(key), ANY, [text], 1).texts[0]
    if not made.counts.not_found_again:
        assert text == REDACTOR.start().text(filled), filled
    else:  # two numbers beside each other may read as one
        assert "] [" in text or "5 [" in text or "] 5" in text, (text, filled)


def test_texts_of_tills_and_clinics_survive_the_way_there_and_back():
    """Each labelled text of the redaction set: redacted, filled and redacted again it is what it was."""
    made = filler(locales=LOCALES)
    for number, line in enumerate(DATA.read_text(encoding="utf-8").splitlines()):
        redaction = REDACTOR.start()
        stored = redaction.text(json.loads(line)["text"])
        filled = made.fill(str(number), redaction.counts, [stored], 1).texts[0]
        assert stored == REDACTOR.start().text(filled), (stored, filled)
    assert {} == made.report()["not_found_again"]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_placeholder_is_the_same_value_in_the_whole_row():
    """In the text, again in the text, and in the answer; another number is another value."""
    text, answer = fill("[CARD_1], no, [CARD_2]; yes [CARD_1]", '{"card":"[CARD_1]"}').texts
    first, second, third = text.replace("yes ", "").replace("no, ", "").replace(";", ",").split(", ")
    assert (first, {"card": first}) == (third, json.loads(answer))
    assert first != second


def test_the_seed_and_the_row_decide():
    """The same seed and row give the same values whatever other rows there are; another seed or row gives others."""
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


def test_the_same_values_come_on_another_day_and_in_another_process():
    """Neither the date of today nor the seed of Python's hashes decides about a value of any kind."""
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


def test_what_the_site_replaced_by_rules_of_its_own_is_a_code_or_what_it_is_told_to_be():
    """An unknown type becomes a code in which the rules find nothing, and is counted; its kind can be given."""
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


def test_brackets_of_the_caller_stay():
    """A placeholder that no rule of the row makes was in the raw text, as it will be in service: it stays."""
    made = filler()
    assert "see [NOTE_1]" == made.fill("a", {}, ["see [NOTE_1]"], 1).texts[0]
    text = made.fill("b", {"card": 1}, ["see [NOTE_1] of [CARD_1]"], 1).texts[0]
    assert (True, False, {"NOTE": 2}) == ("[NOTE_1]" in text, "[CARD_1]" in text, made.report()["raw"])


def test_what_a_reviewer_added_is_filled():
    """A placeholder of the correction alone comes of its own redaction, which the row does not count."""
    filled = filler().fill("k", {}, ["no number", "", "call [PHONE_1]"], 2)
    assert ("no number", 1) == (filled.texts[0], filled.values)
    assert "call [PHONE_1]" == REDACTOR.start().text(filled.texts[2])


def test_positions_move_with_the_text():
    """What stood at a position stands at the one that is returned, before, between and behind placeholders."""
    text = "a [CARD_1] b [NAME_1] c"
    filled = fill(text)
    assert ["a", "b", "c"] == [filled.texts[0][filled.new_position(text.index(each))] for each in "abc"]
    start, end = text.index("["), text.index("]") + 1
    assert "[CARD_1]" == REDACTOR.start().text(filled.texts[0][filled.new_position(start) : filled.new_position(end)])


def test_placeholders_can_be_kept():
    """Nothing is filled, and how many stay is counted by type."""
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
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], said: str):
    """The error names the nearest locale, or the kinds that there are."""
    with pytest.raises(InvalidRequest, match=said):
        filler(**changes)


CARD = "4111 1111 1111 1111"
MAIL = "anna.mueller@praxis-nord.de"


def redacted(row: DataRow) -> DataRow:
    """Redact one row that can be redacted."""
    found = RowRedactor().redact(row)
    assert found is not None
    return found.row


def test_a_value_is_replaced_by_another_one_of_its_type():
    """Neither the card nor the address is left; what is not personal stays, and the counts name the rules."""
    found = RowRedactor().redact(DataRow(f"charge {CARD} and write to {MAIL}", "refund"))
    assert found is not None
    assert found.row.text.startswith("charge ")
    assert " and write to " in found.row.text
    assert not {CARD, MAIL} & {found.row.text[7:26], found.row.text.split()[-1]}
    assert {"card": 1, "email": 1} == dict(found.counts)


def test_a_row_without_values_is_unchanged():
    """The same object comes back."""
    row = DataRow("two kettles, article 4711", "price")
    assert row is redacted(row)


def test_an_answer_repeats_the_surrogate_of_the_text():
    """Also where the answer alone would not tell what the value is."""
    row = redacted(DataRow(f"mail {MAIL}", completion=f'{{"to": "{MAIL}"}}'))
    assert f'{{"to": "{row.text.removeprefix("mail ")}"}}' == row.completion
    turns = (ChatMessage("user", f"mail {MAIL}"), ChatMessage("assistant", MAIL))
    talk = redacted(DataRow(turns[0].content, completion=MAIL, messages=turns))
    assert [talk.text, talk.completion] == [turn.content for turn in talk.messages]
    assert MAIL not in talk.text + talk.completion


def test_spans_move_with_their_text():
    """A span of a replaced value names the surrogate, and one behind it names the same words as before."""
    text = f"mail {MAIL} about the kettle"
    at = text.index("kettle")
    row = redacted(DataRow(text, spans=(TextSpan(5, 5 + len(MAIL), "to"), TextSpan(at, at + 6, "item"))))
    first, second = (row.text[span.start : span.end] for span in row.spans)
    assert (row.text.split()[1], "kettle") == (first, second)
    assert MAIL != first


def test_a_span_that_ends_inside_a_value_makes_the_row_unusable():
    """The row is left out: nobody knows what the span names then."""
    assert None is RowRedactor().redact(DataRow(f"mail {MAIL}", spans=(TextSpan(0, 8, "to"),)))


def test_the_same_row_gets_the_same_surrogates():
    """A bundle that is made again is the same bundle."""
    row = DataRow(f"charge {CARD}")
    assert redacted(row) == redacted(row)

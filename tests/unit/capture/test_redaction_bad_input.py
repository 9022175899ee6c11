"""Texts that are long, unusual or designed to evade the rules: what is found and what is not."""

from __future__ import annotations

import pytest

from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.text_redaction import build_redactor
from edge_agent.config import Config
from edge_agent.config.sections import ExamplesConfig
from edge_agent.errors import ConfigInvalid

IBAN = "DE89 3704 0044 0532 0130 00"


def redacted(text: str) -> str:
    return Redactor().start().text(text)


@pytest.mark.slow
def test_values_are_found_anywhere_in_a_megabyte():
    """Values at the start, middle and end of 1 MB are found, and nothing else is changed."""
    filler = "so it was on that long day, " * 18_000
    text = f"{IBAN}; {filler}card 4111 1111 1111 1111, {filler}mail a@example.com"
    assert f"[IBAN_1]; {filler}card [CARD_1], {filler}mail [EMAIL_1]" == redacted(text)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (
            "\U0001f469\u200d\u2695\ufe0f [CARD_1]\U0001f44d",
            "\U0001f469\u200d\u2695\ufe0f 4111 1111 1111 1111\U0001f44d",
        ),
        ("e\u0301tat: [EMAIL_1] \u2705", "e\u0301tat: a@example.com \u2705"),
        ("Frau [NAME_1] ruft an", "Frau Mu\u0308ller ruft an"),
        ("[ADDRESS_1] \U0001f3e0", "Hauptstraße 12, 10115 Berlin \U0001f3e0"),
    ],
)
def test_emoji_and_combining_characters_move_no_span(expected: str, text: str):
    """Exactly the value is replaced, also after characters of several code points."""
    assert expected == redacted(text)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("הטלפון שלי [PHONE_1] תודה", "הטלפון שלי +972 50 123 4567 תודה"),
        ("بطاقة [CARD_1] شكرا", "بطاقة \u0664" + " ".join(["\u0661" * 3] + ["\u0661" * 4] * 3) + " شكرا"),
        ("\u202b[EMAIL_1]\u202c", "\u202bdana@example.co.il\u202c"),
    ],
)
def test_values_in_right_to_left_text_are_found(expected: str, text: str):
    """Numbers and addresses are found in right-to-left text."""
    assert expected == redacted(text)


def test_imitated_placeholders_are_never_restored():
    """Forged, nested and broken placeholders stay unchanged; the real value gets a number that the text does not
    use."""
    redaction = Redactor().start()
    text = "[CARD_1] [CARD_2][IBAN_1 [[CARD_3]] 4111 1111 1111 1111 [CARD_0004]"
    stored = redaction.text(text)
    assert "[CARD_1] [CARD_2][IBAN_1 [[CARD_3]] [CARD_4] [CARD_0004]" == stored
    assert text == redaction.restore(stored)
    assert "[CARD_1] is 4111 1111 1111 1111" == redaction.restore("[CARD_1] is [CARD_4]")


@pytest.mark.parametrize(
    "disguised",
    [
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "4111.1111.1111.1111",
        "4111/1111/1111/1111",
        "4111_1111_1111_1111",
        "4111\u20131111\u20131111\u20131111",
        "4111 1111\n1111 1111",
        "4111\u00a01111\u202f1111\u200b1111",
        "4l11 lll1 1111 1111",
        "4111 1111 1I11 111I",
        "\uff14\uff11\uff11\uff11 \uff11\uff11\uff11\uff11 \uff11\uff11\uff11\uff11 \uff11\uff11\uff11\uff11",
    ],
)
def test_a_disguised_card_number_is_found(disguised: str):
    """A card number with spaces, unusual separators, line breaks, invisible characters or letters for digits is
    found."""
    assert "x [CARD_1] x" == redacted(f"x {disguised} x")


@pytest.mark.parametrize(
    "disguised", ["DE89 37O4 OO44 O532 O13O OO", "DE89 3704 0044\n0532 0130 00", "D E 8 9 3 7 0 4 0 0 4 4"]
)
def test_disguised_iban_is_found_if_its_country_code_is_whole(disguised: str):
    """Letters for digits and line breaks are read; an IBAN with a spaced country code is not found."""
    assert ("D E" in disguised) == (disguised in redacted(f"x {disguised} x"))


@pytest.mark.parametrize(
    "disguised",
    [
        "four one one one, one one one one, one one one one, one one one one",
        "4111 then 1111 then 1111 then 1111",
        "4I1I III1 II1I I1II",
        "a n n a at e x a m p l e dot c o m",
    ],
)
def test_known_evasions_are_not_found(disguised: str):
    """Numbers in words, words between groups, mostly letters and spelled addresses are not found, as docs/redaction.md
    states."""
    assert disguised == redacted(disguised)


def test_telephone_number_without_prefix_needs_the_region():
    """Spanish numbers are found at a site with the region ES, grouped or after an announcing word; article numbers are
    not."""
    spain = Redactor(phone_regions=("ES",))
    assert "al [PHONE_1], artículo 612345678" == spain.start().text("al 61 23 45 678, artículo 612345678")
    assert "al 61 23 45 678" == Redactor(phone_regions=("GB",)).start().text("al 61 23 45 678")


def test_overlapping_matches_of_two_rules_are_joined():
    """If two rules find parts of a value, all of it is replaced, named by the longer match."""
    assert "mobile [PHONE_1]" == redacted("mobile +1 415 555 2671")


def test_a_region_without_a_numbering_plan_is_refused():
    """The error names the key and the region; supported regions reach the rules."""
    with pytest.raises(ConfigInvalid, match=r"examples\.phone_regions: there is no telephone numbering plan of ZZ"):
        build_redactor(Config(examples=ExamplesConfig(phone_regions=("ZZ",))))
    spain = build_redactor(Config(examples=ExamplesConfig(phone_regions=("ES",))))
    assert "al [PHONE_1]" == spain.start().text("al 61 23 45 678")

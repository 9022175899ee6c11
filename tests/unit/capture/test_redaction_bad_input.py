"""Texts that are long, odd or made to get past the rules: what is still found, and what is not."""

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
def test_a_value_is_found_wherever_it_stands_in_a_megabyte():
    """At the start, in the middle and at the end of 1 MB, and nothing else is touched."""
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
    """Exactly the value is replaced, also behind characters of several code points."""
    assert expected == redacted(text)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("הטלפון שלי [PHONE_1] תודה", "הטלפון שלי +972 50 123 4567 תודה"),
        ("بطاقة [CARD_1] شكرا", "بطاقة \u0664" + " ".join(["\u0661" * 3] + ["\u0661" * 4] * 3) + " شكرا"),
        ("\u202b[EMAIL_1]\u202c", "\u202bdana@example.co.il\u202c"),
    ],
)
def test_values_in_text_from_right_to_left(expected: str, text: str):
    """Direction is a matter of the screen: numbers and addresses are found in the order of the characters."""
    assert expected == redacted(text)


def test_a_text_that_imitates_placeholders_gets_nobody_s_value():
    """Forged, nested and broken placeholders stay what they are; the real value gets a number that they lack."""
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
    """Spaced out, with unusual separators, over a line end, with invisible characters or letters for digits."""
    assert "x [CARD_1] x" == redacted(f"x {disguised} x")


@pytest.mark.parametrize(
    "disguised", ["DE89 37O4 OO44 O532 O13O OO", "DE89 3704 0044\n0532 0130 00", "D E 8 9 3 7 0 4 0 0 4 4"]
)
def test_a_disguised_iban_is_found_while_its_country_stands_together(disguised: str):
    """Letters for digits and line ends are read; a country code that is spaced out is not."""
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
def test_what_an_adversary_gets_past_the_rules(disguised: str):
    """Numbers in words, words between groups, mostly letters, spelled addresses: docs/redaction.md states it."""
    assert disguised == redacted(disguised)


def test_a_number_without_a_prefix_belongs_to_the_regions_of_the_site():
    """Spanish numbers are found at a site in Spain, grouped or behind a word, and article numbers are not."""
    spain = Redactor(phone_regions=("ES",))
    assert "al [PHONE_1], artículo 612345678" == spain.start().text("al 61 23 45 678, artículo 612345678")
    assert "al 61 23 45 678" == Redactor(phone_regions=("GB",)).start().text("al 61 23 45 678")


def test_what_overlaps_is_joined():
    """Of a value that two rules find in part nothing is left, and the longer match names it."""
    assert "mobile [PHONE_1]" == redacted("mobile +1 415 555 2671")


def test_a_region_without_a_numbering_plan_is_refused():
    """The error names the key and the region; the regions of the site reach the rules."""
    with pytest.raises(ConfigInvalid, match=r"examples\.phone_regions: there is no telephone numbering plan of ZZ"):
        build_redactor(Config(examples=ExamplesConfig(phone_regions=("ZZ",))))
    spain = build_redactor(Config(examples=ExamplesConfig(phone_regions=("ES",))))
    assert "al [PHONE_1]" == spain.start().text("al 61 23 45 678")

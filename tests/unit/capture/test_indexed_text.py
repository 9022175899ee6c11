"""Words and numbers of a text are looked up once; what is found that way is what the patterns find by themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.capture.redact import addresses, builtin_rules
from edge_agent.capture.redact.builtin_rules import RULES
from edge_agent.capture.redact.indexed_text import (
    AnnouncedPattern,
    IndexedText,
    alternatives,
    beginnings,
    stands_before,
)
from edge_agent.capture.redact.national_numbers import announcers

ROWS = (Path(__file__).parents[2] / "data" / "redaction.jsonl").read_text(encoding="utf-8").splitlines()
TEXTS = [json.loads(line)["text"] for line in ROWS]
PIECES = (
    *(
        "+49 170 1234567",
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        "RSSMRA85T10A562S",
        "12.03.1981",
        "1.1.80",
    ),
    *("3 jan 1990", "19810312-2392", "123-45-6789", "10.0.0.1", "::ffff:1.2.3.4", "2001:db8::1", "aa:bb:cc:dd:ee:ff"),
    *("0123.4567.89ab", "ABCPE1234F", "call me on ", "my card ", "iban ", "born ", "nhs number ", " ", ", "),
)
PATTERNS = {
    name: pattern
    for module in (addresses, builtin_rules)
    for name, pattern in vars(module).items()
    if isinstance(pattern, AnnouncedPattern)
} | {"national": announcers()[0]}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_finds_what_it_finds_at_every_place_of_a_text(name: str) -> None:
    """No match is missed because it was tried at some words alone: texts as they are, and in other cases."""
    pattern = PATTERNS[name]
    for text in TEXTS + [text.upper() for text in TEXTS] + [" ".join(pair) for pair in pairwise(TEXTS)]:
        expected = [match.span() for match in pattern.pattern.finditer(text)]
        assert expected == [match.span() for match in pattern.finditer(text)], text


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_each_word_of_a_pattern_is_known_by_its_beginning(name: str, data: st.DataObject) -> None:
    """Whatever an alternative matches, in any case, is found where it stands at the beginning of a text."""
    pattern = PATTERNS[name]
    for alternative in alternatives(pattern.words):
        drawn = alternative.partition("(?=")[0]  # what has to follow the word is not drawn
        word = data.draw(st.from_regex(re.compile(drawn, re.IGNORECASE), fullmatch=True))
        assert 0 in IndexedText(word + " 12").starts(pattern.beginnings), word


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text("0123456789 .-/()aZ+:\n\u0663\u00e9", max_size=12)), max_size=8)
)
def test_a_rule_finds_behind_its_gate_what_it_finds_in_the_whole_text(pieces: list[str]) -> None:
    """A number is found by looking around digits as by looking at every character."""
    text = IndexedText("".join(pieces))
    for rule in (each for each in RULES if each.gate):
        windows = rule.gate.windows(text)
        found = {(begin + start, begin + end) for begin, stop in windows for start, end in rule.find(text[begin:stop])}
        assert set(rule.find(text)) == found, rule.name


def test_beginnings() -> None:
    """Four characters, or a short word that ends there; what may be missing, and one of several, count both."""
    assert {"num ", "núm ", "dob ", "do b", "d ob", "d o "} == beginnings(r"n[uú]m|d\.?o\.?b")
    assert {"full", "name"} == beginnings("(?:full )?name")
    assert {"acco", "acct"} == beginnings("acc(?:oun)?t")
    assert {"ta"} == beginnings(r"ta\w{0,3}")
    assert {"ta", "tabb"} == beginnings(r"ta(?:[^b]|bb)")
    assert {"no "} == beginnings(r"no\b\.?x")
    assert {"it s"} == beginnings(r"it['\u2019]s")
    assert {"box"} == beginnings("box", whole=False)
    with pytest.raises(ValueError, match="does not begin with a letter"):
        beginnings("[^a]b")


def test_the_case_of_a_letter_changes_no_place() -> None:
    """A capital I with a dot is two characters in lower case; the places behind it stay those of the text."""
    text = IndexedText("\u0130zmir, pa\u017f\u017fword")
    assert "izmir, password" == text.lowered
    assert [7] == text.starts(beginnings("password"))
    assert stands_before(re.compile(r"\bpassword: \Z"), "\u0130zmir, pa\u017f\u017fword: ", 17, 10)
    assert not stands_before(re.compile(r"\bpassword: \Z"), "mypassword: ", 12, 10)


def test_the_first_text_of_a_process_is_read_like_any_other() -> None:
    """Words of patterns that are compiled late are known when the first text is looked up."""
    program = "from edge_agent.capture.redact.redactor import Redactor; print(Redactor().start().text('BSN 123456789'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[RECORD_1]" in done.stdout

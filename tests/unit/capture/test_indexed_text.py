"""The index of words and numbers of a text: searching with it finds what each pattern finds alone."""

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
def test_indexed_search_finds_the_matches_of_the_plain_pattern(name: str) -> None:
    """Trying a pattern only at indexed words misses no match, in texts as they are and in upper case."""
    pattern = PATTERNS[name]
    for text in TEXTS + [text.upper() for text in TEXTS] + [" ".join(pair) for pair in pairwise(TEXTS)]:
        expected = [match.span() for match in pattern.pattern.finditer(text)]
        assert expected == [match.span() for match in pattern.finditer(text)], text


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_every_alternative_is_found_by_its_first_letters(name: str, data: st.DataObject) -> None:
    """Whatever an alternative of a pattern matches, in any case, is found at the beginning of a text."""
    pattern = PATTERNS[name]
    for alternative in alternatives(pattern.words):
        drawn = alternative.partition("(?=")[0]  # what has to follow the word is not drawn
        word = data.draw(st.from_regex(re.compile(drawn, re.IGNORECASE), fullmatch=True))
        assert 0 in IndexedText(word + " 12").starts(pattern.beginnings), word


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text("0123456789 .-/()aZ+:\n\u0663\u00e9", max_size=12)), max_size=8)
)
def test_gate_hides_no_match(pieces: list[str]) -> None:
    """A rule finds the same values in the windows of its gate as in the whole text."""
    text = IndexedText("".join(pieces))
    for rule in (each for each in RULES if each.gate):
        windows = rule.gate.windows(text)
        found = {(begin + start, begin + end) for begin, stop in windows for start, end in rule.find(text[begin:stop])}
        assert set(rule.find(text)) == found, rule.name


def test_beginnings() -> None:
    """The beginnings of a pattern have four characters or end with a short word; optional letters and alternatives are
    included."""
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


def test_words_side_by_side_are_all_found() -> None:
    """A word is found after a beginning that ends with the blank before it, and a place can have several beginnings."""
    announcing = beginnings(r"it['\u2019]s|at|so\b\.?")
    assert [0, 5, 10, 13, 16] == IndexedText("it's it's at at so").starts(announcing)
    whole, open_end = beginnings("tabb"), beginnings(r"ta\w{0,3}")
    text = IndexedText("tabb table")
    assert ([0], [0, 5]) == (text.starts(whole), text.starts(open_end))


def test_number_is_found_as_far_from_its_announcement_as_the_pattern_allows() -> None:
    """A number after the longest announcement is found, and a word without digits near it is not searched further."""
    between, value = ' : (ends in : "ends in : "ends in : "ends in : "', "ABCDEFGHIJKL1234"
    text = f"versicherungsschein-nummer-nummer{between}{value}"
    assert text.index("1") < builtin_rules._DIGIT_WITHIN
    assert [(text.index(value), len(text))] == list(builtin_rules.find_announced_numbers(text))
    distant = IndexedText(f"customer {'x' * builtin_rules._DIGIT_WITHIN} 1")
    assert ([0], []) == (distant.starts(beginnings("customer")), builtin_rules._RECORD.starts(distant))


def test_lower_case_keeps_positions() -> None:
    """Positions stay those of the text although a capital I with a dot has two characters in lower case."""
    text = IndexedText("\u0130zmir, pa\u017f\u017fword")
    assert "izmir, password" == text.lowered
    assert [7] == text.starts(beginnings("password"))
    assert stands_before(re.compile(r"\bpassword: \Z"), "\u0130zmir, pa\u017f\u017fword: ", 17, 10)
    assert not stands_before(re.compile(r"\bpassword: \Z"), "mypassword: ", 12, 10)


def test_first_text_of_a_process_is_searched_completely() -> None:
    """The words of all patterns are indexed before the first text of a process is searched."""
    program = "from edge_agent.capture.redact.redactor import Redactor; print(Redactor().start().text('BSN 123456789'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[RECORD_1]" in done.stdout

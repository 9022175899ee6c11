"""YAML that people wrote: no key occurs twice in one mapping, at any depth."""

from __future__ import annotations

import datetime

import pytest
import yaml

from edge_agent.formats.strict_yaml import load_yaml


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 3),
        ("top:\n  - {a: 1}\n  - a: 1\n    'a': 1\n", 4),
        ("{a: {b: 1,\n b: 2}}", 2),
        ("{a: 1}: x\n? {b: 1,\n   b: 2}\n: y\n", 3),
    ],
)
def test_a_key_that_occurs_twice_is_refused_with_its_line(text: str, line: int, *, strings: bool):
    """The second would silently take the place of the first."""
    with pytest.raises(yaml.YAMLError, match=rf"occurs twice(.|\n)*line {line}"):
        load_yaml(text, strings=strings)


def test_the_same_key_in_two_mappings_is_no_repetition():
    """Also where a mapping takes in the keys of another and gives one of them another value."""
    text = "top: {in: {b: &b {<<: &a {x: 1, y: 1}, x: 2}}}\nnext: {<<: *b, x: 3}\nlast: *a\n"
    expected = {"top": {"in": {"b": {"x": 2, "y": 1}}}, "next": {"x": 3, "y": 1}, "last": {"x": 1, "y": 1}}
    assert expected == load_yaml(text)


def test_values_have_their_types_or_are_strings():
    """A plan is read as strings, because 02:00 and a date are to stay what was written."""
    text = b"at: 2026-12-01\nevery: 12:30\nnumber: 0.5\n"
    assert {"at": datetime.date(2026, 12, 1), "every": 750, "number": 0.5} == load_yaml(text)
    assert {"at": "2026-12-01", "every": "12:30", "number": "0.5"} == load_yaml(text, strings=True)


def test_nothing_but_plain_values_is_made():
    """A tag that makes an object of Python is refused."""
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.getcwd []")

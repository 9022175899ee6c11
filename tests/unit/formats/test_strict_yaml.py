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


@pytest.mark.parametrize("key", ["x", "threshold"])
def test_a_merge_gives_the_value_that_the_merged_mapping_has(key: str):
    """Also where that one had merged the key itself, and had given it another value; in whichever order."""
    for written in (f"{{<<: {{{key}: 3}}, {key}: 1}}", f"{{{key}: 1, <<: {{{key}: 3}}}}"):
        found = load_yaml(f"a: &a {written}\nb: {{<<: *a, y: 1}}\nc: {{<<: {{<<: *a}}}}\n")
        assert {"a": {key: 1}, "b": {key: 1, "y": 1}, "c": {key: 1}} == found


def test_a_key_of_the_mapping_itself_counts_also_in_another_form():
    """A merged one would be a second value for it."""
    assert {"a": {1: "y"}, "b": {True: "y"}} == load_yaml("a: {<<: {1: x}, 0x1: y}\nb: {<<: {yes: x}, true: y}\n")


@pytest.mark.parametrize("key", ["x", "threshold"])
def test_of_several_merged_mappings_the_first_counts(key: str):
    """As yaml.org has it."""
    found = load_yaml(f"a: &a {{{key}: 1}}\nb: &b {{{key}: 2, y: 2}}\nc: {{<<: [*a, *b]}}\nd: {{<<: [*b, *a]}}\n")
    assert ({key: 1, "y": 2}, {key: 2, "y": 2}) == (found["c"], found["d"])


def test_merges_of_merges_take_no_more_than_their_keys():
    """Thirty mappings, each of which merges the one before ten times, and one that merges itself."""
    text = "a0: &a0 {x: 1}\n" + "".join(
        f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 10)}], k{number}: 1}}\n"
        for number in range(1, 31)
    )
    assert 31 == len(load_yaml(text)["a30"])
    assert {"a": {"x": 1}} == load_yaml("a: &a {<<: *a, x: 1}\n")


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 30)),
            "repeat",
        ),
        ("a: &a [*a]\n", "inside the value that it repeats|recursive"),
        ("a: &a {b: *a}\n", "inside the value that it repeats|recursive"),
        ('a:\n- {b: ["\\ud800"]}\n', r"half a character(.|\n)*line 2"),
        ('{"\\ud83d": 1}\n', "half a character"),
    ],
)
def test_what_cannot_be_written_out_is_refused(text: str, said: str, *, strings: bool):
    """Whoever logs, checks or sends it would not end, or fail."""
    with pytest.raises(yaml.YAMLError, match=said):
        load_yaml(text, strings=strings)


def test_an_alias_repeats_a_value():
    """Also many times, and in a file without any a list can be long."""
    assert {"a": [1, 2], "b": [[1, 2]] * 1000} == load_yaml(f"a: &a [1, 2]\nb: [{', '.join(['*a'] * 1000)}]\n")
    assert 50_000 == len(load_yaml(f"[{'1,' * 50_000}]"))


@pytest.mark.parametrize("text", ["a: {1: x, 0x1: y}\n", "{yes: 1, true: 2}", "a: {1: x, 0x1: y, <<: {z: 1}}\n"])
def test_a_key_in_two_forms_occurs_twice(text: str):
    """What reads the mapping could not tell them apart."""
    with pytest.raises(yaml.YAMLError, match="occurs twice"):
        load_yaml(text)


@pytest.mark.parametrize("text", ["<<: [1]\n", "<<: 1\n", "a: {<<: [[{x: 1}]]}\n"])
def test_a_merge_of_what_is_no_mapping_is_refused(text: str):
    """With the place."""
    with pytest.raises(yaml.YAMLError, match=r"names mappings(.|\n)*line 1"):
        load_yaml(text)


def test_values_have_their_types_or_are_strings():
    """A plan is read as strings, because 02:00 and a date are to stay what was written."""
    text = b"at: 2026-12-01\nevery: 12:30\nnumber: 0.5\n=: 1\n"
    assert {"at": datetime.date(2026, 12, 1), "every": 750, "number": 0.5, "=": 1} == load_yaml(text)
    assert {"at": "2026-12-01", "every": "12:30", "number": "0.5", "=": "1"} == load_yaml(text, strings=True)


def test_nothing_but_plain_values_is_made():
    """A tag that makes an object of Python is refused."""
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.getcwd []")

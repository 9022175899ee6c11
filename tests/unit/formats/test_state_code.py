"""The state code of a site: about a hundred characters that are decoded exactly, with wrong characters detected."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import DocumentInvalid
from edge_agent.formats import state_code, status_object
from edge_agent.formats.state_code import SiteSummary, TaskSummary, decode, encode, spoken_groups

TASK = TaskSummary("pos-intent", "1.2.0", "ready", "fetching", "1.3.0", ("errors", "novelty"))
SUMMARY = SiteSummary("shop-12", "0.1.0", 29_925_000, True, "online", (TASK, TaskSummary("food", "2.0.1", "failed")))
GROUPS = spoken_groups(encode(SUMMARY))
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", max_size=20)
TASKS = st.builds(
    TaskSummary,
    WORDS,
    st.text(max_size=12),
    st.sampled_from(sorted(state_code.TASK_STATES)),
    st.sampled_from(["", *sorted(state_code.UPDATE_STATES)]),
    WORDS,
    st.lists(st.sampled_from(sorted(state_code.ALARMS)), max_size=7, unique=True).map(tuple),
)
SUMMARIES = st.builds(
    SiteSummary,
    WORDS,
    st.text(max_size=3),
    st.integers(0, 2**40),
    st.booleans(),
    st.sampled_from(["", *sorted(state_code.LINK_STATES)]),
    st.lists(TASKS, max_size=12).map(tuple),
)


@given(SUMMARIES)
def test_state_code_is_decoded_exactly(summary: SiteSummary) -> None:
    """The QR text and the spoken groups are decoded in any case and spacing; tasks that do not fit are counted."""
    code = encode(summary)
    found = decode(state_code.PREFIX + code)
    kept = len(found.tasks)
    assert found == dataclasses.replace(summary, tasks=summary.tasks[:kept], tasks_left_out=len(summary.tasks) - kept)
    assert (True, True) == (set(code) <= set(ALPHABET), len(code) <= state_code.CODE_CHARACTERS_MAX or not kept)
    groups = spoken_groups(code)
    assert [found, found, found] == [
        decode(form) for form in (" ".join(groups).lower(), "-".join(groups), "".join(groups))
    ]


def test_letters_that_look_like_digits_are_accepted() -> None:
    """O is read as 0, and I or L as 1."""
    misread = " ".join(GROUPS).replace("0", "o").replace("1", "l")
    assert SUMMARY == decode(misread)


def test_each_wrong_character_is_found_in_its_group() -> None:
    """A wrong character at any position is reported with its group."""
    for number, group in enumerate(GROUPS):
        for place in range(len(group)):
            for heard in set(ALPHABET) - {group[place]}:
                wrong = [*GROUPS[:number], group[:place] + heard + group[place + 1 :], *GROUPS[number + 1 :]]
                with pytest.raises(DocumentInvalid, match=f"^group {number + 1} of {len(GROUPS)} is wrong"):
                    decode(" ".join(wrong))


def test_swapped_characters_and_groups_are_detected() -> None:
    """Two adjacent characters or groups in the wrong order are detected."""
    for number, group in enumerate(GROUPS):
        for place in range(len(group) - 1):
            one, other = group[place : place + 2]
            swapped = group[:place] + other + one + group[place + 2 :]
            if one != other:
                with pytest.raises(DocumentInvalid, match=f"^group {number + 1} of"):
                    decode(" ".join([*GROUPS[:number], swapped, *GROUPS[number + 1 :]]))
    for number in range(len(GROUPS) - 1):
        pair = [GROUPS[number + 1], GROUPS[number]]
        with pytest.raises(DocumentInvalid):
            decode(" ".join([*GROUPS[:number], *pair, *GROUPS[number + 2 :]]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (" ".join(GROUPS[:-1]), "does not fit together"),
        (" ".join(GROUPS[:3] + GROUPS[4:]), "group 4 of"),
        (" ".join([GROUPS[0][:-1], *GROUPS[1:]]), "group 1 of"),
        ("hello world", "group 1 of 2"),
        ("", "does not fit together"),
        ("EA.", "does not fit together"),
        ("GR\u00dcSSE", "is wrong"),
        ("CAUSE", "no code has the characters U"),
        ("1" * 5000, "group 1 of"),
    ],
)
def test_invalid_code_is_refused(given: str, said: str) -> None:
    """The message names the group if it is known."""
    with pytest.raises(DocumentInvalid, match=said):
        decode(given)


def test_code_of_a_newer_version_is_reported() -> None:
    """The version is the first field, so an older program can report it."""
    body = state_code._encode_text("2|something")
    with pytest.raises(DocumentInvalid, match="of version 2"):
        decode(state_code.PREFIX + body)


def test_every_state_and_alarm_has_its_own_letter() -> None:
    """A new state or alarm needs a letter."""
    assert set(get_args(status_object.UpdateState)) == set(state_code.UPDATE_STATES)
    assert set(get_args(status_object.Alarm)) == set(state_code.ALARMS)
    for words in (state_code.TASK_STATES, state_code.UPDATE_STATES, state_code.ALARMS, state_code.LINK_STATES):
        assert len(words) == len(set(words.values()))

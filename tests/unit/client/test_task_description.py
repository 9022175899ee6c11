"""`render_state`: a JSON state as text, and Python values that JSON does not have."""

from __future__ import annotations

import json
import math
from datetime import date
from typing import Any

import pytest

from edge_agent.client import render_state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({}, "must not be empty"),
        ([math.nan], "holds a number that is not finite"),
        ({"since": date(2026, 11, 28)}, "is not JSON: Object of type date is not JSON serializable"),
        ({1: "a", "b": "c"}, "is not JSON: '<' not supported between instances of 'str' and 'int'"),
        ({"a": "\ud800"}, "holds half of a surrogate pair, which is not text"),
    ],
)
def test_state_that_is_not_json_is_refused(state: Any, said: str) -> None:
    """Values that JSON does not have are refused, because Python's library would write NaN and numeric keys that other
    programs do not read."""
    with pytest.raises(ValueError, match=r".") as caught:
        render_state(state)
    assert said == str(caught.value)


def test_equal_states_give_equal_texts() -> None:
    """Equal values give the same text however a client writes them: 1 and 1.0, 1e2 and 100, members in any order,
    tuples and lists."""
    one, other = ('{"b": [1.0, 1e2, -0.0, 0.00001], "a": 1e300}', '{"a": 1E+300, "b": [1, 100, 0, 1e-5]}')
    assert '{"a":1e+300,"b":[1,100,0,1e-05]}' == render_state(json.loads(one)) == render_state(json.loads(other))
    assert "[true,[1]]" == render_state((True, (1,)))


def test_recursive_state_is_refused_as_nested_too_deep() -> None:
    """A state that contains itself is refused, because it is nested in more than 32 levels."""
    state: list[Any] = []
    state.append(state)
    with pytest.raises(ValueError, match="is nested in more than 32 levels"):
        render_state(state)

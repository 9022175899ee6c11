"""docs/updates.md names every state, every reason and every setting of updates, and no other."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

from edge_agent.config import UpdateConfig
from edge_agent.errors import BY_REASON
from edge_agent.formats.plan import Verdict
from edge_agent.formats.status_object import UpdateState
from edge_agent.update import blocked_update_messages, probation, selftest, update_state_machine

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "updates.md").read_text(encoding="utf-8")


def rows(head: str) -> dict[str, list[str]]:
    """Return the cells of the rows of a table that begins with a head, by their first cell."""
    _, _, rest = DOCUMENT.partition(f"\n| {head} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]
    return {each[0]: each[1:] for each in cells}


def reasons_in(module: object) -> set[str]:
    """Return the reasons that a module gives: its string constants in capitals."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text for text in found if text.isupper() and text.replace("_", "").isalpha() and len(text) > 2}


def test_document_explains_every_state() -> None:
    """docs/updates.md lists every state of an update, in the order in which a task passes through them."""
    assert list(get_args(UpdateState)) == list(rows("state"))


def test_document_explains_every_reason() -> None:
    """docs/updates.md lists every reason that is not an error, with states that exist; docs/errors.md has the
    errors."""
    given = set().union(*map(reasons_in, (blocked_update_messages, update_state_machine, selftest, probation)))
    expected = (given | set(get_args(Verdict))) - {"WANTED"} - BY_REASON.keys()
    assert expected == set(rows("reason"))
    states = set(get_args(UpdateState))
    for reason, (where, _) in rows("reason").items():
        assert set(where.split(", ")) <= states, reason


def test_document_has_the_unit_and_default_of_every_setting() -> None:
    """docs/updates.md lists every setting of agent.yaml's `update` section with its default, and the unit that its name
    ends with."""
    told = rows("key")
    fields = UpdateConfig.model_fields
    assert list(fields) == list(told)
    for key, (unit, default, said) in told.items():
        assert str(fields[key].default) == (default if default != "''" else ""), key
        assert (unit == "seconds") == ("seconds" in key)
        assert said

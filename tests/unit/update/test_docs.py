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
    """Return the reasons that a module gives: the second word of an outcome or of a state."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))  # type: ignore[attr-defined]
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text for text in found if text.isupper() and text.replace("_", "").isalpha() and len(text) > 2}


def test_every_state_is_explained() -> None:
    """In the order in which a task goes through them."""
    assert list(get_args(UpdateState)) == list(rows("state"))


def test_every_reason_is_explained() -> None:
    """Those that are no errors; docs/errors.md has the others."""
    given = set().union(*map(reasons_in, (blocked_update_messages, update_state_machine, selftest, probation)))
    expected = (given | set(get_args(Verdict))) - {"WANTED"} - BY_REASON.keys()
    assert expected == set(rows("reason"))
    states = set(get_args(UpdateState))
    for reason, (where, _) in rows("reason").items():
        assert set(where.split(", ")) <= states, reason


def test_every_setting_has_its_unit_and_default() -> None:
    """As agent.yaml has them; a key that ends with a unit has that one."""
    told = rows("key")
    fields = UpdateConfig.model_fields
    assert list(fields) == list(told)
    for key, (unit, default, said) in told.items():
        assert str(fields[key].default) == (default if default != "''" else ""), key
        assert (unit == "seconds") == ("seconds" in key)
        assert said

"""`edge-convert sites decode`: what a site read out, at the central team."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from convert.cli import app
from edge_agent.formats.state_code import PREFIX, SiteSummary, TaskSummary, encode, spoken_groups

TASK = TaskSummary("pos-intent", "1.2.0", "backing_off", "rolled_back", "1.3.0", ("errors",))
CODE = encode(SiteSummary("shop-12", "0.1.0", 29_456_640, True, "offline", (TASK,), 3))


def decoded(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["sites", "decode", *arguments])
    assert code == done.exit_code, done.output
    return done.output


def test_the_groups_and_the_picture_say_the_same() -> None:
    """Groups as arguments or as one text, and the text of the QR code; no registry is needed."""
    groups = spoken_groups(CODE)
    shown = decoded(*groups)
    assert [shown, shown] == [decoded(" ".join(groups)), decoded(PREFIX + CODE)]
    assert "shop-12: edge-agent 0.1.0, serving, uplink offline; made at 2026-01-03 00:00 UTC by its clock" in shown
    assert ["pos-intent", "1.2.0", "backing", "off", "rolled", "back", "1.3.0", "errors"] == shown.splitlines()[
        2
    ].split()
    assert "and 3 more" in shown
    assert "pos-intent" == json.loads(decoded(*groups, "--json"))["tasks"][0]["task"]


def test_a_group_that_was_misheard_is_named() -> None:
    """Exit code 2 as for other bad input, with the number of the group and what to do."""
    groups = spoken_groups(CODE)
    said = decoded(groups[0], groups[1][::-1], *groups[2:], code=2)
    assert f"group 2 of {len(groups)} is wrong" in said
    assert "Ask for this group and the previous one again." in said

"""`edge-convert sites decode`: the central team decodes a status code that a site read out."""

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


def test_spoken_groups_and_qr_code_decode_alike() -> None:
    """Groups as arguments, as one text, and the QR code's text give the same output; no registry is needed."""
    groups = spoken_groups(CODE)
    shown = decoded(*groups)
    assert [shown, shown] == [decoded(" ".join(groups)), decoded(PREFIX + CODE)]
    assert "shop-12: edge-agent 0.1.0, serving, uplink offline; made at 2026-01-03 00:00 UTC by its clock" in shown
    assert ["pos-intent", "1.2.0", "backing", "off", "rolled", "back", "1.3.0", "errors"] == shown.splitlines()[
        2
    ].split()
    assert "and 3 more" in shown
    assert "pos-intent" == json.loads(decoded(*groups, "--json"))["tasks"][0]["task"]


def test_misheard_group_is_named() -> None:
    """The command ends with code 2 as for other bad input, with the number of the group and a remedy."""
    groups = spoken_groups(CODE)
    said = decoded(groups[0], groups[1][::-1], *groups[2:], code=2)
    assert f"group 2 of {len(groups)} is wrong" in said
    assert "Ask for this group and the previous one again." in said

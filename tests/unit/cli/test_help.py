"""`edge-agent help`: the run book on a machine without a checkout, and the meaning of a reason."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.help import UPDATE_REASONS, parse_entries, read_entries
from edge_agent.doctor.all_checks import CHECKS
from edge_agent.errors import BY_REASON

UPDATES = Path(__file__).parents[3] / "docs" / "updates.md"


def help_of(*names: str):
    return CliRunner().invoke(app, ["help", *names], env={"COLUMNS": "80"})


def test_the_run_book_is_in_the_package():
    """Every check of doctor has its entry there."""
    assert set(CHECKS) == set(read_entries())


def test_an_entry_has_its_title_and_lines():
    """Links become their text; the next heading ends it."""
    text = "### `disk`: The disk is full\n\nSee [more](x.md).\n\n- **look** `df -h`\n\n## Next\n\n### `cpu`: Old\n\nx\n"
    disk, cpu = parse_entries(text)
    assert ("disk", "The disk is full", "See more.\n\n- **look** `df -h`", "cpu") == (
        disk.name,
        disk.title,
        disk.text,
        cpu.name,
    )


@pytest.mark.parametrize("name", ["socket", "large-model", "clock", "certificate", "watchdog"])
def test_an_entry_is_printed_within_80_columns_with_whole_commands(name):
    """Nothing of Markdown is left, nor the indent of a list item's second line."""
    result = help_of(name)
    lines = result.stdout.splitlines()
    assert (0, True) == (result.exit_code, lines[0].startswith(f"{name}: "))
    assert [] == [line for line in lines if "`" in line or "**" in line or re.search(r"  +", line[8:])]


def test_a_reason_is_explained_in_either_case():
    """What it means, who acts, what to do, and nothing of Markdown."""
    assert "or incoming/." in " ".join(help_of("EXCHANGE_DIR_UNUSABLE").stdout.split())
    assert help_of("disk_full").stdout == help_of("DISK_FULL").stdout
    assert "edge-agent bundles list" in help_of("DISK_FULL").stdout


def test_without_a_name_every_name_is_listed():
    """Checks and reasons."""
    said = help_of().stdout
    assert [] == [name for name in [*CHECKS, *BY_REASON] if name not in said]


def test_an_unknown_name_is_answered_with_the_nearest():
    """Exit code 2."""
    result = help_of("sockt")
    assert (2, True) == (result.exit_code, "'socket'" in result.output)


@pytest.mark.parametrize("name", UPDATE_REASONS)
def test_a_reason_of_an_update_is_explained(name):
    """Its meaning, the states in which it stands, what to do; docs/updates.md has each of them."""
    said = " ".join(help_of(name.lower()).stdout.split())
    assert (True, True) == (said.startswith(f"{name}: {UPDATE_REASONS[name].meaning}"), " do " in said)
    assert f"\n| `{name}` | " in UPDATES.read_text(encoding="utf-8")


def test_every_reason_that_the_document_lists_is_explained():
    """Those of its table, whether they are errors or not."""
    listed = re.findall(
        r"(?m)^\| `([A-Z_]+)` \| (?:waiting|staged|held|failed|rolled_back)", UPDATES.read_text(encoding="utf-8")
    )
    assert [] == [name for name in listed if name not in {*UPDATE_REASONS, *BY_REASON}]

"""`edge-agent help`: the runbook on a machine without a checkout, and the explanation of a reason."""

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


def test_packaged_runbook_covers_every_doctor_check():
    """The runbook in the package has exactly one entry for each check of `doctor`."""
    assert set(CHECKS) == set(read_entries())


def test_runbook_entry_has_title_and_text():
    """An entry has a name, a title and its text with links reduced to their text, and ends at the next heading."""
    text = "### `disk`: The disk is full\n\nSee [more](x.md).\n\n- **look** `df -h`\n\n## Next\n\n### `cpu`: Old\n\nx\n"
    disk, cpu = parse_entries(text)
    assert ("disk", "The disk is full", "See more.\n\n- **look** `df -h`", "cpu") == (
        disk.name,
        disk.title,
        disk.text,
        cpu.name,
    )


@pytest.mark.parametrize("name", ["socket", "large-model", "clock", "certificate", "watchdog"])
def test_runbook_entry_is_printed_without_markdown(name):
    """`edge-agent help CHECK` prints the entry under its name without Markdown marks and without double spaces in a
    line."""
    result = help_of(name)
    lines = result.stdout.splitlines()
    assert (0, True) == (result.exit_code, lines[0].startswith(f"{name}: "))
    assert [] == [line for line in lines if "`" in line or "**" in line or re.search(r"  +", line[8:])]


def test_reason_is_explained_in_either_case():
    """`edge-agent help REASON` accepts upper and lower case, and prints the meaning and the remedy with its
    commands."""
    assert "or incoming/." in " ".join(help_of("EXCHANGE_DIR_UNUSABLE").stdout.split())
    assert help_of("disk_full").stdout == help_of("DISK_FULL").stdout
    assert "edge-agent bundles list" in help_of("DISK_FULL").stdout


def test_help_without_a_name_lists_every_name():
    """`edge-agent help` without a name lists every check and every reason."""
    said = help_of().stdout
    assert [] == [name for name in [*CHECKS, *BY_REASON] if name not in said]


def test_unknown_help_name_suggests_the_nearest():
    """For an unknown name, `edge-agent help` suggests the most similar one and ends with 2."""
    result = help_of("sockt")
    assert (2, True) == (result.exit_code, "'socket'" in result.output)


@pytest.mark.parametrize("name", UPDATE_REASONS)
def test_update_reason_is_explained(name):
    """`edge-agent help` explains each reason of an update and what to do, and docs/updates.md lists it."""
    said = " ".join(help_of(name.lower()).stdout.split())
    assert (True, True) == (said.startswith(f"{name}: {UPDATE_REASONS[name].meaning}"), " do " in said)
    assert f"\n| `{name}` | " in UPDATES.read_text(encoding="utf-8")


def test_every_reason_in_updates_document_is_explained():
    """`edge-agent help` can explain every reason in the table of docs/updates.md."""
    listed = re.findall(
        r"(?m)^\| `([A-Z_]+)` \| (?:waiting|staged|held|failed|rolled_back)", UPDATES.read_text(encoding="utf-8")
    )
    assert [] == [name for name in listed if name not in {*UPDATE_REASONS, *BY_REASON}]

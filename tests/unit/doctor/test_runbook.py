"""The runbook covers the checks of `doctor`, and both name only existing commands."""

import re
from pathlib import Path

import yaml

import convert.cli
from edge_agent.cli import COMMANDS
from edge_agent.doctor.all_checks import CHECKS

ROOT = Path(__file__).parents[3]
ENTRY = re.compile(r"^### `([a-z-]+)`: (.+)$", re.MULTILINE)
SETUP = {"rollback", "uninstall", "purge", "status", "--kit"}
"""What the installer's command takes."""
SYSTEM = {
    *(
        "cat",
        "chgrp",
        "chmod",
        "chown",
        "date",
        "df",
        "dmesg",
        "du",
        "echo",
        "find",
        "findmnt",
        "free",
        "getent",
        "grep",
    ),
    *("groupadd", "head", "install", "ip", "journalctl", "kill", "ls", "mkdir", "mv", "ping", "ps", "resolvectl", "rm"),
    *("sh", "sort", "ss", "sudoedit", "systemctl", "systemd-analyze", "systemd-tmpfiles", "tail", "tee", "timedatectl"),
    *("uname", "usermod"),
}
"""Programs of every Debian and Ubuntu that the appliance is made for."""
ABOUT_CALLS = {
    *("EdgeAgentDenied", "EdgeAgentErrors", "EdgeAgentLoopLate", "EdgeAgentRefusesWork"),
    *("EdgeAgentSlow", "EdgeAgentUnsure"),
}
"""Alerts about how calls go, which no check looks at: each says itself what to do."""
OWN = {"edge-agent", "edge-convert", "edge-agent-setup"}


def names(typer_app) -> set[str]:
    groups = {group.name for group in typer_app.registered_groups}
    return {command.name for command in typer_app.registered_commands} | groups


def runbook() -> str:
    return (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def spans(text: str) -> set[str]:
    """Return the code spans of the runbook, between backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))


def own_commands(text: str) -> set[tuple[str, str]]:
    """Return every mention of a command of this project with its first argument."""
    return set(
        re.findall(r"(?:^|sudo |[`'\"]|; )(edge-agent-setup|edge-agent|edge-convert) (--kit|[a-z][a-z-]+)", text)
    )


def programs(command: str) -> set[str]:
    """Return the programs that a shell line starts."""
    parts = re.split(r"; | && | \|\| | \| ", re.sub(r"'[^']*'", "''", command))
    return {part.removeprefix("sudo ").split()[0] for part in parts}


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "edge_agent" / "doctor").glob("*.py")))


def test_runbook_entries_match_the_checks():
    """The runbook has exactly one entry for each check of `doctor`."""
    assert sorted(CHECKS) == sorted(name for name, _ in ENTRY.findall(runbook()))


def test_every_runbook_entry_has_look_and_do_lines():
    """Every entry of the runbook has a "look" line with a command and a "do" line."""
    entries = re.split(r"^### ", runbook(), flags=re.MULTILINE)[1:]
    without = [entry.split(":")[0] for entry in entries if not ("- **look** `" in entry and "- **do** " in entry)]
    assert [] == without


def test_cross_references_of_the_runbook_exist():
    """Every "see" reference in the runbook names an existing check."""
    named = re.findall(r"[Ss]ee `([a-z-]+)`", runbook())
    assert (True, set()) == (bool(named), set(named) - set(CHECKS))


def test_alerts_and_runbook_entries_match():
    """Every Prometheus alert that is about one check is named by exactly one entry, and every entry names an existing
    alert."""
    named = re.findall(r"^- \*\*alert\*\* `(\w+)`", runbook(), re.MULTILINE)
    rules = yaml.safe_load((ROOT / "docs" / "prometheus" / "edge-agent.rules.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert (sorted(alerts - ABOUT_CALLS), len(named)) == (sorted(named), len(set(named)))


def test_runbook_mentions_large_model_log_events():
    """The runbook mentions every log event about the large model and escalation."""
    files = [file for room in ("uplink", "server") for file in sorted((ROOT / "edge_agent" / room).glob("**/*.py"))]
    calls = re.findall(r"log\.\w+\(([^,)]+)", "\n".join(file.read_text(encoding="utf-8") for file in files))
    events = {event for call in calls for event in re.findall(r'"((?:large_model|escalation)_\w+)"', call)}
    assert (True, []) == (len(events) > 2, [event for event in sorted(events) if f"`{event}`" not in runbook()])


def test_own_commands_in_runbook_and_doctor_exist():
    """The runbook and `doctor` name only existing commands of edge-agent, edge-convert and edge-agent-setup."""
    known = {
        "edge-agent": set(COMMANDS) | {"--version"},
        "edge-convert": names(convert.cli.app),
        "edge-agent-setup": SETUP,
    }
    mentioned = own_commands("\n".join(f"`{span}" for span in spans(runbook()))) | own_commands(sources())
    assert set() == {(program, word) for program, word in mentioned if word not in known[program]}


def test_other_commands_in_runbook_are_system_programs():
    """Every other command in the runbook starts a program that every supported Debian and Ubuntu has."""
    commands = {
        span for line in runbook().splitlines() if line.startswith("- **") for span in spans(line) if " " in span
    }
    assert set() == {program for command in commands for program in programs(command)} - SYSTEM - OWN

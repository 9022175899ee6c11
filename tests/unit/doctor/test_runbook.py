"""The run book and doctor know of the same things, and name commands that exist."""

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
    """Return what stands in code: in the run book between backquotes, in doctor's own modules in strings."""
    return set(re.findall(r"`([^`\n]+)`", text))


def own_commands(text: str) -> set[tuple[str, str]]:
    """Return every mention of a command of ours with the word behind it."""
    return set(
        re.findall(r"(?:^|sudo |[`'\"]|; )(edge-agent-setup|edge-agent|edge-convert) (--kit|[a-z][a-z-]+)", text)
    )


def programs(command: str) -> set[str]:
    """Return the programs that a line for a shell starts."""
    parts = re.split(r"; | && | \|\| | \| ", re.sub(r"'[^']*'", "''", command))
    return {part.removeprefix("sudo ").split()[0] for part in parts}


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "edge_agent" / "doctor").glob("*.py")))


def test_every_check_has_an_entry_and_every_entry_a_check():
    """What doctor looks at and what the run book tells are the same list."""
    assert sorted(CHECKS) == sorted(name for name, _ in ENTRY.findall(runbook()))


def test_every_entry_says_where_to_look_and_what_to_do():
    """No entry ends without a command that shows more and something that helps."""
    entries = re.split(r"^### ", runbook(), flags=re.MULTILINE)[1:]
    without = [entry.split(":")[0] for entry in entries if not ("- **look** `" in entry and "- **do** " in entry)]
    assert [] == without


def test_entries_that_point_at_others_point_at_some():
    """'See x' names a check."""
    named = re.findall(r"[Ss]ee `([a-z-]+)`", runbook())
    assert (True, set()) == (bool(named), set(named) - set(CHECKS))


def test_alerts_and_entries_know_each_other():
    """An alert that is about one check is named by its entry, and an entry names no alert that is not there."""
    named = re.findall(r"^- \*\*alert\*\* `(\w+)`", runbook(), re.MULTILINE)
    rules = yaml.safe_load((ROOT / "docs" / "prometheus" / "edge-agent.rules.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert (sorted(alerts - ABOUT_CALLS), len(named)) == (sorted(named), len(set(named)))


def test_log_events_of_the_large_model_have_an_entry():
    """The run book explains every event about the large model that a technician can find in a log."""
    files = [file for room in ("uplink", "server") for file in sorted((ROOT / "edge_agent" / room).glob("**/*.py"))]
    calls = re.findall(r"log\.\w+\(([^,)]+)", "\n".join(file.read_text(encoding="utf-8") for file in files))
    events = {event for call in calls for event in re.findall(r'"((?:large_model|escalation)_\w+)"', call)}
    assert (True, []) == (len(events) > 2, [event for event in sorted(events) if f"`{event}`" not in runbook()])


def test_our_commands_exist_wherever_they_are_named():
    """Run book and doctor name no command of edge-agent, edge-convert or edge-agent-setup that is not there."""
    known = {
        "edge-agent": set(COMMANDS) | {"--version"},
        "edge-convert": names(convert.cli.app),
        "edge-agent-setup": SETUP,
    }
    mentioned = own_commands("\n".join(f"`{span}" for span in spans(runbook()))) | own_commands(sources())
    assert set() == {(program, word) for program, word in mentioned if word not in known[program]}


def test_other_commands_are_programs_of_the_system():
    """Whatever the run book has between backquotes and begins like a command is one that every such system has."""
    commands = {
        span for line in runbook().splitlines() if line.startswith("- **") for span in spans(line) if " " in span
    }
    assert set() == {program for command in commands for program in programs(command)} - SYSTEM - OWN

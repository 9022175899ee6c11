"""Behaviour of every command: global options, old names, confirmation, JSON, completion; and small commands."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import COMMANDS, OLD_NAMES, app
from edge_agent.cli.services import SYSTEMD_RUNS, journal_advice, journal_arguments
from edge_agent.v1 import admin_pb2
from tests.support.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run edge-agent with a configuration and directories of its own."""
    config = tmp_path / "agent.yaml"
    config.write_text("")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return lambda *arguments, stdin="": CliRunner().invoke(app, [*options, *arguments], input=stdin)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock") as running:
        yield running


@pytest.mark.parametrize(("old", "entry"), OLD_NAMES.items())
def test_old_command_name_still_runs_with_a_note(run, old, entry):
    """A command name of version 0.1 still runs its command, and a note on standard error names the new one."""
    result = run(old, "--help")
    note = f"note: 'edge-agent {old}' is now 'edge-agent {entry.renamed_to}'\n"
    assert (0, note) == (result.exit_code, result.stderr)


def test_help_lists_no_old_command_names():
    """`edge-agent -h` lists only the current command names, in their order."""
    listed = re.findall(r"(?m)^. ([a-z-]+) ", CliRunner().invoke(app, ["-h"], env={"COLUMNS": "120"}).stdout)
    assert list(COMMANDS) == [name for name in listed if name in COMMANDS | OLD_NAMES]


@pytest.mark.parametrize("words", [("drop-ins",), ("media", "import")])
def test_help_wraps_paragraphs_at_terminal_width(words):
    """Help text breaks lines only at the terminal's width, wherever the source breaks them."""
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    broken = [(line, after.split()[0]) for line, after in pairwise(lines) if line and after]
    assert broken
    assert [] == [line for line, word in broken if len(f" {line} {word}") < 79]


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_global_option_is_accepted_at_any_position(daemon, tmp_path, place):
    """A global option is accepted before the command, between its words and after its arguments."""
    words = ["bundles", "list", "pos-intent", "--json"]
    result = CliRunner().invoke(app, [*words[:place], "--run-dir", str(tmp_path), *words[place:]])
    assert (0, "1.2.0") == (result.exit_code, json.loads(result.stdout)[0]["ref"]["version"])


def test_global_option_after_the_command_takes_precedence(run, daemon, tmp_path):
    """If a global option is given before and after the command, the one after it counts."""
    assert 0 == run("status", "--run-dir", str(tmp_path)).exit_code
    assert 3 == run("status", "--run-dir", str(tmp_path / "elsewhere")).exit_code


def removals(daemon: FakeDaemon) -> list[admin_pb2.RemoveBundleRequest]:
    """Return the removals that the daemon received."""
    return [each for each in daemon.admin.requests if isinstance(each, admin_pb2.RemoveBundleRequest)]


@pytest.mark.parametrize(
    ("arguments", "consequence"),
    [
        (
            ["remove", "pos-intent"],
            "Version 1.2.0 stops answering 'pos-intent', and nothing else answers it: calls of the task fail. The site"
            " loses 2 bundles of it (1.2.0, 1.2.0; 196.0 MB). The way back: 'edge-agent install PATH' of its file.",
        ),
        (["remove", "pos-intent", "1.1.0"], "The site loses pos-intent 1.1.0."),
        (["erase", "4b1f7c1e"], "There is no way back."),
    ],
)
def test_removal_without_a_terminal_needs_yes(run, daemon, arguments, consequence):
    """Without a terminal and without --yes, `remove` and `erase` name the consequence and the option, end with 2 and
    remove nothing."""
    result = run(*arguments)
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert (2, True, True) == (result.exit_code, consequence in shown, "Add --yes to go ahead." in shown)
    assert shown.startswith("error: nothing was done: there is no terminal to ask on.")
    assert [] == removals(daemon)


def test_remove_refuses_an_empty_bundle_argument(run, daemon):
    """`remove TASK ''` ends with 2 also with --yes and removes nothing, because a script with an empty variable meant
    one bundle, not the whole task."""
    result = run("remove", "pos-intent", "", "--yes")
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert (2, True) == (result.exit_code, "leave it out to remove the whole task" in shown)
    assert [] == removals(daemon)


@pytest.mark.parametrize(("answer", "code", "removed"), [("y", 0, 1), ("n", 1, 0)])
def test_removal_on_a_terminal_asks_for_confirmation(daemon, tmp_path, answer, code, removed):
    """On a terminal, `remove` prints the consequence and a question, and removes the task only after a yes."""
    person, terminal = pty.openpty()
    words = ["--run-dir", str(tmp_path), "remove", "pos-intent"]
    command = [sys.executable, "-m", "edge_agent.cli", *words]
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as asking:
        os.write(person, f"{answer}\n".encode())
        shown = asking.stderr.read().decode()
    os.close(person)
    os.close(terminal)
    assert (code, removed) == (asking.returncode, len(removals(daemon))), shown
    assert ("calls of the task fail" in shown, "Remove the task pos-intent? [y/N]" in shown) == (True, True)


def test_quiet_omits_confirmations(run, daemon, tmp_path):
    """--quiet omits messages that only confirm; answers and errors are still printed."""
    assert ("", 0) == (run("-q", "install", str(tmp_path)).stdout, run("rollback", "pos-intent", "-q").exit_code)
    assert "pos-intent" in run("bundles", "list", "--quiet").stdout
    assert "error: the bundle has no signature" in run("install", "-q", str(tmp_path / "hostile")).stderr


def test_verbose_prints_the_reason_of_an_error(run, daemon):
    """--verbose adds the stable reason and the exit code to an error."""
    assert "reason: " not in run("classify", "unknown", "x").stderr
    assert "  reason: TASK_UNKNOWN, exit code 2\n" in run("classify", "unknown", "x", "-v").stderr


def test_no_color_option_sets_no_color_variable(run, monkeypatch):
    """--no-color sets NO_COLOR, which rich and the command's child processes follow."""
    monkeypatch.setenv("NO_COLOR", "")
    run("version", "--no-color")
    assert "1" == os.environ["NO_COLOR"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["install", "."], "newly_installed"),
        (["activate", "pos-intent", "1.2.0"], "ref"),
        (["rollback", "pos-intent"], "ref"),
        (["remove", "pos-intent", "1.1.0", "-y"], "freed_bytes"),
        (["mode", "pos-intent"], "mode"),
        (["version"], "edge-agent"),
        (["config", "show"], "engine"),
        (["config", "validate"], "valid"),
        (["limits"], "memory_max"),
    ],
)
def test_json_option_prints_one_object(run, daemon, arguments, key):
    """`--json` of these commands prints one JSON object on standard output."""
    assert key in json.loads(run(*arguments, "--json").stdout)


def test_config_validate_accepts_and_refuses_like_the_daemon(run, tmp_path):
    """`config validate` confirms a valid file by its path, and ends with 3 and a remedy for an unknown key."""
    assert f"{tmp_path}/agent.yaml is valid.\n" == run("config", "validate").stdout
    (tmp_path / "agent.yaml").write_text("engine: {cpu_treads: 2}")
    result = run("config", "validate")
    assert (3, True) == (result.exit_code, "Did you mean 'engine.cpu_threads'?" in result.stderr)


def test_config_show_prints_effective_values(run, tmp_path):
    """`config show` prints values from options and files instead of defaults, and its output is a valid agent.yaml."""
    (tmp_path / "agent.yaml").write_text("engine: {cpu_threads: 2}")
    shown = run("config", "show").stdout
    assert ("cpu_threads: 2" in shown, f"state_dir: {tmp_path}/state" in shown) == (True, True)
    (tmp_path / "agent.yaml").write_text(shown)
    assert shown == run("config", "show").stdout


def test_config_path_lists_files_by_precedence(run, tmp_path):
    """`config path` lists the file with the highest precedence first, and also files that do not exist, so that a user
    sees where to create them."""
    files = json.loads(run("config", "path", "--json").stdout)
    assert {"path": f"{tmp_path}/agent.yaml", "exists": True} == files[0]
    assert [False, False] == [each["exists"] for each in files[1:]]
    assert f"{tmp_path}/site.yaml" in run("config", "path").stdout


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, ["--unit=edge-agent", "--lines=5", "--no-pager", "--output=short-iso"]),
        (
            {"component": "all", "follow": True, "since": "1 hour ago", "as_json": True},
            [
                *("--unit=edge-agent", "--unit=edge-uplink", "--unit=edge-agent-web", "--lines=5", "--no-pager"),
                *("--since=1 hour ago", "--follow", "--output=json"),
            ],
        ),
    ],
)
def test_logs_calls_journalctl_for_the_units(settings, arguments):
    """`logs` passes one unit or all three to journalctl, with its options as text with the time zone or as JSON."""
    defaults = {"component": "daemon", "follow": False, "lines": 5, "since": "", "as_json": False}
    assert arguments == journal_arguments(**(defaults | settings))


@pytest.mark.parametrize(
    ("user_id", "groups", "advised"),
    [
        (1000, ["staff"], True),
        (1000, ["staff", "systemd-journal"], False),
        (1000, ["adm"], False),
        (0, ["root"], False),
    ],
)
def test_logs_advises_a_user_without_journal_rights(user_id, groups, advised):
    """A user outside root and the groups adm and systemd-journal is advised to use sudo or to join the group, because
    journalctl shows only part of the log."""
    said = journal_advice(user_id, groups)
    assert advised is ("'sudo edge-agent logs', or join the group systemd-journal" in said)
    assert advised is bool(said)


def test_closed_pipe_ends_output_without_an_error():
    """If the reader has closed the pipe, as in `report | head`, buffered output is dropped without an error message."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "from edge_agent.cli.command_group import flush_output; print('late'); flush_output()"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=output, stderr=subprocess.PIPE, env=buffered, check=False
        )
    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize("module", ["edge_agent.cli", "convert.cli"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_not_an_error(module: str, closed: str):
    """A program that is started with closed standard streams ends with 0 and drops its output."""
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", module, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_opened_file_does_not_reuse_a_standard_descriptor(tmp_path: Path):
    """With closed standard streams, a newly opened file does not get descriptor 0, 1 or 2, so no library prints into
    it."""
    program = (
        "from edge_agent.cli.command_group import open_standard_streams; open_standard_streams()\n"
        f"import os; file = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'x'); os.write(2, b'x')\n"
        "raise SystemExit(file.fileno() < 3)"
    )
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert 0 == subprocess.run(words, check=False).returncode
    assert "" == (tmp_path / "file").read_text()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("edge_agent.cli", ["help"]),
        ("edge_agent.cli", ["--help"]),
        ("edge_agent.cli", ["config", "show"]),
        ("convert.cli", ["--help"]),
    ],
)
def test_output_to_a_full_disk_ends_with_3(module: str, arguments: list[str]):
    """If standard output is on a full disk, the command ends with 3 and one message without a traceback, because a
    partial answer is not a success."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (3, 1) == (done.returncode, done.stderr.count("No space left on device")), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(SYSTEMD_RUNS.is_dir(), reason="this machine has a journal")
def test_logs_without_systemd_names_standard_error_of_serve(run):
    """On a machine without systemd, `logs` ends with 3 and names the standard error of 'edge-agent serve'."""
    result = run("logs")
    assert (3, True) == (result.exit_code, "standard error of 'edge-agent serve'" in result.stderr)


def test_completion_offers_commands_options_and_subcommands():
    """Shell completion offers current command names, a command's options and a group's subcommands, but no old
    names."""

    def completed(words: str) -> set[str]:
        variables = {"_EDGE_AGENT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return set(CliRunner().invoke(app, [], prog_name="edge-agent", env=variables).stdout.split())

    assert {"bundles"} == completed("edge-agent bun")
    assert {"list", "show", "inspect", "allow"} == completed("edge-agent bundles ")
    assert "--no-activate" in completed("edge-agent install --")
    assert set() == completed("edge-agent mod") - {"mode"}

"""What holds for every command: global options, old names, confirmation, JSON, completion; and small commands."""

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
    """Run edge-agent with directories of its own."""
    config = tmp_path / "agent.yaml"
    config.write_text("")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return lambda *arguments, stdin="": CliRunner().invoke(app, [*options, *arguments], input=stdin)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock") as running:
        yield running


@pytest.mark.parametrize(("old", "entry"), OLD_NAMES.items())
def test_an_old_name_runs_its_command_and_names_the_new_one(run, old, entry):
    """A script of 0.1 still runs; standard output is as before, and standard error has a note."""
    result = run(old, "--help")
    note = f"note: 'edge-agent {old}' is now 'edge-agent {entry.renamed_to}'\n"
    assert (0, note) == (result.exit_code, result.stderr)


def test_the_help_lists_no_old_name():
    """Old names are hidden, so that nobody learns them."""
    listed = re.findall(r"(?m)^. ([a-z-]+) ", CliRunner().invoke(app, ["-h"], env={"COLUMNS": "120"}).stdout)
    assert list(COMMANDS) == [name for name in listed if name in COMMANDS | OLD_NAMES]


@pytest.mark.parametrize("words", [("drop-ins",), ("media", "import")])
def test_help_breaks_lines_at_the_width_of_the_terminal(words):
    """And nowhere else in a paragraph, wherever the source breaks its lines."""
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    lines = [line.strip() for line in shown.partition("╭")[0].splitlines()]
    broken = [(line, after.split()[0]) for line, after in pairwise(lines) if line and after]
    assert broken
    assert [] == [line for line, word in broken if len(f" {line} {word}") < 79]


@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_a_global_option_stands_anywhere(daemon, tmp_path, place):
    """Before the command, before its arguments and after them."""
    words = ["bundles", "list", "pos-intent", "--json"]
    result = CliRunner().invoke(app, [*words[:place], "--run-dir", str(tmp_path), *words[place:]])
    assert (0, "1.2.0") == (result.exit_code, json.loads(result.stdout)[0]["ref"]["version"])


def test_an_option_after_the_command_wins(run, daemon, tmp_path):
    """The nearest one is what the user means."""
    assert 0 == run("status", "--run-dir", str(tmp_path)).exit_code
    assert 3 == run("status", "--run-dir", str(tmp_path / "elsewhere")).exit_code


def removals(daemon: FakeDaemon) -> list[admin_pb2.RemoveBundleRequest]:
    """Return the removals that a daemon was asked for."""
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
def test_without_a_terminal_nothing_is_removed_unless_the_script_says_yes(run, daemon, arguments, consequence):
    """The refusal names the consequence and the option, and ends with 2; nothing is removed."""
    result = run(*arguments)
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert (2, True, True) == (result.exit_code, consequence in shown, "Add --yes to go ahead." in shown)
    assert shown.startswith("error: nothing was done: there is no terminal to ask on.")
    assert [] == removals(daemon)


def test_an_empty_bundle_is_not_the_whole_task(run, daemon):
    """A script whose variable is empty meant one bundle: with --yes too it ends with 2, and nothing is removed."""
    result = run("remove", "pos-intent", "", "--yes")
    shown = " ".join(result.stderr.replace("│", " ").split())
    assert (2, True) == (result.exit_code, "leave it out to remove the whole task" in shown)
    assert [] == removals(daemon)


@pytest.mark.parametrize(("answer", "code", "removed"), [("y", 0, 1), ("n", 1, 0)])
def test_on_a_terminal_a_person_is_asked(daemon, tmp_path, answer, code, removed):
    """The question and the consequence stand on the terminal; only a yes goes on."""
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


def test_quiet_prints_answers_and_errors_alone(run, daemon, tmp_path):
    """-q leaves out what only confirms."""
    assert ("", 0) == (run("-q", "install", str(tmp_path)).stdout, run("rollback", "pos-intent", "-q").exit_code)
    assert "pos-intent" in run("bundles", "list", "--quiet").stdout
    assert "error: the bundle has no signature" in run("install", "-q", str(tmp_path / "hostile")).stderr


def test_verbose_prints_the_reason_of_an_error(run, daemon):
    """-v adds the stable reason, the exit code and every dynamic value."""
    assert "reason: " not in run("classify", "unknown", "x").stderr
    assert "  reason: TASK_UNKNOWN, exit code 2\n" in run("classify", "unknown", "x", "-v").stderr


def test_no_color_is_what_other_programs_read(run, monkeypatch):
    """--no-color sets NO_COLOR, which rich and the commands' own children obey."""
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
def test_json_is_one_object_on_standard_output(run, daemon, arguments, key):
    """--json of commands, for scripts."""
    assert key in json.loads(run(*arguments, "--json").stdout)


def test_config_validate_ends_as_the_daemon_would(run, tmp_path):
    """A valid file is named; an invalid one ends with 3, and a remedy."""
    assert f"{tmp_path}/agent.yaml is valid.\n" == run("config", "validate").stdout
    (tmp_path / "agent.yaml").write_text("engine: {cpu_treads: 2}")
    result = run("config", "validate")
    assert (3, True) == (result.exit_code, "Did you mean 'engine.cpu_threads'?" in result.stderr)


def test_config_show_has_every_value_in_force(run, tmp_path):
    """Options and files win over defaults, and the output is a valid agent.yaml."""
    (tmp_path / "agent.yaml").write_text("engine: {cpu_threads: 2}")
    shown = run("config", "show").stdout
    assert ("cpu_threads: 2" in shown, f"state_dir: {tmp_path}/state" in shown) == (True, True)
    (tmp_path / "agent.yaml").write_text(shown)
    assert shown == run("config", "show").stdout


def test_config_path_lists_the_files_the_winner_first(run, tmp_path):
    """Also those that do not exist, so that one sees where to write them."""
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
def test_logs_ask_the_journal_for_the_units(settings, arguments):
    """One unit or all three, as text with the time zone, or as JSON."""
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
def test_a_user_who_may_not_read_the_log_learns_how(user_id, groups, advised):
    """journalctl shows such a user part of the log only: sudo, or the group that Debian has for it."""
    said = journal_advice(user_id, groups)
    assert advised is ("'sudo edge-agent logs', or join the group systemd-journal" in said)
    assert advised is bool(said)


def test_a_reader_that_has_gone_ends_the_output_quietly():
    """As in `report | head`: what waits in the buffer is dropped without a word of Python."""
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
def test_streams_that_the_caller_has_closed_are_no_error(module: str, closed: str):
    """As some programs start theirs: what would be printed is dropped."""
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", module, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path):
    """Whatever a library prints would be written into it."""
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
def test_an_answer_that_fits_on_no_disk_is_an_error(module: str, arguments: list[str]):
    """Half of an answer in a file is no success, and Python's words are no help."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (3, 1) == (done.returncode, done.stderr.count("No space left on device")), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(SYSTEMD_RUNS.is_dir(), reason="this machine has a journal")
def test_logs_without_systemd_say_where_to_look(run):
    """A container or a laptop has no units; the error names the daemon's standard error."""
    result = run("logs")
    assert (3, True) == (result.exit_code, "standard error of 'edge-agent serve'" in result.stderr)


def test_completion_knows_commands_options_and_subcommands():
    """typer's own completion sees what help sees: current names, options of a command, names of a group."""

    def completed(words: str) -> set[str]:
        variables = {"_EDGE_AGENT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return set(CliRunner().invoke(app, [], prog_name="edge-agent", env=variables).stdout.split())

    assert {"bundles"} == completed("edge-agent bun")
    assert {"list", "show", "inspect", "allow"} == completed("edge-agent bundles ")
    assert "--no-activate" in completed("edge-agent install --")
    assert set() == completed("edge-agent mod") - {"mode"}

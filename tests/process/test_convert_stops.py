"""Signals that stop or kill a run of the conversion pipeline, in a separate process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recipes import recipe_of

ROOT = Path(__file__).parents[2]


def bring(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the stages of tests/support/pipeline_stages.py on a recipe."""
    command = [sys.executable, "-m", "tests.support.pipeline_stages", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_killed_run_continues_at_the_interrupted_stage(tmp_path: Path):
    """SIGKILL during a stage keeps the stages before it; the next run removes the partial folder and continues."""
    recipe_of(tmp_path)
    (tmp_path / "wish").write_text("kill")
    assert bring(tmp_path).returncode == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names[:1] + names[2:] == [".lock", "first"]
    assert names[1].startswith(".partial-cross-")
    (tmp_path / "wish").write_text("")
    done = bring(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "first up to date" in done.stdout
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names == [".lock", "cross", "first", "last", "report.json", "report.md"]


STUCK = """
import ctypes, signal
from convert import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind `&`
cli.listen()
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
try:
    print("ready", flush=True)
    lock(mutex)
except KeyboardInterrupt:  # the signal came before the lock did
    lock(mutex)
"""
"""Waits in C for ever, as a long computation seems to, where Python cannot raise."""


def test_second_ctrl_c_stops_at_once():
    """While C code runs, the first Ctrl-C prints that the run stops after this step; the second one stops it at once
    with exit code 130."""
    command, pipe = [sys.executable, "-c", STUCK], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        assert process.stderr.readline() == "stopping after this step; Ctrl-C again stops at once\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


QUERYING = """
import signal
from convert import cli

@cli.app.command("query")
def query():
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise RuntimeError("Query interrupted") from None

cli.main()
"""
"""Does what DuckDB does when it finds a signal between two steps of a query."""


@pytest.mark.slow
def test_signal_that_a_library_converts_to_an_error_stops_the_command():
    """If a library converts the interruption by SIGTERM into an error of its own, the command still exits with 130 and
    without a traceback."""
    command = [sys.executable, "-c", QUERYING, "query"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (130, False) == (ended.returncode, "Traceback" in ended.stderr), ended.stderr
    assert "error: stopped" in ended.stderr


IMPORTING = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Stopped(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "structlog":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Stopped())
from convert.__main__ import main
main()
"""
"""Gets Ctrl-C while the command imports its libraries."""


def test_ctrl_c_during_imports_stops_the_command():
    """Ctrl-C during the import of libraries ends the command with exit code 130 and one line without a traceback."""
    command = [sys.executable, "-c", IMPORTING, "--version"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (130, "error: stopped\n") == (ended.returncode, ended.stderr)

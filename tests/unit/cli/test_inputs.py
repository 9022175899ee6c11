"""Where the inputs of a command come from, and what a person sees while they are asked about."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from edge_agent.cli.inputs import Inputs, with_progress_bar
from edge_agent.config.sections import MESSAGE_BYTES_MAX
from edge_agent.errors import EmptyInput, InvalidRequest
from tests.support.fake_daemon import FakeDaemon

LINES = "I want my money back\n\n  is it open?  \n"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(f"unix:{tmp_path}/i.sock") as running:
        yield running


def command(daemon: FakeDaemon, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_agent.cli", "classify", "--target", *daemon.targets, *map(str, arguments)]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_has_an_input_on_each_line(tmp_path):
    """Blank lines are none, and white space around an input does not belong to it."""
    inputs = Inputs(None, written(tmp_path / "messages.txt", LINES))
    assert (["I want my money back", "is it open?"], 2) == (list(inputs), inputs.count())


def test_a_jsonl_file_has_a_text_in_each_object(tmp_path):
    """As the data of the factory has it; what else stands there is left alone."""
    rows = [{"text": "one\ntwo", "label": "x"}, {"text": "three"}]
    path = written(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    assert ["one\ntwo", "three"] == list(Inputs(None, path))


@pytest.mark.parametrize("line", ["text", '{"label": "x"}', '{"text": 7}', '{"text": "\\ud83d"}', "[1]", "[" * 100_000])
def test_a_line_that_is_no_such_object_is_shown(tmp_path, line):
    """With how to write it."""
    with pytest.raises(InvalidRequest, match="not a JSON object with 'text'") as caught:
        list(Inputs(None, written(tmp_path / "rows.jsonl", line)))
    assert '{"text"' in caught.value.remedy


def test_a_line_that_fits_no_message_is_refused_without_reading_on(tmp_path):
    """A file without line ends, such as a disk image, does not fill the memory."""
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, MESSAGE_BYTES_MAX * 100)
    with pytest.raises(InvalidRequest, match=rf"line 1 of '{path}' has more than {MESSAGE_BYTES_MAX} bytes"):
        next(iter(Inputs(None, path)))


def test_arguments_are_counted_and_files_that_hold_nothing_are_an_error(tmp_path):
    """It names the file."""
    assert (2, ["a", "b"]) == (Inputs(["a", "b"]).count(), list(Inputs(["a", "b"])))
    with pytest.raises(EmptyInput, match=r"empty\.txt' holds no text"):
        list(Inputs(None, written(tmp_path / "empty.txt", "\n \n")))


def test_a_single_question_is_asked_once_and_a_file_again(tmp_path):
    """Nobody waits to be told that there is no daemon; a long run bears a busy one."""
    many = Inputs(None, tmp_path / "x").retry
    assert (None, False) == (Inputs(["a"]).retry, many and many.from_the_start)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--file", "nowhere.txt"], "cannot read 'nowhere.txt'"), (["x", "--file", "y"], "not both")],
)
def test_a_slip_ends_with_2_and_a_sentence(daemon, tmp_path, arguments, said):
    """A file that cannot be read, and inputs from two places."""
    ended = subprocess.run(
        command(daemon, "pos-intent", *arguments), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (2, "") == (ended.returncode, ended.stdout)
    assert said in " ".join(ended.stderr.replace("│", " ").split())


def test_a_file_goes_in_and_json_lines_come_out(daemon, tmp_path):
    """One line for each input, the daemon's refusals in between borne; nothing else is written."""
    path = written(tmp_path / "messages.txt", "one\nbad\nthree\n")
    daemon.inference.refusals = 2
    ended = subprocess.run(
        command(daemon, "lone", "--json", "--file", path), capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (2, "") == (ended.returncode, ended.stderr)
    assert [("one", True), ("bad", False), ("three", True)] == [(row["input"], "classification" in row) for row in rows]


def on_terminal(arguments: list[str], stdout: int) -> str:
    """Run a command with its errors on a terminal; return what was written there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, stdout=theirs if stdout < 0 else stdout, stderr=theirs, stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    process.wait()
    return said.decode(errors="replace")


def test_a_bar_is_shown_on_a_terminal_only(daemon, tmp_path):
    """Where answers go to a file; JSON lines on the same terminal would be torn by it."""
    path = written(tmp_path / "messages.txt", "one\ntwo\nthree\n")
    asked = command(daemon, "pos-intent", "--json", "--file", path)
    with (tmp_path / "answers.jsonl").open("wb") as out:
        assert "3/3" in on_terminal(asked, out.fileno())
    assert 3 == len((tmp_path / "answers.jsonl").read_text().splitlines())
    assert "━" not in on_terminal(asked, -1)


def test_a_bar_of_an_unknown_number_counts(tmp_path):
    """Of standard input nobody knows the end."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    assert ["a", "b"] == list(with_progress_bar(["a", "b"], None, console))
    assert "2/?" in screen.getvalue()

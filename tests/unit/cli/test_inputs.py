"""The sources of a command's inputs, and the progress bar while they are processed."""

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


def test_text_file_has_one_input_per_line(tmp_path):
    """Blank lines of a text file are skipped, and white space around an input is removed."""
    inputs = Inputs(None, written(tmp_path / "messages.txt", LINES))
    assert (["I want my money back", "is it open?"], 2) == (list(inputs), inputs.count())


def test_jsonl_file_has_one_text_per_object(tmp_path):
    """The input of each line of a JSONL file is its 'text'; other members are ignored, so training data can be used."""
    rows = [{"text": "one\ntwo", "label": "x"}, {"text": "three"}]
    path = written(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    assert ["one\ntwo", "three"] == list(Inputs(None, path))


@pytest.mark.parametrize("line", ["text", '{"label": "x"}', '{"text": 7}', '{"text": "\\ud83d"}', "[1]", "[" * 100_000])
def test_jsonl_line_without_text_is_refused(tmp_path, line):
    """A JSONL line that is not an object with a valid 'text' is refused with a remedy that shows the format."""
    with pytest.raises(InvalidRequest, match="not a JSON object with 'text'") as caught:
        list(Inputs(None, written(tmp_path / "rows.jsonl", line)))
    assert '{"text"' in caught.value.remedy


def test_line_over_the_message_limit_is_refused(tmp_path):
    """A line longer than `MESSAGE_BYTES_MAX` is refused, so a file without line ends, such as a disk image, does not
    fill the memory."""
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, MESSAGE_BYTES_MAX * 100)
    with pytest.raises(InvalidRequest, match=rf"line 1 of '{path}' has more than {MESSAGE_BYTES_MAX} bytes"):
        next(iter(Inputs(None, path)))


def test_arguments_are_counted_and_empty_file_is_refused(tmp_path):
    """Inputs given as arguments are counted; a file without text is refused with its name."""
    assert (2, ["a", "b"]) == (Inputs(["a", "b"]).count(), list(Inputs(["a", "b"])))
    with pytest.raises(EmptyInput, match=r"empty\.txt' holds no text"):
        list(Inputs(None, written(tmp_path / "empty.txt", "\n \n")))


def test_only_inputs_from_a_file_are_retried(tmp_path):
    """Inputs given as arguments are sent once, so a missing daemon is reported immediately; inputs from a file are
    retried while the daemon is busy."""
    many = Inputs(None, tmp_path / "x").retry
    assert (None, False) == (Inputs(["a"]).retry, many and many.from_the_start)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--file", "nowhere.txt"], "cannot read 'nowhere.txt'"), (["x", "--file", "y"], "not both")],
)
def test_wrong_input_source_ends_with_2(daemon, tmp_path, arguments, said):
    """`classify` ends with 2 for a file that cannot be read, and for arguments combined with --file."""
    ended = subprocess.run(
        command(daemon, "pos-intent", *arguments), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (2, "") == (ended.returncode, ended.stdout)
    assert said in " ".join(ended.stderr.replace("│", " ").split())


def test_file_is_classified_to_json_lines(daemon, tmp_path):
    """`classify --json --file` prints one line for each input and nothing else, retries calls that the daemon refuses,
    and ends with 2 if an input failed."""
    path = written(tmp_path / "messages.txt", "one\nbad\nthree\n")
    daemon.inference.refusals = 2
    ended = subprocess.run(
        command(daemon, "lone", "--json", "--file", path), capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (2, "") == (ended.returncode, ended.stderr)
    assert [("one", True), ("bad", False), ("three", True)] == [(row["input"], "classification" in row) for row in rows]


def on_terminal(arguments: list[str], stdout: int) -> str:
    """Run a command with its errors on a terminal and return what it wrote there."""
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


def test_progress_bar_is_shown_only_beside_redirected_answers(daemon, tmp_path):
    """The progress bar is shown on a terminal if the answers go to a file; it would break JSON lines on the same
    terminal."""
    path = written(tmp_path / "messages.txt", "one\ntwo\nthree\n")
    asked = command(daemon, "pos-intent", "--json", "--file", path)
    with (tmp_path / "answers.jsonl").open("wb") as out:
        assert "3/3" in on_terminal(asked, out.fileno())
    assert 3 == len((tmp_path / "answers.jsonl").read_text().splitlines())
    assert "━" not in on_terminal(asked, -1)


def test_progress_bar_counts_inputs_of_unknown_number(tmp_path):
    """The progress bar shows only a count for standard input, whose number of lines is unknown."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    assert ["a", "b"] == list(with_progress_bar(["a", "b"], None, console))
    assert "2/?" in screen.getvalue()

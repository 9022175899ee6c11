"""Output to a terminal: control characters from any source are escaped; JSON stays exact."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from rich.console import Group, RenderableType
from rich.text import Text
from typer.testing import CliRunner

from convert.cli import app as edge_convert
from edge_agent.cli import app as edge_agent
from edge_agent.cli import output, terminal
from edge_agent.cli.terminal import EscapedTable, Terminal
from edge_agent.errors.base import one_line, printable, printable_lines

HOSTILE = "a\x1b[2J\x9b1mb\nc\td\u202ee\u2028f\x7f"
SHOWN = r"a\x1b[2J\x9b1mb\nc\td\u202ee\u2028f\x7f"
OBEYED = set("\x1b\x9b\r\t\u202e\u2028\x7f")


class Screen(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(thing: RenderableType) -> str:
    """Return the output that a terminal receives for a renderable."""
    written = io.StringIO()
    Terminal(file=written, width=200).print(thing)
    return written.getvalue()


def table(cell: RenderableType) -> EscapedTable:
    """Return a table with one cell."""
    made = EscapedTable.grid()
    made.add_row(cell)
    return made


@pytest.mark.parametrize(
    "thing",
    [HOSTILE, Text(HOSTILE, style="bold"), Group(Text(HOSTILE)), table(HOSTILE), table(Text(HOSTILE, "red"))],
    ids=["string", "text", "group", "cell", "styled cell"],
)
def test_foreign_text_is_printed_on_one_line_with_escapes_visible(thing: RenderableType) -> None:
    """Escape sequences, line breaks and marks that reorder text are printed as visible escapes, not executed by the
    terminal."""
    said = shown(thing)
    assert SHOWN == said.strip("\n ").replace("\n", "")
    assert not OBEYED & set(said)


@pytest.mark.parametrize("added", [True, False])
def test_table_wraps_a_name_wider_than_its_column(added: bool) -> None:
    """A table continues a name that is wider than its column on the next line instead of cutting it."""
    made = EscapedTable("task", *([] if added else ["sites"]), box=None)
    if added:
        made.add_column("sites", justify="right")
    made.add_row("front-desk-messages-of-customers-by-mail", "1,200")
    written = io.StringIO()
    Terminal(file=written, width=30).print(made)
    printed = written.getvalue().replace("sites", "").replace("1,200", "")
    assert "taskfront-desk-messages-of-customers-by-mail" == "".join(printed.split())


@pytest.mark.parametrize(
    "text", ["café 漢字 नमस्ते", "10\N{NO-BREAK SPACE}%", "👩\N{ZERO WIDTH JOINER}🔬", "[bold]x[/]", ":smile:"]
)
def test_text_of_any_script_is_unchanged(text: str) -> None:
    """Text in any script is printed unchanged, also if it looks like rich markup or an emoji name."""
    assert text == printable(text)
    assert [f"{text}\n"] * 2 == [shown(text), shown(table(text)).rstrip(" \n") + "\n"]


def test_styles_move_with_escaped_text() -> None:
    """If escapes make a text longer, its styles still cover the same words."""
    text = Text.assemble("a\x1b", ("red", "red"), "\n", ("blue", "blue"))
    made = terminal.printable_text(text)
    assert r"a\x1bred\nblue" == made.plain
    assert [("red", "red"), ("blue", "blue")] == [(made.plain[s.start : s.end], str(s.style)) for s in made.spans]


def test_message_is_joined_to_one_line() -> None:
    """`one_line` joins the lines of a library's message and escapes control characters, so that quoted text cannot
    imitate a line of the program."""
    assert "no YAML: line 1, column 2: here" == one_line("no YAML:\n  line 1,\r\n  column 2: here\n")
    assert r"x what to do: \x1b[31mrun me" == one_line("x\nwhat to do: \x1b[31mrun me")


def test_error_has_only_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is printed as its sentence, its details line by line, and its remedy; line breaks in a sentence do not
    start a new line."""
    terminal.report("bad\nerror: worse \x1b[2J", "do\nthis", ["a log line\x9b", "another\n  what to do: harm"])
    assert [
        r"error: bad error: worse \x1b[2J",
        r"  a log line\x9b",
        r"  another\n  what to do: harm",
        "  what to do: do this",
    ] == capsys.readouterr().err.splitlines()


def test_answer_is_exact_in_a_file_and_escaped_on_a_terminal() -> None:
    """A generated text is written unchanged to a file and escaped to a terminal, and keeps its line breaks on both."""
    for stream, expected in ((Screen(), "a\\x1b[2J\n\tb"), (io.StringIO(), "a\x1b[2J\n\tb")):
        with contextlib.redirect_stdout(stream):
            terminal.write_answer("a\x1b[2J\n\tb")
        assert expected == stream.getvalue()


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON output keeps every character of a value, so a program reads it exactly."""
    output.print_json({"label": HOSTILE})
    assert {"label": HOSTILE} == json.loads(capsys.readouterr().out)


def test_say_keeps_line_breaks_and_escapes_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """`say` keeps line breaks and escapes other control characters on both standard streams."""
    terminal.say("one\x1b\ntwo")
    terminal.say("three\x9b", err=True)
    assert ("one\\x1b\ntwo\n", "three\\x9b\n") == tuple(capsys.readouterr())
    assert "a\n\tb\\r" == printable_lines("a\n\tb\r")


@pytest.mark.parametrize("app", [edge_agent, edge_convert], ids=["edge-agent", "edge-convert"])
@pytest.mark.parametrize("arguments", [["\x1b[2J"], ["--\x1b[2J"], ["assemble", "a", "\x1b[2J"]], ids=repr)
def test_invalid_arguments_are_quoted_without_escapes(app: object, arguments: list[str]) -> None:
    """Usage errors escape control characters in arguments, because a shell can insert any file name there."""
    done = CliRunner().invoke(app, arguments)  # type: ignore[arg-type] # both are
    assert 2 == done.exit_code
    assert "\x1b[2J" not in done.output
    assert r"\x1b[2J" in done.output or "assemble" in arguments


@pytest.mark.parametrize("command", [["assemble"], ["verify-repo", "--root"]])
def test_file_names_are_quoted_without_escapes(command: list[str], tmp_path: object) -> None:
    """Errors that quote a file name escape its control characters and line breaks."""
    done = CliRunner().invoke(edge_convert, [*command, f"{tmp_path}/\x1b[2J\nerror: x", "--out", f"{tmp_path}/o"])
    assert "\x1b[2J" not in done.output
    assert "\nerror: x" not in done.output


def test_sentence_is_wrapped_between_words_not_inside_commands() -> None:
    """On a terminal of 40 columns a sentence is wrapped between words but not inside a quoted command; a pipe gets one
    line."""
    said = "Free some space: 'edge-agent bundles list' and 'df -h' show what takes it."
    assert ["Free some space:", "'edge-agent bundles list' and 'df -h'", "show what takes it."] == [
        line.strip() for line in terminal.wrap_sentence(said, 40)
    ]
    written = io.StringIO()
    terminal.print_wrapped(Terminal(file=written, width=40), said, Text("do: "))
    assert f"do: {said}\n" == written.getvalue()
    screen = Screen()
    terminal.print_wrapped(Terminal(file=screen, width=40, force_terminal=True, color_system=None), said, Text("do: "))
    assert 40 >= max(map(len, screen.getvalue().splitlines()))

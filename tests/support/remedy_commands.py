"""The commands of a remedy, as a technician reads them: found in the text, checked against today's command lines, run.

commands_in("Make space: 'edge-agent remove TASK VERSION'.")   # quoted or in backquotes, in a sentence
command_lines("sudo rm /x; edge-agent status")                 # as doctor prints them
shell_blocks(markdown)                                         # fenced blocks of a document
problem_of(command)                                            # why it does not parse; empty = it does
RemedyRunner(edge_agent=daemon.command()).run(command, TASK="pos")   # as printed, with placeholders replaced
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import typer

User = Literal["root", "operator", "reviewer", "device", "central", "anyone"]
OWN = ("edge-agent", "edge-convert", "edge-agent-setup")
PLACEHOLDERS = {
    "TASK": "pos-intent",
    "VERSION": "1.0.0",
    "BUNDLE": "bundle",
    "FILE": "shop-12.kit",
    "SITE": "shop-12",
    "ID": "shop-12",
    "KEY": "keys/online.pem",
    "KEYS": "signing-keys",
    "NAME": "shop.example",
    "CLIENT": "till-3",
    "USER": "till",
    "CODE": "1234",
    "PATH": "/media/usb/bundle",
    "FOLDER": "folder",
    "OLD": "old-bundle",
    "NEW": "new-bundle",
    "DIGEST": "abcdef",
    "REASON": "DISK_FULL",
    "YYYY-MM-DD HH:MM": "2026-01-31 12:00",
}
"""Words that a reader replaces, and an example of each. A word in capitals that is not here is a problem."""
_MADE_UP = re.compile(r"^[A-Z][A-Z_]{2,}$")
_QUOTED = re.compile(r"(?<![\w`])'([^'\n]+)'(?!\w)|`([^`\n]+)`")
_FENCE = re.compile(r"^```(sh|)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ABBREVIATED, _MISSING = "…", "missing"
_DEVICE = ("classify", "extract", "generate", "embed")
_FREE = ("demo", "doctor", "run", "config", "version", "help", "limits", "identity", "serve", "--version", "--help")
_PROGRAMS_BEFORE = ("sudo", "nice", "time", "env")


@dataclass(frozen=True)
class RemedyCommand:
    """One command that a text prints."""

    text: str
    """As printed."""
    source: str = ""
    """Where it is printed, for a test's message."""

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        """Return its simple commands: what stands between pipes, `;`, `&&` and `||`, redirections left out."""
        return tuple(_steps(self.text))

    @property
    def user(self) -> User:
        """Return the user who can run a command, by its first step: root if it begins with sudo."""
        first = self.steps[0] if self.steps else ()
        if first[:1] == ("sudo",):
            return "root"
        if first[:1] == ("edge-convert",):
            return "central"
        if first[:1] != ("edge-agent",):
            return "anyone"
        word = next((each for each in first[1:] if not each.startswith("-") or each in _FREE), "")
        if word in _DEVICE:
            return "device"
        if word in ("review", "erase"):
            return "reviewer"
        return "anyone" if word in _FREE or first[1:3] == ("certs", "show") else "operator"

    @property
    def placeholders(self) -> frozenset[str]:
        """Return the documented words in it that a reader replaces."""
        words = {word for step in self.steps for word in step}
        return frozenset(words & set(PLACEHOLDERS))

    def filled(self, **values: str) -> RemedyCommand:
        """Return it with placeholders replaced: by these values, otherwise by the example of the table."""
        text = self.text
        for name, example in PLACEHOLDERS.items():
            value = values.get(name, example)
            text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", value.replace("\\", r"\\\\"), text)
        return replace(self, text=text)


def commands_in(text: str, source: str = "") -> list[RemedyCommand]:
    """Return the commands of ours, and those with sudo, that a sentence quotes."""
    quoted = [found[1] or found[2] for found in _QUOTED.finditer(text)]
    return [RemedyCommand(each, source or text) for each in quoted if _is_command(each)]


def command_lines(text: str, source: str = "") -> list[RemedyCommand]:
    """Return the commands of a finding of doctor, which separates them by '; '."""
    return [RemedyCommand(each, source or text) for each in text.split("; ") if each]


def shell_blocks(markdown: str, source: str = "") -> list[RemedyCommand]:
    """Return the lines with commands of ours in the shell blocks of a document, comments removed."""
    lines = []
    for language, block in _FENCE.findall(markdown):
        for line in block.replace("\\\n", " ").splitlines():
            command = _without_comment(line.removeprefix("$ ").strip())
            if _is_command(command) and (language or " " in command):
                lines.append(RemedyCommand(command, source))
    return lines


def problem_of(command: RemedyCommand) -> str:
    """Return why a command does not parse with today's programs; empty when it does.

    A mention, the name of a command without any argument, only has to exist: 'edge-convert collect'.
    """
    try:
        steps = command.filled().steps
    except ValueError as error:
        return f"{command.text}: {error}"
    problems = [_step_problem(step, is_mention=len(command.steps) == 1) for step in steps]
    return next((f"{command.text}: {problem}" for problem in problems if problem), "")


def unknown_placeholders(command: RemedyCommand) -> list[str]:
    """Return words in capitals that no table explains."""
    words = [word for step in command.steps for word in step[1:]]
    return [word for word in words if _MADE_UP.fullmatch(word) and word not in PLACEHOLDERS]


def _is_command(text: str) -> bool:
    words = text.split()
    while words and words[0] in _PROGRAMS_BEFORE:
        return len(words) > 1
    return bool(words) and words[0] in OWN and not (len(words) == 1 and words[0] != "edge-agent")


def _without_comment(line: str) -> str:
    at = re.search(r"(?:^|\s)#", line)
    return line[: at.start()].strip() if at else line


def _steps(text: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    step: list[str] = []
    is_target = False
    for word in lexer:
        if set(word) <= set("();|&"):
            if step:
                yield tuple(step)
            step = []
        elif set(word) <= set("<>&"):
            is_target = True
        elif is_target:
            is_target = False
        else:
            step.append(word)
    if step:
        yield tuple(step)


def _step_problem(step: tuple[str, ...], *, is_mention: bool) -> str:
    program, arguments = _program(step)
    if program == "edge-agent-setup":
        return _setup_problem(arguments)
    if program not in OWN:
        return ""
    is_elided = _ABBREVIATED in arguments
    problem = _click_problem(_root(program), program, arguments, is_mention=is_mention)
    return "" if is_elided and problem.startswith(_MISSING) else problem


def _program(step: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the program and its arguments; an installer file takes what edge-agent-setup takes."""
    words = list(itertools.dropwhile(lambda word: word in (*_PROGRAMS_BEFORE, "sh"), step))
    if not words or words[0].endswith(".run"):
        return "edge-agent-setup", words[1:]
    return words[0], words[1:]


def _setup_problem(arguments: list[str]) -> str:
    from installer.setup.__main__ import build_parser  # noqa: PLC0415

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            build_parser().parse_args(arguments)
    except SystemExit as ended:
        return said.getvalue().strip().rpartition("\n")[2] if ended.code else ""
    return ""


@cache
def _root(program: str) -> Any:
    if program == "edge-agent":
        from edge_agent.cli import app  # noqa: PLC0415
    else:
        from convert.cli import app  # noqa: PLC0415
    return typer.main.get_command(app)


def _click_problem(command: Any, name: str, arguments: list[str], *, is_mention: bool, parent: Any = None) -> str:
    """Parse with the command's own options, run nothing; groups hand on to their command."""
    context = command.context_class(command, info_name=name, parent=parent)
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    except Exception as error:  # noqa: BLE001 every way in which click refuses
        return _refusal(error)
    if values.keys() & {"help", "version"} or (is_mention and not arguments):
        return ""
    if not hasattr(command, "commands"):
        return f"unexpected argument: {' '.join(rest)}" if rest else _value_problem(command, context, values)
    if not rest:
        return "a command is missing"
    inner = _inner(command, rest[0])
    if inner is None:
        return f"'{name}' has no command '{rest[0]}'"
    return _click_problem(inner, rest[0], list(rest[1:]), is_mention=is_mention, parent=context)


def _inner(group: Any, name: str) -> Any:
    """Return a command of a group with its parameters: get_command of ours may hand out a summary without any."""
    try:
        return group.commands[name]
    except KeyError:
        return None


def _value_problem(command: Any, context: Any, values: Mapping[str, Any]) -> str:
    for each in command.params:
        value = values.get(each.name)
        is_empty = value in (None, (), []) or repr(value).startswith("Sentinel")
        if each.required and is_empty:
            return f"{_MISSING}: {each.metavar or each.name}"
        if is_empty or each.type_descriptor.is_path or each.type_descriptor.is_file:
            continue  # whether a file exists shows where the command runs
        try:
            each.get_runtime_param().coerce(value, param=each, ctx=context)
        except Exception as error:  # noqa: BLE001 every way in which click refuses
            return _refusal(error)
    return ""


def _refusal(error: Exception) -> str:
    return str(error.format_message() if hasattr(error, "format_message") else error)


_SHIM = '#!/bin/sh\nexec {command} "$@"\n'
SECONDS_MAX = 120.0
Control = Callable[[Sequence[str]], int]
"""What stands in for a program of the system, such as systemctl: it gets the arguments and returns an exit code."""


@dataclass
class Outcome:
    """The outcome of a command."""

    code: int
    said: str


@dataclass
class RemedyRunner:
    """Runs commands as printed, in a shell. `sudo` is left out; programs of ours are those of this checkout."""

    folder: Path
    """Where the programs that stand in are written."""
    edge_agent: Sequence[str] = (sys.executable, "-m", "edge_agent.cli")
    """The program, with the options that name the installation, as RunningDaemon.command() returns them."""
    controls: Mapping[str, Control] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    user: Sequence[str] = ()
    """What becomes the user who does not use sudo, such as setpriv with its options; empty = the one who runs this."""
    inside: Sequence[str] = ()
    """What is put in front of each command, such as that of a namespace."""
    cwd: Path | None = None
    """Where commands run; None = where this process does."""

    def __post_init__(self) -> None:
        """Write the programs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        made = {
            "edge-agent": shlex.join(map(str, self.edge_agent)),
            "edge-convert": shlex.join((sys.executable, "-m", "convert.cli")),
            "sudo": "env",
        }
        for name, command in made.items():
            path = self.folder / name
            path.write_text(_SHIM.format(command=command))
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def run(self, command: RemedyCommand, **placeholders: str) -> Outcome:
        """Run a command; after a failed part it ends, as `&&` does."""
        said = []
        for part in re.split(r" && |; ", command.filled(**placeholders).text):
            outcome = self._run_part(part)
            said.append(outcome.said)
            if outcome.code:
                return Outcome(outcome.code, "".join(said))
        return Outcome(0, "".join(said))

    def run_all(self, commands: Iterable[RemedyCommand], **placeholders: str) -> list[Outcome]:
        """Run each of several commands, whatever came of the one before."""
        return [self.run(command, **placeholders) for command in commands]

    def _run_part(self, part: str) -> Outcome:
        words = shlex.split(part)
        as_root = words[:1] == ["sudo"]
        words = words[1:] if as_root else words
        if words and words[0] in self.controls:
            return Outcome(self.controls[words[0]](words[1:]), "")
        done = subprocess.run(
            [*self.inside, *(() if as_root else self.user), "/bin/bash", "-c", part],
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
            env={**os.environ, **self.environment, "PATH": f"{self.folder}:{os.environ['PATH']}:/usr/local/sbin"},
        )
        return Outcome(done.returncode, done.stdout + done.stderr)

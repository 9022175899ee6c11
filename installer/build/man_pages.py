"""Man pages, generated from the commands and the configuration; in the roff macros of man(7)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from edge_agent import __version__
from edge_agent.cli import app
from edge_agent.config import Config, sample
from edge_agent.config.sections import ConfigSection
from installer.setup.__main__ import build_parser

_MARKUP = re.compile(r"\[(/?)(bold|green|yellow|red|dim)\]")
_FILES = {
    "/etc/edge-agent/agent.yaml": "the configuration of this machine",
    "/etc/edge-agent/site.yaml": "the settings that enrolment wrote",
    "/var/lib/edge-agent": "installed bundles and state",
    "/run/edge-agent": "the sockets",
    "/opt/edge-agent": "the programs; current and previous are links",
}


def write(folder: Path) -> None:
    """Write every page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return each page by its file name."""
    return {
        "edge-agent.1": "\n".join(_agent()) + "\n",
        "edge-agent-setup.8": "\n".join(_setup(build_parser())) + "\n",
        "agent.yaml.5": "\n".join(_configuration()) + "\n",
    }


def _head(name: str, section: int, purpose: str) -> list[str]:
    title = f'.TH "{name.upper()}" {section} "" "Edge Agent {__version__}" "Edge Agent"'
    return [title, ".SH NAME", f"{_plain(name)} \\- {_plain(purpose)}"]


def _agent() -> Iterator[str]:
    root: Any = typer.main.get_command(app)
    first, _, rest = (root.help or "").partition("\n")
    yield from _head("edge-agent", 1, first.rstrip(".").lower())
    yield from (".SH SYNOPSIS", ".B edge\\-agent", "[OPTION]... COMMAND [ARGUMENT]...")
    yield ".SH DESCRIPTION"
    yield from _text(rest)
    yield ".SH OPTIONS"
    yield from _options(root)
    yield ".SH COMMANDS"
    yield from _commands(root, "")
    yield from (".SH EXIT STATUS", *_text(root.epilog or ""))
    yield ".SH FILES"
    for path, purpose in _FILES.items():
        yield from (".TP", f".I {_plain(path)}", _plain(purpose))
    yield from (".SH SEE ALSO", ".BR edge\\-agent\\-setup (8),", ".BR agent.yaml (5)")


def _commands(group: Any, prefix: str) -> Iterator[str]:
    """Yield each command and its subcommands."""
    for name, command in group.commands.items():
        arguments = " ".join(_argument(each) for each in command.params if each.param_type_name == "argument")
        yield f".SS {_plain(prefix + name)} {_plain(arguments)}".strip()
        yield from _text(command.help or "")
        yield from _options(command)
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")


def _argument(argument: Any) -> str:
    name = f"{argument.metavar or argument.name.upper()}{'...' if argument.nargs == -1 else ''}"
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _options(command: Any) -> Iterator[str]:
    for option in command.params:
        if option.param_type_name == "option" and not getattr(option, "hidden", False):
            value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
            yield from (".TP", f".B {_plain(', '.join(option.opts))}{_plain(value)}", *_text(option.help or ""))


def _setup(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from _head("edge-agent-setup", 8, "install Edge Agent, or look after its installation")
    for title, text in (("SYNOPSIS", parser.format_usage()), ("DESCRIPTION", parser.description or "")):
        yield from (f".SH {title}", ".nf", *_lines(text.removeprefix("usage: ")), ".fi")
    yield ".SH OPTIONS"
    for action in parser._actions:  # argparse has no public way to list them
        if action.option_strings and action.help != argparse.SUPPRESS:
            metavar = f" {action.metavar}" if action.metavar else ""
            yield from (
                ".TP",
                f".B {_plain(', '.join(action.option_strings))}{_plain(str(metavar))}",
                _plain(action.help or ""),
            )
    yield from (".SH EXIT STATUS", ".nf", *_lines(parser.epilog or ""), ".fi")
    yield from (".SH SEE ALSO", ".BR edge\\-agent (1)")


def _configuration() -> Iterator[str]:
    yield from _head("agent.yaml", 5, "configuration of Edge Agent")
    yield ".SH DESCRIPTION"
    yield from _text("\n".join(line.removeprefix("## ") for line in sample().splitlines()[:2]))
    yield from _keys(Config(), "")
    yield from (".SH SEE ALSO", ".BR edge\\-agent (1)")


def _keys(section: ConfigSection, prefix: str) -> Iterator[str]:
    if not prefix:
        yield ".SH KEYS"
    nested = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, ConfigSection):
            nested.append((name, value))
        else:
            default = f" Default: {value}." if value not in ("", None, [], {}, ()) else ""
            yield from (".TP", f".B {_plain(prefix + name)}", _plain(f"{field.description}{default}"))
    for name, value in nested:
        yield from (f".SH {_plain(name.upper())}", *_text(type(value).__doc__ or ""))
        yield from _keys(value, f"{prefix}{name}.")


def _text(text: str) -> Iterator[str]:
    """Yield paragraphs."""
    for number, paragraph in enumerate(filter(str.strip, re.split(r"\n\s*\n", text.strip()))):
        if number:
            yield ".PP"
        yield _plain(" ".join(paragraph.split()))


def _lines(text: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        yield _plain(line) if line.strip() else ""


def _plain(text: str) -> str:
    """Escape roff requests, and translate rich markup into fonts."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = _MARKUP.sub(lambda found: "\\fR" if found.group(1) else "\\fB", text)
    text = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":  # run in the build's environment, which has the imports of the commands
    write(Path(sys.argv[1]))

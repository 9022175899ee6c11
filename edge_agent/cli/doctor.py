"""`edge-agent doctor`: the findings of package doctor, printed; `edge-agent support-bundle`: all that support needs."""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import shlex
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from edge_agent import __version__
from edge_agent.cli.daemon_target import DaemonTarget, target_of
from edge_agent.cli.exits import ExitCode
from edge_agent.cli.output import AsJson, YesOption, confirm, err, out, plain, print_done, print_json, print_trimmed
from edge_agent.cli.terminal import prose_width, table
from edge_agent.config import ConfigFiles, config_paths, load_without_agent_yaml, read_files, validate_files
from edge_agent.doctor.all_checks import evaluate, run_checks, unchecked
from edge_agent.doctor.findings import VERDICTS, Finding, Verdict, worst
from edge_agent.doctor.installation import Installation, current_user
from edge_agent.doctor.probe_context import query_daemon
from edge_agent.durable.atomic_files import create
from edge_agent.errors import ConfigInvalid, EdgeAgentError, MediaFailed
from edge_agent.errors.base import works_by_sudo
from edge_agent.formatting import counted, format_bytes, shorten_digests

if TYPE_CHECKING:
    from edge_agent.support_bundle import SupportPart


_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "unseen": "magenta", "fault": "bold red"}
_MARKS = {"ok": "ok", "note": "note", "warning": "warn", "unseen": "?", "fault": "FAULT"}
_NAMED = {"note": "note", "warning": "warning", "unseen": "not checked", "fault": "fault"}
_EXITS: dict[Verdict, ExitCode] = {"fault": ExitCode.FAILED, "unseen": ExitCode.SITE}
_INDENT = 7


def run(
    ctx: typer.Context,
    as_json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", help="Print the checks that passed, too.")] = False,
) -> None:
    """Check this machine and its daemons; print each fault and its remedy. Changes nothing.

    Works with the daemon running, stopped or hanging. Ends with 1 when there is a fault, 3 when something could not be
    checked, else 0. 'edge-agent help NAME' explains each check.

    Example: [bold]sudo edge-agent doctor[/bold]
    """
    target = target_of(ctx)
    found = run_checks(place_of(target))
    if as_json:
        print_json(as_document(found), indent=2)
    else:
        show_rights(out(), found, as_root(target))
        show(out(), found, everything=everything)
    raise typer.Exit(_EXITS.get(worst(found), ExitCode.OK))


def as_root(target: DaemonTarget) -> str:
    """Return the command that makes every check of this installation."""
    given = {
        "--config": target.config_path,
        "--state-dir": target.overrides.state_dir,
        "--run-dir": target.overrides.run_dir,
    }
    options = [f"{name} {shlex.quote(str(value.absolute()))}" for name, value in given.items() if value]
    return " ".join(["sudo edge-agent", *options, "doctor"])


def show_rights(console: Console, found: list[Finding], command: str) -> None:
    """Print first what this user was not allowed to check, and the command that checks it."""
    names = unchecked(found)
    if not names:
        return
    user = current_user().name
    message = f"User {user} may not make {counted(len(names), 'check')}: {', '.join(names)}. To make them, run"
    for line in textwrap.wrap(message, prose_width(console), break_on_hyphens=False):
        console.print(Text(line, _STYLES["unseen"]), soft_wrap=True)
    console.print(Text(f"  $ {command}", style="bold"), soft_wrap=True)
    console.print()


def place_of(site: DaemonTarget) -> Installation:
    """Return the place to examine; an invalid configuration is a finding, and its defaults are examined."""
    files, by_sudo = config_paths(site.config_path), works_by_sudo(os.environ, os.geteuid())
    try:
        found = read_files(site.config_path)
        config, overruled = validate_files(found, site.overrides), tuple(found.overruled())
        return Installation(config, sources=files, overruled=overruled, by_sudo=by_sudo)
    except EdgeAgentError as error:
        config = load_without_agent_yaml(site.config_path, site.overrides)
        return Installation(config, error.message, error.remedy, files, by_sudo=by_sudo)


def as_document(found: list[Finding]) -> dict[str, Any]:
    """Return the findings as --json prints them."""
    return {
        "schema": "edge-agent/doctor/v1",
        "version": __version__,
        "host": platform.node(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user_id": os.geteuid(),
        "verdict": worst(found),
        "counts": {verdict: sum(finding.verdict == verdict for finding in found) for verdict in VERDICTS},
        "findings": [plain(finding) for finding in found],
    }


def show(console: Console, found: list[Finding], *, everything: bool = False) -> None:
    """Print the findings by area: passed checks in one line, the others with a remedy, and a summary at the end."""
    for area, group in itertools.groupby(found, key=lambda finding: finding.area):
        findings = list(group)
        console.print(Text(area, style="bold"))
        if not everything:
            _show_well(console, findings)
        shown = [finding for finding in findings if everything or finding.verdict != "ok"]
        for _, alike in itertools.groupby(
            shown, key=lambda each: (each.check, each.verdict, each.remedy, each.command)
        ):
            _show_alike(console, list(alike))
    console.print()
    bad = [each.check for each in found if each.verdict in ("fault", "warning")]
    if bad:
        console.print(Text(f"'edge-agent help {bad[0]}' explains a check, and what else can be done.", style="dim"))
    _show_sum(console, found)


def _show_well(console: Console, findings: list[Finding]) -> None:
    poorly = {finding.check for finding in findings if finding.verdict != "ok"}
    well = list(dict.fromkeys(finding.check for finding in findings if finding.check not in poorly))
    if well:
        _block(console, Text(f"{_MARKS['ok']:<5}", style=_STYLES["ok"]), ", ".join(well))


def _show_alike(console: Console, findings: list[Finding]) -> None:
    """Print findings that share a remedy."""
    for finding in findings:
        about = f" {finding.about}" if finding.about and finding.about not in finding.seen else ""
        mark = Text(f"{_MARKS[finding.verdict]:<5}", style=_STYLES[finding.verdict])
        _block(console, mark, f"{finding.check}{shorten_digests(f'{about}: {finding.seen}')}")
    if findings[0].verdict == "unseen":
        return  # the first lines show who may look
    if findings[0].remedy:
        _block(console, Text(" " * 5), findings[0].remedy)
    for command in filter(None, findings[0].command.split("; ")):
        # Not wrapped: a person copies the command as one line.
        console.print(Text(f"{'':<{_INDENT}}  $ {command}", style="bold"), soft_wrap=True)


def _block(console: Console, mark: Text, message: str) -> None:
    """Print a sentence after a mark, its further lines indented like the first."""
    width = prose_width(console) - _INDENT - 1
    for number, line in enumerate(textwrap.wrap(message, width, break_long_words=False, break_on_hyphens=False)):
        start = Text.assemble(" ", mark, " ") if number == 0 else Text(" " * _INDENT)
        console.print(Text.assemble(start, line), soft_wrap=True)


def _show_sum(console: Console, found: list[Finding]) -> None:
    counts = [(verdict, _count(found, verdict)) for verdict in reversed(VERDICTS[1:])]
    said = [
        Text(f"{count} {_NAMED[verdict]}" if verdict == "unseen" else counted(count, _NAMED[verdict]), _STYLES[verdict])
        for verdict, count in counts
        if count
    ]
    well = sum(finding.verdict == "ok" for finding in found)
    console.print(Text(", ").join([*said, Text(f"{well} ok", _STYLES["ok"])]))


def _count(found: list[Finding], verdict: Verdict) -> int:
    """Return how many findings have a verdict; of checks that were not made, how many checks those are."""
    if verdict != "unseen":
        return sum(finding.verdict == verdict for finding in found)
    return len({*unchecked(found), *(finding.check for finding in found if finding.verdict == "unseen")})


Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="File to write; default: named by site and time, in this folder."
    ),
]
OnlyList = Annotated[bool, typer.Option("--list", help="Show the contents, and write nothing.")]


def support_bundle(
    ctx: typer.Context, output: Output = None, yes: YesOption = False, only_list: OnlyList = False
) -> None:
    """Put what support needs into one file; show its contents first.

    It holds settings without secrets, findings of doctor, status, logs, counters, names and sizes of files; no inputs,
    answers, examples, keys or credentials. Works without a daemon; run by an ordinary user it holds less.

    Example: [bold]sudo edge-agent support-bundle[/bold]
    """
    from edge_agent.support_bundle import (  # noqa: PLC0415
        ARCHIVE_MODE,
        SupportSources,
        gather_parts,
        pack_archive,
    )

    site, at = target_of(ctx), time.time()
    place = place_of(site)
    site_name = place.config.site.id or re.sub(r"[^a-z0-9-]", "", platform.node().lower()) or "site"
    name = f"edge-support-{site_name}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{name}.tar.gz")
    if not only_list:
        _check_target(path)
    with err().status("Gathering"):
        case = query_daemon(place)
        parts = gather_parts(SupportSources(case, _files(site), as_document(evaluate(case))))
    content = pack_archive(parts, name, at)
    show_parts(out(), parts)
    if only_list:
        return
    confirm(f"Write {path} ({format_bytes(len(content))})?", "The list above is what the file holds.", yes=yes)
    try:
        create(path, content, ARCHIVE_MODE)
        _give_to_person(path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    print_done(ctx, f"{path.absolute()} ({format_bytes(len(content))}); only you can read it. Send it to support.")


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before the work. Raises MediaFailed."""
    folder = path.absolute().parent
    if os.path.lexists(path):
        raise _unwritable(path, os.strerror(errno.EEXIST))
    if not folder.is_dir():
        raise _unwritable(path, f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, f"this user may not write in {folder}")


def _unwritable(path: Path, why: str | None) -> MediaFailed:
    return MediaFailed(f"{path} cannot be written: {why}", remedy="Name another file with --output.")


def _give_to_person(path: Path) -> None:
    """Make the person who works through sudo the owner: it is for them to send."""
    if works_by_sudo(os.environ, os.geteuid()):
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))


def _files(site: DaemonTarget) -> ConfigFiles | None:
    try:
        return read_files(site.config_path)
    except ConfigInvalid:
        return None


def show_parts(console: Console, parts: list[SupportPart]) -> None:
    """Print the parts of the file, and those that are missing with the reason."""
    made = table("file", "size", "what", right=("size",), wrap=("what",))
    for part in parts:
        if part.content:
            made.add_row(
                part.name, format_bytes(len(part.content)), f"{part.what}{f'; {part.why}' if part.why else ''}"
            )
    print_trimmed(console, made)
    console.print("Not in it: inputs, answers, examples, keys, credentials.")
    for part in parts:
        if not part.content:
            print_trimmed(console, Text(f"left out: {part.name}: {part.why}", style="dim"))

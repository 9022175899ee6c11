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
_NAMES = {"note": "note", "warning": "warning", "unseen": "not checked", "fault": "fault"}
_EXIT_CODES: dict[Verdict, ExitCode] = {"fault": ExitCode.FAILED, "unseen": ExitCode.SITE}
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
    findings = run_checks(installation_of(target))
    if as_json:
        print_json(as_document(findings), indent=2)
    else:
        show_rights(out(), findings, as_root(target))
        show(out(), findings, everything=everything)
    raise typer.Exit(_EXIT_CODES.get(worst(findings), ExitCode.OK))


def as_root(target: DaemonTarget) -> str:
    """Return the command that makes every check of this installation."""
    paths = {
        "--config": target.config_path,
        "--state-dir": target.overrides.state_dir,
        "--run-dir": target.overrides.run_dir,
    }
    options = [f"{name} {shlex.quote(str(value.absolute()))}" for name, value in paths.items() if value]
    return " ".join(["sudo edge-agent", *options, "doctor"])


def show_rights(console: Console, findings: list[Finding], command: str) -> None:
    """Print first what this user was not allowed to check, and the command that checks it."""
    names = unchecked(findings)
    if not names:
        return
    user = current_user().name
    message = f"User {user} may not make {counted(len(names), 'check')}: {', '.join(names)}. To make them, run"
    for line in textwrap.wrap(message, prose_width(console), break_on_hyphens=False):
        console.print(Text(line, _STYLES["unseen"]), soft_wrap=True)
    console.print(Text(f"  $ {command}", style="bold"), soft_wrap=True)
    console.print()


def installation_of(target: DaemonTarget) -> Installation:
    """Return the place to examine; an invalid configuration is a finding, and its defaults are examined."""
    paths, by_sudo = config_paths(target.config_path), works_by_sudo(os.environ, os.geteuid())
    try:
        config_files = read_files(target.config_path)
        config, overruled = validate_files(config_files, target.overrides), tuple(config_files.overruled_keys())
        return Installation(config, sources=paths, overruled=overruled, by_sudo=by_sudo)
    except EdgeAgentError as error:
        config = load_without_agent_yaml(target.config_path, target.overrides)
        return Installation(config, error.message, error.remedy, paths, by_sudo=by_sudo)


def as_document(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as --json prints them."""
    return {
        "schema": "edge-agent/doctor/v1",
        "version": __version__,
        "host": platform.node(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user_id": os.geteuid(),
        "verdict": worst(findings),
        "counts": {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS},
        "findings": [plain(finding) for finding in findings],
    }


def show(console: Console, findings: list[Finding], *, everything: bool = False) -> None:
    """Print the findings by area: passed checks in one line, the others with a remedy, and a summary at the end."""
    for area, area_group in itertools.groupby(findings, key=lambda finding: finding.area):
        area_findings = list(area_group)
        console.print(Text(area, style="bold"))
        if not everything:
            _print_passed(console, area_findings)
        listed = [finding for finding in area_findings if everything or finding.verdict != "ok"]
        for _, group in itertools.groupby(
            listed, key=lambda finding: (finding.check, finding.verdict, finding.remedy, finding.command)
        ):
            _print_group(console, list(group))
    console.print()
    checks = [finding.check for finding in findings if finding.verdict in ("fault", "warning")]
    if checks:
        console.print(Text(f"'edge-agent help {checks[0]}' explains a check, and what else can be done.", style="dim"))
    _print_summary(console, findings)


def _print_passed(console: Console, findings: list[Finding]) -> None:
    failed = {finding.check for finding in findings if finding.verdict != "ok"}
    passed = list(dict.fromkeys(finding.check for finding in findings if finding.check not in failed))
    if passed:
        _print_block(console, Text(f"{_MARKS['ok']:<5}", style=_STYLES["ok"]), ", ".join(passed))


def _print_group(console: Console, findings: list[Finding]) -> None:
    """Print findings that share a remedy."""
    for finding in findings:
        subject = f" {finding.about}" if finding.about and finding.about not in finding.seen else ""
        mark = Text(f"{_MARKS[finding.verdict]:<5}", style=_STYLES[finding.verdict])
        _print_block(console, mark, f"{finding.check}{shorten_digests(f'{subject}: {finding.seen}')}")
    if findings[0].verdict == "unseen":
        return  # the first lines show who may look
    if findings[0].remedy:
        _print_block(console, Text(" " * 5), findings[0].remedy)
    for command in filter(None, findings[0].command.split("; ")):
        # Not wrapped: a person copies the command as one line.
        console.print(Text(f"{'':<{_INDENT}}  $ {command}", style="bold"), soft_wrap=True)


def _print_block(console: Console, mark: Text, message: str) -> None:
    """Print a sentence after a mark, its further lines indented like the first."""
    width = prose_width(console) - _INDENT - 1
    for number, line in enumerate(textwrap.wrap(message, width, break_long_words=False, break_on_hyphens=False)):
        start = Text.assemble(" ", mark, " ") if number == 0 else Text(" " * _INDENT)
        console.print(Text.assemble(start, line), soft_wrap=True)


def _print_summary(console: Console, findings: list[Finding]) -> None:
    parts = []
    for verdict in reversed(VERDICTS[1:]):
        checks = [finding.check for finding in findings if finding.verdict == verdict]
        # Of checks that were not made it is the number of checks, not of findings.
        number = len({*unchecked(findings), *checks}) if verdict == "unseen" else len(checks)
        if number:
            text = f"{number} {_NAMES[verdict]}" if verdict == "unseen" else counted(number, _NAMES[verdict])
            parts.append(Text(text, _STYLES[verdict]))
    passed = sum(finding.verdict == "ok" for finding in findings)
    console.print(Text(", ").join([*parts, Text(f"{passed} ok", _STYLES["ok"])]))


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
    from edge_agent.support_bundle import ARCHIVE_MODE, SupportSources, gather_parts, pack_archive  # noqa: PLC0415

    target, now = target_of(ctx), time.time()
    installation = installation_of(target)
    site_name = installation.config.site.id or re.sub(r"[^a-z0-9-]", "", platform.node().lower()) or "site"
    archive_name = f"edge-support-{site_name}-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{archive_name}.tar.gz")
    if not only_list:
        _check_target(path)
    with err().status("Gathering"):
        context = query_daemon(installation)
        parts = gather_parts(SupportSources(context, _read_config_files(target), as_document(evaluate(context))))
    content = pack_archive(parts, archive_name, now)
    show_parts(out(), parts)
    if only_list:
        return
    confirm(f"Write {path} ({format_bytes(len(content))})?", "The list above is what the file holds.", yes=yes)
    try:
        create(path, content, ARCHIVE_MODE)
        if works_by_sudo(os.environ, os.geteuid()):  # it is for the person behind sudo to send
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))
    except OSError as error:
        raise _write_error(path, error.strerror) from None
    print_done(ctx, f"{path.absolute()} ({format_bytes(len(content))}); only you can read it. Send it to support.")


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before the work. Raises MediaFailed."""
    folder = path.absolute().parent
    if os.path.lexists(path):
        raise _write_error(path, os.strerror(errno.EEXIST))
    if not folder.is_dir():
        raise _write_error(path, f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _write_error(path, f"this user may not write in {folder}")


def _write_error(path: Path, reason: str | None) -> MediaFailed:
    return MediaFailed(f"{path} cannot be written: {reason}", remedy="Name another file with --output.")


def _read_config_files(target: DaemonTarget) -> ConfigFiles | None:
    try:
        return read_files(target.config_path)
    except ConfigInvalid:
        return None


def show_parts(console: Console, parts: list[SupportPart]) -> None:
    """Print the parts of the file, and those that are missing with the reason."""
    listing = table("file", "size", "what", right=("size",), wrap=("what",))
    for part in parts:
        if part.content:
            listing.add_row(
                part.name, format_bytes(len(part.content)), f"{part.what}{f'; {part.why}' if part.why else ''}"
            )
    print_trimmed(console, listing)
    console.print("Not in it: inputs, answers, examples, keys, credentials.")
    for part in parts:
        if not part.content:
            print_trimmed(console, Text(f"left out: {part.name}: {part.why}", style="dim"))

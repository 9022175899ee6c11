"""`edge-convert sites list|show|accept|reject|revoke|restore|decode`, and `enrolment-file`, which enrols one."""

import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output
from convert.cli.keys import new_passphrase
from convert.fleet import enrolment_file
from convert.fleet.site_registry import FILE_NAME, UNDECIDED, KeyStatus, SiteEntry, SiteRegistry
from convert.fleet.site_registry import EnrolmentRecord as Issued
from convert.publish import central_keys
from edge_agent.cli.terminal import say, write_exactly
from edge_agent.durable import atomic_files
from edge_agent.errors import ExchangeError, InvalidRequest, ManifestInvalid
from edge_agent.formats import enrolment_file as enrolment_format
from edge_agent.formats import state_code
from edge_agent.formats.enrolment_file import CODE_DIGITS, normalize_code, verification_code
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formatting import counted

app = typer.Typer(no_args_is_help=True, help="Show the sites of the fleet, and decide which keys belong to them.")
_REPORT = "report.json"
_KEY_DIGITS = 64
_TITLES: dict[KeyStatus, str] = {
    "current": "key",
    "retired": "key of an earlier installation",
    "rejected": "key that was rejected",
}

Site = Annotated[str, typer.Argument(metavar="SITE", help="The site's id.")]
Key = Annotated[
    str, typer.Argument(metavar="KEY", help="Its public key, or the code that 'sudo edge-agent identity' shows there.")
]
Collected = Annotated[
    Path | None, typer.Option("--collected", metavar="FOLDER", help="Folder of 'collect', which contains the registry.")
]
Registry = Annotated[Path | None, typer.Option("--sites", metavar="FILE", help="The registry file.")]


@dataclass(frozen=True)
class _CentralRecords:
    """The records of the central team: the registry, and the report of collect next to it."""

    path: Path

    @property
    def sites(self) -> SiteRegistry:
        return SiteRegistry(self.path)

    def waiting(self) -> dict[str, dict[str, int]]:
        """Return the undecided keys of the last collect: by site, with the number of documents signed by each."""
        sites, undecided = self.sites, defaultdict[str, dict[str, int]](dict)
        for site, key, documents in _read_waiting(self.path.with_name(_REPORT)):
            if sites.key_status(site, key) in UNDECIDED:
                undecided[site][key] = documents
        return undecided

    def key_of(self, site: str, text: str) -> str:
        """Return the key that `text` is, or whose code it is. Raises InvalidRequest."""
        code = normalize_code(text)
        if len(code) >= _KEY_DIGITS or len(code) < CODE_DIGITS:
            return code
        known_keys = itertools.chain(*self.sites.entry(site).every_key.values(), self.waiting().get(site, {}))
        matches = {key for key in known_keys if key.startswith(code)}
        if len(matches) != 1:
            message = f"no document signed by a key of {site} with the code {verification_code(code)} has arrived"
            remedy = "Run 'edge-convert collect' first, or enter the whole key, as 'sudo edge-agent identity' shows it."
            raise InvalidRequest(message, remedy=remedy)
        return matches.pop()


def _read_waiting(report: Path) -> list[tuple[str, str, int]]:
    try:
        entries = json.loads(report.read_bytes()).get("waiting", [])
        return [(str(each["site"]), str(each["key"]), int(each["documents"])) for each in entries]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ManifestInvalid(f"{report} is damaged", remedy="Run 'edge-convert collect' again.") from None


@app.command("list")
def list_(
    collected: Collected = None,
    registry: Registry = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List every site with its state and the code of its key.

    Example: [bold]edge-convert sites list --collected collected[/bold]
    """
    central = _open_records(collected, registry)
    if not central.path.exists():
        say(
            f"note: {central.path} does not exist yet: no site has an enrolment file, or data that was collected",
            err=True,
        )
    if as_json:
        sites = central.sites
        plain = {site: sites.entry(site).model_dump(mode="json") for site in sites.every_name()}
        write_exactly(json.dumps({"sites": plain, "waiting": central.waiting()}))
        return
    waiting = central.waiting()
    rows = [("site", "is", "key", "last enrolment file")]
    for site in sorted({*central.sites.every_name(), *waiting}):
        rows += _rows(site, central.sites.entry(site), waiting.get(site, {}))
    _print(rows)
    if waiting:
        progress_output.out().print(
            "Have the site read out its code ('sudo edge-agent identity'), and accept the key with that code."
        )


@app.command()
def show(site: Site, collected: Collected = None, registry: Registry = None) -> None:
    """Show everything that the registry has of one site.

    Example: [bold]edge-convert sites show shop-1 --collected collected[/bold]
    """
    central = _open_records(collected, registry)
    entry, waiting = central.sites.entry(site), central.waiting().get(site, {})
    if not (entry.known or waiting):
        raise InvalidRequest(f"there is no site '{site}'", remedy="'edge-convert sites list' shows all sites.")
    rows = [("site", f"{site}: {_state(entry, waiting)}", "")]
    rows += [
        (_TITLES[standing], verification_code(key), key) for standing, keys in entry.every_key.items() for key in keys
    ]
    rows += [
        ("undecided key", verification_code(key), f"{key}, has signed {counted(count, 'file')}")
        for key, count in waiting.items()
    ]
    rows += [
        (
            "enrolment file",
            verification_code(enrolment.sha256),
            f"of {enrolment.issued_at[:10]}, until {enrolment.expires_at[:10]}",
        )
        for enrolment in entry.kits
    ]
    _print(rows)


@app.command()
def accept(
    site: Site,
    key: Key,
    collected: Collected = None,
    registry: Registry = None,
    replaces: Annotated[
        bool,
        typer.Option("--replaces", help="Retire the site's earlier keys: the machine was replaced or reinstalled."),
    ] = False,
    former: Annotated[
        bool,
        typer.Option(
            "--former",
            help="The key belonged to an earlier installation of the site: accept only segments that it sealed.",
        ),
    ] = False,
) -> None:
    """Accept a key for a site: a new site, a replaced machine, or a reinstalled one.

    Compare its code first: 'sudo edge-agent identity' shows it on the site.

    Example: [bold]edge-convert sites accept shop-1 9f86-d081-884c-7d65-9a2f --collected collected[/bold]
    """
    if replaces and former:
        raise InvalidRequest("--replaces and --former exclude each other", remedy="Name one of them.")
    central = _open_records(collected, registry)
    public_key = central.key_of(site, key)
    if former:
        central.sites.retire(site, public_key)
        say(f"segments that {public_key} sealed for {site} are accepted, recorded in {central.path}")
    else:
        central.sites.accept(site, public_key, replaces=replaces)
        say(f"{site} may sign with {public_key}, recorded in {central.path}")


@app.command()
def reject(site: Site, key: Key, collected: Collected = None, registry: Registry = None) -> None:
    """Reject a key: of a stolen machine, or of somebody who pretends to be the site.

    Example: [bold]edge-convert sites reject shop-1 9f86-d081-884c-7d65-9a2f --collected collected[/bold]
    """
    central = _open_records(collected, registry)
    public_key = central.key_of(site, key)
    central.sites.reject(site, public_key)
    say(f"nothing that {public_key} signs for {site} is accepted, recorded in {central.path}")


@app.command()
def revoke(site: Site, collected: Collected = None, registry: Registry = None) -> None:
    """Revoke a site that is given up: nothing from it is accepted any more. Data that arrived before stays.

    Collect its data first. Withdraw its credential at the store yourself.

    Example: [bold]edge-convert sites revoke shop-1 --collected collected[/bold]
    """
    central = _open_records(collected, registry)
    central.sites.revoke(site, format_timestamp(time.time()))
    say(f"{site} is revoked, recorded in {central.path}; withdraw its credential for the store, too")


@app.command()
def restore(site: Site, collected: Collected = None, registry: Registry = None) -> None:
    """Undo the revocation of a site: its keys are accepted again.

    Example: [bold]edge-convert sites restore shop-1 --collected collected[/bold]
    """
    central = _open_records(collected, registry)
    central.sites.restore(site)
    say(f"{site} is accepted again, recorded in {central.path}")


@app.command()
def decode(
    code: Annotated[
        list[str],
        typer.Argument(metavar="CODE", help="Groups of 'edge-agent status --code', or the text of the QR code."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show the state of a site that somebody read out or photographed.

    It needs neither a registry nor a network; docs/state-code.md describes the code.

    Example: [bold]edge-convert sites decode 19DAY3 TE7NT0 GP7H6D …[/bold]
    """
    summary = state_code.decode(" ".join(code))
    if as_json:
        write_exactly(json.dumps(asdict(summary)))
        return
    time_made = datetime.fromtimestamp(60 * summary.minutes, UTC)
    link = f", uplink {summary.link}" if summary.link else ""
    console = progress_output.out()
    console.print(
        Text(
            f"{summary.site or 'a machine that is not enrolled'}: edge-agent {summary.agent_version}, "
            f"{'serving' if summary.serving else 'draining'}{link}; made at {time_made:%Y-%m-%d %H:%M} UTC by its clock"
        )
    )
    _print([("task", "version", "state", "update", "alarms"), *map(_summary_row, summary.tasks)])
    if summary.tasks_left_out:
        console.print(Text(f"and {summary.tasks_left_out} more, which need less attention"))


def _summary_row(task: state_code.TaskSummary) -> tuple[str, ...]:
    update = f"{task.update.replace('_', ' ')}{' ' if task.to_version else ''}{task.to_version}" if task.update else "-"
    return task.task, task.version, task.state.replace("_", " "), update, ", ".join(task.alarms) or "-"


def _open_records(collected: Path | None, registry: Path | None) -> _CentralRecords:
    if (collected is None) == (registry is None):
        raise InvalidRequest("name either --collected or --sites", remedy="Name the folder that 'collect' writes.")
    return _CentralRecords(registry or Path(collected or "", FILE_NAME))


def _rows(site: str, entry: SiteEntry, waiting: Collection[str]) -> list[tuple[str, str, str, str]]:
    """Return the lines of a site: one for each key."""
    kits = [enrolment.issued_at[:10] for enrolment in entry.kits]
    keys = [*map(verification_code, entry.signing_keys), *(f"{verification_code(key)} waits" for key in waiting)] or [
        "-"
    ]
    first = (site, _state(entry, waiting), keys[0], ("-", *kits)[-1])
    return [first, *(("", "", key, "") for key in keys[1:])]


def _print(rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns without truncation: people compare codes to the last digit."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        progress_output.out().print(Text(line.rstrip()))


def _state(entry: SiteEntry, waiting: Collection[str]) -> str:
    if entry.revoked_at:
        return f"revoked on {entry.revoked_at[:10]}"
    if waiting:
        return "needs a decision"
    return "accepted" if entry.keys else "no data yet"


_PRIVATE_MODE = 0o600


@dataclass(kw_only=True)
class EnrolmentCommand:
    """Make the enrolment files of sites: one each, with all that a machine needs to become that site.

    fleet.yaml has the settings of every site; docs/enrolment.md shows one. An enrolment file holds secrets: only you
    can read it, and you can seal it with a passphrase for the mail. The command adds the site to the registry, where it
    waits for its key: 'edge-convert sites'.

    Example: [bold]edge-convert enrolment-file shop-12 shop-13 --fleet fleet.yaml --out kits[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    sites: Annotated[list[str], typer.Argument(metavar="SITE", help="Site ids: a-z, 0-9, inner hyphens.")]
    fleet: Annotated[Path, typer.Option(metavar="FILE", help="fleet.yaml: settings of every site.")]
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the enrolment files.")]
    channel: Annotated[
        str, typer.Option(metavar="NAME", help="Channel of the sites, instead of the one in fleet.yaml.")
    ] = ""
    days: Annotated[
        int, typer.Option(metavar="N", help="Days for which the file can be used; 0 = as in fleet.yaml.")
    ] = 0
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File whose first line is the passphrase that seals them.")
    ] = None
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Seal the files; asks for a passphrase.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are in the folder; their codes change. Do not ask.")
    ] = False

    def __post_init__(self) -> None:
        """Run the command."""
        self.sites = list(dict.fromkeys(self.sites))  # of two files of one site only the later one would count
        overrides = {"channel": self.channel, "days": self.days}
        fleet = enrolment_file.read(self.fleet, {key: value for key, value in overrides.items() if value})
        folder = self.fleet.parent
        registry = SiteRegistry(folder / fleet.registry)
        now = time.time()
        files = [enrolment_file.make(fleet, folder, site, now) for site in self.sites]
        for file in files:
            registry.check_open(file.site)
        self._confirm_replacing()
        secret = new_passphrase(self.passphrase_file, self.passphrase, "Passphrase of the files")
        central_keys.check_passphrase(secret)
        self.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files:
            self._write(file, secret, registry)
        self._print_next_steps(secret)

    def _path(self, site: str) -> Path:
        return self.out / f"{site}{enrolment_format.SUFFIX}"

    def _confirm_replacing(self) -> None:
        """Ask before files are replaced.

        Raises:
            InvalidRequest: nobody is there to ask.
            typer.Abort: the answer is no.
        """
        existing = [path for path in map(self._path, self.sites) if path.exists()]
        if self.force or not existing:
            return
        consequence = (
            f"{', '.join(map(_path_with_code, existing))} {'exists' if len(existing) == 1 else 'exist'} already. "
            "A new file has another code: the code of the earlier one no longer counts, and whoever has that one needs "
            "the new one"
        )
        if not sys.stdin.isatty():
            remedy = "Add --force to replace it, or name another folder with --out."
            raise InvalidRequest(f"{consequence}. Nothing was changed", remedy=remedy)
        progress_output.out().print(f"{consequence}.")
        typer.confirm("Replace it?" if len(existing) == 1 else "Replace them?", abort=True, err=True)

    def _write(self, file: enrolment_format.EnrolmentFile, secret: str, registry: SiteRegistry) -> None:
        raw = enrolment_format.encode(file)
        _, sha256 = enrolment_format.parse(raw)
        path = self._path(file.site)
        # Registered before the file exists: a file that the registry lacks could enrol a site that nobody expects.
        registry.issue(file.site, Issued(sha256=sha256, issued_at=file.issued_at, expires_at=file.expires_at))
        atomic_files.write_atomically(path, enrolment_format.seal(raw, secret) if secret else raw, mode=_PRIVATE_MODE)
        progress_output.out().print(
            Text(f"{path}: code {enrolment_format.verification_code(sha256)}, can be used until {file.expires_at[:10]}")
        )

    def _print_next_steps(self, secret: str) -> None:
        several = len(self.sites) > 1
        names = ("The files are", "them") if several else ("The file is", "it")
        is_open = f"not sealed: whoever has {names[1]} can read the secrets inside"
        seal_text = "sealed; send the passphrase by another way" if secret else is_open
        console = progress_output.out()
        console.print(f"{names[0]} {seal_text}. On the site: sudo edge-agent enrol SITE.kit")
        console.print(
            "Read out the code when you are asked for it, and afterwards compare the key: edge-convert sites list"
        )


def _path_with_code(path: Path) -> str:
    """Return the path of an enrolment file, and its code unless it is sealed or damaged."""
    try:
        _, sha256 = enrolment_format.parse(path.read_bytes())
    except (OSError, ExchangeError):
        return str(path)
    return f"{path} (code {enrolment_format.verification_code(sha256)})"

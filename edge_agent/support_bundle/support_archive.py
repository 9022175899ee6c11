"""Gathers what support needs, each part bounded in time and size; a part that cannot be had explains why."""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.config import ConfigFiles
from edge_agent.doctor.findings import ProbeFailure
from edge_agent.doctor.installation import read_bytes, read_text, stat_file
from edge_agent.doctor.probe_context import ProbeContext
from edge_agent.doctor.unit_checks import SERVE, UPLINK
from edge_agent.formats import uplink_state
from edge_agent.support_bundle import diagnostic_redaction

PART_BYTES_MAX = 2**20
TOTAL_SECONDS_MAX = 60.0
LOG_LINES_MAX = 5000
LOG_DAYS = "-3d"
SCRAPE_SECONDS_MAX = 5.0
ENTRIES_MAX = 2000
ARCHIVE_MODE = 0o600
_UNITS = ("edge-agent", "edge-uplink")


@dataclass(frozen=True)
class SupportPart:
    """One file of the bundle."""

    name: str
    what: str
    """For people."""
    content: bytes
    """Empty = it is left out."""
    why: str = ""
    """Why it is left out, or cut."""


@dataclass(frozen=True)
class SupportSources:
    """What is gathered from."""

    case: ProbeContext
    files: ConfigFiles | None
    """The configuration; None = it cannot be read."""
    doctor: Mapping[str, Any]
    """Its findings, as --json prints them."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class _PartSource:
    name: str
    what: str
    tell: Callable[[SupportSources, diagnostic_redaction.Rules], bytes]


class _PartMissing(Exception):
    """There is no such part here; the text explains why."""


def gather_parts(sources: SupportSources) -> list[SupportPart]:
    """Gather every part; what is late is left out."""
    rules = _rules()
    end = sources.clock() + TOTAL_SECONDS_MAX
    return [_part(teller, sources, rules, late=sources.clock() > end) for teller in _PART_SOURCES]


def _rules() -> diagnostic_redaction.Rules:
    redactor = Redactor()
    return lambda said: redactor.start().text(said)


def _part(
    teller: _PartSource, sources: SupportSources, rules: diagnostic_redaction.Rules, *, late: bool
) -> SupportPart:
    if late:
        return SupportPart(teller.name, teller.what, b"", f"everything before it took {TOTAL_SECONDS_MAX:.0f} s")
    try:
        content = teller.tell(sources, rules)
    except _PartMissing as error:
        return SupportPart(teller.name, teller.what, b"", str(error))
    except OSError as error:
        return SupportPart(teller.name, teller.what, b"", f"{error.filename or teller.name}: {error.strerror or error}")
    if len(content) > PART_BYTES_MAX:
        return SupportPart(teller.name, teller.what, content[-PART_BYTES_MAX:], f"its last {PART_BYTES_MAX} bytes")
    return SupportPart(teller.name, teller.what, content)


def _encoded(of: Any, rules: diagnostic_redaction.Rules) -> bytes:
    plain = json.loads(json.dumps(of, default=_plain))
    return json.dumps(diagnostic_redaction.value(plain, rules), ensure_ascii=False, indent=1).encode() + b"\n"


def _plain(of: object) -> Any:
    if dataclasses.is_dataclass(of) and not isinstance(of, type):
        return dataclasses.asdict(of)
    return of.isoformat() if isinstance(of, datetime) else str(of)


def _doctor(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    return _encoded(sources.doctor, rules)


def _versions(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    text = read_text(sources.case.installation.at("etc/os-release"))
    release = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    said = {
        "edge_agent": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "systemd": (sources.case.installation.run(("systemctl", "--version")) or "").partition("\n")[0],
    }
    return _encoded(said, rules)


def _status(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    if sources.case.status is None:
        raise _PartMissing(f"the daemon did not answer: {sources.case.daemon.message}")
    return _encoded(sources.case.status, rules)


def _config(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    if sources.files is None:
        raise _PartMissing("it cannot be read, so that nothing could be taken out of it")
    found = (sources.files.agent, *sources.files.beneath)
    return _encoded({str(path): diagnostic_redaction.settings(plain, rules) for path, plain in found}, rules)


def _units(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    said = [sources.case.installation.run(("systemctl", "show", unit, "--no-pager")) for unit in (SERVE, UPLINK)]
    if not any(said):
        raise _PartMissing("systemd does not answer")
    kept = [line for each in said for line in (each or "").splitlines() if not line.startswith(("Environment", "Exec"))]
    return diagnostic_redaction.text("\n".join(kept), rules).encode()


def _log(unit: str) -> Callable[[SupportSources, diagnostic_redaction.Rules], bytes]:
    def tell(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
        command = (
            "journalctl",
            "-u",
            unit,
            "-o",
            "json",
            "-n",
            str(LOG_LINES_MAX),
            "--since",
            LOG_DAYS,
            "--no-pager",
            "-q",
        )
        said = sources.case.installation.run(command)
        if not said:
            raise _PartMissing("the journal has nothing of it, or this user may not read it")
        return "\n".join(_entries(said, rules)).encode()

    return tell


def _entries(said: str, rules: diagnostic_redaction.Rules) -> Iterator[str]:
    for line in said.splitlines():
        try:
            entry = json.loads(line)
            message, writer = entry["MESSAGE"], entry.get("SYSLOG_IDENTIFIER", "")
        except (ValueError, KeyError, TypeError):
            continue
        stamp = str(entry.get("__REALTIME_TIMESTAMP", ""))[:-6]
        if isinstance(message, str):  # what is no text is a list of bytes
            yield f"{stamp} {diagnostic_redaction.line(message, rules, foreign=writer == 'systemd')}"


def _machine(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    place = sources.case.installation
    parts = [
        f"== {name}\n{read_text(place.at(name))}"
        for name in ("proc/uptime", "proc/loadavg", "proc/meminfo", "proc/mounts", "proc/pressure/memory")
    ]
    pid = sources.case.daemon.pid
    for name in ("status", "limits") if pid > 0 else ():
        parts.append(f"== /proc/{pid}/{name}\n{read_text(Path(f'/proc/{pid}/{name}'))}")
    return diagnostic_redaction.text("\n".join(parts), rules).encode()


def _metrics(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    address = sources.case.installation.config.metrics.address
    if not address:
        raise _PartMissing("metrics are off")
    connection = http.client.HTTPConnection(address, timeout=SCRAPE_SECONDS_MAX)
    try:
        connection.request("GET", "/metrics")
        return diagnostic_redaction.text(
            connection.getresponse().read(PART_BYTES_MAX).decode(errors="replace"), rules
        ).encode()
    except http.client.HTTPException as error:
        raise _PartMissing(f"{address} answers {type(error).__name__}") from None
    finally:
        connection.close()


def _updates(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    stored = sources.case.stored
    if isinstance(stored, ProbeFailure):
        raise _PartMissing(stored.why)
    return _encoded({"journal": list(stored.journal.values()), "newest_signed": stored.signed}, rules)


def _uplink(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    notes = sources.case.installation.config.uplink_notes
    path = notes / uplink_state.FILE_NAME
    if not path.exists():
        raise _PartMissing(f"there is no {path}")
    try:
        said = json.loads(read_bytes(path, uplink_state.STATE_BYTES_MAX) or b"{}")
    except (ValueError, RecursionError):
        raise _PartMissing(f"{path} is no JSON") from None
    uploaded = notes / "uploaded.jsonl"
    lines = read_text(uploaded).count("\n") if uploaded.exists() else 0
    return _encoded({"state": said, "notes_lines": lines}, rules)


def _folders(sources: SupportSources, rules: diagnostic_redaction.Rules) -> bytes:
    """List names, sizes and owners: of files, never a byte of them."""
    config = sources.case.installation.config
    folders = (config.state_dir, config.outbox, config.receipts, config.incoming, config.uplink_notes, config.run_dir)
    lines: list[str] = []
    for folder in dict.fromkeys(folders):
        lines.append(f"== {folder}")
        for root, _, names in os.walk(folder):
            found = (stat_file(Path(root) / name) for name in sorted(names))
            lines += [f"{file.shown} {file.size:>12} {file.path}" for file in found]
            if len(lines) > ENTRIES_MAX:
                break
    return diagnostic_redaction.text("\n".join(lines[:ENTRIES_MAX]), rules).encode()


_PART_SOURCES = (
    _PartSource("doctor.json", "what doctor finds", _doctor),
    _PartSource("versions.json", "versions of program and system", _versions),
    _PartSource("status.json", "what the daemon says of itself", _status),
    _PartSource("config.json", "settings, without secrets", _config),
    _PartSource("units.txt", "what systemd knows of the daemons", _units),
    *(_PartSource(f"{unit}.log", f"its log of 3 days, at most {LOG_LINES_MAX} lines", _log(unit)) for unit in _UNITS),
    _PartSource("metrics.txt", "counters of the daemon", _metrics),
    _PartSource("machine.txt", "memory, mounts, load", _machine),
    _PartSource("updates.json", "how far each update came", _updates),
    _PartSource("uplink.json", "what the uplink says of itself", _uplink),
    _PartSource("folders.txt", "names, sizes and owners of our files", _folders),
)


def pack_archive(parts: Sequence[SupportPart], folder: str, at: float) -> bytes:
    """Return the archive; `at` in seconds since 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for part in parts:
            if part.content:
                entry = tarfile.TarInfo(f"{folder}/{part.name}")
                entry.size, entry.mode, entry.mtime = len(part.content), ARCHIVE_MODE, int(at)
                archive.addfile(entry, io.BytesIO(part.content))
    return buffer.getvalue()

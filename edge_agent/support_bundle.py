"""One file with what support needs of a site, and nothing that somebody said to a model or that opens anything.

Each part is bounded in time and size; a part that cannot be had explains why. The daemons log no inputs, no answers
and no secrets. This does not rely on it: of a line only the keys that our own code writes are carried, their values run
through the rules of redaction and through patterns of secrets, and a line that is no event of ours is replaced by its
length, unless systemd, a model library or a traceback wrote it.
"""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import os
import platform
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from edge_agent import __version__
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.config import ConfigFiles
from edge_agent.doctor.findings import ProbeFailure
from edge_agent.doctor.installation import read_bytes, read_text, stat_file
from edge_agent.doctor.probe_context import ProbeContext
from edge_agent.doctor.unit_checks import SERVE, UPLINK
from edge_agent.formats import uplink_state

PART_BYTES_MAX = 2**20
TOTAL_SECONDS_MAX = 60.0
LOG_LINES_MAX = 5000
LOG_DAYS = "-3d"
SCRAPE_SECONDS_MAX = 5.0
ENTRIES_MAX = 2000
ARCHIVE_MODE = 0o600
_UNITS = ("edge-agent", "edge-uplink")
_ESCAPED = "backslashreplace"
"""How half a character is written: names of files can hold any bytes, and lines of logs any escapes."""


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
    tell: Callable[[SupportSources, RedactionRules], bytes]


class _PartMissing(Exception):
    """There is no such part here; the text explains why."""


def gather_parts(sources: SupportSources) -> list[SupportPart]:
    """Gather every part; what is late is left out."""
    rules = _rules()
    end = sources.clock() + TOTAL_SECONDS_MAX
    return [_part(teller, sources, rules, late=sources.clock() > end) for teller in _PART_SOURCES]


def _rules() -> RedactionRules:
    redactor = Redactor()
    return lambda said: redactor.start().text(said)


def _part(teller: _PartSource, sources: SupportSources, rules: RedactionRules, *, late: bool) -> SupportPart:
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


def _encoded(of: Any, rules: RedactionRules) -> bytes:
    plain = json.loads(json.dumps(of, default=_plain))
    return json.dumps(redact_value(plain, rules), ensure_ascii=False, indent=1).encode(errors=_ESCAPED) + b"\n"


def _plain(of: object) -> Any:
    if dataclasses.is_dataclass(of) and not isinstance(of, type):
        return dataclasses.asdict(of)
    return of.isoformat() if isinstance(of, datetime) else str(of)


def _doctor(sources: SupportSources, rules: RedactionRules) -> bytes:
    return _encoded(sources.doctor, rules)


def _versions(sources: SupportSources, rules: RedactionRules) -> bytes:
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


def _status(sources: SupportSources, rules: RedactionRules) -> bytes:
    if sources.case.status is None:
        raise _PartMissing(f"the daemon did not answer: {sources.case.daemon.message}")
    return _encoded(sources.case.status, rules)


def _config(sources: SupportSources, rules: RedactionRules) -> bytes:
    if sources.files is None:
        raise _PartMissing("it cannot be read, so that nothing could be taken out of it")
    found = (sources.files.agent, *sources.files.beneath)
    return _encoded({str(path): redact_settings(plain, rules) for path, plain in found}, rules)


def _units(sources: SupportSources, rules: RedactionRules) -> bytes:
    said = [sources.case.installation.run(("systemctl", "show", unit, "--no-pager")) for unit in (SERVE, UPLINK)]
    if not any(said):
        raise _PartMissing("systemd does not answer")
    kept = [line for each in said for line in (each or "").splitlines() if not line.startswith(("Environment", "Exec"))]
    return redact_text("\n".join(kept), rules).encode(errors=_ESCAPED)


def _log(unit: str) -> Callable[[SupportSources, RedactionRules], bytes]:
    def tell(sources: SupportSources, rules: RedactionRules) -> bytes:
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
        return "\n".join(_entries(said, rules)).encode(errors=_ESCAPED)

    return tell


def _entries(said: str, rules: RedactionRules) -> Iterator[str]:
    for line in said.splitlines():
        try:
            entry = json.loads(line)
            message, writer = entry["MESSAGE"], entry.get("SYSLOG_IDENTIFIER", "")
        except (ValueError, KeyError, TypeError):
            continue
        stamp = str(entry.get("__REALTIME_TIMESTAMP", ""))[:-6]
        if isinstance(message, str):  # what is no text is a list of bytes
            yield f"{stamp} {redact_line(message, rules, foreign=writer == 'systemd')}"


def _machine(sources: SupportSources, rules: RedactionRules) -> bytes:
    place = sources.case.installation
    parts = [
        f"== {name}\n{read_text(place.at(name))}"
        for name in ("proc/uptime", "proc/loadavg", "proc/meminfo", "proc/mounts", "proc/pressure/memory")
    ]
    pid = sources.case.daemon.pid
    for name in ("status", "limits") if pid > 0 else ():
        parts.append(f"== /proc/{pid}/{name}\n{read_text(Path(f'/proc/{pid}/{name}'))}")
    return redact_text("\n".join(parts), rules).encode(errors=_ESCAPED)


def _metrics(sources: SupportSources, rules: RedactionRules) -> bytes:
    address = sources.case.installation.config.metrics.address
    if not address:
        raise _PartMissing("metrics are off")
    connection = http.client.HTTPConnection(address, timeout=SCRAPE_SECONDS_MAX)
    try:
        connection.request("GET", "/metrics")
        return redact_text(connection.getresponse().read(PART_BYTES_MAX).decode(errors="replace"), rules).encode()
    except http.client.HTTPException as error:
        raise _PartMissing(f"{address} answers {type(error).__name__}") from None
    finally:
        connection.close()


def _updates(sources: SupportSources, rules: RedactionRules) -> bytes:
    stored = sources.case.stored
    if isinstance(stored, ProbeFailure):
        raise _PartMissing(stored.why)
    return _encoded({"journal": list(stored.journal.values()), "newest_signed": stored.signed}, rules)


def _uplink(sources: SupportSources, rules: RedactionRules) -> bytes:
    notes = sources.case.installation.config.uplink_notes
    path = notes / uplink_state.FILE_NAME
    if not stat_file(path).kind:
        raise _PartMissing(f"there is no {path}")
    try:
        said = json.loads(read_bytes(path, uplink_state.STATE_BYTES_MAX) or b"{}")
    except (ValueError, RecursionError):
        raise _PartMissing(f"{path} is no JSON") from None
    uploaded = notes / "uploaded.jsonl"
    lines = read_text(uploaded).count("\n") if stat_file(uploaded).kind else 0
    return _encoded({"state": said, "notes_lines": lines}, rules)


def _folders(sources: SupportSources, rules: RedactionRules) -> bytes:
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
    return redact_text("\n".join(lines[:ENTRIES_MAX]), rules).encode(errors=_ESCAPED)


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


SECRET_KEYS = re.compile("secret|token|password|passwd|sas|credential|authorization|private|(^|_)key$", re.IGNORECASE)
PLACE_KEYS = re.compile(r"_(file|dir|url)$|^(url|root_file)$")
"""Keys that name where something is."""
REPLACED = "[secret]"
VALUE_CHARACTERS_MAX = 600
EVENT_KEYS = re.compile(
    "again_in_seconds|address|answers|at|audit|bundle|bytes|call|cause|certificate|client|code|component|count|deaths|detail|device|digest"
    "|engine|error|event|gate"
    "|expires_at|failed|file|how|in_flight|level|limit|listener|message|method|model|name|needed|new|peer|pid|policy|port|reason"
    "|remedy|repository"
    "|role|run_dir|running|seconds|segment|segments|sequences|state|state_dir|status|store|surface|task|times_more|timestamp|to_blame"
    "|unit|upstream|url|version|what|why|within_seconds|about|problem"
)
"""Keys of log events that are carried."""
UNTOUCHED_KEYS = re.compile("at|digest|level|pid|sha256|since|timestamp|version")
"""Keys whose values are ours and look like numbers of people."""

# Each is bounded in its reach, so that the time is linear in the length of a line.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}KEY-----|\Z)", re.DOTALL),
        REPLACED,
    ),
    (re.compile(r"AGE-SECRET-KEY-[0-9A-Z-]+", re.IGNORECASE), REPLACED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b"), REPLACED),
    (re.compile(r"(?i)\b(bearer|basic)\s{1,4}[\w.~+/=-]{6,}"), rf"\1 {REPLACED}"),
    (re.compile(r"://[^/\s@]{1,512}@"), f"://{REPLACED}@"),
    (re.compile(r"(://[^\s?\"']{1,512})\?[^\s\"']+"), rf"\1?{REPLACED}"),
    (
        re.compile(
            r"(?i)((?:secret|token|passw|credential|authorization|api.?key|access.?key)[\w-]{0,40}"
            r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?)(?!\[)[^\s\"',}]+"
        ),
        rf"\1{REPLACED}",
    ),
)
_EVENT = re.compile(r"[A-Za-z_ .,']{1,80}")
_FRAME = re.compile(r'\s*(?:File "[^"]+", line \d+, in \S+|Traceback \(most recent call last\):)')
_RAISED = re.compile(r"([\w.]+(?:Error|Exception|Exit|Interrupt|Failed|Warning))\b")
_LIBRARY = re.compile(r"(?:llama|ggml|gguf)_\w+: ")

RedactionRules = Callable[[str], str]
"""The rules of redaction, for one text."""


def redact_text(said: str, rules: RedactionRules) -> str:
    """Take secrets and personal data out of a text."""
    for pattern, instead in _SECRETS:
        said = pattern.sub(instead, said)
    return rules(said)


def redact_value(of: Any, rules: RedactionRules, key: str = "") -> Any:
    """Take them out of what JSON can hold."""
    if isinstance(of, Mapping):
        return {str(name): redact_value(each, rules, str(name)) for name, each in of.items()}
    if isinstance(of, list | tuple):
        return [redact_value(each, rules, key) for each in of]
    if SECRET_KEYS.search(key) and not PLACE_KEYS.search(key) and isinstance(of, str) and of:
        return REPLACED
    return redact_text(of, rules) if isinstance(of, str) and not UNTOUCHED_KEYS.fullmatch(key) else of


def redact_settings(plain: Mapping[str, Any], rules: RedactionRules) -> Any:
    """Likewise of a configuration, whose addresses keep no user and no query."""

    def bare(each: Any, key: str) -> Any:
        if isinstance(each, Mapping):
            return {name: bare(one, str(name)) for name, one in each.items()}
        return bare_address(each) if isinstance(each, str) and key.endswith("url") else each

    return redact_value(bare(plain, ""), rules)


def bare_address(url: str) -> str:
    """Return a URL without what may be secret in it; of what cannot be one, such as half an IPv6 address, nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REPLACED
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def redact_line(said: str, rules: RedactionRules, *, foreign: bool = False) -> str:
    """Return what is carried of one line of a log; `foreign` = systemd or the kernel wrote it."""
    if foreign:
        return redact_text(said, rules)
    try:
        event = json.loads(said)
    except (ValueError, RecursionError):
        return _unknown(said, rules)
    return _event(event, rules) if isinstance(event, dict) else _unknown(said, rules)


def _event(event: Mapping[str, Any], rules: RedactionRules) -> str:
    carried: dict[str, Any] = {}
    for key, of in event.items():
        if key == "exception" and isinstance(of, str):
            carried[key] = [_unknown(each, rules) for each in of.splitlines()]
        elif key == "event" and not _EVENT.fullmatch(str(of)):
            carried[key] = _left_out(str(of))
        elif EVENT_KEYS.fullmatch(key):
            carried[key] = redact_value(_short(of) if isinstance(of, str) else of, rules, key)
        else:
            carried[_short(key) if _EVENT.fullmatch(key) else "?"] = _left_out(str(of))
    return json.dumps(carried, ensure_ascii=False)


def _unknown(said: str, rules: RedactionRules) -> str:
    """Carry a frame of a traceback, the name of an exception, a line of a model library; of others the length."""
    if frame := _FRAME.fullmatch(said):
        return redact_text(frame[0], rules)
    if _LIBRARY.match(said):
        return redact_text(_short(said), rules)
    raised = _RAISED.match(said)
    rest = said[raised.end() :] if raised else said
    return f"{raised[1]} {_left_out(rest)}" if raised else _left_out(rest)


def _left_out(said: str) -> str:
    return f"[{len(said)} characters left out]"


def _short(said: str) -> str:
    return said[:VALUE_CHARACTERS_MAX]

"""One file with what support needs to know about a site, without inputs, answers or secrets.

Each part is bounded in time and size; a missing part gives the reason. The daemons log no inputs, no answers and no
secrets, but this module does not rely on that: of a log line it keeps only the keys that our own code writes, applies
the rules of redaction and patterns of secrets to their values, and replaces a line that is not an event of ours by its
length, unless it comes from systemd, a model library or a traceback.
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
"""Error handler for half a character: names of files can hold any bytes, and lines of logs any escapes."""


@dataclass(frozen=True)
class SupportPart:
    """One file of the bundle."""

    name: str
    what: str
    """Description for people."""
    content: bytes
    """Empty = the part is left out."""
    why: str = ""
    """Why the part is left out or cut."""


@dataclass(frozen=True)
class SupportSources:
    """The sources of the parts."""

    case: ProbeContext
    files: ConfigFiles | None
    """The configuration; None = it cannot be read."""
    doctor: Mapping[str, Any]
    """Doctor's findings, as its --json prints them."""
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class _PartSource:
    name: str
    what: str
    read: Callable[[SupportSources, RedactionRules], bytes]


class _PartMissing(Exception):
    """A part does not exist on this machine; the message gives the reason."""


def gather_parts(sources: SupportSources) -> list[SupportPart]:
    """Gather every part; those after TOTAL_SECONDS_MAX are left out."""
    rules = _rules()
    end = sources.clock() + TOTAL_SECONDS_MAX
    return [_part(source, sources, rules, late=sources.clock() > end) for source in _PART_SOURCES]


def _rules() -> RedactionRules:
    redactor = Redactor()
    return lambda text: redactor.start().text(text)


def _part(source: _PartSource, sources: SupportSources, rules: RedactionRules, *, late: bool) -> SupportPart:
    if late:
        return SupportPart(source.name, source.what, b"", f"everything before it took {TOTAL_SECONDS_MAX:.0f} s")
    try:
        content = source.read(sources, rules)
    except _PartMissing as error:
        return SupportPart(source.name, source.what, b"", str(error))
    except OSError as error:
        return SupportPart(source.name, source.what, b"", f"{error.filename or source.name}: {error.strerror or error}")
    if len(content) > PART_BYTES_MAX:
        return SupportPart(source.name, source.what, content[-PART_BYTES_MAX:], f"its last {PART_BYTES_MAX} bytes")
    return SupportPart(source.name, source.what, content)


def _encode_json(value: Any, rules: RedactionRules) -> bytes:
    plain = json.loads(json.dumps(value, default=_plain_value))
    return json.dumps(redact_value(plain, rules), ensure_ascii=False, indent=1).encode(errors=_ESCAPED) + b"\n"


def _plain_value(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _versions(sources: SupportSources, rules: RedactionRules) -> bytes:
    text = read_text(sources.case.installation.at("etc/os-release"))
    release = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    versions = {
        "edge_agent": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "systemd": (sources.case.installation.run(("systemctl", "--version")) or "").partition("\n")[0],
    }
    return _encode_json(versions, rules)


def _status(sources: SupportSources, rules: RedactionRules) -> bytes:
    if sources.case.status is None:
        raise _PartMissing(f"the daemon did not answer: {sources.case.daemon.message}")
    return _encode_json(sources.case.status, rules)


def _config(sources: SupportSources, rules: RedactionRules) -> bytes:
    if sources.files is None:
        raise _PartMissing("it cannot be read, so secrets could not be removed from it")
    files = (sources.files.agent, *sources.files.lower_files)
    return _encode_json({str(path): redact_settings(plain, rules) for path, plain in files}, rules)


def _units(sources: SupportSources, rules: RedactionRules) -> bytes:
    outputs = [sources.case.installation.run(("systemctl", "show", unit, "--no-pager")) for unit in (SERVE, UPLINK)]
    if not any(outputs):
        raise _PartMissing("systemd does not answer")
    lines = (line for output in outputs for line in (output or "").splitlines())
    safe_lines = [line for line in lines if not line.startswith(("Environment", "Exec"))]
    return redact_text("\n".join(safe_lines), rules).encode(errors=_ESCAPED)


def _log(unit: str) -> Callable[[SupportSources, RedactionRules], bytes]:
    journalctl = ("journalctl", "-u", unit, "-o", "json", "-n", str(LOG_LINES_MAX), "--since", LOG_DAYS)

    def read(sources: SupportSources, rules: RedactionRules) -> bytes:
        journal = sources.case.installation.run((*journalctl, "--no-pager", "-q"))
        if not journal:
            raise _PartMissing("the journal has no lines of it, or this user may not read them")
        return "\n".join(_entries(journal, rules)).encode(errors=_ESCAPED)

    return read


def _entries(journal: str, rules: RedactionRules) -> Iterator[str]:
    for line in journal.splitlines():
        try:
            entry = json.loads(line)
            message, writer = entry["MESSAGE"], entry.get("SYSLOG_IDENTIFIER", "")
        except (ValueError, KeyError, TypeError):
            continue
        stamp = str(entry.get("__REALTIME_TIMESTAMP", ""))[:-6]
        if isinstance(message, str):  # journalctl writes binary data as a list of bytes
            yield f"{stamp} {redact_line(message, rules, foreign=writer == 'systemd')}"


def _machine(sources: SupportSources, rules: RedactionRules) -> bytes:
    installation = sources.case.installation
    parts = [
        f"== {name}\n{read_text(installation.at(name))}"
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
    return _encode_json({"journal": list(stored.journal.values()), "newest_signed": stored.signed_at}, rules)


def _uplink(sources: SupportSources, rules: RedactionRules) -> bytes:
    notes_dir = sources.case.installation.config.uplink_notes
    path = notes_dir / uplink_state.FILE_NAME
    if not stat_file(path).kind:
        raise _PartMissing(f"there is no {path}")
    try:
        state = json.loads(read_bytes(path, uplink_state.STATE_BYTES_MAX) or b"{}")
    except (ValueError, RecursionError):
        raise _PartMissing(f"{path} is not JSON") from None
    upload_log = notes_dir / "uploaded.jsonl"
    lines = read_text(upload_log).count("\n") if stat_file(upload_log).kind else 0
    return _encode_json({"state": state, "notes_lines": lines}, rules)


def _folders(sources: SupportSources, rules: RedactionRules) -> bytes:
    """List names, sizes and owners of files, without any contents."""
    config = sources.case.installation.config
    folders = (config.state_dir, config.outbox, config.receipts, config.incoming, config.uplink_notes, config.run_dir)
    lines: list[str] = []
    for folder in dict.fromkeys(folders):
        lines.append(f"== {folder}")
        for root, _, names in os.walk(folder):
            files = (stat_file(Path(root) / name) for name in sorted(names))
            lines += [f"{file.owner_and_mode} {file.size:>12} {file.path}" for file in files]
            if len(lines) > ENTRIES_MAX:
                break
    return redact_text("\n".join(lines[:ENTRIES_MAX]), rules).encode(errors=_ESCAPED)


_PART_SOURCES = (
    _PartSource("doctor.json", "what doctor finds", lambda sources, rules: _encode_json(sources.doctor, rules)),
    _PartSource("versions.json", "versions of program and system", _versions),
    _PartSource("status.json", "the daemon's status", _status),
    _PartSource("config.json", "settings, without secrets", _config),
    _PartSource("units.txt", "systemd's properties of the daemons' units", _units),
    *(_PartSource(f"{unit}.log", f"its log of 3 days, at most {LOG_LINES_MAX} lines", _log(unit)) for unit in _UNITS),
    _PartSource("metrics.txt", "counters of the daemon", _metrics),
    _PartSource("machine.txt", "memory, mounts, load", _machine),
    _PartSource("updates.json", "progress of each update", _updates),
    _PartSource("uplink.json", "the uplink's own state", _uplink),
    _PartSource("folders.txt", "names, sizes and owners of our files", _folders),
)


def pack_archive(parts: Sequence[SupportPart], folder: str, at: float) -> bytes:
    """Return the archive as tar.gz; `at` is its files' time in seconds since 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for part in parts:
            if part.content:
                entry = tarfile.TarInfo(f"{folder}/{part.name}")
                entry.size, entry.mode, entry.mtime = len(part.content), ARCHIVE_MODE, int(at)
                archive.addfile(entry, io.BytesIO(part.content))
    return buffer.getvalue()


SECRET_KEYS = re.compile("secret|token|password|passwd|sas|credential|authorization|private|(^|_)key$", re.IGNORECASE)
LOCATION_KEYS = re.compile(r"_(file|dir|url)$|^(url|root_file)$")
"""Keys with a path or an address, which are not secret."""
REPLACED = "[secret]"
VALUE_CHARACTERS_MAX = 600
EVENT_KEYS = re.compile(
    "again_in_seconds|address|answers|at|audit|bundle|bytes|call|cause|certificate|client|code|component|count|deaths"
    "|detail|device|digest|engine|error|event|gate|expires_at|failed|file|how|in_flight|level|limit|listener|message"
    "|method|model|name|needed|new|peer|pid|policy|port|reason|remedy|repository|role|run_dir|running|seconds|segment"
    "|segments|sequences|state|state_dir|status|store|surface|task|times_more|timestamp|to_blame|unit|upstream|url"
    "|version|what|why|within_seconds|about|problem"
)
"""Keys of log events whose values are kept."""
UNTOUCHED_KEYS = re.compile("at|digest|level|pid|sha256|since|timestamp|version")
"""Keys whose values are our own and look like personal numbers."""

# Each repetition is bounded, so that the time is linear in the length of a line.
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
_EXCEPTION = re.compile(r"([\w.]+(?:Error|Exception|Exit|Interrupt|Failed|Warning))\b")
_LIBRARY = re.compile(r"(?:llama|ggml|gguf)_\w+: ")

RedactionRules = Callable[[str], str]
"""Returns a text with the rules of redaction applied."""


def redact_text(text: str, rules: RedactionRules) -> str:
    """Replace secrets and personal data in a text."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return rules(text)


def redact_value(value: Any, rules: RedactionRules, key: str = "") -> Any:
    """Replace secrets and personal data in a JSON value; `key` is its name in the object that holds it."""
    if isinstance(value, Mapping):
        return {str(name): redact_value(each, rules, str(name)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(each, rules, key) for each in value]
    if not isinstance(value, str) or UNTOUCHED_KEYS.fullmatch(key):
        return value
    if SECRET_KEYS.search(key) and not LOCATION_KEYS.search(key) and value:
        return REPLACED
    return redact_text(value, rules)


def redact_settings(plain: Mapping[str, Any], rules: RedactionRules) -> Any:
    """Replace secrets and personal data in a configuration, and remove user and query from its addresses."""

    def strip_addresses(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: strip_addresses(member, str(name)) for name, member in value.items()}
        return bare_address(value) if isinstance(value, str) and key.endswith("url") else value

    return redact_value(strip_addresses(plain, ""), rules)


def bare_address(url: str) -> str:
    """Return a URL without user, query and fragment; REPLACED if it cannot be parsed, such as half an IPv6 address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return REPLACED
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def redact_line(line: str, rules: RedactionRules, *, foreign: bool = False) -> str:
    """Return one line of a log, redacted; `foreign` = systemd or the kernel wrote it."""
    if foreign:
        return redact_text(line, rules)
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return _redact_other_line(line, rules)
    return _redact_event(event, rules) if isinstance(event, dict) else _redact_other_line(line, rules)


def _redact_event(event: Mapping[str, Any], rules: RedactionRules) -> str:
    redacted: dict[str, Any] = {}
    for key, value in event.items():
        if key == "exception" and isinstance(value, str):
            redacted[key] = [_redact_other_line(line, rules) for line in value.splitlines()]
        elif key == "event" and not _EVENT.fullmatch(str(value)):
            redacted[key] = _omission_note(str(value))
        elif EVENT_KEYS.fullmatch(key):
            redacted[key] = redact_value(_truncate(value) if isinstance(value, str) else value, rules, key)
        else:
            redacted[_truncate(key) if _EVENT.fullmatch(key) else "?"] = _omission_note(str(value))
    return json.dumps(redacted, ensure_ascii=False)


def _redact_other_line(line: str, rules: RedactionRules) -> str:
    """Keep a frame of a traceback, the name of an exception or a line of a model library; replace others."""
    if frame := _FRAME.fullmatch(line):
        return redact_text(frame[0], rules)
    if _LIBRARY.match(line):
        return redact_text(_truncate(line), rules)
    exception = _EXCEPTION.match(line)
    rest = line[exception.end() :] if exception else line
    return f"{exception[1]} {_omission_note(rest)}" if exception else _omission_note(rest)


def _omission_note(text: str) -> str:
    return f"[{len(text)} characters left out]"


def _truncate(text: str) -> str:
    return text[:VALUE_CHARACTERS_MAX]

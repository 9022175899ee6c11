"""What may leave with a support bundle: by name where the name is ours, by rules for all the rest. Pure.

The daemons log no inputs, no answers and no secrets. This does not rely on it: of a line only the keys that our own
code writes are carried, their values run through the rules of redaction and through patterns of secrets, and a line
that is no event of ours is replaced by its length, unless systemd, a model library or a traceback wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

SECRET_NAME = re.compile("secret|token|password|passwd|sas|credential|authorization|private|(^|_)key$", re.IGNORECASE)
PLACES = re.compile(r"_(file|dir|url)$|^(url|root_file)$")
"""Keys that name where something is."""
REPLACED = "[secret]"
VALUE_CHARACTERS_MAX = 600
KEYS = re.compile(
    "again_in_seconds|address|answers|at|audit|bundle|bytes|call|cause|certificate|client|code|component|count|deaths|detail|device|digest"
    "|engine|error|event|gate"
    "|expires_at|failed|file|how|in_flight|level|limit|listener|message|method|model|name|needed|new|peer|pid|policy|port|reason"
    "|remedy|repository"
    "|role|run_dir|running|seconds|segment|segments|sequences|state|state_dir|status|store|surface|task|times_more|timestamp|to_blame"
    "|unit|upstream|url|version|what|why|within_seconds|about|problem"
)
"""Keys of log events that are carried."""
UNTOUCHED = re.compile("at|digest|level|pid|sha256|since|timestamp|version")
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

Rules = Callable[[str], str]
"""The rules of redaction, for one text."""


def text(said: str, rules: Rules) -> str:
    """Take secrets and personal data out of a text."""
    for pattern, instead in _SECRETS:
        said = pattern.sub(instead, said)
    return rules(said)


def value(of: Any, rules: Rules, key: str = "") -> Any:
    """Take them out of what JSON can hold."""
    if isinstance(of, Mapping):
        return {str(name): value(each, rules, str(name)) for name, each in of.items()}
    if isinstance(of, list | tuple):
        return [value(each, rules, key) for each in of]
    if SECRET_NAME.search(key) and not PLACES.search(key) and isinstance(of, str) and of:
        return REPLACED
    return text(of, rules) if isinstance(of, str) and not UNTOUCHED.fullmatch(key) else of


def settings(plain: Mapping[str, Any], rules: Rules) -> Any:
    """Likewise of a configuration, whose addresses keep no user and no query."""

    def bare(each: Any, key: str) -> Any:
        if isinstance(each, Mapping):
            return {name: bare(one, str(name)) for name, one in each.items()}
        return address(each) if isinstance(each, str) and key.endswith("url") else each

    return value(bare(plain, ""), rules)


def address(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def line(said: str, rules: Rules, *, foreign: bool = False) -> str:
    """Return what is carried of one line of a log; `foreign` = systemd or the kernel wrote it."""
    if foreign:
        return text(said, rules)
    try:
        event = json.loads(said)
    except (ValueError, RecursionError):
        return _unknown(said, rules)
    return _event(event, rules) if isinstance(event, dict) else _unknown(said, rules)


def _event(event: Mapping[str, Any], rules: Rules) -> str:
    carried: dict[str, Any] = {}
    for key, of in event.items():
        if key == "exception" and isinstance(of, str):
            carried[key] = [_unknown(each, rules) for each in of.splitlines()]
        elif key == "event" and not _EVENT.fullmatch(str(of)):
            carried[key] = _left_out(str(of))
        elif KEYS.fullmatch(key):
            carried[key] = value(_short(of) if isinstance(of, str) else of, rules, key)
        else:
            carried[_short(key) if _EVENT.fullmatch(key) else "?"] = _left_out(str(of))
    return json.dumps(carried, ensure_ascii=False)


def _unknown(said: str, rules: Rules) -> str:
    """Carry a frame of a traceback, the name of an exception, a line of a model library; of others the length."""
    if frame := _FRAME.fullmatch(said):
        return text(frame[0], rules)
    if _LIBRARY.match(said):
        return text(_short(said), rules)
    raised = _RAISED.match(said)
    rest = said[raised.end() :] if raised else said
    return f"{raised[1]} {_left_out(rest)}" if raised else _left_out(rest)


def _left_out(said: str) -> str:
    return f"[{len(said)} characters left out]"


def _short(said: str) -> str:
    return said[:VALUE_CHARACTERS_MAX]

"""The state of a site in some hundred characters, for a telephone or a photograph: docs/state-code.md. Pure.

    code = encode(SiteSummary(...))       # "1K7M2Q...", what a QR code holds after PREFIX
    for group in spoken_groups(code): ... # "K7M2Q7", the last character checks the others
    decode("K7M2Q7 0X3…")                 # or the text of the QR code

A summary is encoded as text with separators, the text as one number in base 46, and the number in Crockford's base 32,
which has no I, L, O and U. Two check characters at the end cover the whole. A spoken group has a check character of its
own, in GF(32): it detects one wrong character, two swapped ones, and groups in the wrong order; the error names the
group.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_agent.errors import DocumentInvalid

VERSION = "1"
PREFIX = "EA."
"""The prefix of a code in a QR code, so that a scanner shows what it is."""
CODE_CHARACTERS_MAX = 151
"""With PREFIX these fit a QR code of version 5, which has 37 modules a side and fits a terminal of 80 by 24."""
GROUP_CHARACTERS = 5
"""Of a spoken group, without its check character."""
TASK_STATES = {"ready": "r", "starting": "s", "backing_off": "b", "failed": "f", "stopping": "t", "not_ready": "n"}
UPDATE_STATES = {
    **{"waiting": "w", "fetching": "f", "staged": "s", "testing": "t", "switching": "x"},
    **{"probation": "p", "done": "d", "failed": "e", "rolled_back": "b", "held": "h"},
}
ALARMS = {
    **{"errors": "e", "opinions": "o", "labels": "l", "confidence": "c"},
    **{"novelty": "n", "length": "t", "new_inputs": "i"},
}
LINK_STATES = {"online": "o", "probing": "p", "offline": "x", "silent": "s"}

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD = str.maketrans("OIL", "011")
_SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz-._+|,;:*~"
_ESCAPE = "*"
_CHECK_CHARACTERS = 2
_FIELD, _PART = "|", ","
_REMEDY = "Ask for the code again, group by group; 'edge-agent status --code' shows it."


@dataclass(frozen=True)
class TaskSummary:
    """One task."""

    task: str
    version: str
    """Of the bundle that answers."""
    state: str
    """A key of TASK_STATES."""
    update: str = ""
    """A key of UPDATE_STATES; empty = the plan does not name the task."""
    to_version: str = ""
    """The version in the plan, if that is another one."""
    alarms: tuple[str, ...] = ()
    """Keys of ALARMS."""


@dataclass(frozen=True)
class SiteSummary:
    """The content of a code."""

    site: str
    agent_version: str
    minutes: int
    """When it was made, in minutes since 1970."""
    serving: bool
    link: str
    """A key of LINK_STATES; empty = there is no uplink."""
    tasks: tuple[TaskSummary, ...]
    """The ones that need attention first."""
    tasks_left_out: int = 0
    """Those that did not fit."""


def encode(summary: SiteSummary) -> str:
    """Return the code, of CODE_CHARACTERS_MAX at most: tasks from the end are left out, and counted."""
    while True:
        code = _encode_text(_text_of(summary))
        if len(code) <= CODE_CHARACTERS_MAX or not summary.tasks:
            return code
        summary = replace(summary, tasks=summary.tasks[:-1], tasks_left_out=summary.tasks_left_out + 1)


def spoken_groups(code: str) -> list[str]:
    """Return a code in groups to be read aloud, each with its check character."""
    parts = [code[start : start + GROUP_CHARACTERS] for start in range(0, len(code), GROUP_CHARACTERS)]
    return [part + _group_check(part, number) for number, part in enumerate(parts)]


def decode(written: str) -> SiteSummary:
    """Read a code: the text of a QR code, or groups as somebody wrote them down.

    Raises:
        DocumentInvalid: a group is wrong, which the error names; or groups are missing or repeated.
    """
    normalized = written.strip().upper()
    scanned = normalized.startswith(PREFIX)
    groups = [group.translate(_MISREAD) for group in re.split(r"[^0-9A-Z]+", normalized.removeprefix(PREFIX)) if group]
    if unknown := sorted(set("".join(groups)) - set(_ALPHABET)):
        raise DocumentInvalid(f"no code has the characters {' '.join(unknown)}", remedy=_REMEDY)
    return _summary_of(_decode_text("".join(groups) if scanned else _join_groups(groups)))


def _join_groups(groups: list[str]) -> str:
    """Return a code without the check characters of its groups; a code without separators is divided first."""
    step = GROUP_CHARACTERS + 1
    if len(groups) == 1:
        groups = [groups[0][start : start + step] for start in range(0, len(groups[0]), step)]
    for number, group in enumerate(groups):
        complete = len(group) == step or (number == len(groups) - 1 and 2 <= len(group) < step)
        if not complete or group[-1] != _group_check(group[:-1], number):
            message = f"group {number + 1} of {len(groups)} is wrong: {group}"
            raise DocumentInvalid(message, remedy="Ask for this group and the previous one again.")
    return "".join(group[:-1] for group in groups)


def _group_check(part: str, number: int) -> str:
    """Return the character that checks a group: a sum over GF(32), with another factor for each place."""
    total, factor = _multiply(number % 31 + 1, 31), 2
    for character in part:
        total ^= _multiply(_ALPHABET.index(character), factor)
        factor = _multiply(factor, 2)
    return _ALPHABET[total]


def _multiply(one: int, other: int) -> int:
    """Multiply in GF(32), by the polynomial x^5 + x^2 + 1."""
    product = 0
    while other:
        if other & 1:
            product ^= one
        one <<= 1
        if one & 32:
            one ^= 0b100101
        other >>= 1
    return product


def _encode_text(text: str) -> str:
    number = 1  # so that the length of the text is kept
    for symbol in text:
        number = number * len(_SYMBOLS) + _SYMBOLS.index(symbol)
    code = ""
    while number:
        number, rest = divmod(number, len(_ALPHABET))
        code = _ALPHABET[rest] + code
    return code + _checksum(code)


def _decode_text(code: str) -> str:
    body, check = code[:-_CHECK_CHARACTERS], code[-_CHECK_CHARACTERS:]
    if not body or check != _checksum(body) or len(code) > CODE_CHARACTERS_MAX:
        raise DocumentInvalid("the code does not fit together: a group is missing, or came twice", remedy=_REMEDY)
    number = 0
    for character in body:
        number = number * len(_ALPHABET) + _ALPHABET.index(character)
    text = ""
    while number > 1:
        number, rest = divmod(number, len(_SYMBOLS))
        text = _SYMBOLS[rest] + text
    return text


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    return "".join(_ALPHABET[number >> shift & 31] for shift in (5, 0))


def _text_of(summary: SiteSummary) -> str:
    head = [
        VERSION,
        _escape(summary.site),
        _escape(summary.agent_version),
        f"{'s' if summary.serving else 'd'}{LINK_STATES.get(summary.link, '')}",
        f"{summary.minutes:x}",
        str(summary.tasks_left_out or ""),
    ]
    return _FIELD.join([*head, *map(_task_text, summary.tasks)])


def _task_text(task: TaskSummary) -> str:
    state = TASK_STATES.get(task.state, "n") + UPDATE_STATES.get(task.update, "")
    alarms = "".join(ALARMS[alarm] for alarm in task.alarms if alarm in ALARMS)
    parts = [_escape(task.task), _escape(task.version), state, _escape(task.to_version), alarms]
    while not parts[-1]:
        parts.pop()
    return _PART.join(parts)


def _summary_of(text: str) -> SiteSummary:
    fields = text.split(_FIELD)
    if fields[0] != VERSION:
        message = f"the code is of version {fields[0][:8]}, and this program reads version {VERSION}"
        raise DocumentInvalid(message, remedy="Read it with a newer edge-convert.")
    try:
        _, site, version, flags, minutes, left_out, *tasks = fields
        return SiteSummary(
            site=_unescape(site),
            agent_version=_unescape(version),
            minutes=int(minutes, 16),
            serving=flags[0] == "s",
            link=_word(LINK_STATES, flags[1:]),
            tasks=tuple(map(_task_of, tasks)),
            tasks_left_out=int(left_out or 0),
        )
    except (ValueError, IndexError):
        raise DocumentInvalid("the code holds no state of a site", remedy=_REMEDY) from None


def _task_of(text: str) -> TaskSummary:
    task, version, state, to_version, alarms = (*text.split(_PART), "", "", "", "")[:5]
    return TaskSummary(
        _unescape(task),
        _unescape(version),
        _word(TASK_STATES, state[:1]),
        _word(UPDATE_STATES, state[1:]),
        _unescape(to_version),
        tuple(_word(ALARMS, letter) for letter in alarms),
    )


def _word(words: dict[str, str], letter: str) -> str:
    """Return the word of a letter; one of a newer version stays as it is."""
    return next((word for word, short in words.items() if short == letter), letter)


def _escape(text: str) -> str:
    plain = set(_SYMBOLS) - {_ESCAPE, _FIELD, _PART}
    return "".join(
        symbol if symbol in plain else "".join(f"{_ESCAPE}{byte:02x}" for byte in symbol.encode()) for symbol in text
    )


def _unescape(text: str) -> str:
    first, *rest = text.split(_ESCAPE)
    raw = first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
    return raw.decode("utf-8")


def attention_first(tasks: Sequence[TaskSummary]) -> tuple[TaskSummary, ...]:
    """Return tasks in the order in which they are kept: with an alarm, not ready, being updated, the rest."""
    return tuple(sorted(tasks, key=lambda task: (not task.alarms, task.state == "ready", task.update in ("", "done"))))

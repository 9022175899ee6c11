"""The root of all errors, escaping of text for screens and logs, and the commands that remedies quote. Pure.

Labels, file names, answers and messages may be untrusted. A terminal would obey control characters in them; line breaks
could forge lines of our output, and direction marks could change how a text reads. All of these are escaped as in
Python; letters of every script stay. JSON needs no escaping.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, ClassVar

# Control characters, the separators of lines and paragraphs, characters that embed, override or isolate a direction,
# and halves of surrogate pairs, which have no bytes.
CONTROL_CHARACTERS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_CHARACTERS_IN_LINES = re.compile(CONTROL_CHARACTERS.pattern.replace("\0-\x1f", "\0-\x08\x0b-\x1f"))
_BREAKS = re.compile(r"[ \t]*[\r\n]\s*")


def printable(text: str) -> str:
    """Return a text on one line, with all such characters escaped."""
    return text if text.isprintable() else CONTROL_CHARACTERS.sub(escape_character, text)


def printable_lines(text: str) -> str:
    """Return a text escaped except for line breaks and tabs, for a long answer or a traceback."""
    return text if text.isprintable() else _CONTROL_CHARACTERS_IN_LINES.sub(escape_character, text)


def one_line(text: str) -> str:
    """Return a sentence escaped on one line; a line break, as in messages of libraries, becomes a blank."""
    return text if text.isprintable() else printable(_BREAKS.sub(" ", text.strip()))


def escape_character(match: re.Match[str]) -> str:
    """Return the escaped form of a character."""
    return ascii(match[0])[1:-1]


def printable_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape the values of a log event, for a processor of structlog. A traceback keeps its lines."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable_lines(value) if name in ("exception", "stack") else printable(value)
    return event


class EdgeAgentError(Exception):
    """The root: never raised itself."""

    reason: ClassVar[str] = "INTERNAL"
    remedy_default: ClassVar[str] = ""
    retryable: ClassVar[bool] = False
    """The same call may succeed later without any intervention."""

    details: tuple[str, ...] = ()
    """Lines that a command shows below the sentence, such as the end of a log."""

    def __init__(self, message: str, *, remedy: str = "", **metadata: object) -> None:
        """Keep message, remedy and dynamic values (as text). The message may quote an untrusted file."""
        super().__init__(one_line(message))
        self.message = one_line(message)
        self.remedy = one_line(remedy) or self.remedy_default
        self.metadata = {key: str(value) for key, value in metadata.items()}


_OUR_COMMAND = re.compile(r"(?<![\w/-])(?<!sudo )edge-agent (?=[a-z])(?!serve\b|help\b|demo\b|run\b|version\b)")
_QUOTED_TEXT = re.compile(r"'[^'\n]+'")


def commands_with_sudo(command: str) -> str:
    """Return a command line with sudo before our commands that need another user's rights."""
    return _OUR_COMMAND.sub("sudo edge-agent ", command)


def with_sudo(text: str) -> str:
    """Return a sentence with sudo before our commands that it quotes."""
    return _QUOTED_TEXT.sub(lambda match: "'" + commands_with_sudo(match[0][1:]), text)


def works_by_sudo(environment: Mapping[str, str], user_id: int) -> bool:
    """Tell whether a person runs this program through sudo; then our other commands need it, too."""
    return user_id == 0 and environment.get("SUDO_UID", "0") != "0"


def sudo_user(environment: Mapping[str, str], user_id: int) -> str:
    """Return the name of the person who runs this program through sudo, for records; empty = nobody.

    A user who may run a program as root may also set this name, so no right depends on it.
    """
    return environment.get("SUDO_USER", "") if works_by_sudo(environment, user_id) else ""


def user_name() -> str:
    """Return the user of this program, or the person behind sudo; 'uid 1000' for a user without a name."""
    try:
        return sudo_user(os.environ, os.geteuid()) or getpass.getuser()
    except (KeyError, OSError):  # KeyError: before Python 3.13
        return f"uid {os.getuid()}"


def first_task_remedy(site: str) -> str:
    """Return the remedy for a machine without a task; `site` is its id, empty before it is enrolled."""
    if site:
        return (
            "'edge-agent media import' brings tasks from the USB drive of the central team, and"
            " 'edge-agent install PATH' installs a bundle."
        )
    return (
        "This machine is not enrolled: 'edge-agent enrol FILE' enrols it with the file of the central team, and"
        " 'edge-agent media import' then brings tasks from the USB drive. 'edge-agent install PATH' installs a bundle"
        " without a signature only where 'allow_unsigned' under 'store' in agent.yaml is true."
    )


CONNECTION_REMEDY = "Leave it out: of these settings only allow_http and proxy_url can be given."
_CONNECTION_SETTING = re.compile(
    r"((aws|azure|google)_)?((allow|http[12]|pool|proxy|randomize)_.*|.*timeout|user_agent|default_content_type)",
    re.IGNORECASE,
)


def connection_setting(options: Iterable[str]) -> str:
    """Return the first option that obstore panics at: a setting of its HTTP client, not of a store; empty = none."""
    settings = (name for name in options if _CONNECTION_SETTING.fullmatch(name))
    return next((name for name in settings if name not in ("allow_http", "proxy_url")), "")

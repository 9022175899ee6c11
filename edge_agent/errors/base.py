"""The root of all errors, and what of a text may reach a screen or a log. Pure.

Labels, file names, answers and messages may come from files and machines of others. A terminal would obey the control
characters in them; line breaks would let them write lines of ours, and marks of direction let them read otherwise than
they are. All of these are shown escaped, as Python writes them; letters of every script stay. JSON needs none of it.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any, ClassVar

# Control characters, the separators of lines and paragraphs, what embeds, overrides or isolates a direction, and
# halves of characters, which have no bytes.
OBEYED = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_OBEYED_IN_LINES = re.compile(OBEYED.pattern.replace("\0-\x1f", "\0-\x08\x0b-\x1f"))
_BREAKS = re.compile(r"[ \t]*[\r\n]\s*")


def printable(text: str) -> str:
    """Return a text on one line, with all of it escaped."""
    return text if text.isprintable() else OBEYED.sub(escaped, text)


def printable_lines(text: str) -> str:
    """Return a text of which lines and tabs stay what they are: a long answer, a traceback."""
    return text if text.isprintable() else _OBEYED_IN_LINES.sub(escaped, text)


def one_line(text: str) -> str:
    """Return a sentence on one line: a break in it, as messages of libraries have them, becomes a blank."""
    return text if text.isprintable() else printable(_BREAKS.sub(" ", text.strip()))


def escaped(found: re.Match[str]) -> str:
    """Return how a character is shown."""
    return ascii(found[0])[1:-1]


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
    """The same call, unchanged, may succeed later without anybody acting."""

    details: tuple[str, ...] = ()
    """Lines that a command shows below the sentence, such as the end of a log."""

    def __init__(self, message: str, *, remedy: str = "", **metadata: object) -> None:
        """Keep the sentence, the remedy and the dynamic values (as text). A sentence may quote a hostile file."""
        super().__init__(one_line(message))
        self.message = one_line(message)
        self.remedy = one_line(remedy) or self.remedy_default
        self.metadata = {key: str(value) for key, value in metadata.items()}

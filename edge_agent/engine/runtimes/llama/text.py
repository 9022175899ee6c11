"""From tokens' bytes to the text that a caller sees: whole characters, and nothing from a stop string on."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


def whole(data: bytes) -> str:
    """Return the text of bytes that are whole characters; nothing for others."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


class TextStream:
    """Turns the bytes of one generation into text.

    A token may hold part of a character, or part of a stop string. What could still become either is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the strings that end the text; none of them is empty."""
        self._stops = tuple(dict.fromkeys(stops))
        self._half = b""
        self._plain = not stops
        """What comes passes at once: nothing is held back."""
        self._held = ""
        self.stopped = False
        """A stop string has come: the text is complete without it."""

    def feed(self, data: bytes, text: str = "") -> str:
        """Return the text that is certain now; nothing once `stopped`. `text`: of the bytes, where it is known."""
        if text and self._plain:
            return text
        if self.stopped:
            return ""
        data = self._half + data if self._half else data
        text, used = codecs.utf_8_decode(data, "replace", False)  # what an incremental decoder of codecs calls itself
        self._half = data[used:]
        self._plain = not (self._stops or self._half)
        if not self._stops:
            return text
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else len(self._held) - self._uncertain()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def finish(self) -> str:
        """Return what was held back for a stop string that did not come. Half a character is dropped."""
        text, self._held = "" if self.stopped else self._held, ""
        return text

    def _uncertain(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

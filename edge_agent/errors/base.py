"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar


class EdgeAgentError(Exception):
    """The root: never raised itself."""

    reason: ClassVar[str] = "INTERNAL"
    remedy_default: ClassVar[str] = ""
    retryable: ClassVar[bool] = False
    """The same call, unchanged, may succeed later without anybody acting."""

    def __init__(self, message: str, *, remedy: str = "", **metadata: object) -> None:
        """Keep the sentence, the remedy and the dynamic values (as text)."""
        super().__init__(shown(message))
        self.message = shown(message)
        self.remedy = shown(remedy) or self.remedy_default
        self.metadata = {key: str(value) for key, value in metadata.items()}


def shown(text: str) -> str:
    """Return a text with everything escaped that a terminal would obey: a sentence may quote a hostile file."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)

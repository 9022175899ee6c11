"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar


class EdgeAgentError(Exception):
    """The root: never raised itself."""

    reason: ClassVar[str] = "INTERNAL"
    remedy_default: ClassVar[str] = ""

    def __init__(self, message: str, *, remedy: str = "", **metadata: object) -> None:
        """Keep the sentence, the remedy and the dynamic values (as text)."""
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.remedy_default
        self.metadata = {key: str(value) for key, value in metadata.items()}

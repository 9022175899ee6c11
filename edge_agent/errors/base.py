"""The root of all errors."""

from __future__ import annotations

from typing import ClassVar

from edge_agent.errors.printable import one_line


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

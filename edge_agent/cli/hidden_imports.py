"""Optional parts of libraries that a process does without, though they are installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

SCREEN_LIBRARIES = ("rich", "better_exceptions")
"""structlog imports them for tracebacks on a terminal; ours are plain, since theirs show what variables hold."""
SIGNING_LIBRARIES = ("boto3", "azure", "google.cloud", "pkcs11", "hvac", "keylet")
"""securesystemslib imports them for signers in the cloud and in hardware. A site verifies, and signs with none."""


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Let imports of these modules fail inside the block, as if they were not installed; loaded ones stay."""
    absent = [name for name in names if name not in sys.modules]
    hide: dict[str, None] = dict.fromkeys(absent)
    sys.modules.update(hide)  # type: ignore[arg-type] # None: the import system then raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]

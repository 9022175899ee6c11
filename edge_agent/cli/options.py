"""The options that stand before the command, as they were given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GlobalOptions:
    """None = not given."""

    config: Path | None = None
    state_dir: Path | None = None
    run_dir: Path | None = None
    remote: Path | None = None

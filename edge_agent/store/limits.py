"""What a bundle may cost the site."""

from __future__ import annotations

from dataclasses import dataclass

GIBIBYTE = 2**30
MEBIBYTE = 2**20


@dataclass(frozen=True)
class StoreLimits:
    """Limits of one store. A bundle beyond them is refused before anything is written."""

    bundle_bytes_max: int = 16 * GIBIBYTE
    """Largest bundle, all files together."""
    file_bytes_max: int = 16 * GIBIBYTE
    """Largest single file."""
    files_max: int = 65
    """Files of a bundle with its manifest: one more than a manifest may name."""
    bundles_per_task_max: int = 10
    """Bundles kept for each task. The oldest that neither answers nor is kept for rollback makes room for a new one;
    the active, the previous and the newest bundle stay whatever the limit."""
    disk_reserve_bytes: int = 64 * MEBIBYTE
    """Bytes that an install leaves free on the disk, so that state, logs and a rollback still have room."""

"""From raw records to examples: forget, then join again those tasks whose records have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from convert.collect import database, joined, raw
from convert.collect.erase import erase
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest

_DONE, _SPILL = "done.json", ".spill"
# Goes up when the same records would give other examples than before: everything is then joined anew.
_FORM = f"4 duckdb {duckdb.__version__}"
_FINGERPRINTS = """
    SELECT task, count(*) || '-' || bit_xor(hash(site, epoch, sequence, line, record_id))
    FROM records WHERE task IS NOT NULL GROUP BY task ORDER BY task
"""


@dataclass(frozen=True)
class DerivedExamples:
    """What came of it."""

    records_erased: int
    tasks: list[joined.TaskExampleCounts]


def derive(out: Path, memory_bytes: int, progress: Callable[[str], None]) -> DerivedExamples:
    """Bring the examples below `out` up to date with the raw files there.

    Raises:
        InvalidRequest: the memory is not enough.
        OSError: a file cannot be written; the next run goes on from there.
    """
    folder = out / raw.FOLDER
    try:
        progress("forget what was erased")
        with database.opened(folder, out / _SPILL, memory_bytes) as connection:
            erased = erase(connection)
        with database.opened(folder, out / _SPILL, memory_bytes) as connection:
            return DerivedExamples(erased, _join(connection, out, progress))
    except duckdb.OutOfMemoryException:
        said = f"{memory_bytes // 1024**2} MiB of memory are not enough to join what was collected"
        remedy = "Allow more with --memory-mib, and run the command again: what was taken in is on the disk."
        raise InvalidRequest(said, remedy=remedy) from None


def _join(
    connection: duckdb.DuckDBPyConnection, out: Path, progress: Callable[[str], None]
) -> list[joined.TaskExampleCounts]:
    examples, done = out / joined.FOLDER, _done(out)
    examples.mkdir(exist_ok=True)
    found = {task: f"{_FORM} {print_}" for task, print_ in connection.execute(_FINGERPRINTS).fetchall()}
    for task, fingerprint in found.items():
        files = _files(examples / f"task={task}")
        if task not in done or (done[task]["fingerprint"], done[task]["files"]) != (fingerprint, files):
            counts = joined.join(connection, task, examples, progress)
            files = _files(examples / f"task={task}")
            done[task] = {"fingerprint": fingerprint, "files": files, "counts": asdict(counts)}
            _write(out, done)
    for task in done.keys() - found.keys():  # everything that was known of it has been erased
        shutil.rmtree(examples / f"task={task}", ignore_errors=True)
        del done[task]
        _write(out, done)
    return [joined.TaskExampleCounts(**done[task]["counts"]) for task in found]


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _done(out: Path) -> dict[str, Any]:
    path = out / _DONE
    plain: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return plain


def _write(out: Path, done: dict[str, Any]) -> None:
    atomic_files.write_atomically(out / _DONE, json.dumps(done, indent=1, sort_keys=True).encode() + b"\n")

"""Derives examples from raw records: erases what tombstones name, then joins the tasks whose records have changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from convert.collect import database, example_files, record_files
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest

_DONE, _SPILL = "done.json", ".spill"
# Raised when the same records give different examples than before; everything is then joined again.
_FORM = f"6 duckdb {duckdb.__version__}"
_FINGERPRINTS = """
    SELECT task, count(*) || '-' || bit_xor(hash(site, epoch, sequence, line, record_id))
    FROM records WHERE task IS NOT NULL GROUP BY task ORDER BY task
"""


# Tombstones stay, so that a prediction that arrives late, or again, is erased too. A tombstone counts for its own site
# only.
_FORGOTTEN = """
    SELECT DISTINCT r.filename, r.site, r.prediction_id
    FROM records r
    JOIN (SELECT DISTINCT site, prediction_id FROM records WHERE type = 'tombstone') t USING (site, prediction_id)
    WHERE r.type <> 'tombstone'
    ORDER BY ALL
"""


@dataclass(frozen=True)
class DerivedExamples:
    """The number of erased records, whose they were, and the counts of each task."""

    records_erased: int
    erased: tuple[str, ...]
    """Erased predictions, as SITE/PREDICTION_ID."""
    tasks: list[example_files.TaskExampleCounts]


def derive(
    out: Path,
    memory_bytes: int,
    progress: Callable[[str], None],
    erasing: Callable[[Sequence[str]], None] = lambda _: None,
) -> DerivedExamples:
    """Bring the examples below `out` up to date with the raw files there.

    `erasing` is called with the predictions, as SITE/PREDICTION_ID, before the first of them is erased: after a kill
    the next run erases the rest, and calls it again.

    Raises:
        InvalidRequest: the memory is not enough.
        OSError: a file cannot be written; the next run continues from there.
    """
    folder = out / record_files.FOLDER
    try:
        progress("erase records")
        with database.opened(folder, out / _SPILL, memory_bytes) as connection:
            erased, names = erase(connection, erasing)
        with database.opened(folder, out / _SPILL, memory_bytes) as connection:
            return DerivedExamples(erased, names, _join(connection, out, progress))
    except duckdb.OutOfMemoryException:
        said = f"{memory_bytes // 1024**2} MiB of memory are not enough to join the collected records"
        remedy = "Allow more with --memory-mib, and run the command again: the segments are stored."
        raise InvalidRequest(said, remedy=remedy) from None


def _join(
    connection: duckdb.DuckDBPyConnection, out: Path, progress: Callable[[str], None]
) -> list[example_files.TaskExampleCounts]:
    examples, done = out / example_files.FOLDER, _done(out)
    examples.mkdir(exist_ok=True)
    found = {task: f"{_FORM} {print_}" for task, print_ in connection.execute(_FINGERPRINTS).fetchall()}
    for task, fingerprint in found.items():
        files = _files(examples / f"task={task}")
        if task not in done or (done[task]["fingerprint"], done[task]["files"]) != (fingerprint, files):
            counts = example_files.join(connection, task, examples, progress)
            files = _files(examples / f"task={task}")
            done[task] = {"fingerprint": fingerprint, "files": files, "counts": asdict(counts)}
            _write(out, done)
    for task in done.keys() - found.keys():  # all of its records have been erased
        shutil.rmtree(examples / f"task={task}", ignore_errors=True)
        del done[task]
        _write(out, done)
    return [example_files.TaskExampleCounts(**done[task]["counts"]) for task in found]


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _done(out: Path) -> dict[str, Any]:
    path = out / _DONE
    plain: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return plain


def _write(out: Path, done: dict[str, Any]) -> None:
    atomic_files.write_atomically(out / _DONE, json.dumps(done, indent=1, sort_keys=True).encode() + b"\n")


def erase(
    connection: duckdb.DuckDBPyConnection, erasing: Callable[[Sequence[str]], None] = lambda _: None
) -> tuple[int, tuple[str, ...]]:
    """Rewrite every file that still holds an erased prediction; return the number of removed records, and whose.

    Raises:
        OSError: a file cannot be written; files already rewritten stay so.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for filename, site, prediction_id in connection.execute(_FORGOTTEN).fetchall():
        found.setdefault(filename, set()).add((site, prediction_id))
    erased = tuple(sorted({f"{site}/{prediction}" for names in found.values() for site, prediction in names}))
    if erased:
        erasing(erased)
    return sum(record_files.forget(Path(filename), names) for filename, names in found.items()), erased

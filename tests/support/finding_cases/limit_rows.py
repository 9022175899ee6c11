"""Rows of limits that are reached: memory, the spool, the outbox; and of databases of another version."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.client import ExamplesStatus
from edge_agent.doctor.capture_checks import NEARLY_FULL
from tests.support.finding_cases.case import made
from tests.support.finding_cases.exchange_rows import collecting
from tests.support.finding_cases.site import TASK, FaultySite

LIMIT_BYTES = 2**20
ADDED_TABLES = ("updates", "trust", "roots")
"""What version 2 of state.db has more."""


def _reserve(size: int | None) -> Callable[[FaultySite], None]:
    return lambda site: site.edit(engine={"memory_reserve_bytes": size})


made("memory/warning/f-below-the-reserve-of", by_hand=_reserve(None))(_reserve(2**46))


def _small(key: str) -> Callable[[Path], Mapping[str, Any]]:
    def settings(folder: Path) -> Mapping[str, Any]:
        found = collecting(folder)
        return {**found, "examples": {**found["examples"], key: LIMIT_BYTES}}

    return settings


def _raise(key: str, check: str) -> Callable[[FaultySite], None]:
    def raise_limit(site: FaultySite) -> None:
        site.edit(examples={key: None})
        site.restart()
        site.until_found(check, is_found=False)

    return raise_limit


def _collect(site: FaultySite, check: str, measure: Callable[[ExamplesStatus], int], *, seals: bool) -> None:
    """Capture incompressible examples until the limit is nearly reached."""
    with site.daemon.client() as client, site.daemon.admin() as admin:

        def is_nearly_full() -> bool:
            client.classify(TASK, [secrets.token_hex(1500) for _ in range(8)])
            if seals:
                admin.seal_examples()
            examples = admin.status().examples
            assert examples is not None
            return measure(examples) > NEARLY_FULL * LIMIT_BYTES

        site.until(is_nearly_full)
    site.until_found(check)


made("spool/warning/nearly-full", settings=_small("spool_bytes_max"), by_hand=_raise("spool_bytes_max", "spool"))(
    lambda site: _collect(site, "spool", lambda found: found.spool_bytes, seals=False)
)
made("outbox/warning/nearly-full", settings=_small("outbox_bytes_max"), by_hand=_raise("outbox_bytes_max", "outbox"))(
    lambda site: _collect(site, "outbox", lambda found: found.outbox_bytes, seals=True)
)


def _version(site: FaultySite, version: int | None) -> None:
    """Write the version of the schema, or the one that was there."""
    kept = site.folder / "version"
    with sqlite3.connect(site.daemon.state_dir / "state.db") as database:
        [(now,)] = database.execute("PRAGMA user_version")
        kept.write_text(kept.read_text() if kept.exists() else str(now))
        database.execute(f"PRAGMA user_version = {int(kept.read_text()) if version is None else version}")
    database.close()


def _newer_program(site: FaultySite) -> None:
    """Install the newer program again: this one, for which the schema is then its own."""
    _version(site, None)
    site.restart()


@made(
    "database/fault/was-written-by-a-newer-version-schema-this-one-knows",
    has_task=False,
    with_it=("daemon", "socket", "updates-believed"),
    by_hand=_newer_program,
)
def state_of_a_newer_program(site: FaultySite) -> None:
    """Somebody went back to an older program, which cannot read the state."""
    site.daemon.stop()
    _version(site, 999)


@made(
    "database/note/schema-the-daemon-upgrades-it-to-when-it-starts",
    with_it=("daemon", "socket"),
)
def state_of_an_older_program(site: FaultySite) -> None:
    """The program was upgraded, and the daemon has not been started since: the state is that of version 1."""
    site.daemon.stop()
    with closing(sqlite3.connect(site.daemon.state_dir / "state.db")) as database, database:
        for table in ADDED_TABLES:
            database.execute(f"DROP TABLE {table}")
        database.execute("PRAGMA user_version = 1")

"""Looks at the state directory, its databases (in a copy) and the exchange folders."""

from __future__ import annotations

import itertools
from pathlib import Path

from edge_agent.capture.spool import SCHEMA_VERSION as SPOOL_VERSION
from edge_agent.doctor.files import ENTER, READ, WRITE, File, Person
from edge_agent.doctor.probes import database
from edge_agent.doctor.probes.place import DAEMON_USER, EXCHANGE_GROUP, UPLINK_USER, above, content, look
from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.state import DatabaseFacts, Exchanged, StateFacts
from edge_agent.store.state_database import SCHEMA_VERSION as STATE_VERSION

ENTRIES_MAX = 5000
_HEADER = b"SQLite format 3\0"
_VERSION_AT = 60  # of the file format: user_version, 4 bytes, the highest first


def state_dir(case: Case) -> StateFacts:
    """Look at the folder and at who owns what in it."""
    path = case.place.config.state_dir.absolute()
    folder = look(path)
    strangers = tuple(_strangers(path, folder.uid)) if folder.kind == "folder" else ()
    return StateFacts(folder, above(path), case.person, strangers)


def _strangers(path: Path, uid: int) -> list[File]:
    entries = itertools.islice(path.glob("**/*"), ENTRIES_MAX)
    return [file for file in map(look, entries) if file.kind and file.uid != uid]


def databases(case: Case) -> tuple[DatabaseFacts, ...]:
    """Look at the first bytes of each; and, while no daemon has it open, let SQLite check a copy."""
    folder = case.place.config.state_dir
    found = []
    for name, known in (("state.db", STATE_VERSION), ("spool.db", SPOOL_VERSION)):
        file = look(folder / name)
        if file.kind:
            version = _version(folder / name)
            asked = name == "state.db" and not case.answering.pid and 0 < version <= known
            found.append(DatabaseFacts(file, version, known, database.damage(folder / name) if asked else ""))
    return tuple(found)


def _version(path: Path) -> int:
    head = content(path, 100)
    if not head:
        return 0
    return int.from_bytes(head[_VERSION_AT : _VERSION_AT + 4], "big") if head.startswith(_HEADER) else -1


def exchange(case: Case) -> tuple[Exchanged, ...]:
    """Look at the folders that both daemons use, where they are two users; none otherwise."""
    config, place = case.place.config, case.place
    daemon, uplink = place.person(DAEMON_USER), place.person(UPLINK_USER)
    if not (daemon and uplink) or not (config.uplink.url or config.uplink.updates_url):
        return ()
    takes, brings = READ | ENTER, READ | WRITE | ENTER
    wanted: list[tuple[str, Path, tuple[tuple[Person, int], ...]]] = [
        ("outbox", config.outbox, ((daemon, brings), (uplink, takes))),
        ("receipts", config.receipts, ((daemon, takes), (uplink, brings))),
        ("incoming", config.incoming, ((daemon, takes), (uplink, brings))),
        ("wants", config.wants.parent, ((daemon, brings), (uplink, takes))),
        ("notes", config.uplink_notes, ((daemon, takes), (uplink, brings))),
    ]
    needed = [each for each in wanted if config.uplink.updates_url or each[0] not in ("incoming", "wants")]
    return tuple(
        Exchanged(what, look(path), above(path), needs, 0o2750, EXCHANGE_GROUP) for what, path, needs in needed
    )

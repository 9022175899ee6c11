"""Looks at agent.yaml, what the centre gave, and the credentials; never into them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from edge_agent.doctor.files import Person
from edge_agent.doctor.probes.place import DAEMON_USER, UPLINK_USER, above, content, look
from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.settings import ConfigFacts, EnrolmentFacts, KeyFacts, Reader, RootFacts, Secret

_KEY_BEGIN = b"-----BEGIN PRIVATE KEY-----"
_SEALED, _PLAIN = "etc/credstore.encrypted/edge-agent-{name}.cred", "etc/credstore/edge-agent-{name}.cred"


def config(case: Case) -> ConfigFacts:
    """Look at the files of the configuration."""
    place = case.place
    return ConfigFacts(
        sources=tuple(map(look, place.sources)),
        problem=place.problem,
        remedy=place.remedy,
        started=case.status.start_time.timestamp() if case.status else None,
        readers=tuple(_readers(case)) if _shared(case) else (),
        allow_unsigned=place.config.store.allow_unsigned,
        overruled=place.overruled,
    )


def _readers(case: Case) -> Iterator[Reader]:
    """Name each file that a daemon's user has to read, and the user."""
    place, root_file = case.place, case.place.config.update.root_file
    users = [user for user in map(place.person, (DAEMON_USER, UPLINK_USER)) if user]
    for path in filter(Path.exists, place.sources):
        yield from (_reader(path, user) for user in users)
    if root_file and users and Path(root_file).exists():
        yield _reader(Path(root_file), users[0])


def _shared(case: Case) -> bool:
    """Tell whether other users than this one read the configuration: that of an installed appliance."""
    etc = case.place.at("etc/edge-agent")
    return any(path.parent == etc for path in case.place.sources)


def _reader(path: Path, user: Person | None) -> Reader:
    return Reader(look(path), above(path), user)


def enrolment(case: Case) -> EnrolmentFacts:
    """Read what the centre gave."""
    config = case.place.config
    return EnrolmentFacts(
        site=config.site.id,
        recipients=len(config.site.recipients),
        receipt_keys=len(config.site.receipt_keys),
        upstream=config.uplink.url,
        updates=config.uplink.updates_url,
        upstream_consent="upstream" in config.examples.collect.values(),
    )


def root(case: Case) -> RootFacts:
    """Look at the root of trust as it was handed over."""
    config = case.place.config
    path, updates = config.update.root_file, config.uplink.updates_url
    if not path:
        return RootFacts("", updates)
    if not Path(path).exists():
        return RootFacts(path, updates)
    try:
        version, expires = signed_part(Path(path), "root")
    except ValueError as error:
        return RootFacts(path, updates, there=True, problem=str(error))
    return RootFacts(path, updates, True, "", version, expires - time.time())


def signed_part(path: Path, role: str) -> tuple[int, float]:
    """Return version and end (seconds since 1970) of TUF metadata, unverified. Raises OSError, ValueError."""
    raw = content(path)
    try:
        signed = json.loads(raw)["signed"]
        kind, version, expires = signed["_type"], int(signed["version"]), datetime.fromisoformat(signed["expires"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"it is not the metadata of a {role}") from None
    if kind != role or expires.tzinfo is None:
        raise ValueError(f"it is metadata of {kind!r}, not of {role}")
    return version, expires.timestamp()


def site_key(case: Case) -> KeyFacts:
    """Look at the first bytes of the key."""
    config = case.place.config
    path = config.state_dir / "site.key"
    file = look(path)
    whole = file.kind == "file" and content(path, len(_KEY_BEGIN)) == _KEY_BEGIN
    return KeyFacts(file, whole, bool(config.site.id and config.site.recipients))


def credentials(case: Case) -> tuple[Secret, ...]:
    """Look where each credential is, and who may read it."""
    uplink, escalation = case.place.config.uplink, case.place.config.escalation
    named = (
        ("uplink", uplink.url, uplink.credentials_file),
        ("uplink-updates", uplink.updates_url, uplink.updates_credentials_file),
        ("escalation", escalation.url, escalation.credentials_file),
    )
    return tuple(_secret(case, what, place, file) for what, place, file in named if place)


def _secret(case: Case, what: str, place: str, named: str) -> Secret:
    sealed, plain = (case.place.at(path.format(name=what)) for path in (_SEALED, _PLAIN))
    if named:
        user = case.place.person(UPLINK_USER) if _shared(case) else None
        path = Path(named)
        readers = (Reader(look(path), above(path), user),)
        return Secret(what, place, look(path), sealed=False, readers=readers)
    # systemd opens these as root, and hands them to the uplink alone.
    path = plain if plain.exists() and not sealed.exists() else sealed
    return Secret(what, place, look(path), sealed=path == sealed, readers=())

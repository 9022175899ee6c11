"""Publishing that is stopped before each of its writes: sites accept the result, and the same command completes it.

Unlike the sweep over system calls in tests/process/test_publish_crash.py this needs no strace and no file system, so it
also covers object stores, which store an object as a whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from convert.publish import key_rotation, keyring, media_writer
from convert.publish.key_rotation import KeyRotation
from convert.publish.keyring import Keyring
from convert.publish.media_writer import MediaOrder
from convert.publish.publisher import Publisher
from convert.publish.repository_check import CheckScope, check
from convert.publish.repository_storage import FolderStorage
from tests.support.bundles import digest_of, echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.tuf_client import Client


class PublisherKilled(Exception):
    """Raised where the publisher is killed."""


class KillingStorage(FolderStorage):
    """A store whose publisher is killed before the given write, counted from 0."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.left = writes

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        if self.left == 0:
            raise PublisherKilled(path)
        self.left -= 1
        super().write(path, content)


def rotating(role: str) -> Callable[[Publisher, Path], None]:
    """Return a change that rotates a role; its second run finds the key that was made."""

    def change(publisher: Publisher, place: Path) -> None:
        there = key_rotation.keyids(publisher.read_state(), role)
        new = next(named for named in publisher.keys.keys if named.name == f"{role}-new")
        if new.key.keyid not in there:
            key_rotation.rotate(publisher, KeyRotation(role, (new,), (there[0],)))

    return change


def revoking(publisher: Publisher, place: Path) -> None:
    """Revoke the bundle that the plan does not name."""
    unwanted = digest_of(place.parent / "unwanted")
    if unwanted in publisher.read_state().bundles():
        publisher.revoke(unwanted)


CHANGES: dict[str, Callable[[Publisher, Path], object]] = {
    "publish": lambda publisher, place: publisher.publish(place.parent / "bundle"),
    "plan": lambda publisher, _: publisher.set_plan(publisher.read_state().plan.model_copy(update={"channels": {}})),
    "renew": lambda publisher, _: publisher.renew("root", "targets", "plan"),
    "revoke": revoking,
    "drive": lambda publisher, place: media_writer.write(publisher, MediaOrder(place / "drive", 30)),
    **{f"rotate {role}": rotating(role) for role in ("root", "targets", "plan", "online")},
}


class PreparedRepository:
    """A repository with a planned and an unplanned bundle, copied for each stop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        central = CentralTeam(root / "ready")
        self.anchor = central.root_bytes
        self.wanted = central.publish(echo_bundle(root / "wanted", weights=b"weights"))
        central.publish(echo_bundle(root / "unwanted", weights=b"weights", version="0.9.0"))
        central.plan(central.offering(self.wanted))
        echo_bundle(root / "bundle", weights=b"other weights", version="1.1.0")
        for role in ("root", "targets", "plan", "online"):
            keyring.make(central.keys, f"{role}-new", role)
        (root / "ready" / "drive").mkdir()
        Client(root / "ready" / "site", self.anchor).refresh(central.folder)

    def fresh(self) -> Path:
        """Return a new copy."""
        shutil.rmtree(self.root / "now", ignore_errors=True)
        return shutil.copytree(self.root / "ready", self.root / "now")

    def run(self, name: str, place: Path, writes: int) -> bool:
        """Make a change as a separate process would; return False if it was stopped."""
        publisher = Publisher(
            KillingStorage(place / "repository", writes), Keyring([place / "signing-keys"], lambda _: "")
        )
        try:
            CHANGES[name](publisher, place)
        except PublisherKilled:
            return False
        return True

    def accepted(self, place: Path) -> set[frozenset[str]]:
        """Return the bundles that a site with the old state and a new site accept."""
        caches = (place / "site", place / "newcomer")
        return {Client(cache, self.anchor).refresh(place / "repository").bundles for cache in caches}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> PreparedRepository:
    """Return a repository to change."""
    return PreparedRepository(tmp_path_factory.mktemp("ready"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_change_stopped_before_any_write_is_completed(ready: PreparedRepository, name: str):
    """After a stop before any write, sites see the old or the new state, and the next run completes the change."""
    after = frozenset() if name == "plan" else frozenset({ready.wanted})
    stops = 0
    while True:
        place = ready.fresh()
        done = ready.run(name, place, stops)
        assert ready.accepted(place) <= {frozenset({ready.wanted}), after}
        assert ready.run(name, place, 1000)
        assert {after} == ready.accepted(place)
        found = check(FolderStorage(place / "repository"), ready.anchor, 0, CheckScope(), lambda *_: None)
        assert [] == found.problems
        if done:
            break
        stops += 1
    assert stops >= (1 if name == "drive" else 3)


def test_creation_stopped_before_any_write_is_completed(tmp_path: Path):
    """After a stop during its creation a repository has no timestamp, and the next run completes it."""
    keys = CentralTeam(tmp_path / "keys")
    for writes in range(20):
        repository = tmp_path / str(writes)
        publisher = Publisher(KillingStorage(repository, writes), Keyring([keys.keys], lambda _: ""))
        try:
            publisher.create()
        except PublisherKilled:
            assert not (repository / "metadata" / "timestamp.json").exists()
        Publisher(FolderStorage(repository), Keyring([keys.keys], lambda _: "")).create()
        assert frozenset() == Client(tmp_path / f"site-{writes}", keys.root_bytes).refresh(repository).bundles
    assert publisher.storage.left > 0

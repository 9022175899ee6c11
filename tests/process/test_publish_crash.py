"""Publishing killed, or with a disk error, at every relevant system call: sites always accept the repository.

One process creates a repository, signs a bundle, publishes a plan, exports the online key and writes a USB drive. It is
killed at each call. Then a site that knew the repository before, and one that did not, read it with python-tuf's
client; the same commands run again, and the result is the same as without a kill.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convert.publish.keyring import make
from convert.publish.repository_check import CheckScope, check
from convert.publish.repository_storage import FolderStorage
from tests.support.bundles import digest_of, echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.strace import WRITING, Point, failed_at, killed_at, needs_strace, points, sample
from tests.support.tuf_client import Client

SECONDS_MAX = 120
SOME = 16
PLAN_BYTES_MAX = 1000
COMMANDS = """
import sys
from pathlib import Path
from convert.publish import key_rotation, media_writer, plan_text
from convert.publish.keyring import Keyring
from convert.publish.repository_storage import FolderStorage
from convert.publish.publisher import Publisher
from convert.publish.key_rotation import KeyRotation

place = Path(sys.argv[1])
keys = Keyring([place / "signing-keys"], lambda folder: "")
publisher = Publisher(FolderStorage(place / "repository"), keys)
publisher.create()
publisher.publish(place / "bundle")
text = "channels: {stable: {tasks: {pos-intent: {offers: [{version: 1.1.0}]}}}}"
publisher.set_plan(plan_text.read(text, publisher.read_state().bundles()))
new = next(named for named in keys.keys if named.name == "online-2")
there = key_rotation.keyids(publisher.read_state(), "online")
if new.key.keyid not in there:
    key_rotation.rotate(publisher, KeyRotation("online", (new,), tuple(there)))
media_writer.write(publisher, media_writer.MediaOrder(place / "drive", 30))
"""


class Fleet:
    """A repository with an earlier bundle in force, to be copied for each point, and the changes to publish."""

    def __init__(self, root: Path, *, made: bool) -> None:
        self.root, self.made = root, made
        ready = root / "ready"
        central = CentralTeam(ready)
        self.anchor = central.root_bytes
        self.old = central.publish(echo_bundle(root / "old", weights=b"w" * 5000))
        central.plan(central.offering(self.old))
        echo_bundle(ready / "bundle", weights=b"w" * 5000, version="1.1.0")
        self.new = digest_of(ready / "bundle")
        (ready / "drive").mkdir()
        Client(root / "site", self.anchor).refresh(central.folder)
        make(ready / "signing-keys", "online-2", "online")
        if not made:
            shutil.rmtree(central.folder)
            (ready / "signing-keys" / "seen.json").unlink()

    def fresh(self) -> Path:
        """Return a new copy of the repository, the keys and the site's cache."""
        shutil.rmtree(self.root / "now", ignore_errors=True)
        shutil.copytree(self.root / "site", self.root / "now" / "site")
        return shutil.copytree(self.root / "ready", self.root / "now", dirs_exist_ok=True)

    def publish(self, place: Path, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the commands in a separate process."""
        command = [*tracer, sys.executable, "-B", "-c", COMMANDS, str(place)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)

    def points(self) -> list[Point]:
        """Count the calls of one undisturbed run."""
        return points(lambda *tracer: self.publish(self.fresh(), *tracer), self.root / "log")

    def check(self, place: Path) -> None:
        """Read the repository as two sites; run the commands again; read the result."""
        repository = place / "repository"
        if self.made or (repository / "metadata" / "timestamp.json").exists():
            for cache in (place / "site", place / "newcomer") if self.made else (place / "newcomer",):
                seen = Client(cache, self.anchor).refresh(repository)
                assert seen.bundles in ({self.old} if self.made else set(), {self.new})
        if (place / "drive" / "metadata" / "timestamp.json").exists():
            assert {self.new} == Client(place / "carried", self.anchor).refresh(place / "drive").bundles
        again = self.publish(place)
        assert 0 == again.returncode, again.stderr
        for cache, source in (("site", repository), ("late", repository), ("other", place / "drive")):
            if self.made or cache != "site":
                assert {self.new} == Client(place / cache, self.anchor).refresh(source).bundles
        found = check(FolderStorage(repository), self.anchor, 0, CheckScope(), lambda *_: None)
        assert [] == found.problems
        # A plan says when it was issued, so that what a kill has left of one is not finished by the next run.
        assert [] == [path for path in repository.rglob("*.partial") if path.stat().st_size > PLAN_BYTES_MAX]


@pytest.fixture(scope="module", params=["in force", "not there yet"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Return a fleet with changes to publish."""
    return Fleet(tmp_path_factory.mktemp("fleet"), made=request.param == "in force")


def sweep(fleet: Fleet, chosen: list[Point]) -> None:
    """Kill one run at each point."""
    for call, number in chosen:
        place = fleet.fresh()
        assert fleet.publish(place, *killed_at(call, number)).returncode != 0, (call, number)
        fleet.check(place)


@pytest.mark.slow
@needs_strace
def test_kill_at_sampled_points_leaves_a_valid_repository(fleet: Fleet):
    """After a kill at a sampled call, sites accept the old or the new state of the repository."""
    sweep(fleet, sample(fleet.points(), 2))


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_leaves_a_valid_repository(fleet: Fleet):
    """After a kill at any call, sites accept the repository; while the first one is created, on which no site relies,
    some calls are sampled."""
    every = fleet.points()
    sweep(fleet, every if fleet.made else sample(every, SOME))


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_disk_leaves_a_valid_repository(fleet: Fleet, error: str):
    """If one write or sync fails, sites accept the repository, and the next run completes it."""
    writing = [point for point in fleet.points() if point[0] in WRITING]
    for call, number in sample(writing, SOME):
        place = fleet.fresh()
        fleet.publish(place, *failed_at(call, number, error))
        fleet.check(place)

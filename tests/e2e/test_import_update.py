"""`edge-agent media import` of updates from a USB drive against the real daemon."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import app
from edge_agent.client import TaskUpdate
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.store_cases import bundle, sha256_of
from tests.support.trust_cases import damage

GOLDEN = b'{"input": "is it", "answer": "yes", "scores": [0.5, 0.5]}\n'
Run = Callable[..., Result]


def refused(result: Result, said: str, remedy: str) -> None:
    """Check that the command exits with 5 and shows this problem and this remedy."""
    told = " ".join(result.stderr.split())
    assert (5, True, True) == (result.exit_code, said in told, remedy in told), result.output


class DriveUpdates:
    """A central team, a site that gets its updates from USB drives only, and the folder of the drives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.central = CentralTeam(folder / "central")
        (folder / "root.json").write_bytes(self.central.root_bytes)
        update = {"root_file": str(folder / "root.json"), "check_seconds": 0.1}
        site = {"id": "site-1"}
        self.daemon = RunningDaemon(folder / "site", update=update, site=site, store={"allow_unsigned": False})

    def publish(self, version: str) -> str:
        """Publish a bundle and a plan that names it."""
        path = bundle(self.folder / version, version, weights=b"w" * 3_000_000, adapter=version.encode())
        digest = self.central.publish(path)
        self.central.plan(self.central.offering(digest))
        return digest

    def drive(self, name: str) -> Path:
        """Write a USB drive with the published files."""
        return self.central.drive(self.folder / name)

    def repository(self, name: str) -> Path:
        """Copy the whole repository, because no USB drive is written for a plan without bundles."""
        return self.central.copy(self.folder / name)

    def run(self, *arguments: str) -> Result:
        """Run edge-agent for that daemon."""
        return CliRunner().invoke(app, [*self.daemon.command()[3:], *arguments])

    def update(self, task: str = "pos") -> TaskUpdate:
        """Return the task's update in status."""
        with self.daemon.admin() as admin:
            updates = admin.status().updates
        assert updates is not None
        return next(each for each in updates.tasks if each.task == task)

    def answering(self) -> str:
        """Return the version that answers."""
        with self.daemon.admin() as admin:
            return next((task.bundle.version for task in admin.status().tasks), "")


@pytest.fixture(scope="module")
def brought(tmp_path_factory) -> Iterator[DriveUpdates]:
    made = DriveUpdates(tmp_path_factory.mktemp("fleet"))
    with made.daemon:
        yield made


def test_import_installs_first_and_next_bundle(brought):
    """A site without unsigned bundles installs a first and a second signed version from drives, and refuses the older
    drive afterwards."""
    brought.publish("1.0.0")
    first = brought.drive("first")
    result = brought.run("media", "import", str(first))
    assert 0 == result.exit_code, result.output
    eventually_sync(lambda: brought.answering() == "1.0.0")
    with brought.daemon.admin() as admin:
        assert [True] == [each.signed for each in admin.bundles()]
    brought.publish("2.0.0")
    second = brought.drive("second")
    (second / "site=site-9").mkdir()
    (second / "site=site-9" / "receipts.json").write_text("{}")
    result = brought.run("media", "import", str(second))
    assert (0, True) == (result.exit_code, "The receipts on it were not taken" in result.stdout), result.output
    eventually_sync(lambda: brought.answering() == "2.0.0")
    old = brought.run("media", "import", str(first))
    said = " ".join(old.stderr.split())
    assert (5, True) == (old.exit_code, "older than what this site has seen" in said), old.output
    assert "Have the central team write a new USB drive" in said
    assert "2.0.0" == brought.answering()


def test_drive_of_other_fleet_is_refused(brought):
    """The import of a drive of another fleet, which has another root of trust, exits with 5."""
    other = CentralTeam(brought.folder / "other", whose="theirs")
    other.plan(other.offering(other.publish(bundle(brought.folder / "theirs", weights=b"x"))))
    result = brought.run("media", "import", str(other.drive(brought.folder / "foreign")))
    assert (5, True) == (result.exit_code, "belongs to another fleet" in " ".join(result.stderr.split())), result.output


def test_empty_or_incomplete_drive_is_refused_with_remedy(brought, tmp_path):
    """The import of a drive without receipts and updates, or of one without its timestamp, exits with 5 and has a
    remedy."""
    result = brought.run("media", "import", str(tmp_path))
    assert (5, True) == (result.exit_code, "edge-convert media" in result.stderr), result.output
    brought.publish("3.0.0")
    drive = brought.drive("damaged")
    timestamp = (drive / "metadata" / "timestamp.json").read_bytes()
    damage(drive / "metadata" / "timestamp.json", "gone")
    refused(brought.run("media", "import", str(drive)), "timestamp.json is missing", "written to its end")
    (drive / "metadata" / "timestamp.json").write_bytes(timestamp)


@pytest.mark.parametrize("how", ["gone", "truncated", "flipped"])
def test_damaged_drive_is_refused_and_complete_one_installed(how, brought):
    """The import of a drive with a missing or damaged file exits with 5, names the damage and changes nothing; the
    complete drive is installed at once."""
    before = brought.answering()
    version = {"gone": "4.0.0", "truncated": "4.1.0", "flipped": "4.2.0"}[how]
    brought.publish(version)
    drive = brought.drive(version)
    damage(drive / "blobs" / sha256_of(version.encode()), how)
    result = brought.run("media", "import", str(drive))
    refused(result, f"pos {version} was not installed", "The central team writes drives")
    what = {"gone": "is not there", "truncated": "is cut short, to 2 bytes of 5 bytes", "flipped": "is damaged"}
    line = next(each for each in result.stdout.splitlines() if each.startswith(f"not taken: pos {version}: "))
    assert (True, True) == (what[how] in line, "have the USB drive written again for this site" in line), result.output
    waiting = brought.update()
    assert ("WAITING", "UPDATE_INCOMPLETE") == (waiting.state, waiting.reason)
    assert waiting.message in line
    assert before == brought.answering()
    shutil.copytree(brought.central.folder / "blobs", drive / "blobs", dirs_exist_ok=True)
    result = brought.run("media", "import", str(drive))
    assert (0, True) == (
        result.exit_code,
        f"pos {version} answers now, on probation; if it does badly" in result.stdout,
    ), result.output
    assert version == brought.answering()


def test_revoked_bundle_keeps_answering_with_warning(brought):
    """A revoked bundle keeps answering while the plan names no other; status, the list and its activation show that it
    is revoked."""
    digest = brought.publish("5.0.0")
    assert 0 == brought.run("media", "import", str(brought.drive("kept"))).exit_code
    brought.central.plan(brought.central.offering())
    brought.central.revoke(digest)
    assert 0 == brought.run("media", "import", str(brought.repository("revoked"))).exit_code
    said = " ".join(brought.run("status").output.split())
    assert "Task pos is answered by 5.0.0, which the central team has revoked." in said, said
    (row,) = (line for line in brought.run("bundles", "list", "pos").stdout.splitlines() if " 5.0.0 " in line)
    assert ["active", "none", "revoked"] == row.split()[3:6], row
    activated = brought.run("activate", "pos", "5.0.0").output
    assert "warning: the central team has revoked this bundle." in activated, activated
    assert "5.0.0" == brought.answering()


def test_import_without_root_of_trust_names_enrolment(tmp_path):
    """On a site without update.root_file, the import exits with 3 and suggests `edge-agent enrol`."""
    with RunningDaemon(tmp_path / "site") as daemon:
        drive = tmp_path / "drive" / "metadata"
        drive.mkdir(parents=True)
        (drive / "timestamp.json").write_text("{}")
        result = CliRunner().invoke(app, [*daemon.command()[3:], "import", str(drive.parent)])
    assert (3, True) == (result.exit_code, "update.root_file" in result.stderr), result.output
    assert "'sudo edge-agent enrol FILE'" in result.stderr

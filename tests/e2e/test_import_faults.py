"""Messages after a drive or a disk failed during an import, and after a task was removed: they are true, and their
remedies work. The real daemon gets its updates from USB drives only."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import app
from edge_agent.client import CallFailed, TaskUpdate
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.mounts import tmpfs
from tests.support.store_cases import bundle, sha256_of
from tests.support.strace import needs_strace
from tests.support.trust_cases import damage

pytestmark = pytest.mark.slow
WEIGHTS = b"w" * 3_000_000
AGAIN = "insert the USB drive again and import it ('sudo edge-agent media import /media/usb')"


class Offline:
    """A site that gets its updates from USB drives only, and the central team that writes them; `state_on` is a disk
    for the state."""

    def __init__(self, folder: Path, state_on: Path | None = None) -> None:
        self.folder = folder
        self.central = CentralTeam(folder / "central")
        (folder / "root.json").write_bytes(self.central.root_bytes)
        update = {"root_file": str(folder / "root.json"), "check_seconds": 0.1}
        store = {"allow_unsigned": False, "disk_reserve_bytes": 0}
        self.daemon = RunningDaemon(state_on or folder / "site", update=update, site={"id": "site-1"}, store=store)

    def publish(self, version: str, *tasks: str) -> Path:
        """Publish a version of tasks, and write a USB drive with everything in the plan."""
        digests = []
        for task in tasks:
            files = {"weights": WEIGHTS, "adapter": f"{task} {version}".encode()}
            digests.append(self.central.publish(bundle(self.folder / task / version, version, task, **files)))
        self.central.plan(self.central.offering(*digests))
        return self.central.drive(self.folder / f"drive-{version}")

    def run(self, *arguments: str) -> Result:
        """Run edge-agent for that daemon."""
        return CliRunner().invoke(app, [*self.daemon.command()[3:], *arguments])

    def bring(self, drive: Path, *more: str) -> Result:
        """Import a drive."""
        return self.run("media", "import", str(drive), *more)

    def update(self, task: str = "pos") -> TaskUpdate | None:
        """Return the task's update in status, or None if there is none yet."""
        try:
            with self.daemon.admin() as admin:
                updates = admin.status().updates
        except CallFailed:
            return None
        return next((each for each in (updates.tasks if updates else ()) if each.task == task), None)

    def until(self, state: str, reason: str, task: str = "pos") -> str:
        """Wait until the task's update has this state and reason; return its message."""

        def is_said() -> bool:
            found = self.update(task)
            return found is not None and (state, reason) == (found.state, found.reason)

        eventually_sync(is_said)
        found = self.update(task)
        assert found is not None
        return found.message

    def answering(self, task: str = "pos") -> str:
        """Return the version that answers."""
        with self.daemon.admin() as admin:
            return next((each.bundle.version for each in admin.status().tasks if each.name == task), "")

    @contextmanager
    def injected(self, call: str, what: str, path: Path) -> Iterator[None]:
        """Inject a fault, such as "error=EIO", into a system call of the daemon on a file inside the block."""
        assert self.daemon.process is not None
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:{what}", "-P", str(path)]
        command = ["strace", "-f", "-p", str(self.daemon.process.pid), *inject, "-o", "/dev/null"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
            try:
                yield
            finally:
                tracer.send_signal(signal.SIGINT)
                tracer.stderr.read()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Offline]:
    """A site whose task "pos" runs version 1.0.0."""
    made = Offline(tmp_path)
    with made.daemon:
        assert 0 == made.bring(made.publish("1.0.0", "pos")).exit_code
        yield made


def words(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def test_import_of_damaged_drive_installs_intact_bundle(site: Offline):
    """From a drive with one damaged bundle the other is installed; the import lists both and exits with 5. Status asks
    for a new drive, also after a restart, and importing it works."""
    drive = site.publish("2.0.0", "pos", "spare")
    damage(drive / "blobs" / sha256_of(b"pos 2.0.0"), "flipped")
    result = site.bring(drive, "--json")
    bundles = json.loads(result.stdout)["bundles"]
    told = {each["task"]: (each["taken"], each["answers"], each["reason"]) for each in bundles}
    assert (5, {"pos": (False, False, "UPDATE_INCOMPLETE"), "spare": (True, True, "")}) == (result.exit_code, told)
    assert "pos 2.0.0 was not installed" in words(result.stderr)
    assert "taken from the drive: spare 2.0.0" in words(result.stderr)
    assert ("1.0.0", "2.0.0") == (site.answering(), site.answering("spare"))
    lines = site.bring(drive).stdout.splitlines()
    assert ["not taken: pos 2.0.0: ", "already here: spare 2.0.0 answers"] == [lines[0][:22], lines[1][:33]]
    said = site.until("WAITING", "UPDATE_INCOMPLETE")
    site.daemon.kill()
    site.daemon.start()
    assert said == site.until("WAITING", "UPDATE_INCOMPLETE")
    assert "have the USB drive written again for this site, and import it" in said
    whole = site.central.drive(site.folder / "whole")
    assert (0, "2.0.0") == (site.bring(whole).exit_code, site.answering())


@needs_strace
def test_import_from_removed_drive_can_be_repeated(site: Offline):
    """When a drive fails during the import, the import exits with 3, the previous version keeps answering, and
    importing the drive again works."""
    drive = site.publish("2.0.0", "pos")
    with site.injected("pread64", "error=EIO", drive / "blobs" / sha256_of(b"pos 2.0.0")):
        result = site.bring(drive)
    said = site.until("WAITING", "STICK_FAILED")
    assert ("was pulled out or is failing" in said, f"{AGAIN}; nothing is lost" in said) == (True, True)
    assert (3, True, "1.0.0") == (result.exit_code, said in result.stdout, site.answering()), result.output
    assert 1 == words(result.output).lower().count("insert the"), result.output
    assert "What answered before continues to answer" in words(result.stderr)
    assert (0, "2.0.0") == (site.bring(drive).exit_code, site.answering())


@needs_strace
def test_import_interrupted_by_kill_can_be_repeated(site: Offline):
    """After a kill during the copy, as after a power cut, status asks for the drive again, and importing it works."""
    drive = site.publish("2.0.0", "pos")
    with site.injected("pread64", "signal=KILL", drive / "blobs" / sha256_of(b"pos 2.0.0")):
        assert 3 == site.bring(drive).exit_code
    site.daemon.kill()
    site.daemon.start()
    said = site.until("WAITING", "INTERRUPTED")
    assert (AGAIN in said, "nothing is lost" in said) == (True, True)
    assert (0, "2.0.0") == (site.bring(drive).exit_code, site.answering())


def test_import_on_full_disk_names_space_to_free(tmp_path: Path):
    """An import on a full disk exits with 3 and names the space to free; once it is free, the import works."""
    with tmpfs(tmp_path / "disk", "size=24m") as disk:
        site = Offline(tmp_path, disk)
        with site.daemon:
            drive, filler = site.publish("1.0.0", "pos"), disk / "filler"
            filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 1_500_000))
            result = site.bring(drive)
            told = re.search(r"free (\d+) MB; then insert the USB drive again", result.stdout)
            assert (3, True) == (result.exit_code, told is not None), result.output
            assert f"the disk of {disk}/state is too full for it" in site.until("WAITING", "DISK_FULL")
            assert told is not None
            with filler.open("r+b") as file:
                file.truncate(filler.stat().st_size - int(told[1]) * 10**6)
            assert f"has room for it now: {AGAIN}" in site.until("WAITING", "FILES_MISSING")
            assert (0, "1.0.0") == (site.bring(drive).exit_code, site.answering())


def test_removed_task_can_be_restored_from_its_drive(site: Offline):
    """`remove` names the version and how to restore it; a removed task stays removed in status until its intact drive
    is imported again, and `bundles allow` lifts the block."""
    drive = site.folder / "drive-1.0.0"
    refused = words(site.run("remove", "pos").stderr.replace("│", " "))
    assert "Version 1.0.0 stops answering 'pos', and nothing else answers it" in refused
    assert "'sudo edge-agent media import' of the USB drive that brought it" in refused
    removed = site.run("remove", "pos", "--yes")
    assert (0, True) == (removed.exit_code, "Nothing answers 'pos' now. The way back:" in removed.stdout)
    said = site.until("HELD", "REMOVED")
    assert "'sudo edge-agent bundles allow pos'" in said
    activated = site.run("activate", "pos", "1.0.0")
    assert (2, True) == (activated.exit_code, "'sudo edge-agent bundles allow pos' lets" in words(activated.stderr))
    spoiled = Path(shutil.copytree(drive, site.folder / "spoiled"))
    (spoiled / "blobs" / sha256_of(b"pos 1.0.0")).unlink()
    brought = site.bring(spoiled)
    assert (5, True) == (brought.exit_code, "have the USB drive written again" in words(brought.stdout))
    assert "Until then the task stays removed" in words(brought.stdout)
    site.until("HELD", "REMOVED")
    assert (0, "1.0.0") == (site.bring(drive).exit_code, site.answering())
    assert 0 == site.run("remove", "pos", "-y").exit_code
    site.until("HELD", "REMOVED")
    allowed = site.run("bundles", "allow", "pos")
    assert (0, ["Allowed.", True]) == (allowed.exit_code, [allowed.stdout.splitlines()[0], AGAIN in allowed.stdout])
    assert (0, "1.0.0") == (site.bring(drive).exit_code, site.answering())


def test_import_respects_manually_chosen_version(site: Offline):
    """After a manual rollback an import does not activate the plan's version, and names `bundles allow`, which
    activates it."""
    drive = site.publish("2.0.0", "pos")
    assert 0 == site.bring(drive).exit_code
    assert 0 == site.run("rollback", "pos").exit_code
    site.until("HELD", "BY_HAND")
    result = site.bring(drive)
    assert (0, "1.0.0") == (result.exit_code, site.answering())
    assert "already here: pos 2.0.0 is not used: somebody activated another bundle here" in result.stdout
    assert "'sudo edge-agent bundles allow pos'" in result.stdout
    assert (0, "2.0.0") == (site.run("bundles", "allow", "pos").exit_code, site.answering())


def test_install_of_update_drive_suggests_media_import(site: Offline):
    """`install` and `bundles inspect` of a drive with updates exit with 5 and suggest `media import`."""
    drive = site.folder / "drive-1.0.0"
    for command in (["install"], ["bundles", "inspect"]):
        result = site.run(*command, str(drive))
        told = words(result.stderr)
        assert (5, True) == (result.exit_code, "holds signed updates from the central team, not a bundle" in told)
        assert f"Import it: sudo edge-agent media import {drive}" in told

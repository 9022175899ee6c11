"""`media export` and `media import`: whether a folder is on a mounted drive, since nothing is copied into an empty
mount point.

Also the reason why an export contains no examples: one sentence for each state of a site.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.media import (
    DriveFolder,
    explain_empty_export,
    import_update,
    look_at_folder,
    mount_point_of,
    mount_points,
)
from edge_agent.client import CallFailed, ExamplesStatus
from edge_agent.errors import MediaFailed
from tests.support.rights import without_root

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
25 22 0:22 / /run rw,nosuid - tmpfs tmpfs rw,size=1g
40 22 8:17 / /media/kim/MY\\040USB rw - vfat /dev/sdb1 rw
"""
MOUNTS = mount_points(MOUNTINFO)


@pytest.mark.parametrize(
    ("path", "mount_point", "unmounted"),
    [
        ("/media/usb", "/", True),
        ("/mnt", "/", True),
        ("/run/media/kim/usb", "/run", True),
        ("/media/kim/MY USB", "/media/kim/MY USB", False),
        ("/media/kim/MY USB/out", "/media/kim/MY USB", False),
        ("/srv/out", "/", False),
        ("/mnt-backup", "/", False),
    ],
)
def test_folder_for_drives_needs_a_mounted_file_system(path: str, mount_point: str, unmounted: bool):
    """A folder below /media, /mnt or /run/media counts as unmounted if its mount point is not below one of these,
    too."""
    found = mount_point_of(Path(path), MOUNTS)
    folder = DriveFolder(Path(path), found, is_own_disk=found == Path("/"))
    assert (Path(mount_point), unmounted) == (found, folder.is_unmounted)


def test_export_into_empty_mount_point_is_refused():
    """An export into an empty mount point is refused with the folder's name and a remedy; another folder on the
    machine's own disk gets a question, a drive neither."""
    with pytest.raises(MediaFailed, match="no drive is mounted at /media/usb, so nothing was copied") as met:
        DriveFolder(Path("/media/usb"), Path("/"), is_own_disk=True).require_drive()
    assert "'lsblk'" in met.value.remedy
    plain = DriveFolder(Path("/srv/out"), Path("/"), is_own_disk=True)
    plain.require_drive()
    assert "/srv/out is on this machine's own disk; is the drive mounted?" == plain.doubt
    assert "" == DriveFolder(Path("/media/usb"), Path("/media/usb"), is_own_disk=False).doubt


@pytest.mark.parametrize("command", ["media import", "media export", "enrol"])
def test_unreadable_drive_suggests_sudo(tmp_path: Path, command: str):
    """If the user may not read the drive or the enrolment file, the command ends with 3 and suggests sudo."""
    hidden = tmp_path / "drive"
    hidden.mkdir(mode=0)
    path = hidden / "shop-12.kit" if command == "enrol" else hidden
    CliRunner().invoke(app, [*command.split(), "-h"])  # imports what nobody may not read
    with without_root():
        result = CliRunner().invoke(app, [*command.split(), str(path)])
    said = " ".join(result.stderr.split())
    assert (3, True, True) == (result.exit_code, "cannot read" in said, "with sudo" in said), said


@pytest.mark.parametrize(("reason", "repeats"), [("UNREACHABLE", True), ("DISK_FULL", False)])
def test_import_interrupted_by_a_daemon_stop_can_be_repeated(reason: str, repeats: bool):
    """If the daemon stops during an import, the remedy is to repeat the command; other errors keep their own remedy."""

    class EndingDaemon:
        def import_update(self, *_: object) -> None:
            raise CallFailed("UNAVAILABLE", reason, "no daemon answers", remedy="Start it.", metadata={})

    with pytest.raises(CallFailed) as ended:
        import_update(EndingDaemon(), Path("/media/usb"))  # type: ignore[arg-type]
    assert repeats == ended.value.remedy.endswith("run the same command again: nothing is lost.")


def test_import_from_empty_mount_point_says_no_drive_is_mounted():
    """An import from an empty mount point suggests the mount command, not that the central team writes a drive."""
    folder = DriveFolder(Path("/mnt"), Path("/"), is_own_disk=True)
    met = folder.without_drive("there is nothing to import")
    assert "no drive is mounted at /mnt, so there is nothing to import" == met.message
    assert ("'sudo mount /dev/sdX1 /mnt'" in met.remedy, "edge-convert" in met.remedy) == (True, False)


def test_folder_on_the_daemons_file_system_is_own_disk(tmp_path: Path):
    """A folder on the same file system as the daemon's folders counts as the machine's own disk."""
    folder = look_at_folder(tmp_path, tmp_path.parent)
    assert (tmp_path.resolve(), True) == (folder.path, folder.is_own_disk)


COLLECTING = ExamplesStatus(
    {}, {"routine": 12, "feedback": 0}, 1, 0, 0, "e", {"pos": "upstream"}, review_waiting={"audit": 3, "uncertain": 9}
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collect": {}, "retained": {}}, "'examples.collect' in agent.yaml names no task"),
        ({"collect": {"pos": "local"}}, "The examples of pos stay on this machine: set the task to 'upstream'"),
        ({}, "12 answers wait for review, and none has been reviewed since the last export: 'edge-agent review'"),
        ({"review_waiting": {"audit": 1}}, "1 answer waits for review"),
        ({"review_waiting": {}, "retained": {}}, "No answer of pos has been kept yet"),
        ({"review_waiting": {}}, "The central team has confirmed all examples that may leave"),
    ],
)
def test_empty_export_explains_the_sites_reason(changes: dict[str, object], said: str) -> None:
    """The message differs for a site that captures nothing, may export nothing, has reviewed nothing, has stored
    nothing, or has had everything confirmed."""
    assert said in explain_empty_export(dataclasses.replace(COLLECTING, **changes), {})


def test_empty_export_without_capture_is_explained() -> None:
    """If the daemon reports no examples at all, the message says that none are stored here."""
    assert explain_empty_export(None, {}).startswith("No examples are kept here")


def test_suggested_command_has_sudo_after_sudo() -> None:
    """After 'sudo edge-agent media export', the suggested next command begins with sudo as well."""
    assert "'sudo edge-agent review'" in explain_empty_export(COLLECTING, {"SUDO_USER": "anna"})

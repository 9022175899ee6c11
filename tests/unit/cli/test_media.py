"""Whether a folder is on a drive that is mounted: `media export` copies to one, and not into an empty mount point.

Why an export holds no examples: one sentence for each state of a site.
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
def test_a_folder_for_drives_needs_a_drive(path: str, mount_point: str, unmounted: bool):
    """A file system is mounted at or above the folder, below /media, /mnt or /run/media."""
    found = mount_point_of(Path(path), MOUNTS)
    folder = DriveFolder(Path(path), found, is_own_disk=found == Path("/"))
    assert (Path(mount_point), unmounted) == (found, folder.is_unmounted)


def test_an_export_into_an_empty_mount_point_is_refused_with_its_remedy():
    """The message names the folder; another folder of the own disk is only doubtful, and a drive neither."""
    with pytest.raises(MediaFailed, match="no drive is mounted at /media/usb, so nothing was copied") as met:
        DriveFolder(Path("/media/usb"), Path("/"), is_own_disk=True).require_drive()
    assert "'lsblk'" in met.value.remedy
    plain = DriveFolder(Path("/srv/out"), Path("/"), is_own_disk=True)
    plain.require_drive()
    assert "/srv/out is on this machine's own disk; is the drive mounted?" == plain.doubt
    assert "" == DriveFolder(Path("/media/usb"), Path("/media/usb"), is_own_disk=False).doubt


@pytest.mark.parametrize("command", ["media import", "media export", "enrol"])
def test_a_drive_that_this_user_may_not_read_names_sudo(tmp_path: Path, command: str):
    """The user has to change nothing on the drive: it is mounted for another user, or the file is root's."""
    hidden = tmp_path / "drive"
    hidden.mkdir(mode=0)
    path = hidden / "shop-12.kit" if command == "enrol" else hidden
    CliRunner().invoke(app, [*command.split(), "-h"])  # imports what nobody may not read
    with without_root():
        result = CliRunner().invoke(app, [*command.split(), str(path)])
    said = " ".join(result.stderr.split())
    assert (3, True, True) == (result.exit_code, "cannot read" in said, "with sudo" in said), said


@pytest.mark.parametrize(("reason", "repeats"), [("UNREACHABLE", True), ("DISK_FULL", False)])
def test_an_import_during_which_the_daemon_ends_is_to_be_repeated(reason: str, repeats: bool):
    """Its caller does not see what was copied before; other errors have a remedy of their own."""

    class EndingDaemon:
        def import_update(self, *_: object) -> None:
            raise CallFailed("UNAVAILABLE", reason, "no daemon answers", remedy="Start it.", metadata={})

    with pytest.raises(CallFailed) as ended:
        import_update(EndingDaemon(), Path("/media/usb"))  # type: ignore[arg-type]
    assert repeats == ended.value.remedy.endswith("run the same command again: nothing is lost.")


def test_an_import_from_an_empty_mount_point_names_what_is_missing():
    """The technician mounts the drive; that the central team writes one would not help."""
    folder = DriveFolder(Path("/mnt"), Path("/"), is_own_disk=True)
    met = folder.without_drive("there is nothing to import")
    assert "no drive is mounted at /mnt, so there is nothing to import" == met.message
    assert ("'sudo mount /dev/sdX1 /mnt'" in met.remedy, "edge-convert" in met.remedy) == (True, False)


def test_a_folder_beside_the_state_directory_is_on_the_own_disk(tmp_path: Path):
    """The file system of / or of the daemon's folders counts as this machine's own."""
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
def test_the_reason_is_that_of_the_site(changes: dict[str, object], said: str) -> None:
    """Nothing collected, nothing allowed to leave, nothing reviewed, nothing kept, and all confirmed differ."""
    assert said in explain_empty_export(dataclasses.replace(COLLECTING, **changes), {})


def test_a_site_that_keeps_no_examples_says_so() -> None:
    """The daemon reports no examples at all where nothing is collected."""
    assert explain_empty_export(None, {}).startswith("No examples are kept here")


def test_the_command_works_for_the_user_who_typed_sudo() -> None:
    """After 'sudo edge-agent media export' the next command needs sudo, too."""
    assert "'sudo edge-agent review'" in explain_empty_export(COLLECTING, {"SUDO_USER": "anna"})

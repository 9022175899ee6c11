"""Messages about an update that cannot continue, for every cause and phase."""

from __future__ import annotations

import itertools

import pytest

from edge_agent.update.blocked_update_messages import (
    IMPORT_AGAIN,
    BlockedUpdate,
    BlockingCause,
    DownloadBlocker,
    UpdatePhase,
    explain,
)

UNSET = DownloadBlocker("no uplink for updates is configured", has_uplink=False)
OFFLINE = DownloadBlocker("the uplink is offline")
UPLINK_FULL = DownloadBlocker("the uplink's disk is full", disk_full=True)
FULL = "the disk of /state is too full for it: free 210 MB"
CUT_OFF = "the daemon or the machine stopped while it was copied from a USB drive"
REPEATED = None
"""The step is repeated with what is on this machine."""

# By cause and phase, on a site that only USB drives reach: state, reason and sentence.
WITHOUT_UPLINK = {
    ("FILES_MISSING", "fetching"): (
        "waiting",
        "FILES_MISSING",
        f"2 files (5.0 MB) missing on this machine, and {UNSET.message}: {IMPORT_AGAIN}",
    ),
    ("FILES_MISSING", "importing"): (
        "waiting",
        "UPDATE_INCOMPLETE",
        "2 files (5.0 MB): have the USB drive written again for this site, and import it",
    ),
    ("FILES_MISSING", "admitting"): (
        "waiting",
        "FILES_MISSING",
        f"2 files (5.0 MB) missing on this machine, and {UNSET.message}: {IMPORT_AGAIN}",
    ),
    ("DRIVE_INCOMPLETE", "fetching"): ("waiting", "UPDATE_INCOMPLETE", "as the import said"),
    ("DRIVE_INCOMPLETE", "importing"): (
        "waiting",
        "UPDATE_INCOMPLETE",
        "blobs/ab… is damaged: have the USB drive written again for this site, and import it",
    ),
    ("DRIVE_INCOMPLETE", "admitting"): REPEATED,
    ("DRIVE_UNREADABLE", "fetching"): ("waiting", "STICK_FAILED", "as the import said"),
    ("DRIVE_UNREADABLE", "importing"): (
        "waiting",
        "STICK_FAILED",
        f"blobs/ab… is damaged: {IMPORT_AGAIN}; nothing is lost",
    ),
    ("DRIVE_UNREADABLE", "admitting"): REPEATED,
    ("DISK_FULL", "fetching"): ("waiting", "DISK_FULL", f"{FULL}; then {IMPORT_AGAIN}"),
    ("DISK_FULL", "importing"): ("waiting", "DISK_FULL", f"{FULL}; then {IMPORT_AGAIN}"),
    ("DISK_FULL", "admitting"): ("staged", "DISK_FULL", f"{FULL}; it then continues automatically"),
    ("DISK_FAILED", "fetching"): ("waiting", "STORE_DAMAGED", "as the import said"),
    ("DISK_FAILED", "importing"): (
        "waiting",
        "STORE_DAMAGED",
        f"blobs/ab… is damaged: check the disk of this machine ('dmesg'), then {IMPORT_AGAIN}",
    ),
    ("DISK_FAILED", "admitting"): ("staged", "STORE_DAMAGED", "blobs/ab… is damaged; it is tried again automatically"),
    ("AGENT_OLD", "fetching"): ("waiting", "REQUIREMENT_UNMET", "as the import said"),
    ("AGENT_OLD", "importing"): (
        "waiting",
        "REQUIREMENT_UNMET",
        f"blobs/ab… is damaged: update edge-agent, then {IMPORT_AGAIN}",
    ),
    ("AGENT_OLD", "admitting"): (
        "staged",
        "REQUIREMENT_UNMET",
        "blobs/ab… is damaged; it is tried again automatically",
    ),
    ("INTERRUPTED", "fetching"): ("waiting", "INTERRUPTED", f"{CUT_OFF}: {IMPORT_AGAIN}; nothing is lost"),
    ("INTERRUPTED", "importing"): ("waiting", "INTERRUPTED", f"{CUT_OFF}: {IMPORT_AGAIN}; nothing is lost"),
    ("INTERRUPTED", "admitting"): REPEATED,
}


def said(cause: BlockingCause, phase: UpdatePhase, download: DownloadBlocker | None, short: int | None = 209_100_000):
    """Return state, reason and message, or None."""
    by_cause = {BlockingCause.FILES_MISSING: "2 files (5.0 MB)"}
    detail = by_cause.get(cause, "as the import said" if phase is UpdatePhase.FETCHING else "blobs/ab… is damaged")
    found = explain(cause, phase, BlockedUpdate(detail, "", "/state", short, download))
    return found and (found.state, found.reason, found.message)


@pytest.mark.parametrize(("cause", "phase"), [*itertools.product(BlockingCause, UpdatePhase)])
def test_every_cause_in_every_phase_has_a_message(cause: BlockingCause, phase: UpdatePhase):
    """Each cause has the expected state, reason and message in each phase; testing and switching are treated as
    admitting, because the bundle is in the store."""
    alike = "admitting" if phase in (UpdatePhase.TESTING, UpdatePhase.SWITCHING) else phase.value
    assert WITHOUT_UPLINK[cause.name, alike] == said(cause, phase, UNSET)


@pytest.mark.parametrize("cause", [each for each in BlockingCause if each is not BlockingCause.DISK_FULL])
def test_working_uplink_fetches_what_a_drive_did_not_bring(cause: BlockingCause):
    """With a working uplink the update is fetching, whatever was wrong with the drive."""
    found = said(cause, UpdatePhase.FETCHING, None)
    assert found is not None
    assert ("fetching", "", True) == (found[0], found[1], found[2].endswith("still to come"))


def test_offline_uplink_is_reported_as_waiting():
    """With an uplink that is offline the update is waiting, not fetching, and the message names the drive and the
    network as ways to continue."""
    expected = (
        f"2 files (5.0 MB) missing on this machine, and {OFFLINE.message}: {IMPORT_AGAIN}, or wait for the uplink"
    )
    found = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, OFFLINE)
    assert ("waiting", "FILES_MISSING", expected) == found


def test_download_without_disk_space_names_the_bytes_to_free():
    """A download that lacks disk space names how much to free; once there is space, the message says when the uplink
    tries again."""
    full = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, UPLINK_FULL)
    assert ("waiting", "DISK_FULL", f"{FULL}; the download then continues automatically") == full
    room = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, UPLINK_FULL, 0)
    said_of_room = "the disk of /state has room for it now: the uplink tries again within an hour"
    assert ("waiting", "FILES_MISSING", said_of_room) == room


def test_message_stops_asking_for_space_that_was_freed():
    """Once the disk has space, the message asks for the drive again, or for nothing if the files are on the machine."""
    room = said(BlockingCause.DISK_FULL, UpdatePhase.FETCHING, UNSET, 0)
    assert ("waiting", "FILES_MISSING", f"the disk of /state has room for it now: {IMPORT_AGAIN}") == room
    here = said(BlockingCause.DISK_FULL, UpdatePhase.ADMITTING, None, 0)
    assert ("staged", "", "the disk of /state has room for it now; it continues in a moment") == here


def test_full_disk_without_a_known_size_keeps_the_original_message():
    """Without a number of missing bytes, the message of the failed import stays, and a disk that fills during a write
    is reported without a number."""
    again = said(BlockingCause.DISK_FULL, UpdatePhase.FETCHING, UNSET, None)
    assert ("waiting", "DISK_FULL", "as the import said") == again
    here = said(BlockingCause.DISK_FULL, UpdatePhase.SWITCHING, None, None)
    full = "the disk of /state is full (blobs/ab… is damaged): free some space; it then continues automatically"
    assert ("staged", "DISK_FULL", full) == here

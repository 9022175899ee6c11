"""What is said of an update that cannot continue: the whole table of causes and phases."""

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
    """Return what is said, as a tuple."""
    by_cause = {BlockingCause.FILES_MISSING: "2 files (5.0 MB)"}
    detail = by_cause.get(cause, "as the import said" if phase is UpdatePhase.FETCHING else "blobs/ab… is damaged")
    found = explain(cause, phase, BlockedUpdate(detail, "", "/state", short, download))
    return found and (found.state, found.reason, found.message)


@pytest.mark.parametrize(("cause", "phase"), [*itertools.product(BlockingCause, UpdatePhase)])
def test_every_cause_in_every_phase_has_its_state_reason_and_sentence(cause: BlockingCause, phase: UpdatePhase):
    """In the self-test and in the switch the bundle is in the store, as while it is taken from incoming/."""
    alike = "admitting" if phase in (UpdatePhase.TESTING, UpdatePhase.SWITCHING) else phase.value
    assert WITHOUT_UPLINK[cause.name, alike] == said(cause, phase, UNSET)


@pytest.mark.parametrize("cause", [each for each in BlockingCause if each is not BlockingCause.DISK_FULL])
def test_an_uplink_that_works_brings_what_a_drive_did_not(cause: BlockingCause):
    """Whatever was wrong with the drive: files are on their way."""
    found = said(cause, UpdatePhase.FETCHING, None)
    assert found is not None
    assert ("fetching", "", True) == (found[0], found[1], found[2].endswith("still to come"))


def test_an_uplink_that_is_offline_brings_nothing():
    """It is not called fetching; a drive or the network brings the files."""
    expected = (
        f"2 files (5.0 MB) missing on this machine, and {OFFLINE.message}: {IMPORT_AGAIN}, or wait for the uplink"
    )
    found = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, OFFLINE)
    assert ("waiting", "FILES_MISSING", expected) == found


def test_a_download_without_room_names_what_to_free():
    """It goes on automatically; when there is room, it says so."""
    full = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, UPLINK_FULL)
    assert ("waiting", "DISK_FULL", f"{FULL}; the download then continues automatically") == full
    room = said(BlockingCause.FILES_MISSING, UpdatePhase.FETCHING, UPLINK_FULL, 0)
    said_of_room = "the disk of /state has room for it now: the uplink tries again within an hour"
    assert ("waiting", "FILES_MISSING", said_of_room) == room


def test_freed_space_is_noticed():
    """After it was freed nobody is asked to free it: the drive is, or nothing."""
    room = said(BlockingCause.DISK_FULL, UpdatePhase.FETCHING, UNSET, 0)
    assert ("waiting", "FILES_MISSING", f"the disk of /state has room for it now: {IMPORT_AGAIN}") == room
    here = said(BlockingCause.DISK_FULL, UpdatePhase.ADMITTING, None, 0)
    assert ("staged", "", "the disk of /state has room for it now; it continues in a moment") == here


def test_without_a_number_what_was_measured_holds():
    """After a restart the sentence of the failed import stays; a disk that fills while it is written has no number."""
    again = said(BlockingCause.DISK_FULL, UpdatePhase.FETCHING, UNSET, None)
    assert ("waiting", "DISK_FULL", "as the import said") == again
    here = said(BlockingCause.DISK_FULL, UpdatePhase.SWITCHING, None, None)
    full = "the disk of /state is full (blobs/ab… is damaged): free some space; it then continues automatically"
    assert ("staged", "DISK_FULL", full) == here

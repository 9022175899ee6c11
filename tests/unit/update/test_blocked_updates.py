"""Updates that wait for a person: missing files that only a USB drive brings, a full disk, a local choice."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.errors import DiskFull, MediaFailed, UnknownTask, UpdateIncomplete
from edge_agent.update.blocked_update_messages import IMPORT_AGAIN, DownloadBlocker
from edge_agent.update.update_state_machine import PAUSE_SECONDS_FIRST
from tests.support.updating_site import TASK, UpdatingSite

UNSET = DownloadBlocker("no uplink for updates is configured", has_uplink=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[UpdatingSite]:
    """Return a site whose task 'pos' runs 1.0.0."""
    site = UpdatingSite(tmp_path)
    await site.install("1.0.0")
    yield site
    await site.stop()


@pytest.fixture
def by_drive(site: UpdatingSite) -> UpdatingSite:
    """Return a site without an uplink, whose plan names version 2.0.0 while its drive is absent."""
    site.download_blocker = UNSET
    site.new = site.publish("2.0.0")  # type: ignore[attr-defined]
    site.want(site.new, "2.0.0")  # type: ignore[attr-defined]
    site.published.on_the_way.add(site.new)  # type: ignore[attr-defined]
    return site


async def test_missing_files_wait_for_a_drive_without_an_uplink(by_drive: UpdatingSite):
    """Without an uplink the update waits for the drive with the missing files; with an uplink that is online it is
    fetching."""
    await by_drive.look()
    assert ("waiting", "FILES_MISSING") == by_drive.where()
    said = f"1 file (1.5 MB) missing on this machine, and {UNSET.message}: {IMPORT_AGAIN}"
    assert said == by_drive.row().message
    by_drive.download_blocker = None
    await by_drive.look()
    assert (("fetching", ""), "1 file (1.5 MB) still to come") == (by_drive.where(), by_drive.row().message)


@pytest.mark.parametrize(
    ("how", "reason", "remedy"),
    [
        ("incomplete", "UPDATE_INCOMPLETE", "have the USB drive written again"),
        ("damaged", "UPDATE_INCOMPLETE", "have the USB drive written again"),
        ("pulled", "STICK_FAILED", "insert the USB drive again"),
        ("pulled before", "STICK_FAILED", "insert the USB drive again"),
        ("full", "DISK_FULL", "free 210 MB"),
    ],
)
async def test_failed_import_stays_visible_until_a_good_drive_is_imported(
    by_drive: UpdatingSite, how: str, reason: str, remedy: str
):
    """The reason of a failed import stays in status after further checks of incoming/ and after a power cut; a good
    drive ends it at once."""
    published, drive = by_drive.published, by_drive.tmp_path / "drive"
    full = {"needed": 10**15, "free": 10**15 - 209_000_001, "reserve": 0}
    errors = {
        "damaged": UpdateIncomplete("a file is damaged"),
        "pulled": MediaFailed("it was pulled out"),
        "full": DiskFull("no room", **full),
    }
    published.cannot_admit = errors.get(how)
    published.cannot_read = MediaFailed("it was pulled out") if how == "pulled before" else None
    if how in errors:
        published.on_the_way.clear()
    await by_drive.updater.check(drive)
    imported = by_drive.row()
    assert ("waiting", reason) == by_drive.where()
    published.cannot_read = published.cannot_admit = None
    published.on_the_way.add(by_drive.new)  # type: ignore[attr-defined]
    for _ in range(2):
        await by_drive.look()
        assert ("waiting", reason) == by_drive.where()
    if how != "full":
        assert (imported.message, True) == (by_drive.row().message, remedy in imported.message)
    await by_drive.killed()
    assert ("waiting", reason) == ((await by_drive.look()).state, by_drive.row().reason)
    assert (True, [by_drive.new]) == by_drive.published.asked[-1]  # type: ignore[attr-defined]
    published.on_the_way.clear()
    await by_drive.updater.check(drive)
    assert "probation" == by_drive.row().state


async def test_copy_interrupted_by_a_power_cut_is_reported(by_drive: UpdatingSite):
    """After a power cut during a copy from a drive, status says so and asks to import again."""
    await by_drive.look()
    by_drive.store.journal.record(replace(by_drive.row(), state="staged", reason="", message=""))
    await by_drive.killed()
    assert ("waiting", "INTERRUPTED") == ((await by_drive.look()).state, by_drive.row().reason)
    assert f"{IMPORT_AGAIN}; nothing is lost" in by_drive.row().message
    assert ("waiting", "INTERRUPTED") == ((await by_drive.look()).state, by_drive.row().reason)


async def test_full_disk_reports_the_bytes_to_free_at_present(by_drive: UpdatingSite):
    """The message names how much space is missing now, and stops doing so once there is enough."""
    free = shutil.disk_usage(by_drive.tmp_path).free
    by_drive.published.on_the_way.clear()
    by_drive.published.cannot_admit = DiskFull("no room", needed=2 * free, free=free, reserve=0)
    await by_drive.updater.check(by_drive.tmp_path / "drive")
    assert "free " in by_drive.row().message
    by_drive.published.on_the_way.add(by_drive.new)  # type: ignore[attr-defined]
    assert ("waiting", "DISK_FULL") == ((await by_drive.look()).state, by_drive.row().reason)
    by_drive.published.cannot_admit = DiskFull("no room", needed=free // 2, free=0, reserve=0)
    by_drive.published.on_the_way.clear()
    await by_drive.updater.check(by_drive.tmp_path / "drive")
    by_drive.published.on_the_way.add(by_drive.new)  # type: ignore[attr-defined]
    assert ("waiting", "FILES_MISSING") == ((await by_drive.look()).state, by_drive.row().reason)


async def test_update_continues_at_the_next_check_after_space_is_freed(site: UpdatingSite):
    """If all files are on the machine, the next check continues as soon as the disk has space."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.cannot_admit = DiskFull("no room", needed=10**15, free=0, reserve=0)
    assert ("staged", "DISK_FULL") == ((await site.look()).state, site.row().reason)
    assert "it then continues automatically" in site.row().message
    assert ("staged", "DISK_FULL") == ((await site.look()).state, site.row().reason)
    site.running += PAUSE_SECONDS_FIRST
    site.published.cannot_admit = DiskFull("no room", needed=1, free=0, reserve=0)  # freed a moment later
    assert ("staged", 2) == ((await site.look()).state, site.row().attempts)
    site.published.cannot_admit = None
    assert "probation" == (await site.look()).state


async def test_removed_task_returns_when_its_drive_is_imported(site: UpdatingSite):
    """Neither the uplink nor a check brings a removed task back; importing a drive that has its files does."""
    new = await site.switched()
    await site.activation.remove(TASK, "")
    site.published.on_the_way.add(new)
    for _ in range(2):
        await site.look()
        assert ("held", "REMOVED") == site.where()
    await site.updater.check(site.tmp_path / "drive")
    assert ("held", "UPDATE_INCOMPLETE") == site.where()  # the drive does not have its files
    await site.look()
    assert ("held", "REMOVED") == site.where()
    site.published.on_the_way.clear()
    assert "held" == (await site.look()).state
    await site.updater.check(site.tmp_path / "drive")
    assert ("probation", new) == (site.row().state, site.active())


async def test_task_removed_before_the_next_check_returns_at_once(site: UpdatingSite):
    """Importing the drive or lifting the local choice restores a removed task even before a check has recorded the
    removal."""
    new = await site.switched()
    await site.activation.remove(TASK, "")
    await site.updater.check(site.tmp_path / "drive")
    assert ("probation", new) == (site.row().state, site.active())
    await site.activation.remove(TASK, "")
    assert await site.updater.allow(TASK)
    assert ("probation", new) == (site.row().state, site.active())


async def test_local_choice_can_be_lifted(site: UpdatingSite):
    """`allow` ends the hold of a task that was rolled back or removed locally, does nothing for a task that is not
    held, and names an unknown task."""
    new = await site.switched()
    await site.activation.rollback(TASK)
    assert ("held", "BY_HAND") == ((await site.look()).state, site.row().reason)
    assert await site.updater.allow(TASK)
    assert ("probation", new) == (site.row().state, site.active())
    assert not await site.updater.allow(TASK)
    await site.activation.remove(TASK, "")
    await site.look()
    site.published.on_the_way.add(new)
    site.download_blocker = UNSET
    assert await site.updater.allow(TASK)
    assert ("waiting", "FILES_MISSING") == site.where()
    with pytest.raises(UnknownTask, match="no plan names a task 'nobody'; tasks of the plan: pos"):
        await site.updater.allow("nobody")


async def test_lifting_a_local_choice_survives_its_caller(site: UpdatingSite):
    """`allow` records its decision before it acts, so the next check continues although the caller left."""
    new = await site.switched()
    await site.activation.rollback(TASK)
    await site.look()
    site.may_answer.clear()
    site.tries.clear()
    lifting = asyncio.create_task(site.updater.allow(TASK))
    await site.tries.wait()
    lifting.cancel()
    await asyncio.gather(lifting, return_exceptions=True)
    site.may_answer.set()
    assert ("probation", new) == ((await site.look()).state, site.active())

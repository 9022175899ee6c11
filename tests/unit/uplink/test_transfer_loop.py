"""edge_agent/uplink/transfer_loop.py: problems with folders of this machine, and how long they are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.uplink.transfer_loop import DISK_PAUSE_SECONDS, TransferLoop
from tests.support.mounts import tmpfs
from tests.support.update_cases import idle
from tests.support.uplink_cases import PREFIX, Clock, UplinkCase, signed_receipts

SCAN_SECONDS = 5


@pytest.fixture
def case(tmp_path: Path) -> UplinkCase:
    """A site whose store is a folder and whose clock the test sets."""
    (tmp_path / "store").mkdir()
    made = UplinkCase(tmp_path, str(tmp_path / "store"))
    made.clock = Clock()
    return made


@pytest.fixture
def loop(case: UplinkCase) -> Iterator[TransferLoop]:
    """The uplink of the site, with one uploaded segment."""
    case.seal()
    loop, notes = case.opened()
    with notes:
        asyncio.run(idle(loop))
        assert [] == reasons(case)
        yield loop


def reasons(case: UplinkCase) -> list[str]:
    return [each.reason for each in case.state().problems]


def later(case: UplinkCase, loop: TransferLoop, seconds: float) -> None:
    """Advance the clock and run what is due."""
    assert case.clock is not None
    case.clock.advance(seconds)
    asyncio.run(idle(loop))


def test_unreadable_outbox_is_reported_until_it_is_readable(case: UplinkCase, loop: TransferLoop):
    """The problem is reported while the outbox cannot be read and ends at the next scan, also without anything to
    send."""
    segments = case.outbox / "segments"
    segments.rename(case.outbox / "aside")
    segments.write_bytes(b"no folder")
    for _ in range(3):
        later(case, loop, SCAN_SECONDS + 1)
        assert ["EXCHANGE_DIR_UNUSABLE"] == reasons(case)
    segments.unlink()
    (case.outbox / "aside").rename(segments)
    later(case, loop, SCAN_SECONDS + 1)
    assert [] == reasons(case)


def test_receipts_are_fetched_as_soon_as_they_can_be_written(case: UplinkCase, loop: TransferLoop):
    """When the receipts folder is writable again, the pause ends at the next scan."""
    case.put(f"{PREFIX}receipts.json", signed_receipts())
    case.receipts.rmdir()
    case.receipts.write_bytes(b"no folder")
    later(case, loop, 301)
    assert ["EXCHANGE_DIR_UNUSABLE"] == reasons(case)
    case.receipts.unlink()
    case.receipts.mkdir()
    later(case, loop, SCAN_SECONDS + 1)
    assert ([], True) == (reasons(case), any(case.receipts.iterdir()))


def test_unwritable_receipts_do_not_block_segments(case: UplinkCase, loop: TransferLoop):
    """Each failure pauses all transfers briefly; then segments come first."""
    case.put(f"{PREFIX}receipts.json", signed_receipts())
    case.receipts.rmdir()
    case.receipts.write_bytes(b"no folder")
    later(case, loop, 301)
    case.seal(5)
    for _ in range(3):
        later(case, loop, DISK_PAUSE_SECONDS + 1)
    assert 6 == sum(key.endswith(".json") and "segments" in key for key in case.uploaded())
    assert ["EXCHANGE_DIR_UNUSABLE"] == reasons(case)


def test_full_disk_is_retried_after_a_pause(case: UplinkCase, loop: TransferLoop):
    """Whether there is space shows only in the next attempt, so it waits for a pause."""
    case.put(f"{PREFIX}receipts.json", signed_receipts())
    case.receipts.rmdir()
    with tmpfs(case.receipts, "size=16k") as disk:
        (disk / "filler").write_bytes(b"\0" * 16384)
        later(case, loop, 301)
        assert ["DISK_FULL"] == reasons(case)
        (disk / "filler").unlink()
        later(case, loop, SCAN_SECONDS + 1)
        assert ["DISK_FULL"] == reasons(case)
        later(case, loop, DISK_PAUSE_SECONDS)
        assert ([], True) == (reasons(case), any(disk.iterdir()))

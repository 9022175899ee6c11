"""edge_agent/uplink/transfer_loop.py: problems of this machine's folders, and how long they are shown."""

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
    """A site whose store is a folder, and whose time is told."""
    (tmp_path / "store").mkdir()
    made = UplinkCase(tmp_path, str(tmp_path / "store"))
    made.clock = Clock()
    return made


@pytest.fixture
def loop(case: UplinkCase) -> Iterator[TransferLoop]:
    """Its uplink, with one segment uploaded."""
    case.seal()
    loop, notes = case.opened()
    with notes:
        asyncio.run(idle(loop))
        assert [] == reasons(case)
        yield loop


def reasons(case: UplinkCase) -> list[str]:
    return [each.reason for each in case.state().problems]


def later(case: UplinkCase, loop: TransferLoop, seconds: float) -> None:
    """Let time pass, and let it do what is due."""
    assert case.clock is not None
    case.clock.advance(seconds)
    asyncio.run(idle(loop))


def test_an_outbox_that_can_be_read_again_is_read_at_the_next_look(case: UplinkCase, loop: TransferLoop):
    """It is named as long as it cannot be read, and no longer, also where nothing is to be sent."""
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
    """A folder in which this user gets its rights back ends the pause at the next look."""
    case.put(f"{PREFIX}receipts.json", signed_receipts())
    case.receipts.rmdir()
    case.receipts.write_bytes(b"no folder")
    later(case, loop, 301)
    assert ["EXCHANGE_DIR_UNUSABLE"] == reasons(case)
    case.receipts.unlink()
    case.receipts.mkdir()
    later(case, loop, SCAN_SECONDS + 1)
    assert ([], True) == (reasons(case), any(case.receipts.iterdir()))


def test_receipts_that_cannot_be_written_stop_no_segment(case: UplinkCase, loop: TransferLoop):
    """Each failure pauses everything for a while; then segments go first."""
    case.put(f"{PREFIX}receipts.json", signed_receipts())
    case.receipts.rmdir()
    case.receipts.write_bytes(b"no folder")
    later(case, loop, 301)
    case.seal(5)
    for _ in range(3):
        later(case, loop, DISK_PAUSE_SECONDS + 1)
    assert 6 == sum(key.endswith(".json") and "segments" in key for key in case.uploaded())
    assert ["EXCHANGE_DIR_UNUSABLE"] == reasons(case)


def test_a_full_disk_is_left_alone_for_a_while(case: UplinkCase, loop: TransferLoop):
    """Whether there is room shows only in the next attempt, which may send something again."""
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

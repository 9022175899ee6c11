"""The first version of a task from a USB drive: no message promises a rollback that is impossible."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.finding_cases.site import FaultySite
from tests.support.finding_cases.update_rows import WRONG, await_state, await_version, by_drive, publish


@pytest.fixture
def site() -> Iterator[FaultySite]:
    """A site that takes updates from USB drives and has no task yet."""
    with FaultySite(by_drive, has_task=False) as made:
        yield made


def take(site: FaultySite) -> str:
    """Import the drive; return the output on one line."""
    command = [*site.daemon.command(), "media", "import", str(site.drive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
def test_import_of_first_version_promises_no_rollback(site: FaultySite):
    """The import of a first version reports that no previous version can replace it; the import of the next one names
    the rollback."""
    publish(site, "1.0.0")
    first = take(site)
    assert "it is the first version here, so nothing could take its place" in first
    assert "previous bundle" not in first
    await_version(site, "1.0.0")
    publish(site, "2.0.0")
    assert "if it does badly, the site returns to the previous bundle" in take(site)


@pytest.mark.slow
def test_failed_first_version_is_reported_by_import_and_doctor(site: FaultySite):
    """When the first version fails its golden cases, import and doctor report that nothing answers the task and refer
    to the central team."""
    publish(site, "1.0.0", golden=WRONG)
    said = take(site)
    assert "failed here, and nothing answered before it; tell the central team" in said
    await_state(site, "FAILED")
    [found] = [each for each in site.findings() if each["check"] == "update"]
    expected = "Tell the central team. Nothing answers the task: no other version has answered before."
    assert expected == found["remedy"]

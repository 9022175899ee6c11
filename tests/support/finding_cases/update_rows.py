"""Rows of updates: the contents of a drive of the central team, and the faults that stop an update."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_agent.formats.plan import ProbationRules
from tests.support.finding_cases.case import made
from tests.support.finding_cases.disk_rows import fill, free, own_disk
from tests.support.finding_cases.site import FaultySite
from tests.support.fleet_cases import CentralTeam
from tests.support.remedy_commands import Control
from tests.support.store_cases import bundle
from tests.support.trust_cases import damage
from tests.support.wall_clock import WallClock

TASK = "pos"
CENTRAL = "central team"
CENTRAL_TEAMS: dict[Path, CentralTeam] = {}
"""The central team of each site, by its folder."""


def by_drive(folder: Path) -> Mapping[str, Any]:
    """Give the site a fleet that reaches it by drives."""
    central = CENTRAL_TEAMS[folder] = CentralTeam(folder / "central")
    root = folder / "root.json"
    root.write_bytes(central.root_bytes)
    update = {"root_file": str(root), "check_seconds": 0.1}
    return {"update": update, "store": {"allow_unsigned": False}}


def publish(site: FaultySite, version: str, plan: Mapping[str, Any] | None = None, **more: Any) -> str:
    """Publish a version that the plan wants, and write a drive with it; return its digest."""
    central = CENTRAL_TEAMS[site.folder]
    path = bundle(site.folder / version, version, TASK, **{"weights": version.encode() * 1000, **more})
    digest = central.publish(path)
    central.plan(central.offering(digest, **(plan or {})))
    write_drive(site)
    return digest


def write_drive(site: FaultySite) -> None:
    """Write the drive again, of all that is published."""
    shutil.rmtree(site.drive, ignore_errors=True)
    CENTRAL_TEAMS[site.folder].copy(site.drive)


def take_drive(site: FaultySite) -> None:
    """Import the drive, whatever comes of it."""
    subprocess.run([*site.daemon.command(), "media", "import", str(site.drive)], capture_output=True, check=False)


def first_version(site: FaultySite) -> None:
    """Bring the first version on a drive, and wait until it answers."""
    publish(site, "1.0.0")
    take_drive(site)
    await_version(site, "1.0.0")


def await_version(site: FaultySite, version: str) -> None:
    """Wait until a version answers."""
    with site.daemon.admin() as admin:
        site.until(lambda: any(each.bundle.version == version and each.ready for each in admin.status().tasks))


def await_state(site: FaultySite, *states: str) -> None:
    """Wait until the update stands in one of these states."""
    with site.daemon.admin() as admin:

        def stands() -> bool:
            updates = admin.status().updates
            return updates is not None and any(each.state in states for each in updates.tasks)

        site.until(stands)


updating: Mapping[str, Any] = {"settings": by_drive, "has_task": False, "prepare": first_version}
WRONG = b'{"input": "is it", "answer": "yes", "scores": [0.01, 0.99]}\n'


@made("update/fault/", person=CENTRAL, **updating)
def version_fails_its_test(site: FaultySite) -> None:
    """The new version answers otherwise here than where it was made."""
    publish(site, "2.0.0", golden=WRONG)
    take_drive(site)
    await_state(site, "FAILED")


@made("update/fault/-2", person=CENTRAL, **updating)
def version_fails_in_use(site: FaultySite) -> None:
    """The new version fails calls when it has answered some, and is rolled back."""
    prompt = {"prompt": {"template": "!fail after 4 {input}"}}
    publish(site, "2.0.0", {"probation": ProbationRules(calls=1000)}, more={"task": prompt})
    take_drive(site)
    await_version(site, "2.0.0")
    with site.daemon.client() as client:
        for _ in range(3):
            client.classify(TASK, ["refund"] * 16)
    await_state(site, "ROLLED_BACK")


def _second_version(site: FaultySite) -> None:
    first_version(site)
    publish(site, "2.0.0")
    take_drive(site)
    await_version(site, "2.0.0")


@made("update/note/", **{**updating, "prepare": _second_version})
def somebody_rolled_back(site: FaultySite) -> None:
    """Somebody at the site went back to the version before."""
    with site.daemon.admin() as admin:
        admin.rollback(TASK)
    await_state(site, "HELD")


def _own_disk(folder: Path) -> Mapping[str, Any]:
    found = {**by_drive(folder)}
    return {**found, "store": {**found["store"], **own_disk(folder)["store"]}}


def _free_and_import(site: FaultySite) -> None:
    free(site)
    take_drive(site)


@made(
    "update/warning/",
    settings=_own_disk,
    has_task=False,
    prepare=first_version,
    with_it=("disk",),
    by_hand=_free_and_import,
)
def disk_full_while_importing(site: FaultySite) -> None:
    """Another program filled the disk, and the drive's version did not fit."""
    publish(site, "2.0.0")
    fill(site, 20_000_000)
    take_drive(site)
    await_state(site, "WAITING", "FETCHING")


@made("update/warning/-2", by_hand=write_drive, **updating)
def drive_damaged(site: FaultySite) -> None:
    """A file of the drive is damaged; the central team writes it again."""
    publish(site, "2.0.0")
    [largest] = sorted((site.drive / "blobs").rglob("?" * 64), key=lambda path: path.stat().st_size)[-1:]
    damage(largest, "flipped")
    take_drive(site)
    await_state(site, "WAITING")


def _other_disk(folder: Path) -> Mapping[str, Any]:
    """Put the incoming updates on another disk than the store."""
    found = {**_own_disk(folder)}
    incoming = folder / "incoming"
    incoming.mkdir()
    uplink = {
        "updates_url": str(CENTRAL_TEAMS[folder].folder),
        "notes_dir": str(folder / "notes"),
        "disk_reserve_bytes": 0,
    }
    return {**found, "update": {**found["update"], "incoming_dir": str(incoming)}, "uplink": uplink}


def _first_by_uplink(site: FaultySite) -> None:
    publish(site, "1.0.0")
    site.restart_uplink()
    site.until(lambda: _fetched(site, "1.0.0"))


def _fetched(site: FaultySite, version: str) -> bool:
    """Run the uplink once, and return whether a version answers."""
    site.restart_uplink()
    with site.daemon.admin() as admin:
        return any(each.bundle.version == version and each.ready for each in admin.status().tasks)


def _free_and_wait(site: FaultySite) -> None:
    free(site)
    await_version(site, "2.0.0")


@made(
    "update/warning/-3",
    settings=_other_disk,
    has_task=False,
    prepare=_first_by_uplink,
    with_it=("disk",),
    by_hand=_free_and_wait,
)
def disk_full_while_admitting(site: FaultySite) -> None:
    """The uplink brought a version, and the disk of the store has no room for it."""
    fill(site, 20_000_000)
    publish(site, "2.0.0")

    def is_staged() -> bool:
        site.restart_uplink()
        with site.daemon.admin() as admin:
            updates = admin.status().updates
        return updates is not None and any(
            (each.state, each.reason) == ("STAGED", "DISK_FULL") for each in updates.tasks
        )

    site.until(is_staged)


def _settled_version(site: FaultySite) -> None:
    """Bring the first version, and let its probation end at once."""
    publish(site, "1.0.0", {"probation": ProbationRules(calls=0, hours=0)})
    take_drive(site)
    await_state(site, "DONE")


@made("update/note/-2", person=CENTRAL, **{**updating, "prepare": _settled_version})
def rollout_halted(site: FaultySite) -> None:
    """The central team stopped the rollout of a version."""
    central = CENTRAL_TEAMS[site.folder]
    digest = publish(site, "2.0.0")
    central.plan(central.offering(digest, halted=True))
    write_drive(site)
    take_drive(site)
    await_state(site, "WAITING")


def _mirrored(folder: Path) -> Mapping[str, Any]:
    found = by_drive(folder)
    uplink = {
        "updates_url": str(CENTRAL_TEAMS[folder].folder),
        "notes_dir": str(folder / "notes"),
        "disk_reserve_bytes": 0,
    }
    return {**found, "uplink": uplink}


def _mirror_again(site: FaultySite) -> None:
    site.restart_uplink()
    site.until(lambda: "updates-believed" not in {each["check"] for each in site.findings()})


@made(
    "updates-believed/warning/",
    settings=_mirrored,
    has_task=False,
    prepare=_first_by_uplink,
    by_hand=_mirror_again,
)
def mirror_emptied(site: FaultySite) -> None:
    """What the uplink had mirrored is gone; the uplink brings it again."""
    shutil.rmtree(site.daemon.state_dir / "incoming" / "metadata")
    site.until(lambda: "updates-believed" in {each["check"] for each in site.findings()})


@made("revoked/warning/warning-message", person=CENTRAL, **updating)
def signature_revoked(site: FaultySite) -> None:
    """The central team revoked the version that answers."""
    central = CENTRAL_TEAMS[site.folder]
    digest = next(iter(central.held.bundles()))
    central.plan(central.offering())
    central.revoke(digest)
    write_drive(site)
    take_drive(site)
    site.until(lambda: "revoked" in {each["check"] for each in site.findings()})


CLOCKS: dict[Path, WallClock] = {}
"""The clock of each site as doctor sees it, by its folder."""
DAYS = 86_400


def with_clock(then: Callable[[FaultySite], None] | None = None) -> Callable[[FaultySite], None]:
    def prepare(site: FaultySite) -> None:
        (site.folder / "clock").mkdir()
        clock = CLOCKS[site.folder] = WallClock(site.folder / "clock")
        site.environment.update(clock.environment)
        site.runner.controls = {**site.runner.controls, "timedatectl": _setting(site), "date": _setting(site)}
        if then is not None:
            then(site)

    return prepare


def _setting(site: FaultySite) -> Control:
    """Stand in for the programs that set the clock: it shows the right time afterwards."""

    def set_clock(_: Sequence[str]) -> int:
        CLOCKS[site.folder].jump(0)
        return 0

    return set_clock


def _jumping(days: float) -> Callable[[FaultySite], None]:
    return lambda site: CLOCKS[site.folder].jump(int(days * DAYS))


JUMPED = ("clock-jump",)
made(
    "clock/fault/it-shows-behind-the-newest-signature-seen-here",
    settings=by_drive,
    has_task=False,
    prepare=with_clock(first_version),
    with_it=JUMPED,
)(_jumping(-30))
made(
    "clock/fault/it-shows-after",
    settings=by_drive,
    has_task=False,
    prepare=with_clock(first_version),
    with_it=(*JUMPED, "metadata", "root-of-trust"),
)(_jumping(3 * 365))
made("clock/fault/it-shows-which-is-before-this-program-was-made", prepare=with_clock(), with_it=JUMPED)(
    _jumping(-4 * 365)
)
made("clock/fault/it-shows-which-is-far-in-the-future", prepare=with_clock(), with_it=JUMPED)(_jumping(20 * 365))
made("clock-jump/note/it-jumped-since-the-daemon-started", prepare=with_clock(), by_hand=_jumping(0))(_jumping(0.1))


def _time_server(site: FaultySite, answer: str) -> None:
    """Stand in for timedatectl on a machine that systemd runs."""
    programs = site.folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "timedatectl").write_text(f"#!/bin/sh\necho {answer}\n")
    (programs / "timedatectl").chmod(0o755)
    site.environment["PATH"] = f"{programs}:{os.environ['PATH']}"


@made(
    "clock/note/it-shows-no-time-server-keeps-it",
    prepare=lambda site: _time_server(site, "yes"),
    by_hand=lambda site: _time_server(site, "yes"),
)
def no_time_server(site: FaultySite) -> None:
    """Nobody has configured a time server."""
    _time_server(site, "no")

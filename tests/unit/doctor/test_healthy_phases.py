"""A healthy site has no finding in any phase of its life, for any user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.client import BundleRef, TaskUpdate
from edge_agent.doctor.update_checks import UpdatesFacts, judge_updates
from edge_agent.formats.plan import ProbationRules, SwitchWindow
from edge_agent.formats.status_object import UpdateState
from tests.support.finding_cases import FaultySite, appliance_rows, engine_rows, update_rows
from tests.support.finding_cases.appliance import AS_OPERATOR, OPERATORS
from tests.support.free_ports import free_port
from tests.support.uplink_cases import PATIENT

USERS = {
    "root": (),
    "operator": AS_OPERATOR,
    "ordinary": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
}
MOUNT = "/var/lib/drive"
NOW = 1_790_000_000.0
Phase = Callable[[FaultySite], AbstractContextManager[None]]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user"
)


def _shop(folder: Path) -> Mapping[str, Any]:
    """Return the settings of an enrolled site: a root of trust, operators, and an uplink whose stores are
    unreachable."""
    dead = f"http://127.0.0.1:{free_port()}"
    exchange = appliance_rows.exchanging(folder)
    stores = {"url": f"{dead}/examples", "updates_url": f"{dead}/updates", "options": {"allow_http": "true"}}
    by_drive = update_rows.by_drive(folder)
    return {
        **exchange,
        "service": {"admin_group": OPERATORS},
        "store": by_drive["store"],
        "update": {**exchange["update"], **by_drive["update"]},
        "uplink": {**exchange["uplink"], **PATIENT, **stores, "disk_reserve_bytes": 0},
    }


@pytest.fixture(scope="module")
def site() -> Iterator[FaultySite]:
    """An installed site without a network: its first version came from a drive, and its uplink retries."""
    with FaultySite(_shop, has_task=False, is_appliance=True) as made:
        appliance_rows.give_folders(made)
        update_rows.first_version(made)
        made.serve("uplink", "uplink")
        yield made


@contextmanager
def _serving(_: FaultySite) -> Iterator[None]:
    yield


@contextmanager
def _restarted(site: FaultySite) -> Iterator[None]:
    site.restart()
    yield


@contextmanager
def _starting(site: FaultySite) -> Iterator[None]:
    """The engine is loading."""
    engine_rows.hold_while_starting(site)
    yield
    engine_rows.let_start(site)


@contextmanager
def _draining(site: FaultySite) -> Iterator[None]:
    with site.daemon.admin() as admin:
        admin.drain()
    yield
    site.restart()


@contextmanager
def _no_network(site: FaultySite) -> Iterator[None]:
    """The uplink has reported that it reaches no store."""
    site.until_found("uplink-online")
    yield


@contextmanager
def _drive_in(site: FaultySite) -> Iterator[None]:
    """The drive is mounted, and its import is complete."""
    assert site.appliance is not None
    inside = site.appliance.inside
    site.drive.chmod(0o755)
    subprocess.run([*inside, "mkdir", "-p", MOUNT], check=True)
    subprocess.run([*inside, "mount", "--bind", site.drive, MOUNT], check=True)
    subprocess.run([*site.daemon.command(), "media", "import", MOUNT], check=True, capture_output=True)
    yield
    subprocess.run([*inside, "umount", MOUNT], check=True)


@contextmanager
def _staged(site: FaultySite) -> Iterator[None]:
    """The next version waits for the switch window of the plan."""
    hours = [time.strftime("%H:%M", time.localtime(time.time() + 3600 * ahead)) for ahead in (6, 7)]
    update_rows.publish(site, "2.0.0", {"window": SwitchWindow(start=hours[0], end=hours[1])})
    update_rows.take_drive(site)
    update_rows.await_state(site, "STAGED")
    yield


@contextmanager
def _on_probation(site: FaultySite) -> Iterator[None]:
    """The next version answers and is on probation."""
    update_rows.publish(site, "3.0.0", {"probation": ProbationRules(calls=1000)})
    update_rows.take_drive(site)
    update_rows.await_state(site, "PROBATION")
    yield


PHASES: dict[str, Phase] = {
    "serving": _serving,
    "restarted": _restarted,
    "starting": _starting,
    "draining": _draining,
    "no-network": _no_network,
    "drive-in": _drive_in,
    "updating-staged": _staged,
    "updating-probation": _on_probation,
}


@pytest.mark.release
@needs_root
@pytest.mark.parametrize("phase", PHASES)
def test_healthy_site_has_no_finding_in_any_phase(site: FaultySite, phase: str):
    """Root and operators get no finding of a healthy site; an ordinary user sees only which checks were skipped."""
    with PHASES[phase](site):
        found = {name: site.findings(user) for name, user in USERS.items()}
    bad = {name: [each for each in some if each["verdict"] != "unseen"] for name, some in found.items()}
    assert {name: [] for name in USERS} == bad
    assert [] == found["root"]
    assert "daemon" not in {each["check"] for each in found["operator"]}


# Of an update that goes well: the state, and the reasons that stand in it.
WELL = [
    *(("WAITING", reason) for reason in ("WAVE_LATER", "NO_WAVE", "HALTED", "HARDWARE_UNMET")),
    ("FETCHING", ""),
    *(("STAGED", reason) for reason in ("", "WINDOW_CLOSED", "STOPPING")),
    *((state, "") for state in ("TESTING", "SWITCHING", "PROBATION", "DONE")),
    ("DONE", "BY_HAND"),
    *(("HELD", reason) for reason in ("BY_HAND", "REMOVED")),
]


@pytest.mark.parametrize(("state", "reason"), WELL)
def test_no_step_of_a_successful_update_is_a_finding(state: str, reason: str):
    """Each state of a successful update is ok, or a note about a decision of the central team or the site."""
    candidate = BundleRef("pos", "2.0.0", "d" * 64)
    update = TaskUpdate("pos", None, None, candidate, state, datetime.fromtimestamp(NOW, UTC), reason, "", 0)
    found = list(judge_updates(UpdatesFacts(1, "stable", "", (update,), NOW + 60, live=True)))
    assert {"ok", "note"} >= {each.verdict for each in found if each.about == "pos"} != set()


def test_only_failure_states_are_missing_from_the_table():
    """The table of successful states covers every update state except FAILED and ROLLED_BACK."""
    states = {state.upper() for state in typing.get_args(UpdateState)}
    assert {"FAILED", "ROLLED_BACK"} == states - {state for state, _ in WELL}

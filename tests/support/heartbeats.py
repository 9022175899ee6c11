"""Status objects of sites for tests of the fleet: active bundle, desired bundle, progress of the update.

heartbeat("shop-1", NEW, update("done"))
lay_down(tmp_path / "store", heartbeat("shop-1"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.formats.signed_document import format_timestamp, sign
from edge_agent.formats.status_object import FILE_NAME, SiteStatus, TaskStatus, UpdateState, UpdateStatus
from tests.support.examples import EPOCH, NOW, SITE_KEY
from tests.support.plans import NEW, OLD, TASK

VERSIONS = {OLD: "1.0.0", NEW: "2.0.0"}


def update(state: UpdateState, reason: str = "", *, candidate: str = NEW, message: str = "") -> UpdateStatus:
    """Return the progress of an update."""
    return UpdateStatus(
        candidate=candidate,
        version=VERSIONS.get(candidate, "3.0.0"),
        state=state,
        since=format_timestamp(NOW),
        plan_version=1,
        reason=reason,
        message=message,
    )


def heartbeat(site: str, runs: str | None = OLD, how: UpdateStatus | None = None, **changes: Any) -> SiteStatus:
    """Return the status of a site whose task runs a bundle, or none yet."""
    task = TaskStatus(
        task=TASK,
        kind="classify",
        version=VERSIONS.get(runs or "", "3.0.0"),
        digest=runs or OLD,
        ready=True,
        collect="off",
        update=how,
    )
    plain = {
        "site": site,
        "at": format_timestamp(NOW),
        "agent_version": "0.1.0",
        "epoch": EPOCH,
        "channel": "stable",
        "plan_version": 1,
        "tasks": (task,) if runs else (),
        "arriving": {TASK: how} if how and not runs else {},
    }
    return SiteStatus.model_validate({**plain, **changes})


def lay_down(store: Path, said: SiteStatus, key: Ed25519PrivateKey = SITE_KEY, site: str = "") -> None:
    """Put a status where a site's uplink puts it."""
    folder = store / f"site={site or said.site}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_bytes(sign(said, key))

"""Rows of agent.yaml, of the enrolment, and of what they name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.doctor.configuration_checks import SLACK_SECONDS
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite


def _spelled_right(site: FaultySite) -> None:
    site.edit(service={"drain_secondz": None})


@made("config/fault/", by_hand=_spelled_right, with_it=("enrolment",))
def misspelt_key(site: FaultySite) -> None:
    """Somebody misspelt a key."""
    site.edit(service={"drain_secondz": 5})


@made("config-not-in-force/warning/after-the-daemon-started-the-old-settings-are-in-force")
def edited_after_the_start(site: FaultySite) -> None:
    """Somebody edited agent.yaml and restarted nothing: just later than the slack that doctor allows."""
    with site.daemon.admin() as admin:
        edited = admin.status().start_time.timestamp() + SLACK_SECONDS + 0.1
    os.utime(site.agent_yaml, (edited, edited))


@made(
    "unsigned-allowed/note/agent-yaml-allows-unsigned-bundles",
    settings=lambda _: {"store": {"allow_unsigned": False}},
    has_task=False,
    by_hand=lambda site: site.edit(store={"allow_unsigned": None}),
)
def unsigned_allowed(site: FaultySite) -> None:
    """Somebody allowed unsigned bundles."""
    site.edit(store={"allow_unsigned": True})


@made("enrolment/note/this-site-belongs-to-no-fleet-its-bundles-are-installed-by-hand", asks_nothing=True)
def site_without_a_fleet(site: FaultySite) -> None:
    """agent.yaml names no site."""
    site.edit(site={"id": None})


@made("console/fault/is-other-users-may-read-the-token-and-sign-in-with-it", settings=lambda folder: _token(folder))
def token_that_others_read(site: FaultySite) -> None:
    """Somebody gave every user the right to read the console's token."""
    (site.folder / "token").write_text("t" * 43)
    (site.folder / "token").chmod(0o644)


def _token(folder: Path) -> Mapping[str, Any]:
    return {"web": {"token_file": str(folder / "token")}}


def _credential(folder: Path) -> Mapping[str, Any]:
    (folder / "store.yaml").write_text("access_key_id: x\n")
    (folder / "store.yaml").chmod(0o600)
    return {"uplink": {"url": "s3://fleet/shop", "credentials_file": str(folder / "store.yaml")}}


@made("credentials/fault/is-every-user-may-read-it", settings=_credential)
def credential_that_every_user_reads(site: FaultySite) -> None:
    """Somebody gave every user the right to read the credential of the object store."""
    (site.folder / "store.yaml").chmod(0o644)


def _write_credential(site: FaultySite) -> None:
    """Write the credential again, as the sentences say."""
    _credential(site.folder)


@made("credentials/warning/has-none-does-not-exist", settings=_credential, by_hand=_write_credential)
def credential_away(site: FaultySite) -> None:
    """Somebody removed the credential of the object store."""
    (site.folder / "store.yaml").unlink()


@made("credentials/fault/is-empty", settings=_credential, by_hand=_write_credential)
def credential_empty(site: FaultySite) -> None:
    """A power cut left the credential empty."""
    (site.folder / "store.yaml").write_bytes(b"")


@made(
    "config-overruled/note/agent-yaml-overrides-settings-of-enrolment-or-the-installer",
    by_hand=lambda site: site.edit(site={"id": None}),
)
def name_overruled(site: FaultySite) -> None:
    """The enrolment named the site, and agent.yaml has another name."""
    path = site.agent_yaml.with_name("site.yaml")
    path.write_text("site:\n  id: shop-8\n")
    kept = site.agent_yaml.stat()
    os.utime(path, (kept.st_atime, kept.st_mtime))

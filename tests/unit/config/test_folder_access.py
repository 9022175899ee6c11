"""What keeps the uplink from using a folder that is an object store."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_agent.config.folder_access import FolderFacts, judge_bundle_path, judge_folder


@pytest.mark.parametrize(
    ("changed", "seen", "command"),
    [
        ({"kind": ""}, "the folder /mnt/fleet does not exist", "findmnt /mnt/fleet"),
        ({"kind": "other"}, "/mnt/fleet is not a folder", "sudoedit"),
        ({"path": Path("/home/kim/fleet")}, "the uplink's service cannot see /home/kim/fleet", "sudoedit"),
        (
            {"usable": False, "owner_and_mode": "root:root 0755"},
            "edge-uplink may not write to /mnt/fleet (root:root 0755)",
            "sudo chown edge-uplink:edge-exchange /mnt/fleet",
        ),
        ({"usable": False, "written": False}, "edge-uplink may not read /mnt/fleet", "sudo chmod -R a+rX /mnt/fleet"),
        ({"unit_allows": False}, "it has no drop-in for this folder", "sudo edge-agent drop-ins --yes"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(changed: dict[str, object], seen: str, command: str):
    """As the folder that it is, with the command against it."""
    facts = {"path": Path("/mnt/fleet"), "kind": "folder", "written": True, "managed": True, **changed}
    problem = judge_folder(FolderFacts(**facts))
    assert problem is not None
    assert (True, True) == (seen in problem.message, command in problem.command), problem


@pytest.mark.parametrize(
    "changed",
    [{}, {"usable": True}, {"managed": False, "unit_allows": False}, {"written": False, "unit_allows": False}],
)
def test_a_folder_that_can_be_used_has_no_problem(changed: dict[str, object]):
    """A drop-in is needed only where systemd runs the uplink, and only for writing."""
    assert (
        judge_folder(FolderFacts(Path("/mnt/fleet"), **{"kind": "folder", "written": True, "managed": True} | changed))
        is None
    )


@pytest.mark.parametrize(
    ("path", "code", "managed", "seen"),
    [
        ("/home/kim/shop", errno.EACCES, True, "the daemon cannot see /home/kim/shop: its unit hides"),
        ("/tmp/shop.tar", errno.ENOENT, True, "the daemon cannot see /tmp/shop.tar: its unit hides"),
        ("/home/kim/shop", errno.EACCES, False, "the daemon runs as its own user, which may not read /home/kim/shop"),
        ("/srv/shop", errno.EACCES, True, "the daemon runs as its own user, which may not read /srv/shop"),
        ("/srv/shop", errno.ENOENT, True, ""),
        ("/tmp/shop", errno.ENOENT, False, ""),
        ("/tmp/shop", 0, True, ""),
    ],
)
def test_a_bundle_that_the_daemon_may_not_read_is_explained(path: str, code: int, managed: bool, seen: str):
    """Hidden by the unit, or closed to the daemon's user; what is not there or broken is the caller's to correct."""
    problem = judge_bundle_path(Path(path), code, managed=managed)
    assert (seen != "", True) == (problem is not None, problem is None or problem.message.startswith(seen))

"""Rows of the daemon: killed, stopped, hung; and of its tasks."""

from __future__ import annotations

import os
import signal

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite


@made("daemon/fault/no-process-answers-at-the-daemon-does-not-run", with_it=("socket",))
def killed(site: FaultySite) -> None:
    """The daemon was killed."""
    assert site.daemon.process is not None
    os.kill(site.daemon.process.pid, signal.SIGKILL)
    site.daemon.process.wait()


@made("daemon/fault/pid-listens-at-and-does-not-answer-2")
def hung(site: FaultySite) -> None:
    """The daemon hangs, and its socket is open."""
    assert site.daemon.process is not None
    os.kill(site.daemon.process.pid, signal.SIGSTOP)


def _install(site: FaultySite) -> None:
    site.install()


@made("tasks/warning/nothing-is-installed", by_hand=_install)
def nothing_installed(site: FaultySite) -> None:
    """Somebody removed the only task."""
    with site.daemon.admin() as admin:
        admin.remove("pos-intent")


@made("signatures/warning/seen", has_task=False, with_it=(), by_hand=lambda site: _remove(site))
def unsigned(site: FaultySite) -> None:
    """Somebody installed a bundle without a signature."""
    site.install()


def _remove(site: FaultySite) -> None:
    with site.daemon.admin() as admin:
        admin.remove("pos-intent")

"""Rows of the daemon: killed, stopped, hung; and of its tasks."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support import failing_component
from tests.support.eventually import eventually_sync
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite

ELSEWHERE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
FOREIGN = """
import concurrent.futures, grpc
server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
server.add_insecure_port("{target}")
server.start()
print("ready", flush=True)
server.wait_for_termination()
"""


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


def _drain(site: FaultySite) -> None:
    with site.daemon.admin() as admin:
        admin.drain()


made("daemon/note/f-draining-for-s-it-finishes-what-runs-then-ends", asks_nothing=True)(_drain)


@made(
    "daemon/warning/f-takes-no-new-work",
    settings=lambda _: {"service": {"drain_seconds": 1}},
)
def drained(site: FaultySite) -> None:
    """Somebody drained the daemon, and longer ago than that takes."""
    _drain(site)
    eventually_sync(lambda: any(each["check"] == "daemon" for each in site.findings()))


def _damage(site: FaultySite) -> None:
    site.daemon.kill()
    blobs = (site.daemon.state_dir / "blobs" / "sha256").rglob("?" * 64)
    max(blobs, key=lambda path: path.stat().st_size).unlink()
    site.daemon.start()


@made(
    "tasks/fault/message",
    by_hand=_install,
    settings=lambda _: {"engine": {"load_failures_max": 1}},
)
def weights_lost(site: FaultySite) -> None:
    """The disk lost the weights of the only version."""
    _damage(site)
    eventually_sync(lambda: any(each["check"] == "tasks" for each in site.findings()))


def _failing(site: FaultySite) -> Path:
    return site.daemon.state_dir.parent / failing_component.FILE_NAME


@made("component/fault/warning-message", by_hand=lambda site: _failing(site).unlink())
def component_dies(site: FaultySite) -> None:
    """An unexpected error ends a component at each of its starts."""
    _failing(site).write_text("refusals")
    site.daemon.module = "tests.support.failing_component"
    site.restart()
    site.until_found("component")


def _start_again(site: FaultySite) -> None:
    """Restart the daemon as the operator of the other container does."""
    site.daemon.kill()
    site.restart()


@made(
    "daemon/fault/it-does-not-answer-at-and-its-process-is-not-visible-from-here",
    by_hand=_start_again,
    prepare=lambda site: site.look_from.extend(ELSEWHERE),
)
def hung_in_another_container(site: FaultySite) -> None:
    """Doctor runs in a container of its own, and shares only the folders with the daemon, which hangs."""
    hung(site)


@made("daemon/fault/", with_it=("socket",))
def another_program_at_the_socket(site: FaultySite) -> None:
    """The daemon was killed, and somebody started another gRPC program at its admin socket."""
    site.daemon.kill()
    script = FOREIGN.format(target=site.daemon.admin_target)
    site.daemon.process = subprocess.Popen([site.daemon.python, "-c", script], stdout=subprocess.PIPE)
    assert site.daemon.process.stdout is not None
    with site.daemon.process.stdout as said:
        assert said.readline() == b"ready\n"

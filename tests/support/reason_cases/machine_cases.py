"""Rows of this machine: errors when the daemon starts, or when disk, memory or a drive fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from edge_agent.errors import ConfigInvalid
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.reason_cases.bundle_cases import version
from tests.support.reason_cases.call_cases import TASK, answers, serving
from tests.support.reason_cases.case import (
    CaseOutcome,
    CommandEnd,
    case,
    edge_agent,
    excuse,
    failure,
    follow,
    run,
    worked,
)
from tests.support.reason_cases.uplink_cases import IDENTITY, disk
from tests.support.tls_site import TlsSite

PROGRAM = [sys.executable, "-m", "edge_agent.cli"]


def config(folder: Path, **sections: Any) -> Path:
    """Write an agent.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def starts(daemon: RunningDaemon) -> bool:
    """Return whether a daemon starts, and end it."""
    with daemon:
        return True


def refused_start(daemon: RunningDaemon) -> CommandEnd:
    """Run a daemon that ends at once."""
    return edge_agent(daemon, "serve")


@case("CONFIG_INVALID", "technician")
def config_invalid(folder: Path) -> CaseOutcome:
    """A key is misspelt; the message names the nearest one, with which the daemon starts."""
    wrong = RunningDaemon(folder / "wrong", service={"drain_secondz": 5})
    met = refused_start(wrong)
    assert (met.code, True) == (3, "drain_seconds" in met.text), met.text
    right = RunningDaemon(folder / "right", service={"drain_seconds": 5})
    checked = follow(right, folder, ConfigInvalid.remedy_default)
    return CaseOutcome(met.reasons, worked(checked) and starts(right))


@case("STATE_DIR_IN_USE", "technician")
def state_dir_in_use(folder: Path) -> CaseOutcome:
    """A second daemon on one state directory; once the first one is stopped it starts."""
    first = RunningDaemon(folder)
    with first:
        second = RunningDaemon(folder)
        met = refused_start(second)
    return CaseOutcome(met.reasons, met.code == 3 and starts(second))


@case("STATE_DIR_UNWRITABLE", "technician")
def state_dir_unwritable(folder: Path) -> CaseOutcome:
    """The state directory is on a disk that is mounted read-only; with another --state-dir the daemon starts."""
    with disk(folder / "disk", "ro") as mounted:
        daemon = RunningDaemon(folder / "site")
        daemon.state_dir = mounted / "state"
        met = refused_start(daemon)
    return CaseOutcome(met.reasons, met.code == 3 and starts(RunningDaemon(folder / "other")))


@case("SOCKET_IN_USE", "technician")
def socket_in_use(folder: Path) -> CaseOutcome:
    """Another daemon listens in the run directory; with another --run-dir both run."""
    with RunningDaemon(folder / "first") as first:
        second = RunningDaemon(folder / "second")
        own, second.run_dir = second.run_dir, first.run_dir
        met = refused_start(second)
        second = RunningDaemon(folder / "second")
        assert own != first.run_dir
        return CaseOutcome(met.reasons, met.code == 3 and starts(second))


@case("SOCKET_PATH_TOO_LONG", "technician")
def socket_path_too_long(folder: Path) -> CaseOutcome:
    """A run directory with a long name; with a shorter one the daemon starts."""
    daemon = RunningDaemon(folder / "site")
    daemon.run_dir = folder / ("long" * 30)
    met = refused_start(daemon)
    return CaseOutcome(met.reasons, met.code == 3 and starts(RunningDaemon(folder / "short")))


@case("CERTIFICATE_UNUSABLE", "technician")
def certificate_unusable(folder: Path) -> CaseOutcome:
    """The key belongs to another certificate; 'certs show' shows which, and with its own the daemon starts."""
    site = TlsSite(folder / "tls")
    right = site.key.read_bytes()
    site.client("other", "infer")
    site.key.write_bytes((site.folder / "other.key").read_bytes())
    daemon = RunningDaemon(folder / "site", **site.settings())
    met = refused_start(daemon)
    [shown] = follow(daemon, folder, met.remedy, FILE=str(site.certificate))
    site.key.write_bytes(right)
    return CaseOutcome(met.reasons, met.code == 3 and not shown.code and starts(daemon))


@case("WEB_TOKEN_UNUSABLE", "technician")
def web_token_unusable(folder: Path) -> CaseOutcome:
    """Others may read the token's file; removed, it is made anew."""
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.write_text("t" * 43)
    token.chmod(0o644)
    path = config(folder, web={"token_file": str(token)})
    command = [*PROGRAM, "--config", path, "-v", "serve", "web", "--link"]
    met = run(*command)
    token.unlink()
    return CaseOutcome(met.reasons, met.code == 3 and "/login?token=" in run(*command).text)


@case("SYSTEMD_FAILED", "technician")
def systemd_failed(folder: Path) -> CaseOutcome:
    """A technician reads the journal of a daemon that systemd did not start; the log is where it was started."""
    if Path("/run/systemd/system").is_dir():
        return CaseOutcome(("SYSTEMD_FAILED",), cured=False, person="a machine without systemd")
    with serving(folder) as daemon:
        met = edge_agent(daemon, "logs")
        assert "standard error of 'edge-agent serve'" in met.remedy, met.text
        return CaseOutcome(met.reasons, met.code == 3 and '"event": "serving"' in daemon.log.read_text())


@case("DISK_FULL", "operator")
def disk_full(folder: Path) -> CaseOutcome:
    """The disk has no place for the next bundle; the list shows old versions, and when one is removed it fits."""
    with disk(folder / "disk", "size=13m") as mounted:
        big = b"w" * 3 * 2**20
        daemon = RunningDaemon(folder / "site", store={"disk_reserve_bytes": 0})
        daemon.state_dir = mounted / "state"
        with daemon:
            for number in ("0.9.0", "1.0.0", "2.0.0"):
                daemon.install(version(folder, number, number.encode() + big))
            third = version(folder, "3.0.0", b"3" + big)
            met = edge_agent(daemon, "install", third)
            outcomes = follow(daemon, folder, met.remedy, TASK=TASK, VERSION="0.9.0")
            installed = edge_agent(daemon, "install", third)
            assert not installed.code, "\n".join([met.text, *(each.said for each in outcomes), installed.text])
            return CaseOutcome(met.reasons, worked(outcomes) and answers(daemon))


@case("MEMORY_SHORT", "operator")
def memory_short(folder: Path) -> CaseOutcome:
    """The site allows engines less memory than one needs; with 'memory_bytes_max' raised the bundle is installed."""
    bundle = version(folder, "1.0.0")
    with RunningDaemon(folder / "site", engine={"memory_bytes_max": 20 * 2**20}) as daemon:
        met = edge_agent(daemon, "install", bundle)
        assert "memory_bytes_max" in met.remedy + met.text, met.text
    with RunningDaemon(folder / "site") as daemon:
        return CaseOutcome(met.reasons, not edge_agent(daemon, "install", bundle).code and answers(daemon))


excuse(
    "DEVICE_UNUSABLE",
    "technician",
    "Needs a machine with a broken accelerator, since an engine without one says so in status and answers on the CPU:"
    " tests/process/test_devices.py has the error with a driver that fails.",
)


@case("STICK_FAILED", "technician")
def drive_failed(folder: Path) -> CaseOutcome:
    """The drive is full in the middle of an export; on another one the same command copies all of it."""
    examples = {"collect": {TASK: "upstream"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0}
    with serving(folder, examples=examples, site=IDENTITY) as daemon, disk(folder / "small", "size=4k") as small:
        with daemon.client() as client:
            for number in range(30):
                client.classify(TASK, [f"refund {number}"])
        with daemon.admin() as admin:
            eventually_sync(
                lambda: (found := admin.status().examples) is not None and found.counters.get("captured", 0) >= 1
            )
        met = edge_agent(daemon, "media", "export", small)
        other = folder / "other"
        other.mkdir()
        copied = edge_agent(daemon, "media", "export", other)
        return CaseOutcome(met.reasons, met.code == 3 and not copied.code and bool(list(other.rglob("*.age"))))


@case("STORE_DAMAGED", "device")
def store_damaged(folder: Path) -> CaseOutcome:
    """A stored file is gone after a fault of the disk; installing the bundle again brings the task back."""
    bundle = version(folder, "1.0.0")
    daemon = RunningDaemon(folder / "site", engine={"load_failures_max": 1})
    with daemon:
        daemon.install(bundle)
        daemon.kill()
        weights = max((daemon.state_dir / "blobs" / "sha256").rglob("?" * 64), key=lambda path: path.stat().st_size)
        weights.unlink()
        daemon.start()
        with daemon.client() as client, daemon.admin() as admin:
            eventually_sync(lambda: any("does not answer" in warning for warning in admin.status().warnings))
            failed = failure(lambda: client.classify(TASK, ["refund"]))
        assert "nstall" in failed.remedy, failed.remedy
        return CaseOutcome((failed.reason,), not edge_agent(daemon, "install", bundle).code and answers(daemon))


@case("UNREACHABLE", "operator")
def unreachable(folder: Path) -> CaseOutcome:
    """No daemon runs; the one that 'edge-agent serve' starts answers."""
    daemon = RunningDaemon(folder)
    met = edge_agent(daemon, "status")
    assert "'edge-agent serve'" in met.remedy, met.text
    with daemon:
        return CaseOutcome(met.reasons, met.code == 3 and not edge_agent(daemon, "status").code)

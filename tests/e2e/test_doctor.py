"""doctor and support-bundle against a real daemon, with the faults made for real."""

import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from edge_agent.client import CallFailed
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

PROMPT = "Mrs Miller wants her money back for the blue kettle"
SECONDS_MAX = 60.0


def run(daemon: RunningDaemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*daemon.command(), *words], capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def doctor(daemon: RunningDaemon) -> dict[str, dict[str, str]]:
    """Return the worst finding of each check."""
    order = ["ok", "note", "warning", "unseen", "fault"]
    found = json.loads(run(daemon, "doctor", "--json").stdout)["findings"]
    return {each["check"]: each for each in sorted(found, key=lambda each: order.index(each["verdict"]))}


def verdict(daemon: RunningDaemon, *checks: str) -> tuple[str, ...]:
    found = doctor(daemon)
    return tuple(found[check]["verdict"] for check in checks)


@pytest.fixture
def daemon(tmp_path: Path):
    """A daemon that answers one task and keeps examples."""
    with RunningDaemon(tmp_path / "site", examples={"collect": {"pos-intent": "local"}}) as running:
        running.install(echo_bundle(tmp_path / "bundle"))
        yield running


@pytest.mark.release
def test_a_healthy_site_has_no_fault(daemon):
    """Exit code 0; engine, task, sockets, database and spool are well."""
    assert 0 == run(daemon, "doctor").returncode
    checks = (
        "daemon",
        "daemon-version",
        "engine",
        "confinement",
        "tasks",
        "socket",
        "state-dir",
        "spool",
        "clock-jump",
    )
    assert set(verdict(daemon, *checks)) == {"ok"}


@pytest.mark.slow
def test_a_daemon_that_hangs_is_told_from_one_that_does_not_run(daemon):
    """A stopped process is named with its pid, though it never answers; one that was killed leaves dead sockets."""
    pid = daemon.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        found = doctor(daemon)["daemon"]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ("fault", f"pid {pid} listens") == (found["verdict"], found["seen"].partition(" at ")[0])
    assert ("its process is stopped" in found["seen"], f"sudo kill -KILL {pid}" in found["command"]) == (True, True)
    daemon.kill()
    found = doctor(daemon)
    assert ("fault", "fault") == (found["daemon"]["verdict"], found["socket"]["verdict"])
    assert ("does not run" in found["daemon"]["seen"], "no process listens" in found["socket"]["seen"]) == (True, True)


@pytest.mark.release
def test_settings_that_were_changed_after_the_start_are_not_in_force(daemon):
    """The file is newer than the daemon; one that is refused is found as well, and the daemon goes on."""
    config = Path(daemon.command()[4])
    later = time.time() + 60
    os.utime(config, (later, later))
    assert ("warning", "ok") == verdict(daemon, "config-not-in-force", "daemon")
    good = config.read_text()
    config.write_text("stor: {}\n")
    found = doctor(daemon)["config"]
    config.write_text(good)
    assert ("fault", "Did you mean 'store'?") == (found["verdict"], found["remedy"])


@pytest.mark.release
def test_an_engine_that_was_killed_is_counted(daemon):
    """It answers again, and doctor says that it was started anew."""
    with daemon.admin() as admin:
        os.kill(admin.status().engines[0].pid, signal.SIGKILL)
        eventually_sync(lambda: admin.status().engines[0].restarts == 1 and admin.status().tasks[0].ready)
    assert ("ok", "warning") == verdict(daemon, "engine", "engine-restarts")


@pytest.mark.release
def test_a_bundle_whose_files_are_gone_is_a_fault_of_its_task(tmp_path):
    """The daemon starts without the weights: the task does not answer, and the finding says what to do."""
    with RunningDaemon(tmp_path / "site") as daemon:
        daemon.install(echo_bundle(tmp_path / "bundle", weights=b"weights"))
        daemon.stop()
        for blob in daemon.state_dir.glob("blobs/sha256/**/*"):
            if blob.is_file():
                blob.unlink()
        daemon.start()
        eventually_sync(lambda: doctor(daemon)["tasks"]["verdict"] == "fault", seconds=SECONDS_MAX)
        found = doctor(daemon)["tasks"]
    assert ("pos-intent", "edge-agent rollback pos-intent") == (found["about"], found["command"])


@pytest.mark.release
def test_a_drained_daemon_takes_no_new_work(daemon):
    """For as long as a drain takes, doctor says since when; no task is called a fault."""
    with daemon.admin() as admin:
        admin.drain()
    assert ("note", True) == (verdict(daemon, "daemon")[0], "draining for" in doctor(daemon)["daemon"]["seen"])


@pytest.mark.release
def test_a_damaged_spool_is_a_fault_while_answers_go_on(tmp_path):
    """No examples are kept: the daemon's own sentence stands there, and the database is named."""
    with RunningDaemon(tmp_path / "site", examples={"collect": {"pos-intent": "local"}}) as daemon:
        daemon.install(echo_bundle(tmp_path / "bundle"))
        daemon.stop()
        for path in daemon.state_dir.glob("spool.db*"):
            path.write_bytes(b"no database" * 1000)
        daemon.start("pos-intent")
        found = doctor(daemon)
        assert ("fault", "fault", "ok") == tuple(found[c]["verdict"] for c in ("examples-kept", "database", "tasks"))


@pytest.mark.release
def test_an_uplink_that_never_spoke_is_a_fault(tmp_path):
    """It is configured and does not run."""
    uplink = {"url": str(tmp_path / "central")}
    with RunningDaemon(tmp_path / "site", uplink=uplink, site={"id": "shop-7"}) as daemon:
        assert ("fault", "ok") == verdict(daemon, "uplink", "enrolment")


@pytest.mark.slow
def test_a_support_bundle_of_a_real_site_holds_nothing_that_was_asked(daemon, tmp_path):
    """Prompts, answers' ids and the site's files are not in it; status, doctor and folders are."""
    with daemon.client() as client:
        client.classify("pos-intent", [PROMPT, "4111 1111 1111 1111"])
        with pytest.raises(CallFailed):
            client.classify(f"{PROMPT} as a task", ["x"])
    target = tmp_path / "bundle.tar.gz"
    done = run(daemon, "support-bundle", "--yes", "--output", str(target))
    assert 0 == done.returncode, done.stderr
    with tarfile.open(target) as archive:
        content = {name.partition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()}
    assert {"doctor.json", "status.json", "folders.txt", "machine.txt", "updates.json"} <= set(content)
    everything = "\n".join(content.values())
    assert [] == [word for word in ("Miller", "kettle", "4111") if word in everything]
    assert "pos-intent" == json.loads(content["status.json"])["tasks"][0]["name"]


@pytest.mark.release
def test_a_support_bundle_is_made_of_a_daemon_that_hangs(daemon, tmp_path):
    """In bounded time, with everything but what the daemon would have said."""
    target = tmp_path / "bundle.tar.gz"
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        done = run(daemon, "support-bundle", "--yes", "--output", str(target))
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert (0, True) == (done.returncode, "left out: status.json" in done.stdout)
    assert 0o600 == target.stat().st_mode & 0o777

"""`doctor` about the daemon's status: the daemon, engines, tasks, updates, examples, the uplink."""

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_agent import __version__
from edge_agent.client import AdminClient, BundleRef, OperatorWarning, Status, TaskUpdate, UplinkProblem
from edge_agent.config import Config
from edge_agent.doctor import capture_checks, daemon_checks, update_checks, uplink_checks
from edge_agent.doctor.capture_checks import CaptureFacts
from edge_agent.doctor.installation import Installation
from edge_agent.doctor.probe_context import DaemonFacts, ProbeContext, StoredState, UnitPhase
from edge_agent.doctor.update_checks import MetadataFacts, UpdatesFacts
from edge_agent.doctor.uplink_checks import UplinkFacts
from edge_agent.store.state_database import StateDatabase, UpdateProgress
from tests.support.doctor_cases import DAY, looked, only, place, told, verdicts
from tests.support.fake_daemon import FakeDaemon, task_message

NOW = 1_790_000_000.0
ADMIN = "/run/edge-agent/admin.sock"


@pytest.fixture
def status_of(tmp_path: Path):
    """Return a function that reads a fake daemon's status as the client does."""

    def read(daemon: FakeDaemon) -> Status:
        with daemon, AdminClient(daemon.targets[0]) as admin:
            return admin.status()

    return read


def judged(status: Status):
    return list(daemon_checks.judge_daemon(DaemonFacts(ADMIN, True, status, version=__version__)))


def test_serving_daemon_is_ok_except_for_signatures(status_of):
    """Of a serving daemon, its version, engine and tasks are ok; only the missing signature is a warning."""
    expected = {"daemon", "daemon-version", "engine", "tasks"}
    found = verdicts(judged(status_of(FakeDaemon("127.0.0.1:0"))))
    assert {**dict.fromkeys(expected, "ok"), "signatures": "warning"} == found


@pytest.mark.parametrize(
    ("verdict", "said", "facts"),
    [
        ("fault", "the daemon does not run", {"reason": "UNREACHABLE"}),
        ("fault", "it hangs", {"reason": "DEADLINE_EXPIRED", "pid": 7}),
        ("fault", "its process is stopped", {"reason": "UNREACHABLE", "pid": 7, "process_state": "T"}),
        ("unseen", "may not use", {"reason": "FORBIDDEN"}),
        ("fault", "INTERNAL", {"reason": "INTERNAL", "message": "an error"}),
    ],
)
def test_daemon_that_does_not_answer_is_diagnosed(verdict, said, facts):
    """A daemon that is not running, hangs, is stopped, or forbids access has a specific finding and command."""
    found = list(daemon_checks.judge_daemon(DaemonFacts(ADMIN, True, None, **facts)))
    assert (verdict, True) == told(found, "daemon")
    assert said in only(found, "daemon").seen


@pytest.mark.parametrize(
    ("verdict", "state", "problem"),
    [
        ("ok", 2, ""),
        ("warning", 2, "adapter 'x' does not load"),
        ("note", 1, ""),
        ("note", 5, ""),
        ("fault", 3, "it died by SIGSEGV"),
        ("fault", 4, "3 loads failed"),
    ],
)
def test_engines_are_judged_by_their_state(status_of, verdict, state, problem):
    """Starting and stopping engines are notes, failed ones faults, and one with a partial problem is a warning."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.engines[0].state = state
    daemon.admin.status.engines[0].problem = problem
    assert verdict == verdicts(judged(status_of(daemon)))["engine"]


def test_engine_finding_names_its_processor_code(status_of):
    """The finding of an engine names the kind of processor for which llama.cpp computes."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.engines[0].details["cpu_variant"] = "zen4"
    assert only(judged(status_of(daemon)), "engine").seen.endswith("code for zen4 processors")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"fallback": "cuda is not used: no device"}, [("warning", "computes on cpu: cuda is not used: no device")]),
        ({"device": "vulkan:0", "partial": "12 of 31 fit"}, [("warning", "computes on vulkan:0: 12 of 31 fit")]),
        ({"device": "vulkan:0"}, [("ok", "vulkan:0, a card; layers: 31 of 31")]),
    ],
)
def test_engine_device_is_judged(status_of, fields, found):
    """A device is shown with its layers, a missed or partly used one is a warning, and the CPU has no finding."""
    daemon = FakeDaemon("127.0.0.1:0")
    engine = daemon.admin.status.engines[0]
    engine.details.update(gpu_layers="31 of 31", device_description="a card")
    for name, value in fields.items():
        setattr(engine, name, value)
    every = judged(status_of(daemon))
    assert found == [(each.verdict, each.seen) for each in every if each.check == "device"]


def test_restarts_missing_confinement_and_another_version_are_warnings(status_of):
    """Engine restarts, missing confinement, another version and a daemon that does not serve are warnings."""
    daemon = FakeDaemon("127.0.0.1:0")
    engine = daemon.admin.status.engines[0]
    engine.restarts = 2
    engine.details.update({"seccomp": "on", "landlock": "the kernel has no Landlock", "memory": "on"})
    daemon.admin.status.agent_version = "0.0.9"
    daemon.admin.status.serving = False
    found = judged(status_of(daemon))
    for check in ("engine-restarts", "confinement", "daemon-version", "daemon"):
        assert ("warning", True) == told(found, check)
    assert "the kernel has no Landlock" in only(found, "confinement").seen


def test_finding_of_a_silent_task_has_the_daemons_reason(status_of):
    """A task that does not answer has a finding with the daemon's reason, also if it is not served."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.tasks[0].ready = False
    daemon.admin.warn("TASK_SILENT", "Task pos-intent does not answer: the model does not load.", "pos-intent")
    daemon.admin.warn("TASK_SILENT", "Task other does not answer: its bundle is damaged.", "other")
    daemon.admin.warn("REVOKED", "Task pos-intent is answered by 1.0.0, which is revoked. It goes on.", "pos-intent")
    daemon.admin.warn("UNSPECIFIED", "The clock of something is strange.")
    found = judged(status_of(daemon))
    tasks = {finding.about: finding.seen for finding in found if finding.check == "tasks"}
    assert {"pos-intent", "other"} == set(tasks)
    assert "the model does not load" in tasks["pos-intent"]
    assert ("warning", "warning") == (only(found, "revoked").verdict, only(found, "daemon-warnings").verdict)


def test_task_without_confident_answers_is_a_warning(status_of):
    """A task whose answers cannot be confident is a warning with the reason and a remedy."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.tasks[0].confidence_blocker = "scores of Q4_K_M weights depend on what else is computed"
    found = judged(status_of(daemon))
    assert ("warning", True) == told(found, "confidence")
    assert daemon.admin.status.tasks[0].name == only(found, "confidence").about
    assert "Q4_K_M" in only(found, "confidence").seen


def test_bundle_without_ood_gate_is_a_note(status_of):
    """A task with a threshold but no OOD gate is a note; without a threshold, or if the daemon does not report gates,
    there is no finding."""
    daemon = FakeDaemon("127.0.0.1:0")
    first, second, third = daemon.admin.status.tasks[0], task_message("gated"), task_message("bare")
    first.threshold = second.threshold = 0.9
    third.ClearField("threshold")
    second.gate, third.gate = "ood_score", "none"
    daemon.admin.status.tasks.extend([second, third])
    assert "gate" not in verdicts(judged(status_of(daemon)))
    daemon = FakeDaemon("127.0.0.1:0")
    first.gate = "none"
    daemon.admin.status.tasks[0].CopyFrom(first)
    daemon.admin.status.tasks.extend([second, third])
    found = judged(status_of(daemon))
    assert ("note", True) == told(found, "gate")
    assert f"without a gate: {first.name};" in only(found, "gate").seen


def test_decide_task_without_ood_gate_is_a_note(status_of):
    """A decide task without a gate is named if one of its questions has a threshold."""
    daemon = FakeDaemon("127.0.0.1:0")
    desk, bare = task_message("desk"), task_message("bare")
    for task in (desk, bare):
        task.ClearField("threshold")
        task.gate = "none"
        task.questions.add(name="intent")
    desk.questions.add(name="urgent", threshold=0.9)
    daemon.admin.status.tasks.extend([desk, bare])
    assert "without a gate: desk;" in only(judged(status_of(daemon)), "gate").seen


def test_daemon_without_tasks_is_a_warning(status_of):
    """A daemon without tasks is a warning; signed bundles are ok."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.tasks[0].signed = True
    assert "ok" == verdicts(judged(status_of(daemon)))["signatures"]
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.ClearField("tasks")
    assert "warning" == verdicts(judged(status_of(daemon)))["tasks"]


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        (None, {"exists": False}),
        ("note", {"exists": False, "expected": True}),
        ("warning", {"exists": False, "expected": True, "has_uplink": True}),
        ("fault", {"exists": True, "expected": True, "problem": "it is not timestamp metadata"}),
        ("fault", {"exists": True, "expected": True, "expires_in": -DAY}),
        ("warning", {"exists": True, "expected": True, "expires_in": DAY}),
        ("ok", {"exists": True, "expected": True, "expires_in": 30 * DAY}),
    ],
)
def test_update_metadata_are_judged_by_expiry(verdict, facts):
    """Damaged or expired metadata are a fault, ones that expire soon a warning; without updates there is no finding."""
    assert verdict == verdicts(update_checks.judge_metadata(MetadataFacts("/var/incoming/metadata", **facts))).get(
        "metadata"
    )


def test_metadata_are_not_read_without_updates(tmp_path):
    """Metadata are not read on a machine without updates, so no user is told that rights are missing."""
    (tmp_path / "incoming" / "metadata").mkdir(parents=True)
    (tmp_path / "incoming" / "metadata" / "timestamp.json").write_text("damaged")
    facts = DaemonFacts("/run/admin.sock", True, None)
    context = ProbeContext(Installation(Config(state_dir=tmp_path)), facts, None, None, StoredState(None, {}))
    found = update_checks.probe_metadata(context)
    assert (False, "") == (found.exists, found.problem)


def task(state: str, reason: str = "", age: float = 60.0) -> TaskUpdate:
    wanted = BundleRef("pos-intent", "2.0.0", "ab" * 32)
    since = datetime.fromtimestamp(NOW - age, UTC)
    return TaskUpdate("pos-intent", None, None, wanted, state, since, reason, "", 2)


@pytest.mark.parametrize(
    ("verdict", "update"),
    [
        ("fault", task("FAILED", "GOLDEN_DIFFERS")),
        ("fault", task("ROLLED_BACK", "SLOWER")),
        ("note", task("HELD", "BY_HAND")),
        ("note", task("HELD", "REMOVED")),
        ("warning", task("WAITING", "DISK_FULL")),
        ("warning", task("WAITING", "FILES_MISSING")),
        ("warning", task("WAITING", "STICK_FAILED")),
        ("warning", task("WAITING", "INTERRUPTED")),
        ("warning", task("STAGED", "DISK_FULL")),
        ("ok", task("STAGED", "WINDOW_CLOSED")),
        ("warning", task("FETCHING", age=DAY)),
        ("ok", task("FETCHING")),
        ("note", task("WAITING", "HALTED")),
        ("note", task("WAITING", "HARDWARE_UNMET")),
        ("ok", task("WAITING", "WAVE_LATER")),
        ("ok", task("PROBATION")),
        ("ok", task("DONE")),
    ],
)
def test_each_state_of_an_update_has_its_verdict(verdict, update):
    """A failed update is a fault, one that is blocked here a warning, one that is held or halted a note."""
    found = list(update_checks.judge_updates(UpdatesFacts(7, "stable", "", (update,), NOW, live=True)))
    assert verdict == only(found, "update").verdict
    assert update.reason in only(found, "update").seen


def test_unverified_updates_are_a_warning():
    """Updates that the daemon cannot verify are a warning with the daemon's reason."""
    found = list(
        update_checks.judge_updates(UpdatesFacts(7, "stable", "timestamp.json has expired", (), NOW, live=True))
    )
    assert ("warning", True) == told(found, "updates-believed")
    assert [] == list(update_checks.judge_updates(UpdatesFacts(0, "stable", "", (), NOW, live=True)))


def test_update_journal_is_read_without_a_daemon(tmp_path):
    """Without a daemon, an update that failed is still a fault, read from the state database."""
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True)
    state = StateDatabase(where.config.state_dir / "state.db", may_create=True)
    state.journal.record(
        UpdateProgress(
            "pos-intent", "ab" * 32, "2.0.0", "w", 7, "", "failed", time.time() - 60, "CRASHES", "its process died"
        )
    )
    state.close()
    found = looked(where)["update"]
    assert ("fault", True) == (found.verdict, "2.0.0 has been in state failed for 60 s: its process died" == found.seen)


def kept(**changed):
    of = {"spool_bytes": 10, "spool_bytes_max": 100, "outbox_bytes": 10, "outbox_bytes_max": 100, "segments": 1}
    of |= {"oldest_seconds": 60.0, "counters": {"captured": 5}, "problems": (), "can_leave_site": True, **changed}
    return list(capture_checks.judge_capture(CaptureFacts(**of)))


EVICTED = {"sacrificed_routine": 3}
BOTH = {"dropped_queue": 1, **EVICTED}


@pytest.mark.parametrize(
    ("check", "verdict", "changed"),
    [
        ("spool", "ok", {}),
        ("spool", "warning", {"spool_bytes": 95}),
        ("outbox", "ok", {}),
        ("outbox", "warning", {"outbox_bytes": 95}),
        ("receipts", "ok", {}),
        ("receipts", "ok", {"oldest_seconds": None}),
        ("receipts", "warning", {"oldest_seconds": 5 * DAY}),
        ("examples-lost", "ok", {}),
        ("examples-lost", "note", {"counters": EVICTED, "loss_seconds": {"evicted": 60.0}}),
        ("examples-lost", "note", {"counters": BOTH, "loss_seconds": {"evicted": 60.0, "lost": 2 * DAY}}),
        ("examples-lost", "warning", {"counters": BOTH, "loss_seconds": {"evicted": 60.0, "lost": DAY - 1}}),
        ("examples-lost", "ok", {"counters": BOTH, "loss_seconds": {"evicted": DAY, "lost": DAY}}),
        ("examples-lost", "ok", {"counters": BOTH}),
        ("examples-kept", "fault", {"problems": (OperatorWarning("EXAMPLES_OFF", "", "spool.db is damaged."),)}),
        ("examples-stalled", "fault", {"problems": (OperatorWarning("EXAMPLES_STALLED", "", "the disk …"),)}),
    ],
)
def test_examples_are_judged(check, verdict, changed):
    """Full spools, missing receipts and stopped captures are findings; a loss is reported for a day."""
    assert (verdict, verdict != "ok") == told(kept(**changed), check)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("engine echo", "stopped with KeyError 3 s ago: it is started again after a pause."),
        ("updates", "returned 3 s ago, 2 times in a row: it runs again."),
    ],
)
def test_failed_component_is_a_fault(status_of, about, said):
    """A component that failed is a fault with its name, the log and a restart, and is reported once."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.warn("COMPONENT", f"Component {about} {said}", about)
    found = judged(status_of(daemon))
    dead = only(found, "component")
    assert (about, "fault") == (dead.about, dead.verdict)
    assert dead.command.endswith("sudo systemctl restart edge-agent")
    assert "daemon-warnings" not in verdicts(found)


@pytest.mark.parametrize(
    ("takes_updates", "command"),
    [
        (False, "sudo edge-agent enrol FILE; sudo edge-agent media import /media/usb"),
        (True, "sudo edge-agent media import /media/usb"),
    ],
)
def test_finding_without_tasks_names_the_first_step(status_of, takes_updates, command):
    """Without a task the command is `media import`, and first `enrol` on a machine that takes no updates."""
    status = replace(status_of(FakeDaemon("127.0.0.1:0")), tasks=(), engines=())
    facts = DaemonFacts(ADMIN, True, status, version=__version__, takes_updates=takes_updates)
    found = only(list(daemon_checks.judge_daemon(facts)), "tasks")
    assert ("warning", "nothing is installed", command) == (found.verdict, found.seen, found.command)


def test_site_without_capture_has_no_capture_finding():
    """Without capture there is no finding, and without export there is none about receipts."""
    assert [] == list(capture_checks.judge_capture(None))
    assert {"spool", "examples-lost"} == set(verdicts(kept(can_leave_site=False, segments=0)))


def test_capture_sizes_are_read_without_a_daemon(tmp_path):
    """Without a daemon, a full spool and a segment of last week are found on disk."""
    where = place(tmp_path, examples={"collect": {"t": "local"}, "spool_bytes_max": 2**20})
    (where.config.outbox / "segments").mkdir(parents=True)
    (where.config.state_dir / "spool.db").write_bytes(b"SQLite format 3\0".ljust(2**20, b"\0"))
    segment = where.config.outbox / "segments" / "e-1.age"
    segment.write_bytes(b"x")
    os.utime(segment, (1.0, time.time() - 7 * DAY))
    found = looked(where)
    assert ("warning", "warning") == (found["spool"].verdict, found["receipts"].verdict)


def heard(**changed):
    return list(uplink_checks.judge_uplink(UplinkFacts(**{"silence": "", "state": "online", **changed})))


TROUBLE = UplinkProblem("UPSTREAM_REFUSED", "the store does not accept the credential", "Check it.", "")


@pytest.mark.parametrize(
    ("check", "verdict", "changed"),
    [
        ("uplink", "ok", {}),
        ("uplink", "fault", {"silence": "it has said nothing yet"}),
        ("uplink", "fault", {"silence": "it has said nothing", "phase": UnitPhase("", 600.0, active=True)}),
        ("uplink-online", "ok", {}),
        ("uplink-online", "note", {"state": "offline", "since_seconds": 60.0}),
        ("uplink-online", "note", {"state": "probing", "since_seconds": 2 * DAY}),
        ("uplink-online", "warning", {"state": "offline", "since_seconds": 2 * DAY}),
        ("uplink-refused", "fault", {"problems": (TROUBLE,)}),
        ("uplink-problem", "warning", {"problems": (UplinkProblem("UPLOAD_CONFLICT", "something else", "", "e-1"),)}),
        ("downloads", "ok", {"downloads": "online"}),
        ("downloads", "warning", {"downloads": "offline", "state": "offline", "since_seconds": 2 * DAY}),
    ],
)
def test_uplink_is_judged(check, verdict, changed):
    """An uplink that is silent or refused is a fault; one that is offline for long or has a problem is a warning."""
    assert (verdict, verdict != "ok") == told(heard(**changed), check)


def test_refused_folder_store_keeps_its_own_remedy():
    """For a store that is a folder, neither credential nor network is blamed, and its own remedy is shown."""
    refused = UplinkProblem("UPSTREAM_REFUSED", "edge-uplink may not read the folder /mnt/fleet", "Its remedy.", "")
    offline = {"state": "offline", "since_seconds": 2 * DAY, "upstream": "/mnt/fleet"}
    for state in (offline, {**offline, "since_seconds": 60.0}):
        found = heard(problems=(refused,), folders=("/mnt/fleet",), **state)
        assert ("warning", True) == told(found, "uplink-problem")
        said = " ".join(f"{each.remedy} {each.command}" for each in found)
        assert [] == [word for word in ("credential", "ping", "router", "date;") if word in said]
        assert ("Its remedy.", True) == (only(found, "uplink-problem").remedy, "findmnt -T /mnt/fleet" in said)


def test_uplink_that_just_started_may_be_silent():
    """An uplink silent 20 s after its start is a note, as are downloads that are offline for an hour."""
    new = heard(silence="it has said nothing yet", phase=UnitPhase("", 20.0, active=True))
    short = heard(downloads="offline", state="offline", since_seconds=3600.0)
    assert ("note", "note") == (verdicts(new)["uplink"], verdicts(short)["downloads"])


def test_task_with_a_starting_engine_is_a_note(status_of):
    """A task whose engine is starting is a note, with the duration soon after the daemon's start; one whose engine
    failed is a fault."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.tasks[0].ready = False
    daemon.admin.status.engines[0].state = 1
    status = status_of(daemon)

    def seen(up: float) -> tuple[str, str]:
        found = only(daemon_checks.judge_daemon(DaemonFacts(ADMIN, True, status, up_seconds=up)), "tasks")
        return found.verdict, found.seen

    assert ("note", "starting for 4 s") == seen(4.0)
    assert ("note", "its engine is starting") == seen(4000.0)
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.tasks[0].ready = False
    daemon.admin.status.engines[0].state = 4
    assert "fault" == verdicts(judged(status_of(daemon)))["tasks"]


def test_draining_daemon_is_a_note_until_its_limit(status_of):
    """A draining daemon and its tasks are notes; after the longest drain time the daemon is a warning."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.serving, daemon.admin.status.draining_seconds = False, 9.0
    daemon.admin.status.tasks[0].ready = False
    status = status_of(daemon)

    def found(drain_seconds_max: float) -> dict[str, str]:
        facts = DaemonFacts(ADMIN, True, status, version=__version__, drain_seconds_max=drain_seconds_max)
        return verdicts(daemon_checks.judge_daemon(facts))

    assert ("note", "note") == (found(30.0)["daemon"], found(30.0)["tasks"])
    assert "warning" == found(-30.0)["daemon"]


def test_starting_unit_is_a_note():
    """A daemon that systemd is starting is a note with the time since the start."""
    facts = DaemonFacts(ADMIN, True, None, "UNREACHABLE", phase=UnitPhase("starting", 4.0))
    found = only(daemon_checks.judge_daemon(facts), "daemon")
    assert ("note", "starting for 4 s") == (found.verdict, found.seen)


def test_site_without_uplink_is_a_note(tmp_path):
    """A site without an uplink is a note; a configured uplink that never reported is a fault."""
    assert "note" == looked(place(tmp_path))["uplink"].verdict
    assert "fault" == looked(place(tmp_path, uplink={"url": "/mnt/central"}))["uplink"].verdict


@pytest.mark.parametrize(
    ("verdict", "ago", "said"),
    [("ok", 10.0, "runs"), ("fault", 600.0, "it has not reported for 10 min"), ("fault", -500.0, "since this machine")],
)
def test_uplink_state_file_is_read_without_a_daemon(tmp_path, verdict, ago, said):
    """Without a daemon, the uplink's state file counts while it is recent by the boot-time clock."""
    where = place(tmp_path, uplink={"url": "/mnt/central", "notes_dir": str(tmp_path)})
    state = {
        "schema": "edge-agent/uplink/v1",
        "pid": 1,
        "version": "0.1.0",
        "upstream": "/mnt/central",
        "at": "2026-01-01T00:00:00Z",
        "running_seconds": time.clock_gettime(time.CLOCK_BOOTTIME) - ago,
        "state": "online",
        "since": "2026-01-01T00:00:00Z",
        **dict.fromkeys(("failures", "waiting_segments", "waiting_bytes", "sent_segments", "sent_bytes"), 0),
    }
    (tmp_path / "uplink.json").write_text(json.dumps(state))
    found = looked(where)["uplink"]
    assert (verdict, True) == (found.verdict, said in found.seen)


def test_invalid_uplink_state_file_is_a_fault(tmp_path):
    """A state file of the uplink that cannot be parsed is a fault."""
    (tmp_path / "uplink.json").write_text("[]")
    where = place(tmp_path, uplink={"url": "/mnt/central", "notes_dir": str(tmp_path)})
    assert "fault" == looked(where)["uplink"].verdict

"""doctor and support-bundle on a site where anything may lie in the place of anything: they end."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import support_bundle
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.doctor.all_checks import CHECK_GROUPS, evaluate, run_checks
from edge_agent.doctor.findings import ProbeFailure
from edge_agent.doctor.installation import (
    Installation,
    current_user,
    find_user,
    read_bytes,
    read_text,
    run_command,
    stat_file,
    stat_parents,
)
from edge_agent.doctor.probe_context import (
    DATABASE_BYTES_MAX,
    CheckGroup,
    find_damage,
    is_listening,
    query_daemon,
    read_stored_state,
)
from edge_agent.store.state_database import StateDatabase, UpdateProgress
from edge_agent.support_bundle import SupportSources, gather_parts
from tests.support.doctor_cases import enrolled, place

ROOT = Path(__file__).parents[3]
FILES = (
    "root.json",
    "incoming/metadata/timestamp.json",
    "notes/uplink.json",
    "notes/uploaded.jsonl",
    "state/state.db",
    "state/state.db-wal",
    "state/spool.db",
    "state/site.key",
    "state/outbox/segments/e-1.age",
    "state/outbox/segments",
    "run/admin.sock",
    "run/inference.sock",
    "root/opt/edge-agent/current",
    "root/usr/local/bin/edge-agent",
    "root/proc/meminfo",
    "root/proc/cpuinfo",
    "root/run/systemd/system",
)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nested(path: Path) -> None:
    path.write_text("[" * 50_000)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


DISTURBANCES: tuple[Callable[[Path], None], ...] = (empty, noise, folder, pipe, loop, nested, device)


def disturbed(tmp_path: Path, disturb: Callable[[Path], None]) -> Installation:
    """Put the disturbance wherever a site has a file."""
    for name in FILES:
        path = tmp_path / name
        if not os.path.lexists(path) and (not path.parent.exists() or path.parent.is_dir()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                disturb(path)
            except OSError:
                continue  # the folder above it is disturbed already
    return place(tmp_path, **enrolled(tmp_path))


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_doctor_ends_whatever_lies_where_a_file_should(tmp_path, disturb):
    """Nothing there, noise, folders, pipes, loops, endless files: a finding each, no traceback, no waiting."""
    found = run_checks(disturbed(tmp_path, disturb))
    assert {"daemon", "clock", "cpu"} <= {finding.check for finding in found}
    assert "fault" in {finding.verdict for finding in found}


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_a_support_bundle_is_made_whatever_lies_there(tmp_path, disturb):
    """Every part is there, or says why it is not."""
    case = query_daemon(disturbed(tmp_path, disturb))
    parts = gather_parts(SupportSources(case, None, {}))
    assert [] == [part.name for part in parts if not (part.content or part.why)]


@pytest.mark.parametrize("broken", CHECK_GROUPS, ids=lambda stat_file: stat_file.checks[0].name)
def test_a_probe_that_may_not_look_spoils_no_other(tmp_path, broken):
    """Its first check is told as not looked at; a rule is not asked then."""

    def refused(case):
        raise PermissionError(13, "Permission denied", "/secret")

    def never(facts):
        raise AssertionError("nothing was seen")

    replaced = CheckGroup(broken.checks, refused, never)
    case = query_daemon(place(tmp_path))
    found = evaluate(case, (replaced,))
    assert [("unseen", "not checked: /secret: Permission denied")] == [(each.verdict, each.seen) for each in found]


FULL_QUEUE = """
import socket, sys
admin = socket.socket(socket.AF_UNIX)
admin.bind(sys.argv[2])
admin.listen(0)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def full_queue(tmp_path: Path) -> Iterator[tuple[Installation, int]]:
    """A daemon that hangs, and so many callers that its queue of connections is full; with its process."""
    where = place(tmp_path)
    path = where.config.admin_socket
    for folder in (path.parent, where.config.state_dir):
        folder.mkdir(parents=True)
    command = [sys.executable, "-c", FULL_QUEUE, "serve", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    (where.config.state_dir / "lock").write_text(f"{process.pid}\n")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
        yield where, process.pid
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_daemon_whose_queue_of_connections_is_full_is_named(full_queue: tuple[Installation, int]):
    """Its process is that of the state folder's lock: it hangs, and nobody is told that no daemon runs."""
    where, pid = full_queue
    [found] = [each for each in run_checks(where) if each.check == "daemon"]
    assert ("fault", True) == (found.verdict, f"pid {pid} listens at" in found.seen)
    assert f"kill -KILL {pid}" in found.command


def test_a_plain_file_is_read_up_to_its_limit_and_nothing_else(tmp_path):
    """A pipe, a folder and what is not there raise; a missing file is an empty text."""
    (tmp_path / "file").write_text("0123456789")
    pipe(tmp_path / "pipe")
    assert (b"0123", "0123456789", "") == (
        read_bytes(tmp_path / "file", 4),
        read_text(tmp_path / "file"),
        read_text(tmp_path / "none"),
    )
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=path.name):
            read_bytes(path)


def test_what_stat_says_is_told(tmp_path):
    """Kind, owner, mode and size; folders above the nearest first."""
    (tmp_path / "file").write_text("abc")
    (tmp_path / "file").chmod(0o640)
    found = stat_file(tmp_path / "file")
    assert ("file", os.geteuid(), 0o640, 3) == (found.kind, found.uid, found.mode, found.size)
    assert ("", str(tmp_path)) == (stat_file(tmp_path / "none").kind, stat_parents(tmp_path / "file")[0].path)


def test_users_are_looked_up():
    """root is there, and nobody of a name that no system has; whoever runs this is known."""
    root = find_user("root")
    assert (True, None, os.geteuid()) == (
        root is not None and root.uid == 0,
        find_user("no-such-user-here"),
        current_user().uid,
    )


def test_a_command_of_the_system_is_bounded():
    """What it prints, or nothing: it is not there, failed, or took too long."""
    assert ("hello\n", None, None, None) == (
        run_command(("echo", "hello")),
        run_command(("false",)),
        run_command(("no-such-program-here",)),
        run_command(("sleep", "60"), 0.1),
    )


def test_nobody_listens_where_nothing_is(tmp_path):
    """Neither at a missing path nor at a plain file."""
    (tmp_path / "file").write_text("")
    assert [False, False] == [is_listening(tmp_path / name) for name in ("none", "file")]


def test_a_database_is_read_with_what_is_in_its_log_only(tmp_path):
    """A change that is committed and not yet in the file itself is seen in the copy."""
    path = tmp_path / "state.db"
    state = StateDatabase(path, may_create=True)
    state.journal.record(UpdateProgress("t", "ab" * 32, "2.0.0", "w", 7, "", "done", 1.0))
    found = read_stored_state(path)
    state.close()
    assert not isinstance(found, ProbeFailure)
    assert (["t"], None, "") == (list(found.journal), found.signed_at, find_damage(path))


def test_a_database_that_is_too_large_is_not_copied(tmp_path):
    """That is said; a missing one remembers nothing."""
    path = tmp_path / "state.db"
    with path.open("wb") as file:
        file.truncate(DATABASE_BYTES_MAX + 1)
    found, nothing = read_stored_state(path), read_stored_state(tmp_path / "none.db")
    assert f"{path} cannot be read: it has more than {DATABASE_BYTES_MAX} bytes" == getattr(found, "why", "")
    assert ({}, None) == (getattr(nothing, "journal", None), getattr(nothing, "signed_at", 0))


def logged_keys() -> set[str]:
    """Return the names under which our daemons log values, but for tracebacks, of which the bundle carries no text."""
    keys = set()
    for path in (ROOT / "edge_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.match(r"log\.(info|warning|error|exception)", ast.unparse(node.func)):
                keys |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return keys - {"exc_info"}


def test_what_our_daemons_log_is_known_to_the_bundle():
    """A new key of an event is carried by a decision: whoever adds one says so here."""
    assert set() == {key for key in logged_keys() if not support_bundle.EVENT_KEYS.fullmatch(key)}


def rules(said: str) -> str:
    return Redactor().start().text(said)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_line_of_a_log_becomes_one_line_that_is_no_longer_than_needed(said):
    """Whatever is written to a log: no exception, and of what is not ours only the length."""
    carried = support_bundle.redact_line(said, rules)
    assert isinstance(carried, str)
    assert len(carried) <= max(len(said) * 3, 80)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(min_size=9, max_size=60), max_size=5))
def test_no_value_of_an_unknown_key_is_carried(event):
    """Events with keys that nobody knows: their values are replaced by lengths."""
    unknown = {f"prompt_{key}": value for key, value in event.items()}
    carried = json.loads(support_bundle.redact_line(json.dumps(unknown), rules))
    assert all(re.fullmatch(r"\[\d+ characters left out\]", value) for value in carried.values())

"""`doctor` and `support-bundle` on a damaged site, with anything in place of its files: both complete."""

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
    """Put the disturbance in place of every file of a site."""
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
def test_doctor_completes_on_a_damaged_site(tmp_path, disturb):
    """`doctor` completes with findings if the site's files are replaced by empty files, noise, folders, pipes, link
    loops or endless devices."""
    found = run_checks(disturbed(tmp_path, disturb))
    assert {"daemon", "clock", "cpu"} <= {finding.check for finding in found}
    assert "fault" in {finding.verdict for finding in found}


@pytest.mark.parametrize("disturb", DISTURBANCES)
def test_support_bundle_completes_on_a_damaged_site(tmp_path, disturb):
    """Each part of a support bundle of a damaged site has content or the reason why it is missing."""
    case = query_daemon(disturbed(tmp_path, disturb))
    parts = gather_parts(SupportSources(case, None, {}))
    assert [] == [part.name for part in parts if not (part.content or part.why)]


@pytest.mark.parametrize("broken", CHECK_GROUPS, ids=lambda stat_file: stat_file.checks[0].name)
def test_probe_without_rights_is_reported_as_unseen(tmp_path, broken):
    """If a probe fails with PermissionError, its first check is reported as unseen, and its rule is not evaluated."""

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
    """A hanging daemon whose socket has a full queue of connections, with its process id."""
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
def test_daemon_with_a_full_connection_queue_is_reported_as_hanging(full_queue: tuple[Installation, int]):
    """A daemon whose socket queue is full is reported as hanging, with the process id from the state folder's lock, and
    not as missing."""
    where, pid = full_queue
    [found] = [each for each in run_checks(where) if each.check == "daemon"]
    assert ("fault", True) == (found.verdict, f"pid {pid} listens at" in found.seen)
    assert f"kill -KILL {pid}" in found.command


def test_only_plain_files_are_read_up_to_a_limit(tmp_path):
    """Reading a plain file stops at the limit; a pipe or folder raises OSError; a missing file raises too, but is an
    empty text for `read_text`."""
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


def test_stat_file_returns_kind_owner_mode_and_size(tmp_path):
    """`stat_file` returns kind, owner, mode and size, and `stat_parents` the folders above, the nearest first."""
    (tmp_path / "file").write_text("abc")
    (tmp_path / "file").chmod(0o640)
    found = stat_file(tmp_path / "file")
    assert ("file", os.geteuid(), 0o640, 3) == (found.kind, found.uid, found.mode, found.size)
    assert ("", str(tmp_path)) == (stat_file(tmp_path / "none").kind, stat_parents(tmp_path / "file")[0].path)


def test_find_user_returns_none_for_an_unknown_name():
    """`find_user` finds root and returns None for an unknown name; `current_user` is the user of this process."""
    root = find_user("root")
    assert (True, None, os.geteuid()) == (
        root is not None and root.uid == 0,
        find_user("no-such-user-here"),
        current_user().uid,
    )


def test_run_command_returns_none_on_failure_or_timeout():
    """`run_command` returns the output, or None for a program that is missing, fails or takes too long."""
    assert ("hello\n", None, None, None) == (
        run_command(("echo", "hello")),
        run_command(("false",)),
        run_command(("no-such-program-here",)),
        run_command(("sleep", "60"), 0.1),
    )


def test_missing_path_and_plain_file_are_not_listening(tmp_path):
    """`is_listening` returns False for a missing path and for a plain file."""
    (tmp_path / "file").write_text("")
    assert [False, False] == [is_listening(tmp_path / name) for name in ("none", "file")]


def test_stored_state_includes_the_write_ahead_log(tmp_path):
    """`read_stored_state` also returns a committed change that is only in the write-ahead log."""
    path = tmp_path / "state.db"
    state = StateDatabase(path, may_create=True)
    state.journal.record(UpdateProgress("t", "ab" * 32, "2.0.0", "w", 7, "", "done", 1.0))
    found = read_stored_state(path)
    state.close()
    assert not isinstance(found, ProbeFailure)
    assert (["t"], None, "") == (list(found.journal), found.signed_at, find_damage(path))


def test_oversized_database_is_not_read(tmp_path):
    """A database over `DATABASE_BYTES_MAX` is not read, and the limit is reported; a missing database is empty
    state."""
    path = tmp_path / "state.db"
    with path.open("wb") as file:
        file.truncate(DATABASE_BYTES_MAX + 1)
    found, nothing = read_stored_state(path), read_stored_state(tmp_path / "none.db")
    assert f"{path} cannot be read: it has more than {DATABASE_BYTES_MAX} bytes" == getattr(found, "why", "")
    assert ({}, None) == (getattr(nothing, "journal", None), getattr(nothing, "signed_at", 0))


def logged_keys() -> set[str]:
    """Return the keys under which the daemons log values, except tracebacks, whose text a support bundle leaves out."""
    keys = set()
    for path in (ROOT / "edge_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.match(r"log\.(info|warning|error|exception)", ast.unparse(node.func)):
                keys |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return keys - {"exc_info"}


def test_every_logged_key_is_allowed_in_the_support_bundle():
    """Every key that the daemons log is on the support bundle's list, so a new key needs a decision."""
    assert set() == {key for key in logged_keys() if not support_bundle.EVENT_KEYS.fullmatch(key)}


def rules(said: str) -> str:
    return Redactor().start().text(said)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_redacted_log_line_has_bounded_length(said):
    """Any text in a log is redacted without an exception to at most three times its length or 80 characters."""
    carried = support_bundle.redact_line(said, rules)
    assert isinstance(carried, str)
    assert len(carried) <= max(len(said) * 3, 80)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(min_size=9, max_size=60), max_size=5))
def test_values_of_unknown_log_keys_are_replaced_by_lengths(event):
    """The values of an event's unknown keys are replaced by their lengths."""
    unknown = {f"prompt_{key}": value for key, value in event.items()}
    carried = json.loads(support_bundle.redact_line(json.dumps(unknown), rules))
    assert all(re.fullmatch(r"\[\d+ characters left out\]", value) for value in carried.values())

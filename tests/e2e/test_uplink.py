"""`edge-agent serve uplink` as a process: as its own user, killed, started twice, and with a large backlog."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.formats import uplink_state
from tests.support.eventually import eventually_sync
from tests.support.update_cases import ADAPTER, WEIGHTS, UpdateCase, everything, published, rubbish, sha256
from tests.support.uplink_cases import UplinkCase, signed_receipts
from tests.support.uplink_process import BACKLOG_BYTES_EACH, BACKLOG_SEGMENTS, RESIDENT_BYTES_MAX, UplinkProcess

NOBODY = 65_534
# Becomes another user after the imports: the interpreter may lie where only this user may read.
BECOME = f"""
import os
from edge_agent.cli import main
# The other user may not reach this Python: what is imported when it is used has to be there before.
import concurrent.futures.thread, edge_agent.cli.output, edge_agent.cli.services
import edge_agent.uplink.uplink_daemon
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
{{then}}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    made = Path(tempfile.mkdtemp(prefix="ea-uplink-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def process(folder: Path) -> UplinkProcess:
    """A site with two segments, and a folder as its object store."""
    (folder / "upstream").mkdir()
    case = UplinkCase(folder, str(folder / "upstream"))
    case.seal(2)
    return UplinkProcess(case, case.config.url)


def test_once_uploads_everything_and_exits(process: UplinkProcess):
    """`edge-agent serve uplink --once` uploads the whole outbox, records it in its state, and exits with 0."""
    code, log = process.once()
    assert (0, 2) == (code, log.count("segment_sent")), log
    assert process.case.outbox_files() == process.case.uploaded()
    assert ("online", 2) == (process.case.state().state, process.case.state().sent_segments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"url": ""}, 3, "uplink.url is not set, nor are updates_url and escalation.url"),
        ({"url": "", "updates_url": "ftp://host/x"}, 3, "uplink.updates_url: 'ftp' is not a known kind of store"),
        ({"url": "", "updates_url": "/tmp/ea-no-such-folder"}, 3, "does not exist"),
        ({"updates_url": "https://user:hunter2@host/x"}, 3, "the user or query of uplink.updates_url"),
        ({"updates_url": "s3://b", "updates_options": {"secret_access_key": "hunter2"}}, 3, "may be a secret"),
        ({"updates_url": "s3://b", "updates_credentials_file": "/tmp/ea-no"}, 3, "uplink.updates_credentials_file"),
        ({"updates_url": "s3://b", "updates_options": {"no_such": "1"}}, 3, "does not accept this updates_url"),
        ({"url": "ftp://host/x"}, 3, "'ftp' is not a known kind of store"),
        ({"url": "/tmp/ea-no-such-folder"}, 3, "does not exist"),
        ({"url": "http://127.0.0.1:9/x", "options": {"allow_http": "true"}}, 4, "got no answer"),
        ({"url": "s3://b", "options": {"no_such": "1"}}, 3, "does not accept this url"),
        ({"url": "s3://b", "options": {"secret_access_key": "hunter2"}}, 3, "may be a secret"),
        ({"url": "https://user:hunter2@host/x"}, 3, "the user or query of uplink.url"),
        ({"url": "s3://b", "credentials_file": "/tmp/ea-no-such-file"}, 3, "cannot read uplink.credentials_file"),
    ],
)
def test_uplink_faults_have_exit_code_and_remedy(process: UplinkProcess, changes: dict[str, Any], code: int, said: str):
    """A wrong configuration exits with 3 and an unreachable store with 4; the message has a remedy and no secret."""
    given = UplinkProcess(process.case, **{"url": process.case.config.url, **changes})
    returned, error = given.once()
    assert (code, True, True) == (returned, said in error, "what to do:" in error), error
    assert "hunter2" not in error
    assert "Traceback" not in error


def test_missing_certificate_authorities_have_remedy(process: UplinkProcess):
    """On a machine without certificate authorities, like a minimal Debian, the remedy is to install ca-certificates."""
    given = UplinkProcess(process.case, "s3://bucket", options={"region": "eu-1"})
    given.environment |= dict.fromkeys(("SSL_CERT_FILE", "SSL_CERT_DIR"), "/no/such/place")
    code, error = given.once()
    assert (3, True) == (code, "what to do: Install the system's: apt install ca-certificates." in error), error


def test_credential_file_readable_by_others_is_refused(process: UplinkProcess):
    """The uplink refuses a credentials file that others can read; the remedy is the chmod command."""
    path = process.case.folder / "credential"
    path.write_text("secret_access_key: hunter2\n")
    path.chmod(0o644)
    code, error = UplinkProcess(process.case, "s3://b", credentials_file=str(path)).once()
    assert (3, True, False) == (code, f"chmod o= {path}" in error, "hunter2" in error)


def test_uplink_notifies_systemd_of_start_and_stop(process: UplinkProcess):
    """The uplink sends READY=1, uploads new segments, and after SIGTERM sends STOPPING=1 and exits with 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        address = process.case.folder / "notify"
        listening.bind(str(address))
        listening.settimeout(60)
        process.environment["NOTIFY_SOCKET"] = str(address)
        with process.start(stderr=subprocess.DEVNULL) as running:
            assert b"READY=1" == listening.recv(100)
            process.case.seal(1)
            eventually_sync(lambda: process.case.outbox_files() == process.case.uploaded())
            eventually_sync(lambda: process.case.noted() == 3)  # a file is up before the uplink has noted that it is
            running.send_signal(signal.SIGTERM)
            assert b"STOPPING=1" == listening.recv(100)
            assert 0 == running.wait(60)
    assert 3 == process.case.state().sent_segments


@pytest.mark.slow
def test_second_uplink_on_same_state_is_refused(process: UplinkProcess):
    """A second uplink exits with 3 and names the running process; one with its own state folder finds everything
    uploaded and sends only status.json."""
    with process.start(stderr=subprocess.DEVNULL) as first:
        eventually_sync(lambda: process.case.outbox_files() == process.case.uploaded())
        code, error = process.once()
        assert (3, True) == (code, f"in use by process {first.pid}" in error)
        other = UplinkProcess(process.case, process.case.config.url, notes_dir=str(process.case.folder / "other"))
        assert 0 == other.once()[0]
        first.terminate()
    assert process.case.outbox_files() == process.case.uploaded()
    status = (process.case.outbox / "status.json").stat().st_size
    said = uplink_state.parse((process.case.folder / "other" / "uplink.json").read_bytes())
    assert (2, status) == (said.sent_segments, said.sent_bytes)


@pytest.mark.slow
def test_upload_resumes_after_kill(process: UplinkProcess):
    """After a kill during an upload the next uplink sends the rest, and the outbox is unchanged."""
    case = process.case
    for number in range(5):
        case.seal(20)
        before = case.outbox_files()
        with process.start(stderr=subprocess.DEVNULL) as running:
            enough = 40 * number + 3
            eventually_sync(lambda: len(case.uploaded()) > enough, 20)  # noqa: B023 - waited for within the round
            running.kill()
        assert before == case.outbox_files()
    assert 0 == process.once()[0]
    assert case.outbox_files() == case.uploaded()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_uplink_works_as_own_user_with_outbox_only(process: UplinkProcess):
    """The uplink works as a user that can read neither state nor spool, with the modes of docs/uplink.md; without
    access to the segments it exits with 3, and the remedy names the rights of edge-uplink."""
    case = process.case
    state = case.folder / "state"
    state.mkdir(mode=0o700)
    (state / "spool.db").write_bytes(b"private")
    (state / "spool.db").chmod(0o600)
    for path in (case.outbox, *case.outbox.rglob("*")):
        os.chown(path, 0, NOBODY)
        path.chmod(0o750 if path.is_dir() else 0o640)
    case.notes.mkdir()
    for path in (case.receipts, case.notes, Path(case.config.url)):
        os.chown(path, NOBODY, NOBODY)
    case.put("site=site-1/receipts.json", signed_receipts())
    os.chown(Path(case.config.url, "site=site-1"), NOBODY, NOBODY)
    probe = [sys.executable, "-c", BECOME.format(then=f"open({str(state / 'spool.db')!r})")]
    assert 0 != subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode
    assert 0 == process.once(BECOME.format(then="main()"))[0]
    assert case.outbox_files() == case.uploaded()
    assert signed_receipts() == (case.receipts / "receipts.json").read_bytes()
    assert (NOBODY, 0o640) == (
        (case.notes / "uplink.json").stat().st_uid,
        (case.notes / "uplink.json").stat().st_mode & 0o777,
    )
    (case.outbox / "segments").chmod(0o700)
    code, error = process.once(BECOME.format(then="main()"))
    assert (3, True) == (code, "user, edge-uplink, its rights in the folder" in error)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_uplink_downloads_updates_as_own_user(process: UplinkProcess):
    """As its own user the uplink reads wants.json and fills incoming/ with files that its group can read and only it
    can write."""
    case, repository = process.case, published()
    update = UpdateCase(case.folder, repository.lay(case.folder / "repository"))
    update.want(ADAPTER, WEIGHTS)
    update.incoming.mkdir()
    case.notes.mkdir()
    for path in (case.outbox, *case.outbox.rglob("*")):
        os.chown(path, 0, NOBODY)
        path.chmod(0o750 if path.is_dir() else 0o640)
    for path in (update.incoming, case.receipts, case.notes):
        os.chown(path, NOBODY, NOBODY)
    update.incoming.chmod(0o2750)
    section = {"updates_url": update.config.updates_url, "disk_reserve_bytes": 0}
    given = UplinkProcess(case, "", incoming=str(update.incoming), **section)
    assert 0 == given.once(BECOME.format(then="main()"))[0]
    assert everything(repository) == update.arrived()
    modes = {(path.is_dir(), path.stat().st_uid, oct(path.stat().st_mode)) for path in update.incoming.rglob("*")}
    assert {(True, NOBODY, "0o42750"), (False, NOBODY, "0o100640")} == modes
    assert {"status.json", "wants.json", "segments"} == {path.name for path in case.outbox.iterdir()}


@pytest.mark.slow
def test_download_resumes_after_kill(process: UplinkProcess):
    """After a kill during the download of a blob, the partial file stays and the next uplink completes it."""
    blob, repository = rubbish(20 * 2**20), published()
    repository.blob(blob)
    update = UpdateCase(process.case.folder, repository.lay(process.case.folder / "repository"))
    update.want(blob)
    section = {"updates_url": update.config.updates_url, "disk_reserve_bytes": 0}
    slow = UplinkProcess(process.case, "", incoming=str(update.incoming), bytes_per_second_max=2**20, **section)
    partial = update.incoming / "blobs" / f".{sha256(blob)}.partial"
    with slow.start(stderr=subprocess.DEVNULL) as running:
        eventually_sync(lambda: partial.exists() and partial.stat().st_size >= 2**21, 30)
        running.kill()
    assert blob.startswith(partial.read_bytes())
    assert 0 == UplinkProcess(process.case, "", incoming=str(update.incoming), **section).once()[0]
    assert blob == (update.incoming / "blobs" / sha256(blob)).read_bytes()


@pytest.mark.release
def test_large_backlog_is_uploaded_in_bounded_memory(folder: Path):
    """A backlog of 1 GiB in 256 segments, as after 30 days offline, is uploaded completely in bounded memory."""
    (folder / "upstream").mkdir()
    case = UplinkCase(folder, str(folder / "upstream"))
    case.seal(BACKLOG_SEGMENTS, BACKLOG_BYTES_EACH)
    code, resident_bytes = UplinkProcess(case, case.config.url).once_measured()
    assert 0 == code
    arrived = {path.name: path.stat().st_size for path in Path(case.config.url).rglob("*.age")}
    assert {BACKLOG_BYTES_EACH} == set(arrived.values())
    assert BACKLOG_SEGMENTS == len(arrived) == case.noted()
    assert resident_bytes < RESIDENT_BYTES_MAX

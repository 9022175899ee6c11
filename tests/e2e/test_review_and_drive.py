"""`edge-agent review`, `erase`, `media export` and `media import` against the real daemon."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.cli import app, media
from edge_agent.client import CallFailed, ReviewClient
from edge_agent.errors import DiskFull, MediaFailed
from edge_agent.formats import segment, status_object, uplink_state
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.examples import CENTRAL_KEY, NOW, RECIPIENT, SITE_KEY
from tests.support.site_cases import read_outbox

SITE = {"id": "site-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}

QUEUES = ("keys", "accepted", "sudo", "empty")
"""Tasks whose review queue belongs to one test."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory) -> Iterator[RunningDaemon]:
    folder: Path = tmp_path_factory.mktemp("site")
    collect = dict.fromkeys(("pos", "talk", "visit", "bag", *QUEUES), "upstream")
    with RunningDaemon(folder, examples={"collect": collect, "commit_seconds": 0.05}, site=SITE) as running:
        running.install(
            echo_bundle(folder / "pos", "pos", labels=("refund", "price", "hours")),
            echo_bundle(folder / "bag", "bag", labels=("refund", "price")),
            *(echo_bundle(folder / name, name, labels=("refund", "price", "hours")) for name in QUEUES),
            echo_bundle(folder / "talk", "talk", "generate"),
            echo_bundle(folder / "visit", "visit", "extract", labels=("NAME",)),
        )
        yield running


@pytest.fixture
def run(daemon: RunningDaemon) -> Callable[..., Result]:
    """Run edge-agent against that daemon."""
    options = daemon.command()[3:]
    return lambda *arguments, stdin="": CliRunner().invoke(app, [*options, *arguments], input=stdin)


def ask(daemon: RunningDaemon, task: str, *texts: str) -> list[str]:
    with daemon.client() as client:
        if task == "talk":
            streams = [client.generate(task, text) for text in texts]
            return [list(stream) and stream.finish.prediction_id for stream in streams]
        call = client.extract if task == "visit" else client.classify
        return [answer.prediction_id for answer in call(task, list(texts))]


def said(daemon: RunningDaemon, prediction_id: str) -> list[tuple[str, str, str]]:
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
        return [(one.reviewer, one.verdict, one.value) for one in client.prediction(prediction_id).feedback]


def test_review_keys_accept_correct_reject_and_skip(daemon, run):
    """In `review`, Enter accepts, a digit corrects, ! rejects with a reason, - skips and . ends; verdicts are stored
    under the reviewer's name."""
    asked = ask(daemon, "keys", *(f"review {n}" for n in range(5)))
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
        queue = list(client.queue("keys"))
    order, labels = [one.prediction_id for one in queue], ("refund", "price", "hours")
    wrong = next(label for label in labels if label != queue[1].output)
    key = 1 + labels.index(wrong)
    result = run("review", "keys", "--reviewer", "anna", stdin=f"\n{key}\n!\nnonsense\n-\n.\n")
    assert (0, True) == (result.exit_code, "3 judged." in result.stdout), result.output
    assert "1 refund   2 price   3 hours   ! reject   - skip   # erase   . end" in result.stdout
    assert f"  corrected: {wrong}" in result.stdout
    assert "some of each label" in result.stdout
    assert "no threshold" in result.stdout
    verdicts = [said(daemon, one) for one in order]
    expected = [[("anna", "accept", "")], [("anna", "corrected", wrong)], [("anna", "reject", "nonsense")], [], []]
    assert expected == verdicts
    assert set(asked) == set(order)


def test_key_of_answered_label_accepts(daemon, run):
    """In `review`, the digit of the label that was answered stores an acceptance, not a correction."""
    (asked,) = ask(daemon, "accepted", "a refund please")
    assert "  accepted" in run("review", "accepted", "--reviewer", "ben", stdin="1\n").stdout
    assert [("ben", "accept", "")] == said(daemon, asked)


@pytest.mark.skipif(os.geteuid() != 0, reason="sudo is for what runs as root")
def test_verdict_through_sudo_has_user_name(daemon, run, monkeypatch):
    """A verdict given through sudo is stored under the user's name, not root's."""
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_USER", "carla")
    (asked,) = ask(daemon, "sudo", "a price please")
    run("review", "sudo", stdin="1\n")
    assert ["carla"] == [one[0] for one in said(daemon, asked)]


def test_records_and_texts_are_corrected_by_typing(daemon, run):
    """Texts and records are corrected by typing; an invalid record is refused with exit code 2."""
    (talk,), (visit,) = ask(daemon, "talk", "hello"), ask(daemon, "visit", "Anna is here")
    assert 0 == run("review", "talk", "--reviewer", "ben", stdin="1\nbetter\n").exit_code
    assert [("ben", "corrected", "better")] == said(daemon, talk)
    refused = run("review", "visit", "--reviewer", "ben", stdin="1\nno json\n")
    assert (2, True) == (refused.exit_code, "not valid JSON" in refused.stderr)
    assert 0 == run("review", "visit", "--reviewer", "ben", stdin='x\n1\n{"NAME": ["Anna"]}\n').exit_code
    assert [("ben", "corrected", '{"NAME":["Anna"]}')] == said(daemon, visit)


def test_review_can_erase_and_ends_on_empty_queue(daemon, run):
    """In `review`, # erases an example, and the command ends with a message when the queue is empty."""
    ask(daemon, "empty", "forget me")
    assert "0 judged, 1 erased." in run("review", "empty", stdin="#\n").stdout
    result = run("review", "empty")
    assert (0, "Nothing more to review.\n0 judged.\n") == (result.exit_code, result.stdout)


def test_erase_by_prediction_id(daemon, run):
    """`erase` with a prediction id deletes the example; if it was sealed, the central team is told to erase it. An
    invalid id is refused."""
    (asked,) = ask(daemon, "bag", "forget me by name")
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client:
        assert asked == client.prediction(asked).prediction_id
        erased = run("erase", asked, "--yes")
        assert (0, True) == (erased.exit_code, erased.stdout.startswith("Erased here; ")), erased.output
        with pytest.raises(CallFailed, match=asked):
            client.prediction(asked)
    (left,) = ask(daemon, "bag", "forget me everywhere")
    with daemon.admin() as admin:
        admin.seal_examples()
    assert "Erased here; the next segment tells the central side to erase it.\n" == run("erase", left, "--yes").stdout
    assert run("erase", left, "--yes").stdout.startswith("It is not stored here, or no longer; ")
    assert 2 == run("erase", "../etc", "--yes").exit_code


def test_erase_by_value_from_standard_input(daemon, run):
    """`erase --value -` erases every example with the value in any letter case after confirmation. The value is in no
    output, log or privacy report, which counts the erasure."""
    ask(daemon, "bag", "write to Anna.Mueller@praxis-nord.de", "ask anna.mueller@praxis-nord.de", "ask nobody")
    refused = run("erase", "--value", "-", stdin="ANNA.MUELLER@praxis-nord.de\n")
    assert (2, True) == (refused.exit_code, "2 answers found" in refused.stderr), refused.stderr
    erased = run("erase", "--value", "-", "--yes", "--json", stdin="ANNA.MUELLER@praxis-nord.de\n")
    done = json.loads(erased.stdout)
    assert (2, 2, 2) == (done["found"], done["found_by_digest"], done["erased"]), erased.output
    assert run("erase", "--value", "anna.mueller@praxis-nord.de", "--yes").stdout.startswith("Nothing found.")
    report = run("privacy", "report")
    assert {"email", "bag"} <= set(report.stdout.split()), report.output
    counted = json.loads(run("privacy", "report", "--json").stdout)
    assert (done["erasure"], 2) == (counted["erasures"][0]["number"], counted["erasures"][0]["erased"])
    told = (refused.output + erased.output + report.output + json.dumps(counted) + daemon.log.read_text()).lower()
    assert "anna.mueller" not in told
    assert 2 == run("erase", "some-id", "--value", "x").exit_code
    assert 2 == run("erase").exit_code


def receipt(drive_path: Path, last: int, key=CENTRAL_KEY) -> None:
    """Write receipts to a USB drive as the central team does, for all segments on it."""
    folder = drive_path / "site=site-1"
    stem = max(path.stem for path in (folder / "segments").glob(f"*-{last:010d}.json"))
    epoch, _ = segment.parse_name(stem)
    digest = hashlib.sha256((folder / "segments" / f"{stem}.json").read_bytes()).hexdigest()
    received = [{"epoch": epoch, "received": [{"first": 1, "last": last, "manifest_sha256": digest}]}]
    body = segment.Receipts.model_validate({"site": "site-1", "at": format_timestamp(NOW), "epochs": received})
    (folder / "receipts.json").write_bytes(sign(body, key))


def test_export_and_import_of_receipts(daemon, run, tmp_path):
    """`media export` seals and copies all segments. `media import` deletes them only after receipts with the central
    team's signature; forged ones are refused."""
    ask(daemon, "pos", "to the central team")
    result = run("media", "export", str(tmp_path))
    assert (0, True) == (result.exit_code, "copied to" in result.stdout), result.output
    folder = tmp_path / "site=site-1"
    names = {path.name for path in (daemon.state_dir / "outbox" / "segments").iterdir()}
    assert names == {path.name for path in (folder / "segments").iterdir()}
    said = status_object.verify((folder / "status.json").read_bytes(), None).body
    ((epoch, highest),) = said.highest.items()
    assert read_outbox(folder, epoch).keys() == set(range(1, highest + 1))
    again = run("media", "export", str(tmp_path))
    assert f"{len(names)} were there already" in " ".join(again.stdout.split())
    missing = run("media", "import", str(tmp_path))
    assert (5, True) == (missing.exit_code, "edge-convert collect" in missing.stderr)
    receipt(tmp_path, highest, SITE_KEY)
    forged = run("media", "import", str(tmp_path))
    assert (5, True) == (forged.exit_code, "not one of the keys trusted" in forged.stderr)
    assert names == {path.name for path in (daemon.state_dir / "outbox" / "segments").iterdir()}
    receipt(tmp_path, highest)
    taken = run("media", "import", str(tmp_path))
    assert (0, True) == (taken.exit_code, f"{highest} more segment" in taken.stdout), taken.output
    assert set() == {path.name for path in (daemon.state_dir / "outbox" / "segments").iterdir()}
    shown = json.loads(run("status", "--json").stdout)
    assert highest == shown["examples"]["counters"]["segments_received"]
    assert "waiting for receipts: 0 segments" in run("status").stdout


def test_status_shows_state_of_uplink(daemon, run):
    """Status shows the state that the uplink wrote, and `silent` when its file cannot be read."""
    assert json.loads(run("status", "--json").stdout)["uplink"] is None
    notes = daemon.state_dir / "uplink"
    notes.mkdir()
    plain = {
        "pid": 1,
        "version": "0",
        "upstream": "az://fleet",
        "at": format_timestamp(NOW),
        "since": format_timestamp(NOW),
    }
    running = {"running_seconds": time.clock_gettime(time.CLOCK_BOOTTIME), "state": "probing", "failures": 2}
    counts = dict.fromkeys(("waiting_segments", "waiting_bytes", "sent_segments", "sent_bytes"), 3)
    (notes / uplink_state.FILE_NAME).write_bytes(
        uplink_state.encode(uplink_state.UplinkState(**plain, **running, **counts))
    )
    shown = json.loads(run("status", "--json").stdout)["uplink"]
    assert ("PROBING", "az://fleet", 3, 2) == tuple(
        shown[name] for name in ("state", "upstream", "waiting_segments", "failures")
    )
    assert "uplink to az://fleet: probing" in run("status").stdout
    (notes / uplink_state.FILE_NAME).write_bytes(b"{")
    result = run("status")
    assert (0, True) == (result.exit_code, "uplink: silent" in result.stdout), result.output
    shutil.rmtree(notes)


def outbox_of(folder: Path, count: int, size: int) -> Path:
    """Write files with the layout of an outbox; copying does not open them."""
    (folder / "segments").mkdir(parents=True)
    for number in range(1, count + 1):
        stem = segment.name_of("0" * 16, number)
        (folder / "segments" / f"{stem}.age").write_bytes(bytes([number]) * size)
        (folder / "segments" / f"{stem}.json").write_bytes(b"{}")
    (folder / "status.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def small_drive(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 256 KiB."""
    path = tmp_path / "drive"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "edge-agent-test", str(path)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=False, capture_output=True)


def test_export_fails_when_drive_is_unmounted(small_drive, tmp_path):
    """When the drive is unmounted during the export, the copy stops and counts no file that went to the empty mount
    point."""
    outbox, device = outbox_of(tmp_path / "outbox", 2, 100), small_drive.stat().st_dev

    def pull(done: int, _: int) -> None:
        if done == 2:
            subprocess.run(["umount", "-l", str(small_drive)], check=True)

    stopped = media.copy_out(outbox, small_drive / "site=x", pull, device)
    assert isinstance(stopped.failure, MediaFailed)
    assert (2, 3, 102) == (stopped.copied, len(stopped.missing), stopped.bytes)
    assert f"the USB drive at {small_drive} was unmounted meanwhile" == stopped.failure.message


def test_full_drive_has_complete_files_only(small_drive, tmp_path):
    """An export to a full drive leaves only complete files and counts the missing ones; the next run does not copy
    existing files again."""
    outbox = outbox_of(tmp_path / "outbox", 10, 40_000)
    first = media.copy_out(outbox, small_drive / "site=x")
    assert isinstance(first.failure, DiskFull)
    assert first.copied + len(first.missing) == 21
    whole = [path for path in (small_drive / "site=x" / "segments").iterdir() if not path.name.startswith(".")]
    assert first.copied == len(whole)
    assert all(path.stat().st_size in (2, 40_000) for path in whole)
    other = media.copy_out(outbox, tmp_path / "larger" / "site=x")
    assert (21, None) == (other.copied, other.failure)
    again = media.copy_out(outbox, small_drive / "site=x")
    assert (0, first.copied) == (again.copied, again.unchanged)
    assert 21 == len([path for path in outbox.rglob("*") if path.is_file()])


def test_export_to_failing_drive_exits_with_3(run, daemon, tmp_path):
    """An export to a drive that cannot be written exits with 3 and reports that all files are still on the machine."""
    (tmp_path / "site=site-1").write_bytes(b"a USB drive that cannot be written to")
    ask(daemon, "pos", "one more")
    result = run("media", "export", str(tmp_path))
    assert (3, True) == (result.exit_code, "All of it is still on this machine" in result.stderr), result.output


@pytest.mark.parametrize("command", ["export", "import"])
def test_missing_mount_point_is_not_created(run, tmp_path, command: str):
    """`media export` and `media import` create nothing at a missing mount point, exit with 3 and have a remedy; a file
    in its place is refused."""
    missing = run("media", command, str(tmp_path / "drive"))
    assert (3, True) == (missing.exit_code, "does not exist" in missing.stderr), missing.output
    assert "what to do: Plug the drive in" in missing.stderr
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "drive").write_bytes(b"")
    assert "is not a folder" in run("media", command, str(tmp_path / "drive")).stderr


def test_file_changed_on_drive_is_copied_again(tmp_path):
    """An export copies a file again whose content on the drive differs, although its name is the same."""
    outbox = outbox_of(tmp_path / "outbox", 1, 10)
    media.copy_out(outbox, tmp_path / "s")
    (tmp_path / "s" / "segments" / f"{segment.name_of('0' * 16, 1)}.age").write_bytes(b"rot")
    again = media.copy_out(outbox, tmp_path / "s")
    assert (1, 2) == (again.copied, again.unchanged)

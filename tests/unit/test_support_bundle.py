"""The support bundle: what it contains and excludes, its preview and its file."""

import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent import support_bundle
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.cli import app
from edge_agent.config import ExamplesConfig
from edge_agent.config.config_files import ConfigFiles
from edge_agent.doctor.installation import Installation
from edge_agent.doctor.probe_context import query_daemon
from edge_agent.support_bundle import (
    PART_BYTES_MAX,
    TOTAL_SECONDS_MAX,
    SupportPart,
    SupportSources,
    gather_parts,
    pack_archive,
)
from tests.support.doctor_cases import place

PROMPT = "Mrs Miller wants her money back for the blue kettle"
SECRETS = {
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "age": "AGE-SECRET-KEY-1QQPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQ",
    "pem": "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----",
    "bearer": "Bearer abcdef123456789",
    "password": "password=hunter2hunter2",
    "user": "https://joe:hunter2hunter2@host/path",
    "query": "https://host/path?sig=hunter2hunter2",
    "json": '{"secret_access_key": "hunter2hunter2"}',
    "yaml": "aws_session_token: hunter2hunter2",
}
OPEN = ("AKIAIOSFODNN7EXAMPLE", "QGPQYQSZQGP", "MC4CAQAwBQ", "abcdef123456789", "hunter2")
CARD, MAIL = "4111 1111 1111 1111", "joe.miller@example.com"


def rules(said: str) -> str:
    return Redactor().start().text(said)


def entry(message: object, writer: str = "edge-agent") -> str:
    return json.dumps({"MESSAGE": message, "SYSLOG_IDENTIFIER": writer, "__REALTIME_TIMESTAMP": "1790000000000000"})


def gathered(where: Installation, files: ConfigFiles | None = None, **more) -> dict[str, SupportPart]:
    return {
        part.name: part for part in gather_parts(SupportSources(query_daemon(where), files, {"verdict": "ok"}, **more))
    }


def logged(tmp_path: Path, *entries: str) -> str:
    """Return what is included of a journal."""

    def run(command):
        return "\n".join(entries) if command[0] == "journalctl" else None

    where = place(tmp_path)
    parts = gathered(Installation(where.config, root=where.root, run=run, find_user=where.find_user))
    return parts["edge-agent.log"].content.decode()


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_removed_from_any_text(kind):
    """Keys, tokens, passwords, and user info and queries of addresses are removed."""
    carried = support_bundle.redact_text(f"before {SECRETS[kind]} after", rules)
    assert [] == [word for word in OPEN if word in carried]
    assert ("[secret]" in carried, carried.startswith("before")) == (True, True)


def test_personal_data_is_redacted_by_the_rules():
    """A card and an address of mail become placeholders."""
    carried = support_bundle.redact_text(f"paid with {CARD} by {MAIL}", rules)
    assert "paid with [CARD_1] by [EMAIL_1]" == carried


def test_values_are_removed_by_the_name_of_their_key():
    """The value of a key that names a secret is removed; a path to a secret is kept."""
    plain = {
        "authorization": "x",
        "nested": [{"api_token": "y", "password": ""}],
        "credentials_file": "/etc/edge-agent/uplink.yaml",
        "digest": "4111111111111111",
        "count": 7,
    }
    assert {
        "authorization": "[secret]",
        "nested": [{"api_token": "[secret]", "password": ""}],
        "credentials_file": "/etc/edge-agent/uplink.yaml",
        "digest": "4111111111111111",
        "count": 7,
    } == support_bundle.redact_value(plain, rules)


def test_addresses_keep_scheme_host_and_path():
    """Scheme, host and path stay."""
    plain = {"uplink": {"url": "https://joe:pw12345678@host/a?sig=abc", "options": {"region": "eu-1"}}}
    assert {"uplink": {"url": "https://host/a", "options": {"region": "eu-1"}}} == support_bundle.redact_settings(
        plain, rules
    )


def test_invalid_address_is_removed_and_the_rest_kept():
    """Support is often needed because of such a mistake."""
    plain = {"uplink": {"url": "https://joe:pw12345678@[fe80::1/a", "options": {"region": "eu-1"}}}
    assert {"uplink": {"url": "[secret]", "options": {"region": "eu-1"}}} == support_bundle.redact_settings(
        plain, rules
    )


def test_log_events_keep_only_known_keys():
    """The value of any other key is replaced by its length."""
    event = {"event": "engine_died", "engine": "llama-12", "pid": 7, "level": "error", "prompt": PROMPT}
    carried = json.loads(support_bundle.redact_line(json.dumps(event), rules))
    assert {**event, "prompt": f"[{len(PROMPT)} characters left out]"} == carried


def test_unknown_event_name_is_removed():
    """An event name or key with digits or other punctuation is foreign text."""
    event = {"event": f"input: {PROMPT} [1]", PROMPT + "!": "x"}
    carried = support_bundle.redact_line(json.dumps(event), rules)
    assert ("Miller" in carried, "characters left out" in carried) == (False, True)


@pytest.mark.parametrize(
    ("said", "carried"),
    [
        (PROMPT, f"[{len(PROMPT)} characters left out]"),
        (f'["{PROMPT}"]', f"[{len(PROMPT) + 4} characters left out]"),
        ('  File "/opt/x.py", line 7, in run', '  File "/opt/x.py", line 7, in run'),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        (f"ValueError: {PROMPT}", f"ValueError [{len(PROMPT) + 2} characters left out]"),
        ("llama_model_load: error loading model", "llama_model_load: error loading model"),
        ("[" * 100_000, "[100000 characters left out]"),
    ],
)
def test_other_lines_are_kept_only_if_they_cannot_hold_inputs(said, carried):
    """Traceback frames, exception names and known messages of model libraries are kept; of other lines only the
    length."""
    assert carried == support_bundle.redact_line(said, rules)


def test_traceback_in_an_event_keeps_frames_without_messages(tmp_path):
    """What the exception said is left out, where it was raised is not."""
    trace = f'Traceback (most recent call last):\n  File "/opt/x.py", line 7, in run\nKeyError: {PROMPT!r}'
    carried = logged(tmp_path, entry(json.dumps({"event": "handler_failed", "exception": trace, "level": "error"})))
    assert ("line 7, in run" in carried, "KeyError" in carried, "Miller" in carried) == (True, True, False)


def test_lines_of_systemd_are_kept_without_secrets(tmp_path):
    """With secrets taken out all the same; what is no text is skipped."""
    carried = logged(
        tmp_path,
        entry("edge-agent.service: Watchdog timeout!", "systemd"),
        entry("token=hunter2hunter2", "systemd"),
        entry([1, 2, 3]),
        "no json",
        '{"no": "message"}',
    )
    assert ["1790000000 edge-agent.service: Watchdog timeout!", "1790000000 token=[secret]"] == carried.splitlines()


def planted(tmp_path: Path) -> tuple[Installation, ConfigFiles]:
    """Put prompts and secrets wherever a site has files."""
    where = place(tmp_path, examples=ExamplesConfig(collect={"t": "local"}))
    state = where.config.state_dir
    contents = {
        state / "spool.db": PROMPT,
        state / "site.key": SECRETS["pem"],
        where.config.outbox / "segments" / "e-1.age": PROMPT,
        where.config.incoming / "metadata" / "timestamp.json": SECRETS["json"],
        where.config.uplink_notes / "uplink.json": json.dumps({"upstream": SECRETS["user"], "problems": [CARD]}),
        where.config.uplink_notes / "uploaded.jsonl": f"{SECRETS['bearer']}\n" * 3,
        tmp_path / "agent.yaml": f"# {PROMPT}\nuplink: {{options: {{token: hunter2hunter2}}}}\n",
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    files = ConfigFiles(
        (tmp_path / "agent.yaml", {"uplink": {"options": {"token": "hunter2hunter2"}, "url": SECRETS["user"]}})
    )

    def run(command):
        said = [entry(PROMPT), entry(json.dumps({"event": "x", "text": PROMPT})), entry(SECRETS["password"], "systemd")]
        return "\n".join(said) if command[0] == "journalctl" else "Environment=TOKEN=hunter2hunter2\nResult=success\n"

    return Installation(where.config, root=where.root, run=run, find_user=where.find_user), files


def test_invalid_utf8_is_escaped(tmp_path):
    """File names of any bytes and log lines with half a character do not break the bundle."""
    where, _ = planted(tmp_path)
    where.config.incoming.mkdir(parents=True, exist_ok=True)
    Path(os.fsdecode(os.fsencode(where.config.incoming) + b"/d\xff")).touch()
    listed = gathered(where)["folders.txt"].content.decode()
    assert r"/d\udcff" in listed
    assert r'"task": "\ud83d"' in logged(tmp_path / "log", entry(json.dumps({"event": "x", "task": "\ud83d"})))


def test_planted_secrets_and_prompts_are_excluded(tmp_path):
    """No byte of spool, outbox, keys, credentials, comments or inputs is in any part."""
    where, files = planted(tmp_path)
    parts = gathered(where, files)
    everything = b"\n".join(part.content for part in parts.values()).decode()
    assert [] == [word for word in (*OPEN, "Miller", "kettle", CARD) if word in everything]
    assert {"config.json", "uplink.json", "units.txt", "folders.txt", "edge-agent.log"} <= {
        name for name, part in parts.items() if part.content
    }
    assert ("spool.db" in everything, "Result=success" in everything) == (True, True)


def test_upload_log_is_counted_and_not_included(tmp_path):
    """Three uploads, and no word of them."""
    where, files = planted(tmp_path)
    assert 3 == json.loads(gathered(where, files)["uplink.json"].content)["notes_lines"]


def test_missing_part_has_a_reason(tmp_path):
    """A missing daemon, journal, systemd or readable configuration is the reason of its part."""
    parts = gathered(place(tmp_path))
    why = {name: part.why for name, part in parts.items() if not part.content}
    assert {"status.json", "config.json", "units.txt", "edge-agent.log", "edge-uplink.log", "uplink.json"} <= set(why)
    assert "no daemon answers" in why["status.json"]


def test_total_time_is_limited(tmp_path):
    """Parts that would exceed the total time are left out."""
    times = iter([0.0, 0.0, 0.0, *([TOTAL_SECONDS_MAX + 1] * 100)])
    parts = gathered(place(tmp_path), clock=lambda: next(times))
    assert [True, True] + [False] * (len(parts) - 2) == [bool(part.content) for part in parts.values()]


def test_a_long_log_keeps_its_end(tmp_path):
    """A log beyond the limit keeps its newest lines."""
    line = entry("x" * 1000, "systemd")
    carried = logged(tmp_path, *[line] * 1100, entry("the end", "systemd"))
    assert (PART_BYTES_MAX, True) == (len(carried), carried.endswith("the end"))


def test_the_archive_holds_the_parts_that_have_content():
    """The archive has one folder; a part without content is left out."""
    content = pack_archive(
        [SupportPart("a.txt", "a", b"hello"), SupportPart("b.txt", "b", b"", "why")], "site", time.time()
    )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert (["site/a.txt"], b"hello") == (archive.getnames(), archive.extractfile("site/a.txt").read())


def bundle(tmp_path: Path, *more: str, **options):
    (tmp_path / "agent.yaml").write_text("site: {id: shop-7}\n")
    places = ["--config", str(tmp_path / "agent.yaml"), "--state-dir", str(tmp_path / "s"), "--run-dir", str(tmp_path)]
    return CliRunner().invoke(app, [*places, "support-bundle", *more], **options)


def test_contents_are_shown_before_anything_is_written(tmp_path):
    """--list writes nothing, and neither does a run without a terminal or --yes."""
    target = tmp_path / "out.tar.gz"
    shown = bundle(tmp_path, "--list", "--output", str(target))
    refused = bundle(tmp_path, "--output", str(target))
    assert (0, 2, False) == (shown.exit_code, refused.exit_code, target.exists())
    assert ("doctor.json" in shown.stdout, "Not in it: inputs, answers" in shown.stdout) == (True, True)
    assert "left out: status.json: the daemon did not answer" in shown.stdout


def test_bundle_is_written_with_yes(tmp_path):
    """The last sentence names the file, which has the listed parts."""
    target = tmp_path / "out.tar.gz"
    result = bundle(tmp_path, "--yes", "--output", str(target))
    assert (0, True) == (result.exit_code, str(target) in result.stdout)
    with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        folder = archive.getnames()[0].partition("/")[0]
    assert ({"doctor.json", "versions.json", "config.json", "machine.txt"} <= names, True) == (
        True,
        folder.startswith("edge-support-shop-7-"),
    )


def test_unwritable_output_file_is_refused_first(tmp_path):
    """The exit status is 3, and nothing is gathered before."""
    (tmp_path / "there.tar.gz").touch()
    for name, why in (("nowhere/out.tar.gz", "there is no folder"), ("there.tar.gz", "File exists")):
        result = bundle(tmp_path, "--yes", "--output", str(tmp_path / name))
        said = " ".join(result.stderr.split())
        assert (3, True, True) == (result.exit_code, why in said, "--output" in said)
        assert "" == result.stdout  # it is refused before anything is gathered


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder_is_refused_first(tmp_path):
    """The list of contents does not come before the refusal."""
    (tmp_path / "theirs").mkdir(mode=0o555)
    result = bundle(tmp_path, "--yes", "--output", str(tmp_path / "theirs" / "out.tar.gz"))
    assert (3, "", True) == (result.exit_code, result.stdout, "this user may not write in" in result.stderr)


def test_invalid_yaml_is_excluded_and_reported_by_doctor(tmp_path):
    """Secrets could not be removed from it, so nothing of it is included."""
    target = tmp_path / "out.tar.gz"
    (tmp_path / "agent.yaml").write_text(f"uplink: {{token: hunter2\n{PROMPT}")
    places = ["--config", str(tmp_path / "agent.yaml"), "--run-dir", str(tmp_path)]
    result = CliRunner().invoke(app, [*places, "support-bundle", "--yes", "--output", str(target)])
    with tarfile.open(target) as archive:
        content = b"".join(archive.extractfile(name).read() for name in archive.getnames())
    assert (0, True) == (result.exit_code, "left out: config.json" in result.stdout)
    assert (b"hunter2" in content, b"Miller" in content) == (False, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_bundle_is_owned_by_the_user_of_sudo(tmp_path):
    """That user sends it; nobody else can read it."""
    target = tmp_path / "out.tar.gz"
    behind = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    assert 0 == bundle(tmp_path, "--yes", "--output", str(target), env=behind).exit_code
    found = target.stat()
    assert (65534, 65534, 0o600) == (found.st_uid, found.st_gid, found.st_mode & 0o777)

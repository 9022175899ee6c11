"""`doctor` about settings, enrolment, credentials, state and exchange folders, also with real files."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.cli.daemon_target import DaemonTarget
from edge_agent.cli.doctor import installation_of
from edge_agent.config import Config, Overrides
from edge_agent.doctor import configuration_checks, enrolment_checks, state_checks, update_checks
from edge_agent.doctor.configuration_checks import ConfigurationFacts, FileReader
from edge_agent.doctor.enrolment_checks import CredentialFile, EnrolmentFacts, RootFacts, SiteKeyFacts
from edge_agent.doctor.installation import (
    ENTER,
    READ,
    WRITE,
    Installation,
    SystemUser,
    can_reach,
    has_access,
    stat_file,
)
from edge_agent.doctor.probe_context import DaemonFacts, ProbeContext, StoredState
from edge_agent.doctor.state_checks import DatabaseFacts, ExchangeFolder, StateFacts
from edge_agent.store.state_database import StateDatabase
from tests.support.doctor_cases import DAEMON, DAY, UPLINK, enrolled, file, looked, only, place, told, verdicts
from tests.support.reason_cases.uplink_cases import IDENTITY
from tests.support.rights import without_root

STRANGER = SystemUser("nobody", 99, frozenset({99}))
OPEN = (file("/etc", 0o755, "folder", uid=0, gid=0),)
S3 = "s3://fleet/examples"


def test_file_modes_are_evaluated_like_the_kernel():
    """The owner is checked by the owner's bits, even if the group has more; root may read and write everything."""
    private, shared = file("/x", 0o640), file("/x", 0o060)
    assert [True, True, False] == [has_access(person, private, READ) for person in (DAEMON, UPLINK, STRANGER)]
    assert [False, True] == [has_access(person, shared, READ | WRITE) for person in (DAEMON, UPLINK)]
    assert has_access(SystemUser("root", 0, frozenset()), file("/x", 0), READ | WRITE)
    assert not can_reach(UPLINK, (file("/above", 0o700, "folder"),), private, READ)


def config(**changed) -> dict[str, str]:
    facts = {
        "sources": (file("/etc/edge-agent/agent.yaml", 0o644, changed=1000.0),),
        "problem": "",
        "remedy": "",
        "started": 2000.0,
        "readers": (),
        "allow_unsigned": False,
    }
    return verdicts(configuration_checks.judge_configuration(ConfigurationFacts(**{**facts, **changed})))


@pytest.mark.parametrize(
    ("check", "verdict", "changed"),
    [
        ("config", "ok", {}),
        ("config", "ok", {"sources": (file("/etc/edge-agent/agent.yaml", kind=""),)}),
        ("config", "fault", {"problem": "agent.yaml: unknown key 'stor'"}),
        ("config-not-in-force", "ok", {}),
        ("config-not-in-force", "warning", {"started": 900.0}),
        ("config-not-in-force", None, {"started": None}),
        ("config-not-in-force", "warning", {"started": 900.0, "now": 1000.0}),
        ("config-not-in-force", None, {"started": 10.0, "now": 20.0}),
        (
            "config-readable",
            "fault",
            {"readers": (FileReader(file("/etc/agent.yaml", 0o600, uid=0, gid=0), OPEN, DAEMON),)},
        ),
        ("config-readable", "ok", {"readers": (FileReader(file("/etc/agent.yaml", 0o644, uid=0), OPEN, DAEMON),)}),
        ("unsigned-allowed", "note", {"allow_unsigned": True}),
        ("config-overruled", "note", {"overruled": ("site.id",)}),
    ],
)
def test_configuration_is_judged(check, verdict, changed):
    """Invalid and unreadable settings are faults, a change after the start is a warning, unsigned bundles and overruled
    settings are notes."""
    assert verdict == config(**changed).get(check)


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("note", ("", 0, 0, "", "", False)),
        ("ok", ("shop-1", 1, 1, S3, "", True)),
        ("ok", ("shop-1", 0, 0, "", S3, False)),
        ("fault", ("", 1, 1, S3, "", False)),
        ("fault", ("shop-1", 0, 1, S3, "", True)),
    ],
)
def test_incomplete_enrolment_is_a_fault(verdict, facts):
    """An enrolment without the site's name or keys is a fault if examples leave the site; no enrolment at all is a
    note."""
    assert verdict == verdicts(enrolment_checks.judge_enrolment(EnrolmentFacts(*facts)))["enrolment"]


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("note", RootFacts("", "")),
        ("fault", RootFacts("", S3)),
        ("fault", RootFacts("/etc/root.json", S3)),
        ("fault", RootFacts("/etc/root.json", S3, True, "it is not root metadata")),
        ("note", RootFacts("/etc/root.json", S3, True, "", 1, -DAY)),
        ("ok", RootFacts("/etc/root.json", S3, True, "", 1, DAY)),
    ],
)
def test_site_with_updates_needs_a_root_of_trust(verdict, facts):
    """A missing or damaged root of trust is a fault if updates are configured; an expired one is a note, because
    updates bring a newer one."""
    assert verdict == verdicts(enrolment_checks.judge_root(facts))["root-of-trust"]


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("ok", SiteKeyFacts(file("site.key"), True, True)),
        ("warning", SiteKeyFacts(file("site.key", 0o644), True, True)),
        ("fault", SiteKeyFacts(file("site.key"), False, True)),
        ("note", SiteKeyFacts(file("site.key", kind=""), False, True)),
        (None, SiteKeyFacts(file("site.key", kind=""), False, False)),
    ],
)
def test_site_key_is_judged(verdict, facts):
    """A damaged site key is a fault, one that other users may read is a warning, and one that is not made yet is a
    note."""
    assert verdict == verdicts(enrolment_checks.judge_site_key(facts)).get("site-key")


def secret(*, sealed: bool = False, where: str = S3, readers: tuple[FileReader, ...] = (), **of) -> CredentialFile:
    return CredentialFile("uplink", where, file("/etc/uplink.yaml", **of), sealed, readers)


@pytest.mark.parametrize(
    ("verdict", "of"),
    [
        ("ok", secret(sealed=True)),
        ("note", secret()),
        ("warning", secret(kind="")),
        ("note", replace(secret(kind=""), expected=False)),
        ("fault", secret(size=0)),
        ("fault", secret(mode=0o644)),
        ("fault", secret(readers=(FileReader(file("/etc/uplink.yaml"), OPEN, UPLINK),), uid=0, gid=0)),
        (None, secret(where="/mnt/central")),
    ],
)
def test_credentials_are_judged(verdict, of):
    """Credentials that are missing are a warning; empty, open or unreadable ones are faults; a store that is a folder
    needs none."""
    assert verdict == verdicts(enrolment_checks.judge_credentials((of,))).get("credentials")


def test_unknown_setting_does_not_stop_other_checks(tmp_path):
    """An unknown key in agent.yaml is a fault with a remedy; site.yaml still applies and the other checks are made."""
    (tmp_path / "agent.yaml").write_text("stor: {}")
    (tmp_path / "site.yaml").write_text("site: {id: shop-7}")
    where = installation_of(DaemonTarget(tmp_path / "agent.yaml", Overrides(tmp_path / "state", tmp_path / "run")))
    found = looked(where)
    assert ("fault", "Did you mean 'store'?") == (found["config"].verdict, found["config"].remedy)
    assert ("shop-7", "ok") == (where.config.site.id, found["cpu"].verdict)


def metadata(path: Path, role: str, days: float) -> Path:
    expires = datetime.now(UTC) + timedelta(days=days)
    signed = {"_type": role, "version": 3, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"signed": signed, "signatures": []}))
    return path


@pytest.mark.parametrize(("verdict", "days"), [("ok", 30.0), ("warning", 1.0), ("fault", -1.0)])
def test_expiry_of_update_metadata_is_read_from_disk(tmp_path, verdict, days):
    """The timestamp in incoming/ is ok while valid, a warning shortly before it expires, and a fault afterwards."""
    metadata(tmp_path / "root.json", "root", 100)
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", days)
    found = looked(place(tmp_path, **enrolled(tmp_path)))
    assert (verdict, "ok") == (found["metadata"].verdict, found["root-of-trust"].verdict)


@pytest.mark.parametrize(("verdict", "verified", "version"), [("ok", 30.0, 4), ("fault", -1.0, 4), ("fault", 30.0, 2)])
def test_newest_update_metadata_are_judged(tmp_path, verdict, verified, version):
    """Of the verified timestamp and the one in incoming/, the higher version is judged, since a USB drive can bring a
    newer one than the uplink."""
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", -2.0)
    kept = metadata(tmp_path / "state/trust/kept/metadata/timestamp.json", "timestamp", verified)
    kept.write_text(kept.read_text().replace('"version": 3', f'"version": {version}'))
    assert verdict == looked(place(tmp_path, **enrolled(tmp_path)))["metadata"].verdict


def test_invalid_update_metadata_are_a_fault(tmp_path):
    """An HTML page in place of the timestamp and a timestamp in place of the root are faults."""
    metadata(tmp_path / "root.json", "timestamp", 100)
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", 1).write_text("<html>")
    found = looked(place(tmp_path, **enrolled(tmp_path)))
    assert ("fault", "fault") == (found["metadata"].verdict, found["root-of-trust"].verdict)


def test_missing_first_update_is_a_warning_after_a_day(tmp_path):
    """Missing metadata at a site with an uplink are a note on the day of the enrolment and a warning afterwards."""
    root = tmp_path / "root.json"
    metadata(root, "root", 100)
    assert "note" == looked(place(tmp_path, **enrolled(tmp_path)))["metadata"].verdict
    os.utime(root, (1.0, root.stat().st_mtime - 2 * DAY))
    assert "warning" == looked(place(tmp_path, **enrolled(tmp_path)))["metadata"].verdict


def state_facts(person: SystemUser | None = DAEMON, **of) -> dict[str, str]:
    folder = file("/var/lib/edge-agent", **{"mode": 0o700, "kind": "folder", **of})
    above = (file("/var/lib", 0o755, "folder", uid=0, gid=0),)
    return verdicts(state_checks.judge_state_dir(StateFacts(folder, above, person, ())))


@pytest.mark.parametrize(
    ("verdict", "of"),
    [
        ("ok", {}),
        ("ok", {"kind": "", "person": None}),
        ("fault", {"kind": ""}),  # the daemon's user may not write /var/lib
        ("fault", {"kind": "file"}),
        ("fault", {"uid": 0, "gid": 0}),
        ("warning", {"mode": 0o755}),
    ],
)
def test_state_directory_is_judged_for_the_daemons_user(verdict, of):
    """A state directory that the daemon's user cannot create or write, or that is a file, is a fault; one that others
    may read is a warning."""
    assert verdict == state_facts(**of)["state-dir"]


def test_state_files_of_another_user_are_a_fault(tmp_path):
    """A file of another user in the state directory, as left by a daemon once started with sudo, is a fault."""
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True, mode=0o700)
    (where.config.state_dir / "state.db-wal").write_text("")
    if os.geteuid() == 0:
        os.chown(where.config.state_dir / "state.db-wal", 4242, 4242)
    expected = "fault" if os.geteuid() == 0 else "ok"
    found = looked(where)["state-owner"]
    assert (expected, os.geteuid() == 0) == (found.verdict, "holds 1 file of another user" in found.seen)


def test_lost_found_of_a_mounted_state_directory_is_ok(tmp_path):
    """The lost+found folder of ext4 at the top of the state directory is ok; a folder of that name deeper inside is a
    file of another user."""
    where = place(tmp_path)
    for name in ("lost+found", "trust/lost+found"):
        (where.config.state_dir / name).mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(where.config.state_dir, 4242, 4242)
        os.chown(where.config.state_dir / "trust", 4242, 4242)
        assert "1 file of another user" in looked(where)["state-owner"].seen
        (where.config.state_dir / "trust/lost+found").rmdir()
    assert "ok" == looked(where)["state-owner"].verdict


@pytest.mark.parametrize(
    ("verdict", "version", "damage"),
    [("ok", 2, ""), ("ok", 0, ""), ("note", 1, ""), ("fault", 3, ""), ("fault", -1, ""), ("fault", 2, "malformed")],
)
def test_database_version_and_damage_are_judged(verdict, version, damage):
    """A newer or damaged database is a fault; an older one is a note, because the daemon migrates it."""
    found = list(state_checks.judge_databases((DatabaseFacts(file("/x/state.db"), version, 2, damage),)))
    assert (verdict, verdict in ("note", "fault")) == told(found, "database")


def database(tmp_path: Path) -> Installation:
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True, mode=0o700)
    StateDatabase(where.config.state_dir / "state.db", may_create=True).close()
    return where


def test_real_database_is_ok_and_leaves_no_files(tmp_path):
    """`doctor` reads a copy of the database, so no log file of another user appears next to it."""
    where = database(tmp_path)
    before = sorted(path.name for path in where.config.state_dir.iterdir())
    assert "ok" == looked(where)["database"].verdict
    assert before == sorted(path.name for path in where.config.state_dir.iterdir())


@pytest.mark.parametrize("place_of_damage", [0, 4096])
def test_damaged_database_is_found_without_a_daemon(tmp_path, place_of_damage):
    """Without a daemon, damage in the header or the middle of the database is a fault."""
    where = database(tmp_path)
    path = where.config.state_dir / "state.db"
    with path.open("r+b") as opened:
        opened.seek(place_of_damage)
        opened.write(b"\xff" * 3000)
    found = looked(where)["database"]
    assert ("fault", True) == (found.verdict, str(path) in found.seen)


def folder(**of) -> ExchangeFolder:
    made = file("/var/lib/edge-exchange/outbox", **{"mode": 0o2750, "kind": "folder", **of})
    needs = ((DAEMON, READ | WRITE | ENTER), (UPLINK, READ | ENTER))
    return ExchangeFolder(
        "outbox", made, (file("/var/lib", 0o755, "folder", uid=0, gid=0),), needs, 0o2750, "edge-exchange"
    )


@pytest.mark.parametrize(
    ("verdict", "of"),
    [
        ("ok", {}),
        ("fault", {"kind": ""}),
        ("fault", {"kind": "file"}),
        ("fault", {"gid": 0}),  # the uplink may not read it
        ("fault", {"uid": 0}),  # the daemon may not write it
        ("warning", {"mode": 0o2777}),
    ],
)
def test_exchange_folders_are_judged_for_both_users(verdict, of):
    """An exchange folder that is missing, a file, or closed to the daemon or the uplink is a fault; one open to all
    users is a warning."""
    found = list(state_checks.judge_exchange_folders((folder(**of),)))
    assert verdict == only(found, "exchange-folders").verdict


def test_exchange_folder_finding_names_user_path_and_mode():
    """The finding of an exchange folder names the user, the denied operation, the path, owner and mode, and the
    commands that correct them."""
    found = only(list(state_checks.judge_exchange_folders((folder(gid=0),))), "exchange-folders")
    path = "/var/lib/edge-exchange/outbox"
    assert f"edge-uplink may not read {path} (edge-agent:edge-exchange 2750)" == found.seen
    assert f"sudo chown edge-agent:edge-exchange {path} && sudo chmod 2750 {path}" == found.command


def test_missing_notes_folder_is_an_exchange_folder_fault(tmp_path):
    """With real folders and two users by name, a missing notes folder of the uplink is a fault."""
    people = {"edge-agent": DAEMON, "edge-uplink": UPLINK}
    where = place(tmp_path, **enrolled(tmp_path))
    where = Installation(where.config, root=where.root, run=where.run, find_user=people.get)
    found = looked(where)["exchange-folders"]
    assert ("fault", "notes") == (found.verdict, found.about)
    assert stat_file(tmp_path).kind == "folder"


@pytest.mark.parametrize(("collect", "needed"), [({}, False), ({"pos": "off"}, False), ({"pos": "upstream"}, True)])
def test_site_key_is_checked_only_where_the_daemon_makes_one(tmp_path, collect, needed):
    """`doctor` checks the site key if examples are sent to the central team, and not if none are captured."""
    where = place(tmp_path, site=IDENTITY, examples={"collect": collect})
    assert needed is ("site-key" in looked(where))


@pytest.mark.parametrize(
    ("probe", "root_file"), [(update_checks.probe_metadata, "/etc/passwd"), (enrolment_checks.probe_root, "root.json")]
)
def test_file_without_access_is_not_reported_as_missing(tmp_path, probe, root_file):
    """A probe of a file in a closed folder raises PermissionError instead of reporting it missing, also on Python 3.14,
    whose `Path.exists` returns False."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    config = Config(state_dir=closed, update={"root_file": str(closed / root_file)})
    facts = DaemonFacts("/run/admin.sock", True, None)
    context = ProbeContext(Installation(config), facts, None, None, StoredState(None, {}))
    with without_root(), pytest.raises(PermissionError):
        probe(context)

"""doctor's rules about settings, enrolment, credentials, state and exchange folders, with real files."""

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


def test_modes_are_read_as_the_kernel_reads_them():
    """The owner's bits for the owner, even where the group has more; root may all."""
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
def test_settings_are_judged(check, verdict, changed):
    """Refused, changed after the start, not readable for the daemon, or letting anything in."""
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
def test_half_an_enrolment_is_a_fault(verdict, facts):
    """All or nothing: who belongs to a fleet needs a name, and keys where examples leave."""
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
def test_a_root_of_trust_is_needed_where_updates_come(verdict, facts):
    """Missing or damaged is a fault; an expired one is not, since a newer one comes with the updates."""
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
def test_the_sites_key_is_whole_and_closed(verdict, facts):
    """A damaged key is a fault, one that others read a warning."""
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
def test_credentials_are_there_closed_and_readable(verdict, of):
    """Missing, empty, open to all, or out of the uplink's reach; a folder needs none."""
    assert verdict == verdicts(enrolment_checks.judge_credentials((of,))).get("credentials")


def test_a_wrong_key_is_found_and_the_rest_is_looked_at_all_the_same(tmp_path):
    """The finding names key and remedy; site.yaml still holds."""
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
def test_metadata_that_expire_are_found_on_the_disk(tmp_path, verdict, days):
    """The real file in incoming/ is read: valid, about to expire, expired."""
    metadata(tmp_path / "root.json", "root", 100)
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", days)
    found = looked(place(tmp_path, **enrolled(tmp_path)))
    assert (verdict, "ok") == (found["metadata"].verdict, found["root-of-trust"].verdict)


@pytest.mark.parametrize(("verdict", "verified", "version"), [("ok", 30.0, 4), ("fault", -1.0, 4), ("fault", 30.0, 2)])
def test_the_newest_metadata_count(tmp_path, verdict, verified, version):
    """What a USB drive brought after the uplink went offline is newer than what the uplink had left in incoming/."""
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", -2.0)
    kept = metadata(tmp_path / "state/trust/kept/metadata/timestamp.json", "timestamp", verified)
    kept.write_text(kept.read_text().replace('"version": 3', f'"version": {version}'))
    assert verdict == looked(place(tmp_path, **enrolled(tmp_path)))["metadata"].verdict


def test_what_is_no_metadata_is_a_fault(tmp_path):
    """A login page as timestamp, a timestamp as root."""
    metadata(tmp_path / "root.json", "timestamp", 100)
    metadata(tmp_path / "incoming/metadata/timestamp.json", "timestamp", 1).write_text("<html>")
    found = looked(place(tmp_path, **enrolled(tmp_path)))
    assert ("fault", "fault") == (found["metadata"].verdict, found["root-of-trust"].verdict)


def test_before_the_first_update_has_come_it_is_waited_for(tmp_path):
    """With an uplink that is a warning, except on the day of the enrolment."""
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
def test_the_state_directory_is_judged_for_the_daemons_user(verdict, of):
    """There and closed, not there yet, no folder, or another user's."""
    assert verdict == state_facts(**of)["state-dir"]


def test_files_of_another_user_are_found(tmp_path):
    """Whoever started the daemon with sudo once left them."""
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True, mode=0o700)
    (where.config.state_dir / "state.db-wal").write_text("")
    if os.geteuid() == 0:
        os.chown(where.config.state_dir / "state.db-wal", 4242, 4242)
    expected = "fault" if os.geteuid() == 0 else "ok"
    found = looked(where)["state-owner"]
    assert (expected, os.geteuid() == 0) == (found.verdict, "holds 1 file of another user" in found.seen)


def test_a_disk_that_is_mounted_as_the_state_directory_holds_a_folder_of_root(tmp_path):
    """ext4 makes lost+found for itself: it is nobody's mistake, and a file in another folder of that name is one."""
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
def test_a_database_of_another_version_is_told_from_a_damaged_one(verdict, version, damage):
    """Newer and damaged are faults, older is brought up by the daemon."""
    found = list(state_checks.judge_databases((DatabaseFacts(file("/x/state.db"), version, 2, damage),)))
    assert (verdict, verdict in ("note", "fault")) == told(found, "database")


def database(tmp_path: Path) -> Installation:
    where = place(tmp_path)
    where.config.state_dir.mkdir(parents=True, mode=0o700)
    StateDatabase(where.config.state_dir / "state.db", may_create=True).close()
    return where


def test_a_real_database_is_well_and_nothing_is_left_beside_it(tmp_path):
    """It is read in a copy, so that no log of another user appears."""
    where = database(tmp_path)
    before = sorted(path.name for path in where.config.state_dir.iterdir())
    assert "ok" == looked(where)["database"].verdict
    assert before == sorted(path.name for path in where.config.state_dir.iterdir())


@pytest.mark.parametrize("place_of_damage", [0, 4096])
def test_a_spoilt_database_is_found_while_no_daemon_runs(tmp_path, place_of_damage):
    """In its head, or in the middle."""
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
    """A wrong owner, group or mode is a fault that names who may not do what."""
    found = list(state_checks.judge_exchange_folders((folder(**of),)))
    assert verdict == only(found, "exchange-folders").verdict


def test_who_may_not_do_what_is_said():
    """Name, verb, path, owner and mode stand in the sentence."""
    found = only(list(state_checks.judge_exchange_folders((folder(gid=0),))), "exchange-folders")
    path = "/var/lib/edge-exchange/outbox"
    assert f"edge-uplink may not read {path} (edge-agent:edge-exchange 2750)" == found.seen
    assert f"sudo chown edge-agent:edge-exchange {path} && sudo chmod 2750 {path}" == found.command


def test_real_exchange_folders_are_looked_at_for_real_users(tmp_path):
    """Two users by name, folders with modes: the uplink's notes are missing."""
    people = {"edge-agent": DAEMON, "edge-uplink": UPLINK}
    where = place(tmp_path, **enrolled(tmp_path))
    where = Installation(where.config, root=where.root, run=where.run, find_user=people.get)
    found = looked(where)["exchange-folders"]
    assert ("fault", "notes") == (found.verdict, found.about)
    assert stat_file(tmp_path).kind == "folder"


@pytest.mark.parametrize(("collect", "needed"), [({}, False), ({"pos": "off"}, False), ({"pos": "upstream"}, True)])
def test_a_site_key_that_the_daemon_does_not_make_is_not_missing(tmp_path, collect, needed):
    """It makes one where examples are collected, or reports on updates go to the central team."""
    where = place(tmp_path, site=IDENTITY, examples={"collect": collect})
    assert needed is ("site-key" in looked(where))


@pytest.mark.parametrize(
    ("probe", "root_file"), [(update_checks.probe_metadata, "/etc/passwd"), (enrolment_checks.probe_root, "root.json")]
)
def test_what_this_user_may_not_see_is_not_called_missing(tmp_path, probe, root_file):
    """The check then says that it needs other rights, on Python 3.14 too, whose Path.exists says no."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    config = Config(state_dir=closed, update={"root_file": str(closed / root_file)})
    facts = DaemonFacts("/run/admin.sock", True, None)
    context = ProbeContext(Installation(config), facts, None, None, StoredState(None, {}))
    with without_root(), pytest.raises(PermissionError):
        probe(context)

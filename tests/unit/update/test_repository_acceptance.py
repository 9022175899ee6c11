"""Verification of a repository on a mirror or drive, and the trusted state that a site stores."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Targets

from convert.publish import layout
from edge_agent.errors import (
    ConfigInvalid,
    EdgeAgentError,
    MediaFailed,
    PlanInvalid,
    StoreDamaged,
    UpdateError,
    UpdateExpired,
    UpdateIncomplete,
    UpdateOutdated,
    UpdateUntrusted,
)
from edge_agent.formats.plan import FILE_NAME, FleetPlan, encode
from edge_agent.formats.signed_document import format_timestamp
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.repository_attacks import ATTACKS, STRANGER, AttackedRepository
from tests.support.trust_cases import TrustingSite, damage

DAY = 86_400
IN_1970, IN_2038 = 1000.0, datetime(2038, 1, 19, tzinfo=UTC).timestamp()


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """Return a central team with a bundle in its plan, version 2."""
    made = CentralTeam(tmp_path / "central")
    made.plan(made.offering(made.publish(echo_bundle(tmp_path / "bundle", "pos"))))
    return made


@pytest.fixture
def site(central: CentralTeam, tmp_path: Path) -> TrustingSite:
    """Return a site that has verified what the central team published."""
    made = TrustingSite(tmp_path / "site", central.root_bytes)
    made.bring(central.folder)
    assert 2 == made.believe().plan_version
    return made


def newer(central: CentralTeam, version: str = "2.0.0") -> str:
    """Publish another bundle and a plan that names it."""
    digest = central.publish(echo_bundle(central.folder.parent / version, "pos", version=version))
    central.plan(central.offering(digest))
    return digest


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder: by another name, what a USB drive holds."""
    return Path(shutil.copytree(folder, to))


def test_signed_repository_is_accepted(central, site):
    """A verified repository has the plan, the bundles that it may name, and the newest signed time."""
    verified = site.believe()
    assert central.held.plan == verified.plan
    (signed,) = central.held.bundles().values()
    assert [("pos", "1.0.0")] == [(each.task, each.version) for each in verified.bundles.values()]
    assert signed.digest in verified.bundles
    assert format_timestamp(verified.issued_at) == central.held.timestamp.signed.unrecognized_fields[layout.ISSUED_AT]
    assert verified is site.believe()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_attack_is_refused_and_the_original_accepted_afterwards(name, tmp_path, central):
    """Each attack on a USB drive is refused with its reason and a remedy; afterwards the original repository is
    accepted."""
    older = central.copy(tmp_path / "older")
    newest = newer(central)
    site = TrustingSite(tmp_path / "site", central.root_bytes)
    before = copied(central.folder, tmp_path / "before")
    site.believe(before)
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), older)
    ATTACKS[name].make(hostile)
    with pytest.raises(UpdateError) as refused:
        site.again().believe(hostile.folder)
    assert refused.value.reason in ATTACKS[name].reasons, refused.value
    assert str(hostile.folder) in refused.value.message or isinstance(refused.value, PlanInvalid)
    assert refused.value.remedy
    ATTACKS[name].mend(central)
    assert newest in site.believe(central.folder).bundles


@pytest.mark.parametrize("how", ["truncated", "zeroed"])
def test_damaged_timestamp_is_reported_as_damaged(central, site, how):
    """A timestamp that is cut short or is not metadata is reported as a damaged file, with its name, and not as
    untrusted."""
    damage(site.incoming / "metadata" / "timestamp.json", how)
    problem = site.again().believe().problem
    assert isinstance(problem, UpdateIncomplete)
    assert "metadata/timestamp.json in" in problem.message
    assert problem.message.endswith("is damaged: it is cut short, or not metadata")


def test_damaged_mirror_leaves_the_trusted_state_in_force(central, site):
    """The site keeps its trusted state, with the problem, also after a restart, and asks the mirror to download
    everything again."""
    damage(site.incoming / "metadata" / "timestamp.json", "flipped")
    assert 2 == site.again().believe().plan_version
    assert site.believe().problem is not None
    site.ingest.request_downloads(site.believe(), [], None)
    assert site.wants.again
    shutil.rmtree(site.incoming)
    assert isinstance(site.again().believe().problem, UpdateIncomplete)
    site.bring(central.folder)
    assert site.believe().problem is None
    site.ingest.request_downloads(site.believe(), [], None)
    assert not site.wants.again


@pytest.mark.parametrize("how", ["gone", "zeroed", "truncated", "flipped"])
def test_rollback_is_refused_without_the_cached_files(how, central, site, tmp_path):
    """Deleting or damaging the cached metadata beside state.db does not make the site accept an older repository."""
    older = copied(central.folder, tmp_path / "older")
    newer(central)
    site.bring(central.folder)
    site.believe()
    for file in [path for path in (site.config.state_dir / "trust").rglob("*") if path.is_file()]:
        damage(file, how)
    site.again()
    with pytest.raises(UpdateOutdated):
        site.believe(older)
    site.bring(older)
    with pytest.raises(UpdateOutdated):  # and what was kept is not there any more
        site.believe()
    site.bring(central.folder)
    assert 3 == site.believe().plan_version


def test_site_follows_five_root_rotations(central, site):
    """A site that missed five root rotations follows and stores all of them, and a restart continues from the
    newest."""
    for _ in range(5):
        central.rotate_root()
    site.bring(central.folder)
    site.believe()
    assert [1, 2, 3, 4, 5, 6] == list(site.store.trusted.roots())
    for old in (site.incoming / "metadata").glob("*.root.json"):
        old.unlink()
    assert (2, 6) == (site.again().believe().plan_version, site.trust.root_version)


def test_new_root_is_stored_although_the_rest_is_refused(central, site):
    """A new root counts even if the metadata with it is refused, so a revoked key does not become valid again."""
    central.rotate("online")
    site.bring(central.folder)
    kept = site.config.state_dir / "trust" / "kept" / "metadata" / "timestamp.json"
    shutil.copyfile(kept, site.incoming / "metadata" / "timestamp.json")  # signed by the old key
    with pytest.raises(UpdateUntrusted):
        site.believe()
    assert [1, 2] == list(site.again().store.trusted.roots())


def test_replacing_the_online_key_ends_a_fast_forward_attack(central, site, tmp_path):
    """Version numbers that were raised with a stolen online key block newer metadata until the key is replaced; then
    the site accepts them."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    stamp = hostile.read("timestamp")
    stamp.signed.version = 2**31
    hostile.sign("timestamp", stamp)
    site.bring(hostile.folder)
    site.believe()
    newer(central)
    with pytest.raises(UpdateOutdated, match="timestamp"):
        site.believe(central.folder)
    central.rotate("online", restart_versions=True)
    assert 1 == central.held.timestamp.signed.version
    assert 3 == site.believe(central.folder).plan_version
    with pytest.raises(UpdateError):
        site.believe(hostile.folder)


def test_replacing_the_plan_key_resets_its_signers(central, site, tmp_path):
    """After the plan key was replaced the site accepts the plan and stores the new key as its signer."""
    (digest,) = site.believe().bundles
    central.plan(central.offering(digest, halted=True))
    site.bring(central.folder)
    assert 3 == site.believe().plan_version
    floors = site.store.trusted.floors()
    central.rotate("plan")
    site.bring(central.folder)
    assert 3 == site.believe().plan_version
    assert floors["plan"].signers != site.store.trusted.floors()["plan"].signers


def test_adding_a_root_key_does_not_allow_older_metadata(central, site, tmp_path):
    """A root rotation that keeps the online key keeps the remembered versions, so older metadata is refused."""
    older = copied(central.folder, tmp_path / "older")
    newer(central)
    site.bring(central.folder)
    site.believe()
    central.rotate_root()
    shutil.copy(central.folder / "metadata" / "2.root.json", older / "metadata")
    with pytest.raises(UpdateOutdated):
        site.believe(older)


def test_expired_copy_is_refused_and_a_renewed_one_accepted(central, site, tmp_path):
    """A site refuses an expired copy that somebody withheld, and accepts a renewed one."""
    central.expire("timestamp", seconds=-5)
    site.bring(central.folder)
    with pytest.raises(UpdateExpired, match="timestamp") as refused:
        site.believe(copied(central.folder, tmp_path / "drive"))
    assert "date" in refused.value.remedy
    central.publisher.renew()
    site.bring(central.folder)
    assert 2 == site.believe().plan_version


def test_clock_jump_changes_no_trusted_state(central, site):
    """With a clock in 2038 everything has expired, in 1970 the newest signed time counts, and once the clock is right
    all is accepted; the stored versions never change."""
    before = site.store.trusted.floors()
    site.now = lambda: IN_2038
    with pytest.raises(UpdateExpired, match="2038-01-19"):
        site.again().believe()
    site.now = lambda: IN_1970
    assert 2 == site.again().believe().plan_version
    assert site.believe().issued_at > IN_1970
    site.now = time.time
    assert 2 == site.again().believe().plan_version
    assert before == site.store.trusted.floors()


def test_clock_in_the_past_does_not_revive_expired_metadata(tmp_path):
    """Metadata counts as expired if something was signed after it expired, although the clock shows an earlier time."""
    clock = [time.time() - 10 * DAY]
    central = CentralTeam(tmp_path / "central", lambda: clock[0])
    central.plan(central.offering(central.publish(echo_bundle(tmp_path / "bundle", "pos"))))
    site = TrustingSite(tmp_path / "site", central.root_bytes, lambda: IN_1970)
    central.expire("targets", seconds=12 * DAY)
    older = copied(central.folder, tmp_path / "older")
    clock[0] += 15 * DAY
    central.expire("timestamp", seconds=30 * DAY)
    site.bring(central.folder)
    with pytest.raises(
        UpdateExpired, match=r"'targets' expired .*, but metadata was signed at .*, so it is at least that late"
    ):
        site.believe()
    assert {} == site.store.trusted.floors()
    assert 2 == site.believe(older).plan_version


def test_signed_time_after_every_expiry_is_refused_and_not_stored(central, site, tmp_path):
    """A signed time after everything else has expired, as a thief of the online key could write, is refused and not
    stored."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    stamp = hostile.read("timestamp")
    stamp.signed.version += 1
    stamp.signed.expires = datetime(2099, 1, 1, tzinfo=UTC)
    stamp.signed.unrecognized_fields[layout.ISSUED_AT] = "2098-01-01T00:00:00Z"
    hostile.sign("timestamp", stamp)
    with pytest.raises(UpdateExpired):
        site.believe(hostile.folder)
    assert 2 == site.believe().plan_version


def test_old_drive_is_reported_as_old(central, site, tmp_path):
    """A drive that is older than what the site has seen, or from before keys were replaced, is refused with that
    reason."""
    drive = central.drive(tmp_path / "drive")
    newer(central)
    site.bring(central.folder)
    site.believe()
    with pytest.raises(UpdateOutdated, match="older than what this site has seen") as refused:
        site.believe(drive)
    assert "new USB drive" in refused.value.remedy
    central.rotate("online")
    site.bring(central.folder)
    site.believe()
    with pytest.raises(UpdateOutdated, match="made before keys were replaced: it ends with root 1, not 2"):
        site.believe(drive)


def test_old_drive_is_reported_with_dates(tmp_path):
    """The error has the date of the drive and of the newest repository that the site has seen, because version numbers
    tell a technician nothing."""
    days = [2.0]
    central = CentralTeam(tmp_path / "central", lambda: time.time() - DAY * days[-1])
    site = TrustingSite(tmp_path / "site", central.root_bytes)
    newer(central)
    old = central.drive(tmp_path / "old")
    days.append(0.0)
    newer(central, "3.0.0")
    site.believe(central.drive(tmp_path / "new"))
    made, seen = (f"{datetime.fromtimestamp(time.time() - DAY * ago, UTC):%Y-%m-%d}" for ago in days)
    with pytest.raises(UpdateOutdated, match=rf"made at {made} [\d:]+ UTC, and there was one of {seen} [\d:]+ UTC; "):
        site.believe(old)


def test_foreign_or_empty_drive_is_named(central, site, tmp_path):
    """A drive of another fleet and one without an update are reported as such, with a remedy."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    other.plan(other.offering(other.publish(echo_bundle(tmp_path / "theirs", "pos"))))
    with pytest.raises(UpdateUntrusted, match="belongs to another fleet") as refused:
        site.believe(other.drive(tmp_path / "foreign"))
    assert "fleet that this site belongs to" in refused.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(UpdateIncomplete, match="there is no update in") as refused:
        site.believe(tmp_path / "empty")
    assert "edge-convert media" in refused.value.remedy


def test_folder_hidden_from_the_daemon_is_not_reported_as_empty(site, tmp_path):
    """For a folder that the daemon cannot see, because its unit hides /tmp and /home, the error says where to mount the
    drive."""
    with pytest.raises(MediaFailed, match="the daemon sees no folder") as failed:
        site.believe(tmp_path / "nothing")
    assert "/tmp" in failed.value.remedy


def test_plan_of_a_drive_stays_in_force_without_the_drive(central, site, tmp_path):
    """The plan of a drive that is newer than the mirror's stays in force after the drive is removed, also after a
    restart."""
    newer(central)
    drive = central.drive(tmp_path / "drive")
    assert 3 == site.believe(drive).plan_version
    shutil.rmtree(drive)
    for each in (site, site.again()):
        verified = each.believe()
        assert 3 == verified.plan_version
        assert isinstance(verified.problem, UpdateOutdated)
    site.bring(central.folder)
    assert site.believe().problem is None


def test_site_without_a_mirror_reports_no_missing_mirror(central, tmp_path):
    """At a site without a mirror the plan of a drive holds without a problem; after its expiry that is reported, and no
    missing mirror."""
    site = TrustingSite(tmp_path / "far", central.root_bytes, mirrored=False)
    with pytest.raises(UpdateIncomplete, match="there is no update in") as refused:
        site.believe()
    assert "import a USB drive" in refused.value.remedy
    site.believe(central.drive(tmp_path / "drive"))
    for each in (site, site.again()):
        assert (2, None) == (each.believe().plan_version, each.believe().problem)
    site.now = lambda: time.time() + 40 * 86_400
    with pytest.raises(UpdateExpired, match="timestamp"):
        site.again().believe()


def test_empty_mirror_is_a_problem_only_after_it_had_content(central, tmp_path):
    """A mirror that never had content causes no problem beside the plan of a drive; one that was emptied does."""
    site = TrustingSite(tmp_path / "far", central.root_bytes)
    with pytest.raises(UpdateIncomplete, match="there is no update in"):
        site.believe()
    assert site.trust.awaits_first(site.incoming)
    site.believe(central.drive(tmp_path / "drive"))
    for each in (site, site.again()):
        assert (2, None) == (each.believe().plan_version, each.believe().problem)
        assert not each.trust.awaits_first(site.incoming)
    site.bring(central.folder)
    assert site.believe().problem is None
    shutil.rmtree(site.incoming)
    for each in (site, site.again()):
        assert isinstance(each.believe().problem, UpdateIncomplete)


def test_plan_for_other_sites_does_not_apply(central, site):
    """A plan that names only other sites is accepted and names no task for this one."""
    (digest,) = site.believe().bundles
    offer = central.offering(digest)
    central.plan(offer.model_copy(update={"channels": {}, "sites": {"site-2": offer.channels["stable"]}}))
    site.bring(central.folder)
    plan = site.believe().plan
    assert plan is not None
    assert (FleetPlan(), {"pos"}) == (plan.for_site("site-1", "stable"), set(plan.for_site("site-2", "stable").tasks))


def test_plan_may_not_assign_a_bundle_to_another_task(central, site, tmp_path):
    """The plan key cannot assign a signed bundle to another task than the one that it was signed for."""
    plan = central.held.plan
    tasks = plan.channels["stable"].tasks
    swapped = plan.model_copy(update={"channels": {"stable": FleetPlan(tasks={"other": tasks["pos"]})}, "version": 3})
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    hostile.plan(encode(swapped))
    with pytest.raises(PlanInvalid, match="not signed for that task"):
        site.believe(hostile.folder)


def test_delegation_by_the_plan_is_not_followed(central, site, tmp_path):
    """The plan key cannot delegate further: the site ignores roles that the plan delegates to."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)

    def handed_on(signed: Targets) -> None:
        deeper = DelegatedRole("deeper", [], 1, terminating=True, paths=[FILE_NAME])
        signed.delegations = Delegations({}, {"deeper": deeper})
        signed.add_key(STRANGER.public_key, "deeper")
        (target,) = signed.targets.values()
        signed.targets.clear()
        lower = Metadata(Targets(targets={FILE_NAME: target}))
        lower.sign(STRANGER)
        hostile.write("deeper", lower)

    hostile.forge("plan", handed_on)
    snapshot = hostile.read("snapshot")
    raw = hostile.path("deeper").read_bytes()
    snapshot.signed.meta["deeper.json"] = layout.meta_file(hostile.read("deeper"), raw)
    snapshot.signed.version += 1
    hostile.link("snapshot", hostile.sign("snapshot", snapshot))
    assert (None, 0) == (site.believe(hostile.folder).plan, site.believe(hostile.folder).plan_version)


def test_new_root_of_trust_replaces_the_old_fleet(central, site, tmp_path):
    """A site that gets the root of another fleet accepts that fleet and refuses the first."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    site.root_file.write_bytes(other.root_bytes)
    site.bring(other.folder)
    assert 1 == site.again().believe().plan_version
    with pytest.raises(UpdateUntrusted):
        site.believe(central.folder)


@pytest.mark.parametrize("how", ["gone", "zeroed", "truncated"])
def test_unreadable_root_of_trust_is_reported(how, site):
    """A missing or damaged root file stops updates with an error that names its setting."""
    damage(site.root_file, how)
    with pytest.raises(ConfigInvalid, match=r"update\.root_file"):
        site.again().believe()


def test_root_with_nan_is_reported(site):
    """A root file with NaN, which has no canonical form, is refused with a message, where TUF's own error is empty."""
    raw = json.loads(site.root_file.read_bytes())
    raw["signed"]["x-extra"] = float("nan")
    site.root_file.write_text(json.dumps(raw))
    with pytest.raises(ConfigInvalid, match="a number that cannot be signed"):
        site.again().believe()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE roots SET metadata = x'7b7d'", "UPDATE trust SET value = '[]'", "DELETE FROM roots WHERE version = 2"],
)
def test_damaged_trust_rows_stop_updates(statement, central, site):
    """Damaged or missing rows of the trusted state stop updates with an error that names state.db."""
    central.rotate_root()
    central.rotate_root()
    site.bring(central.folder)
    site.believe()
    with sqlite3.connect(site.config.state_dir / "state.db") as db:
        db.execute(statement)
    db.close()
    with pytest.raises(StoreDamaged, match=r"state\.db"):
        site.again().believe()


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_damage_to_metadata_is_refused_or_harmless(data: Any, central, site, tmp_path):
    """Any change of bytes in a metadata file leads to an update error or to the same plan as before."""
    spoilt = tmp_path / "spoilt"
    shutil.rmtree(spoilt, ignore_errors=True)
    shutil.copytree(central.folder, spoilt)
    path = data.draw(st.sampled_from(sorted((spoilt / "metadata").iterdir())))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    try:
        assert 2 == site.believe(spoilt).plan_version
    except EdgeAgentError as error:
        assert isinstance(error, UpdateError), error

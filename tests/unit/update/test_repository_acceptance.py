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
from tests.support.repository_attacks import ATTACKS, STRANGER, Hostile
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
    """Return a site that believes what the central team has published."""
    made = TrustingSite(tmp_path / "site", central.root_bytes)
    made.bring(central.folder)
    assert 2 == made.believe().plan_version
    return made


def newer(central: CentralTeam, version: str = "2.0.0") -> str:
    """Publish another bundle and a plan that wants it."""
    digest = central.publish(echo_bundle(central.folder.parent / version, "pos", version=version))
    central.plan(central.offering(digest))
    return digest


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder: by another name, what a USB drive holds."""
    return Path(shutil.copytree(folder, to))


def test_what_is_signed_is_believed(central, site):
    """The plan, the bundles that it may name, and the newest signed time."""
    verified = site.believe()
    assert central.held.plan == verified.plan
    (signed,) = central.held.bundles().values()
    assert [("pos", "1.0.0")] == [(each.task, each.version) for each in verified.bundles.values()]
    assert signed.digest in verified.bundles
    assert format_timestamp(verified.issued_at) == central.held.timestamp.signed.unrecognized_fields[layout.ISSUED_AT]
    assert verified is site.believe()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_is_refused_and_the_original_taken_afterwards(name, tmp_path, central):
    """Of a USB drive with its reason; of incoming/ too, and what was believed before goes on."""
    older = central.copy(tmp_path / "older")
    newest = newer(central)
    site = TrustingSite(tmp_path / "site", central.root_bytes)
    before = copied(central.folder, tmp_path / "before")
    site.believe(before)
    hostile = Hostile(central, copied(central.folder, tmp_path / "hostile"), older)
    ATTACKS[name].make(hostile)
    with pytest.raises(UpdateError) as refused:
        site.again().believe(hostile.folder)
    assert refused.value.reason in ATTACKS[name].reasons, refused.value
    assert str(hostile.folder) in refused.value.message or isinstance(refused.value, PlanInvalid)
    assert refused.value.remedy
    ATTACKS[name].mend(central)
    assert newest in site.believe(central.folder).bundles


@pytest.mark.parametrize("how", ["truncated", "zeroed"])
def test_a_damaged_timestamp_is_called_damaged(central, site, how):
    """Cut short, or no metadata at all: the file is named, and nobody is told that it is not trusted."""
    damage(site.incoming / "metadata" / "timestamp.json", how)
    problem = site.again().believe().problem
    assert isinstance(problem, UpdateIncomplete)
    assert "metadata/timestamp.json in" in problem.message
    assert problem.message.endswith("is damaged: it is cut short, or not metadata")


def test_a_hostile_mirror_stops_nothing_before_the_plan_expires(central, site):
    """The trusted state is kept, shown with the problem, and used after a restart; the mirror downloads all again."""
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
def test_the_cache_protects_nothing(how, central, site, tmp_path):
    """Whatever becomes of the files beside state.db, nothing older is believed."""
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


def test_a_root_is_followed_through_five_changes(central, site):
    """That the site slept through; all of them are remembered, and another start goes on from the newest."""
    for _ in range(5):
        central.rotate_root()
    site.bring(central.folder)
    site.believe()
    assert [1, 2, 3, 4, 5, 6] == list(site.store.trusted.roots())
    for old in (site.incoming / "metadata").glob("*.root.json"):
        old.unlink()
    assert (2, 6) == (site.again().believe().plan_version, site.trust.root_version)


def test_new_roots_are_remembered_although_the_rest_is_not_believed(central, site):
    """A key that was taken away does not come back because somebody holds the newer files up."""
    central.rotate("online")
    site.bring(central.folder)
    kept = site.config.state_dir / "trust" / "kept" / "metadata" / "timestamp.json"
    shutil.copyfile(kept, site.incoming / "metadata" / "timestamp.json")  # signed by the old key
    with pytest.raises(UpdateUntrusted):
        site.believe()
    assert [1, 2] == list(site.again().store.trusted.roots())


def test_numbers_run_up_with_a_stolen_key_go_with_the_key(central, site, tmp_path):
    """Fast-forward: until the key is replaced the central team's metadata are too old; then they are taken."""
    hostile = Hostile(central, copied(central.folder, tmp_path / "hostile"), central.folder)
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


def test_the_plans_numbers_go_with_the_plans_key(central, site, tmp_path):
    """The same for the nearer key, which targets replaces."""
    (digest,) = site.believe().bundles
    central.plan(central.offering(digest, halted=True))
    site.bring(central.folder)
    assert 3 == site.believe().plan_version
    floors = site.store.trusted.floors()
    central.rotate("plan")
    site.bring(central.folder)
    assert 3 == site.believe().plan_version
    assert floors["plan"].signers != site.store.trusted.floors()["plan"].signers


def test_a_key_more_brings_nothing_old_back(central, site, tmp_path):
    """What the old keys signed still counts, so its number still counts."""
    older = copied(central.folder, tmp_path / "older")
    newer(central)
    site.bring(central.folder)
    site.believe()
    central.rotate_root()
    shutil.copy(central.folder / "metadata" / "2.root.json", older / "metadata")
    with pytest.raises(UpdateOutdated):
        site.believe(older)


def test_nothing_new_comes_in_after_an_expiry(central, site, tmp_path):
    """A copy that somebody holds back is refused once it has expired; a newer one is taken."""
    central.expire("timestamp", seconds=-5)
    site.bring(central.folder)
    with pytest.raises(UpdateExpired, match="timestamp") as refused:
        site.believe(copied(central.folder, tmp_path / "drive"))
    assert "date" in refused.value.remedy
    central.publisher.renew()
    site.bring(central.folder)
    assert 2 == site.believe().plan_version


def test_a_clock_that_jumps_harms_nothing(central, site):
    """2038: everything has expired. 1970: it is at least as late as somebody has signed. Right again: all is well."""
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


def test_a_clock_in_the_past_does_not_bring_back_what_has_expired(tmp_path):
    """The newest signed time counts: here something was signed after the timestamp had expired."""
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


def test_a_time_far_ahead_is_not_remembered(central, site, tmp_path):
    """With a stolen online key: what claims to be signed after all else has expired is refused, and leaves no trace."""
    hostile = Hostile(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    stamp = hostile.read("timestamp")
    stamp.signed.version += 1
    stamp.signed.expires = datetime(2099, 1, 1, tzinfo=UTC)
    stamp.signed.unrecognized_fields[layout.ISSUED_AT] = "2098-01-01T00:00:00Z"
    hostile.sign("timestamp", stamp)
    with pytest.raises(UpdateExpired):
        site.believe(hostile.folder)
    assert 2 == site.believe().plan_version


def test_an_old_drive_says_that_it_is_old(central, site, tmp_path):
    """Older than what was seen; and from before keys were replaced, when its signatures do not count any more."""
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


def test_an_old_drive_says_how_old(tmp_path):
    """When it was made, and of when the newest was that came here: numbers tell a technician nothing."""
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


def test_a_foreign_or_empty_drive_says_so(central, site, tmp_path):
    """In words of whoever holds it."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    other.plan(other.offering(other.publish(echo_bundle(tmp_path / "theirs", "pos"))))
    with pytest.raises(UpdateUntrusted, match="belongs to another fleet") as refused:
        site.believe(other.drive(tmp_path / "foreign"))
    assert "fleet that this site belongs to" in refused.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(UpdateIncomplete, match="there is no update in") as refused:
        site.believe(tmp_path / "empty")
    assert "edge-convert media" in refused.value.remedy


def test_a_drive_that_the_daemon_does_not_see_is_not_called_empty(site, tmp_path):
    """Its unit hides /tmp and /home: whoever named such a folder is told where to mount the drive."""
    with pytest.raises(MediaFailed, match="the daemon sees no folder") as failed:
        site.believe(tmp_path / "nothing")
    assert "/tmp" in failed.value.remedy


def test_a_drives_plan_goes_on_when_the_drive_is_pulled_out(central, site, tmp_path):
    """It is newer than what the mirror had brought; after a restart too."""
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


def test_where_no_mirror_is_nothing_is_missing(central, tmp_path):
    """The drive's plan holds without a word; when it has expired that is said, not that nothing came from a mirror."""
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


def test_where_nothing_was_ever_mirrored_a_drives_plan_holds_without_a_word(central, tmp_path):
    """An uplink that never connected makes no problem of what came on a drive; an emptied mirror is one, for good."""
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


def test_the_plan_of_other_sites_is_none_of_ours(central, site):
    """It is believed, and means nothing here."""
    (digest,) = site.believe().bundles
    offer = central.offering(digest)
    central.plan(offer.model_copy(update={"channels": {}, "sites": {"site-2": offer.channels["stable"]}}))
    site.bring(central.folder)
    plan = site.believe().plan
    assert plan is not None
    assert (FleetPlan(), {"pos"}) == (plan.for_site("site-1", "stable"), set(plan.for_site("site-2", "stable").tasks))


def test_a_bundle_for_another_task_is_not_signed_for_this_one(central, site, tmp_path):
    """Whoever has the plan's key cannot swap the models of two tasks."""
    plan = central.held.plan
    tasks = plan.channels["stable"].tasks
    swapped = plan.model_copy(update={"channels": {"stable": FleetPlan(tasks={"other": tasks["pos"]})}, "version": 3})
    hostile = Hostile(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    hostile.plan(encode(swapped))
    with pytest.raises(PlanInvalid, match="not signed for that task"):
        site.believe(hostile.folder)


def test_a_role_without_a_floor_is_not_followed(central, site, tmp_path):
    """The plan's key may not hand its power on: what is delegated further is not looked at."""
    hostile = Hostile(central, copied(central.folder, tmp_path / "hostile"), central.folder)

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


def test_another_root_of_trust_begins_anew(central, site, tmp_path):
    """A site that is handed over to another fleet believes that one, and not the first any more."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    site.root_file.write_bytes(other.root_bytes)
    site.bring(other.folder)
    assert 1 == site.again().believe().plan_version
    with pytest.raises(UpdateUntrusted):
        site.believe(central.folder)


@pytest.mark.parametrize("how", ["gone", "zeroed", "truncated"])
def test_a_root_of_trust_that_cannot_be_read_is_said(how, site):
    """It stops updates, and names the file."""
    damage(site.root_file, how)
    with pytest.raises(ConfigInvalid, match=r"update\.root_file"):
        site.again().believe()


def test_a_root_with_a_number_that_nobody_can_sign_is_said(site):
    """NaN has no canonical form; the sentence says so, where TUF's own error is empty."""
    raw = json.loads(site.root_file.read_bytes())
    raw["signed"]["x-extra"] = float("nan")
    site.root_file.write_text(json.dumps(raw))
    with pytest.raises(ConfigInvalid, match="a number that cannot be signed"):
        site.again().believe()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE roots SET metadata = x'7b7d'", "UPDATE trust SET value = '[]'", "DELETE FROM roots WHERE version = 2"],
)
def test_rows_that_were_damaged_stop_updates(statement, central, site):
    """They are named; nothing is believed on a guess."""
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
def test_bytes_that_anybody_wrote_are_never_more_than_refused(data: Any, central, site, tmp_path):
    """Any file of the metadata, spoilt anywhere: an error of ours, or the same plan as before."""
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

"""docs/enrolment.md, followed: a central team and a technician with the commands that it names, and real daemons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.formats.enrolment_file import parse_record
from tests.support.enrolled import SITE, Box, Team
from tests.support.object_stores import s3


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    """Return a team whose sites bring their examples to S3."""
    with s3() as served:
        yield Team(tmp_path, served.url, served.options)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Return a machine that is no site yet."""
    return Box(tmp_path / "box")


@pytest.mark.slow
def test_a_new_site_and_one_installed_anew_before_anybody_collected(team: Team, box: Box, tmp_path: Path):
    """Until a key is accepted everything waits, named; then both lives arrive, and the site sees that it is known."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(2)
        box.uplink()
        first = box.code()
    again = Box(tmp_path / "again")
    again.enrol(team.enrolment())
    with again.serving():
        again.correct(3)
        again.uplink()
        second = again.code()
        report = team.collect(code=1)
        assert 2 == len({each["key"] for each in report["waiting"]})
        assert [0, False] == [report["segments_taken"], again.site()["known_at_centre"]]
        assert f"{second} waits" in team.sites("list")
        team.sites("accept", SITE, second)
        team.sites("accept", SITE, first, "--former")
        report = team.collect()
        assert ([], []) == (report["waiting"], report["refused"])
        assert 5 == team.corrections()
        again.uplink()
        again.take_receipts()
        assert again.site()["known_at_centre"]
        assert [] == list((again.daemon.state_dir / "outbox" / "segments").iterdir())


@pytest.mark.release
def test_a_box_is_replaced_and_the_old_one_stolen(team: Team, box: Box, tmp_path: Path):
    """What the old key had sealed is taken until it is rejected; it speaks for the site no more."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(1)
        box.uplink()
        old = box.code()
        team.collect(code=1)
        team.sites("accept", SITE, old)
        team.collect()
        box.correct(1)
        box.uplink()
        new = Box(tmp_path / "new")
        new.enrol(team.enrolment())
        with new.serving():
            new.correct(1)
            new.uplink()
            team.collect(code=1)
            team.sites("accept", SITE, new.code(), "--replaces")
            team.collect()
            assert 3 == team.corrections()
            team.sites("reject", SITE, old)
            box.correct(1)
            box.uplink()
            report = team.collect(code=1)
    assert {"signed by a key that was rejected"} == {each["why"] for each in report["refused"]}
    assert 3 == team.corrections()


@pytest.mark.release
def test_keys_and_credentials_are_renewed(team: Team, box: Box):
    """A later enrolment file of the same site brings them; what was sealed before still opens, and nothing is lost."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(1)
        box.uplink()
        key = box.site()["key"]
        team.collect(code=1)
        team.sites("accept", SITE, box.code())
    team.convert("keys", "create", team.folder / "central-keys-2")
    team.convert("keys", "rotate", team.folder / "central-keys")
    team.keys = ["central-keys-2", "central-keys"]
    team.options = {**team.options, "access_key_id": "second"}
    said = box.enrol(team.enrolment())
    assert "site.receipt_keys, site.recipients" in said
    with box.serving():
        assert key == box.site()["key"]
        box.correct(1)
        box.uplink()
        team.keys = ["central-keys"]
        team.collect()
        assert 2 == team.corrections()
        box.correct(1)
        box.uplink()
        team.keys = ["central-keys-2"]
        team.collect()
        assert 3 == team.corrections()
        box.uplink()
        box.take_receipts()
        assert [] == list((box.daemon.state_dir / "outbox" / "segments").iterdir())


@pytest.mark.release
def test_a_box_becomes_another_site(team: Team, box: Box, tmp_path: Path):
    """Only when it is told to, and stopped; what it had sealed before is set aside, and arrives as the old site's."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(2)
        old = box.site()
        (tmp_path / "drive").mkdir()
        box.command("media", "export", tmp_path / "drive")
        enrolment = team.enrolment("shop-13")
        assert "this machine is site shop-12" in box.enrol(enrolment, code=5)
        assert "the daemon is at work" in box.enrol(enrolment, "--replace", code=3)
        assert SITE == box.site()["site"]
    said = " ".join(box.enrol(enrolment, "--replace").split())
    assert "Sealed, without a receipt of the central team: 1 segment." in said
    with box.serving():
        box.correct(3)
        box.uplink()
        new = box.site()
        assert ("shop-13", True, True) == (new["site"], new["key"] != old["key"], new["epoch"] != old["epoch"])
        [former] = (box.daemon.state_dir / "outbox" / "former").iterdir()
        team.collect(former, code=1)
        team.sites("accept", SITE, old["code"])
        team.sites("accept", "shop-13", box.code())
        team.collect(former, tmp_path / "drive")
    counts = dict(team.data.query("SELECT site, count(*) FROM examples GROUP BY site"))
    assert {SITE: 2, "shop-13": 3} == counts


@pytest.mark.release
def test_a_site_is_given_up(team: Team, box: Box):
    """What came before stays, nothing more is taken, and what enrolment wrote is known to the last file."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(1)
        box.uplink()
        team.collect(code=1)
        team.sites("accept", SITE, box.code())
        team.collect()
        team.sites("revoke", SITE)
        box.correct(1)
        box.uplink()
        report = team.collect()
        assert ([SITE], 1) == (report["revoked"], team.corrections())
        team.sites("restore", SITE)
        team.collect()
        assert 2 == team.corrections()
    record = box.etc / "edge-agent" / "enrolment.json"
    for path in parse_record(record.read_bytes()).files:
        Path(path).unlink()
    record.unlink()
    assert "needs site.id" in box.command("identity", code=3)
    box.enrol(team.enrolment())

"""The procedures of docs/enrolment.md with a central team, a technician and real daemons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.formats.enrolment_file import parse_record
from tests.support.enrolled_machine import SITE, CentralFolder, EnrolledMachine
from tests.support.object_stores import s3


@pytest.fixture
def team(tmp_path: Path) -> Iterator[CentralFolder]:
    """A central team whose sites upload their examples to S3."""
    with s3() as served:
        yield CentralFolder(tmp_path, served.url, served.options)


@pytest.fixture
def box(tmp_path: Path) -> EnrolledMachine:
    """A machine that is not enrolled yet."""
    return EnrolledMachine(tmp_path / "box")


@pytest.mark.slow
def test_examples_of_new_and_reinstalled_site_are_collected(team: CentralFolder, box: EnrolledMachine, tmp_path: Path):
    """The examples of a site that was reinstalled before the first collection wait until both keys are accepted; then
    all 5 arrive, and the site gets its receipts."""
    box.enrol(team.enrolment())
    with box.serving():
        box.correct(2)
        box.uplink()
        first = box.code()
    again = EnrolledMachine(tmp_path / "again")
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
def test_replaced_machine_is_collected_until_key_is_rejected(team: CentralFolder, box: EnrolledMachine, tmp_path: Path):
    """After a machine is replaced, the old machine's earlier examples are collected; after its key is rejected, its new
    ones are refused."""
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
        new = EnrolledMachine(tmp_path / "new")
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
def test_new_enrolment_file_renews_keys_and_credentials(team: CentralFolder, box: EnrolledMachine):
    """A new enrolment file renews the central team's keys and credentials; examples sealed before and after can be
    opened, and the site keeps its own key."""
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
def test_machine_can_become_another_site(team: CentralFolder, box: EnrolledMachine, tmp_path: Path):
    """A machine changes its site only with --replace while the daemon is stopped. Segments sealed before are set aside
    and collected as the old site's."""
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
def test_revoked_site_is_not_collected(team: CentralFolder, box: EnrolledMachine):
    """A revoked site's new examples are not collected until it is restored. enrolment.json lists every file that
    enrolment wrote, so that the machine can be enrolled again."""
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

"""Keyed digests of values: found however people write them, and only with the key of the site.

Erasing what concerns a person, retention by task, and the figures of the privacy report.
"""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from edge_agent.capture.person_erasure import (
    DIGEST_BYTES,
    KEY_BYTES,
    FoundRecords,
    PersonErasure,
    ScanPlace,
    ValueDigester,
    describe,
    fold,
    forms_of,
    load_digest_key,
    text_pattern,
)
from edge_agent.capture.personal_data_retention import CLOCK_STEP_SECONDS_MAX
from edge_agent.errors import InvalidRequest, StoreDamaged
from tests.support.site_cases import ASite, answered, judgement, manifest

ONE, OTHER = ValueDigester(b"k" * KEY_BYTES), ValueDigester(b"o" * KEY_BYTES)


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("Anna Müller", "Müller, Anna"),
        ("+49 171 1234567", "0171/123 45 67"),
        ("ANNA@Praxis.de", "anna@praxis.de"),
        ("Mu\u0308ller", "M\u00fcller"),
        ("\u0661\u0662\u0663", "123"),
    ],
)
def test_a_value_is_found_however_it_is_written(kept: str, asked: str):
    """Case, blanks, punctuation, the order of names, the country code and the script of digits do not matter."""
    assert ONE.digests([kept]) & ONE.digests([asked])


@pytest.mark.parametrize(("kept", "other"), [("Anna Müller", "Anna"), ("12345678", "2345678"), ("a", "b")])
def test_another_value_is_not_found(kept: str, other: str):
    """A part of a value is another value."""
    assert not ONE.digests([kept]) & ONE.digests([other])


def test_the_key_decides():
    """The same value has another digest at another site; each has the same length."""
    assert not ONE.digests(["Anna"]) & OTHER.digests(["Anna"])
    assert {DIGEST_BYTES} == {len(each) for each in ONE.digests(["Anna Müller", "0171 1234567"])}


@pytest.mark.parametrize("value", ["", "  ", "…!", "\ud800"])
def test_a_value_without_letters_and_digits_has_no_form(value: str):
    """So nothing is found by it; a lone surrogate does not stop the capture either."""
    assert frozenset() == forms_of(value)
    assert frozenset() == ONE.digests([value])


def test_a_value_is_found_in_a_text_however_it_is_spaced():
    """It begins and ends at the border of a word; values of one or two characters are not searched for."""
    pattern = text_pattern("0171 1234567")
    assert pattern is not None
    assert [True, True, False, False] == [
        bool(pattern.search(fold(text)))
        for text in ("call 0171-123 45 67 now", "\uff10171 1234567", "90171 1234567", "0171 12345678")
    ]
    assert text_pattern("ab") is None


def test_the_key_is_made_once_and_is_private(tmp_path: Path):
    """The second start reads it; nobody else can."""
    path = tmp_path / "value.key"
    key = load_digest_key(path)
    assert (KEY_BYTES, 0o600) == (len(key), stat.S_IMODE(path.stat().st_mode))
    assert key == load_digest_key(path)


def test_a_damaged_key_is_left_alone(tmp_path: Path):
    """The error names the file: stored digests need the key that was in it."""
    (tmp_path / "value.key").write_bytes(b"short")
    with pytest.raises(StoreDamaged, match=r"value\.key has 5 bytes"):
        load_digest_key(tmp_path / "value.key")
    assert b"short" == (tmp_path / "value.key").read_bytes()


DAY = 86_400.0
MAIL, PHONE = "anna.mueller@praxis-nord.de", "+49 171 1234567"
TALK = {"manifest": manifest("talk"), "scores": [], "confidence": None, "threshold": None, "label_mass": None}


@pytest.fixture
def site(tmp_path: Path) -> ASite:
    return ASite(tmp_path)


def found(site: ASite, *values: str) -> FoundRecords:
    """Search as a call does, piece by piece."""
    search, place = site.worker.erasure.search(values), ScanPlace()
    by_digest, by_text = search.find_digests(site.worker.spool), frozenset[str]()
    while place is not None:
        some, place = search.scan(site.worker.spool, place)
        by_text |= some
    return FoundRecords(by_digest, by_text)


def erased(site: ASite, *values: str) -> PersonErasure:
    records = found(site, *values)
    with site.worker.spool.transaction():
        return site.worker.erasure.erase_found(records)


def tables(site: ASite) -> list[str]:
    return [row[0] for row in site.worker.spool.db.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def test_a_replaced_value_finds_its_records(site: ASite):
    """By any way of writing it, in the input, an answer or feedback; other people's records stay."""
    site.keep(
        answered(1, text=f"write to {MAIL}"),
        answered(2, text="write to bert@praxis-nord.de"),
        answered(3, **TALK, text="hello", local_answer=f"call {PHONE}"),
        answered(4),
    )
    site.judge(judgement(4, verdict="reject", reason=f"she is {MAIL}", value=""))
    assert {"p-1", "p-4"} == found(site, MAIL.upper()).by_digest
    assert {"p-3"} == found(site, "0171/1234567").by_digest
    done = erased(site, MAIL)
    assert (2, 2, 0) == (done.found, done.erased, done.told)
    assert {"p-2", "p-3"} == {row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM predictions")}
    assert [] == found(site, MAIL).prediction_ids


def test_a_value_that_no_rule_replaced_is_found_in_the_text(site: ASite):
    """Names, for instance; part of another word is none."""
    site.keep(answered(1, text="Here Anna Grün waits"), answered(2, text="Hanna Grünwald waits"))
    assert (frozenset(), {"p-1"}) == (found(site, "anna grün").by_digest, found(site, "anna grün").by_text)
    assert 1 == erased(site, "Anna Grün").erased


def test_what_has_left_is_erased_at_the_central_team_too(site: ASite):
    """A tombstone follows, also for a record that expired here; the receipt confirms the erasure."""
    site.keep(answered(1, text=f"write to {MAIL}"), answered(2, text=f"ask {MAIL}"))
    site.worker.seal_all()
    site.receipt(1)
    site.worker.read_receipts()
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM predictions")
    site.keep(answered(3, text=f"and {MAIL}"))
    done = erased(site, MAIL)
    assert (3, 1, 2) == (done.found, done.erased, done.told)
    site.worker.seal_all()
    sealed = site.segments()[2]
    assert ["tombstone:p-1", "tombstone:p-2"] == sorted(record.record_id for record in sealed)
    assert [(1, 2, 0)] == [(each.erased, each.told, each.confirmed) for each in site.worker.privacy_report().erasures]
    site.receipt(2)
    site.worker.read_receipts()
    assert [(done.number, 2)] == [(each.number, each.confirmed) for each in site.worker.privacy_report().erasures]


def test_no_value_is_stored(site: ASite):
    """Neither in the database nor beside it: only digests, whose key is a file of its own."""
    site.keep(answered(1, text=f"write to {MAIL}"))
    erased(site, "somebody@else.org")
    site.worker.close()
    state = site.config.state_dir
    for path in filter(Path.is_file, state.rglob("*")):
        assert MAIL.encode() not in path.read_bytes(), path
        assert b"somebody@else.org" not in path.read_bytes(), path
    assert 0o600 == stat.S_IMODE((state / "value.key").stat().st_mode)


def test_a_record_that_never_left_takes_its_digests_along(tmp_path: Path):
    """What stays here, and expires, leaves nothing that could be found."""
    site = ASite(tmp_path, collect={"pos-intent": "local"})
    site.keep(answered(1, text=f"write to {MAIL}"))
    assert 1 == len(site.worker.spool.db.rows("SELECT 1 FROM value_digests"))
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM value_digests")


def test_digests_have_limits(tmp_path: Path):
    """The oldest go first beyond the number, and all after their time; what went is counted."""
    site = ASite(tmp_path, value_digests_max=2, value_digest_days=3)
    site.keep(*(answered(n, text=f"write to person{n}@praxis-nord.de") for n in range(4)))
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert 2 == site.worker.privacy_report().digests
    assert [] == found(site, "person0@praxis-nord.de").prediction_ids
    assert ["p-3"] == found(site, "person3@praxis-nord.de").prediction_ids
    site.worker.seal_all()
    site.clock.running += 3 * DAY
    site.worker.do_housekeeping()
    assert (0, 4) == (site.worker.privacy_report().digests, site.worker.spool.counters["value_digests_dropped"])


@pytest.mark.parametrize("values", [[], ["…"], ["x" * 1001], ["x"] * 101], ids=["none", "empty", "long", "many"])
def test_values_that_cannot_be_searched_for_are_refused(site: ASite, values: list[str]):
    """The message says what is wrong without the value."""
    with pytest.raises(InvalidRequest) as caught:
        site.worker.erasure.search(values)
    assert not values or values[0] not in caught.value.message


def test_a_dry_run_changes_nothing(site: ASite):
    """It counts what is here, by task, and what has left."""
    site.keep(answered(1, text=f"write to {MAIL}"))
    site.worker.seal_all()
    site.keep(answered(2, text=f"ask {MAIL}"))
    before = describe(site.worker.spool, found(site, MAIL))
    assert (2, 2, 1, {"pos-intent": 2}, 0) == (before.found, before.here, before.sent, before.tasks, before.number)
    assert before == describe(site.worker.spool, found(site, MAIL))


# --- retention --------------------------------------------------------------------------------------------------------


def kept(site: ASite) -> list[str]:
    return [row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM predictions ORDER BY row")]


def test_a_task_keeps_its_answers_for_its_days(tmp_path: Path):
    """Sent or not, with their feedback; another task keeps its own; both are counted."""
    site = ASite(tmp_path, retention_days={"pos-intent": 30}, window_seconds=300 * DAY)
    site.keep(answered(1), answered(2, **TALK, local_answer="hi"))
    site.judge(judgement(1))
    site.clock.running += 29 * DAY
    site.worker.do_housekeeping()
    assert ["p-1", "p-2"] == kept(site)
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    assert ["p-2"] == kept(site)
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM feedback")
    assert 1 == site.worker.spool.counters["retention_expired"]
    assert [("pos-intent", 1)] == [
        (each.task, each.number) for each in site.worker.privacy_report().counts if each.what == "retention"
    ]


def test_days_without_a_running_daemon_count(tmp_path: Path):
    """Retention counts by the calendar; a clock that jumps by years counts as a week."""
    site = ASite(tmp_path, retention_days={"pos-intent": 5}, window_seconds=300 * DAY)
    site.keep(answered(1))
    site.clock.wall += 4 * DAY
    site.reopen().do_housekeeping()
    assert ["p-1"] == kept(site)
    site.clock.wall -= 4000 * DAY
    site.reopen().do_housekeeping()
    assert ["p-1"] == kept(site)
    site.clock.wall += 4000 * DAY
    before = site.worker.spool.personal.calendar(site.worker.spool.clock)
    site.reopen()
    assert CLOCK_STEP_SECONDS_MAX == site.worker.spool.personal.calendar(site.worker.spool.clock) - before
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert [] == kept(site)


def test_what_was_kept_before_the_retention_counts_from_its_start(tmp_path: Path):
    """A new setting deletes nothing at once."""
    site = ASite(tmp_path, window_seconds=300 * DAY)
    site.keep(answered(1))
    site.worker.close()
    site.clock.running = 0.0
    later = ASite(tmp_path, retention_days={"pos-intent": 2}, window_seconds=300 * DAY)
    later.worker.do_housekeeping()
    assert ["p-1"] == kept(later)
    later.clock.running += 2 * DAY + 20
    later.worker.do_housekeeping()
    assert [] == kept(later)


def test_the_report_counts_by_task_and_rule(site: ASite):
    """Captured, replaced by rule, sealed and erased; what is kept, and what of it waits."""
    site.keep(answered(1, text=f"write to {MAIL} or {PHONE}"), answered(2, text="hello"))
    site.worker.seal_all()
    site.keep(answered(3))
    erased(site, PHONE)
    report = site.worker.privacy_report()
    counted = {(each.what, each.name): each.number for each in report.counts}
    assert {("captured", ""): 3, ("replaced", "email"): 1, ("replaced", "phone"): 1} == {
        key: number for key, number in counted.items() if key[0] in ("captured", "replaced")
    }
    assert (2, 1) == (counted["sent", ""], counted["erased", ""])
    assert [("pos-intent", 2, 1, 1)] == [(each.task, each.kept, each.waiting, each.sealed) for each in report.held]


def test_a_spool_of_an_earlier_agent_gets_the_tables(tmp_path: Path):
    """Nothing in it changes."""
    site = ASite(tmp_path)
    site.keep(answered(1))
    for table in ("value_digests", "retention_dates", "privacy_counts", "erasures", "erased_predictions"):
        site.worker.spool.db.execute(f"DROP TABLE {table}")
    with sqlite3.connect(site.config.state_dir / "spool.db") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            if any(word in name for word in ("value_digests", "retention", "erasure")):
                database.execute(f"DROP TRIGGER {name}")
    site.reopen()
    assert "value_digests" in tables(site)
    assert ["p-1"] == kept(site)
    assert [] == found(site, MAIL).prediction_ids

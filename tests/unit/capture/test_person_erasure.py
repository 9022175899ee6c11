"""Keyed digests of personal values, which are found in any spelling and only with the key of the site.

Erasing the data of a person, retention by task, and the figures of the privacy report.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import pytest

from edge_agent.capture.capture_values import CapturedAnswer, SpoolWorkerDependencies
from edge_agent.capture.example_capture import ExampleCapture
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
from edge_agent.capture.redact.model_findings import ModelFindings
from edge_agent.capture.text_redaction import RedactionDependencies
from edge_agent.config import RedactionConfig
from edge_agent.errors import InvalidRequest, StoreDamaged
from tests.support.eventually import eventually
from tests.support.site_cases import SiteCase, answered, config_of, judgement, manifest
from tests.unit.capture.test_question_examples import of_question

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
def test_value_is_found_in_any_spelling(kept: str, asked: str):
    """Case, blanks, punctuation, order of names, country code and script of digits do not matter."""
    assert ONE.digests([kept]) & ONE.digests([asked])


@pytest.mark.parametrize(("kept", "other"), [("Anna Müller", "Anna"), ("12345678", "2345678"), ("a", "b")])
def test_another_value_is_not_found(kept: str, other: str):
    """A part of a value is another value and is not found."""
    assert not ONE.digests([kept]) & ONE.digests([other])


def test_digests_depend_on_the_key():
    """The same value has another digest at another site; all digests have the same length."""
    assert not ONE.digests(["Anna"]) & OTHER.digests(["Anna"])
    assert {DIGEST_BYTES} == {len(each) for each in ONE.digests(["Anna Müller", "0171 1234567"])}


@pytest.mark.parametrize("value", ["", "  ", "…!", "\ud800"])
def test_value_without_letters_and_digits_has_no_digest(value: str):
    """Such a value has no digest, and a lone surrogate raises nothing."""
    assert frozenset() == forms_of(value)
    assert frozenset() == ONE.digests([value])


def test_a_value_is_found_in_a_text_however_it_is_spaced():
    """A value is found between word boundaries with any spacing; values of one or two characters are not searched
    for."""
    pattern = text_pattern("0171 1234567")
    assert pattern is not None
    assert [True, True, False, False] == [
        bool(pattern.search(fold(text)))
        for text in ("call 0171-123 45 67 now", "\uff10171 1234567", "90171 1234567", "0171 12345678")
    ]
    assert text_pattern("ab") is None


def test_digest_key_is_created_once_with_mode_0600(tmp_path: Path):
    """The second start reads the key of the first."""
    path = tmp_path / "value.key"
    key = load_digest_key(path)
    assert (KEY_BYTES, 0o600) == (len(key), stat.S_IMODE(path.stat().st_mode))
    assert key == load_digest_key(path)


def test_damaged_digest_key_is_not_replaced(tmp_path: Path):
    """The error names the file; stored digests need the key that it had."""
    (tmp_path / "value.key").write_bytes(b"short")
    with pytest.raises(StoreDamaged, match=r"value\.key has 5 bytes"):
        load_digest_key(tmp_path / "value.key")
    assert b"short" == (tmp_path / "value.key").read_bytes()


DAY = 86_400.0
MAIL, PHONE = "anna.mueller@praxis-nord.de", "+49 171 1234567"
TALK = {"manifest": manifest("talk"), "scores": [], "confidence": None, "threshold": None, "label_mass": None}


@pytest.fixture
def site(tmp_path: Path) -> SiteCase:
    return SiteCase(tmp_path)


def found(site: SiteCase, *values: str) -> FoundRecords:
    """Search in steps, as a call does."""
    search, place = site.worker.erasure.search(values), ScanPlace()
    by_digest, by_text = search.find_digests(site.worker.spool), frozenset[str]()
    while place is not None:
        some, place = search.scan(site.worker.spool, place)
        by_text |= some
    return FoundRecords(by_digest, by_text)


def erased(site: SiteCase, *values: str) -> PersonErasure:
    records = found(site, *values)
    with site.worker.spool.transaction():
        return site.worker.erasure.erase_found(records)


def tables(site: SiteCase) -> list[str]:
    return [row[0] for row in site.worker.spool.db.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def test_records_of_a_redacted_value_are_found(site: SiteCase):
    """A redacted value is found in any spelling in input, answer and feedback; records of other people stay."""
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


def test_a_value_that_no_rule_replaced_is_found_in_the_text(site: SiteCase):
    """A value that no rule redacts, such as a name, is found in the text as a whole word."""
    site.keep(answered(1, text="Here Anna Grün waits"), answered(2, text="Hanna Grünwald waits"))
    assert (frozenset(), {"p-1"}) == (found(site, "anna grün").by_digest, found(site, "anna grün").by_text)
    assert 1 == erased(site, "Anna Grün").erased


def test_erasure_reaches_records_that_were_sent(site: SiteCase):
    """A tombstone is sent also for a record that expired here, and its receipt confirms the erasure."""
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
    assert [(done.erasure, 2)] == [(each.number, each.confirmed) for each in site.worker.privacy_report().erasures]


def test_no_value_is_stored(site: SiteCase):
    """No value is stored in or beside the database: only digests, whose key is in a file of its own."""
    site.keep(answered(1, text=f"write to {MAIL}"))
    erased(site, "somebody@else.org")
    site.worker.close()
    state = site.config.state_dir
    for path in filter(Path.is_file, state.rglob("*")):
        assert MAIL.encode() not in path.read_bytes(), path
        assert b"somebody@else.org" not in path.read_bytes(), path
    assert 0o600 == stat.S_IMODE((state / "value.key").stat().st_mode)


def test_digests_expire_with_a_local_record(tmp_path: Path):
    """When a record that was never sent expires, its digests are deleted."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    site.keep(answered(1, text=f"write to {MAIL}"))
    assert 1 == len(site.worker.spool.db.rows("SELECT 1 FROM value_digests"))
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM value_digests")


def test_digests_are_limited_in_number_and_time(tmp_path: Path):
    """The oldest digests are deleted beyond the limit, and all after their time; deletions are counted."""
    site = SiteCase(tmp_path, value_digests_max=2, value_digest_days=3)
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
def test_values_that_cannot_be_searched_for_are_refused(site: SiteCase, values: list[str]):
    """The error says what is wrong without the value."""
    with pytest.raises(InvalidRequest) as caught:
        site.worker.erasure.search(values)
    assert not values or values[0] not in caught.value.message


def test_a_dry_run_changes_nothing(site: SiteCase):
    """A dry run counts what is stored, by task, and what was sent."""
    site.keep(answered(1, text=f"write to {MAIL}"))
    site.worker.seal_all()
    site.keep(answered(2, text=f"ask {MAIL}"))
    before = describe(site.worker.spool, found(site, MAIL))
    assert (2, 2, 1, {"pos-intent": 2}, 0) == (
        before.found,
        before.kept_here,
        before.sent,
        before.tasks,
        before.erasure,
    )
    assert before == describe(site.worker.spool, found(site, MAIL))


def _lose_the_segment(site: SiteCase) -> None:
    site.worker.seal_all()
    for path in (site.config.outbox / "segments").iterdir():
        path.unlink()
    site.reopen()


def _restore_an_earlier_spool(site: SiteCase) -> None:
    site.worker.close()
    shutil.copy(site.config.state_dir / "spool.db", site.config.state_dir / "earlier")
    site.open().seal_all()
    site.worker.close()
    (site.config.state_dir / "earlier").replace(site.config.state_dir / "spool.db")
    site.open()


@pytest.mark.parametrize("lose", [_lose_the_segment, _restore_an_earlier_spool])
def test_erasure_reaches_records_of_a_lost_segment(site: SiteCase, lose: Callable[[SiteCase], None]):
    """The segment of a lost or earlier state may have been received, so a tombstone is sent."""
    site.keep(answered(1, text=f"write to {MAIL}"))
    lose(site)
    assert [(None,)] == site.worker.spool.db.rows("SELECT segment FROM predictions")
    site.clock.running += 1
    site.keep(answered(2))
    dry = describe(site.worker.spool, found(site, MAIL))
    done = erased(site, MAIL)
    assert (1, 1, 1) == (dry.sent, done.erased, done.told)
    with site.worker.spool.transaction():
        assert not site.worker.erasure.erase_answer("p-2").tombstoned


def test_records_of_an_earlier_incarnation_are_found(site: SiteCase):
    """After the spool starts a new incarnation, expired records that the central team has are still found."""
    site.keep(answered(1, text=f"write to {MAIL}"), answered(2))
    site.worker.seal_all()
    site.receipt(1)
    site.worker.read_receipts()
    assert site.worker.outbox is not None
    with site.worker.spool.transaction():
        site.worker.outbox.ledger.begin_incarnation()
        assert site.worker.erasure.erase_answer("p-2").tombstoned
    site.clock.running += 2 * DAY
    site.worker.do_housekeeping()
    assert [] == kept(site)
    assert (1, 0, 1) == ((done := erased(site, MAIL)).found, done.erased, done.told)


def test_waiting_question_is_found_and_erased_by_its_text(tmp_path: Path):
    """A question copies its input and is found after the answer expired; it is erased and a tombstone sent."""
    ask = {"url": "https://models.example/v1", "model": "oracle-1", "tasks": ["pos-intent"]}
    site = SiteCase(tmp_path, escalation=ask, retention_days={"pos-intent": 30})
    site.keep(answered(1, text="tell Zyta that it is ready", later="deferred"))
    site.worker.seal_all()
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    assert ([], 1) == (kept(site), site.worker.questions.queued().counts["deferred"])
    assert (1, 1) == ((done := erased(site, "Zyta")).found, done.told)
    assert 0 == site.worker.questions.queued().counts["deferred"]
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM retention_dates")


@contextlib.asynccontextmanager
async def reading(folder: Path, *answers: CapturedAnswer) -> AsyncIterator[tuple[ExampleCapture, asyncio.Event]]:
    """Open a capture whose redaction model holds these answers until the event is set."""
    answer = asyncio.Event()

    async def find(texts: Iterable[str], _: float) -> ModelFindings:
        await answer.wait()
        return ModelFindings(dict.fromkeys(texts, ()), "redactor@1.0.0")

    config = config_of(folder).model_copy(update={"redaction": RedactionConfig(task="redactor")})
    around = SpoolWorkerDependencies(lambda: (), "0.1.0")
    capture = ExampleCapture(config, around, reader=RedactionDependencies(find, lambda: "redactor@1.0.0"))
    assert capture.redaction is not None
    capture.start()
    running = asyncio.create_task(capture.redaction.run())
    try:
        for each in answers:
            capture.queue_answer(each)
        yield capture, answer
    finally:
        running.cancel()
        await asyncio.to_thread(capture.stop)


async def test_answer_that_is_redacted_during_a_search_is_erased(tmp_path: Path):
    """An answer that enters the database, with placeholders, while a search runs is erased."""
    loop, stored = asyncio.get_running_loop(), threading.Event()
    async with reading(tmp_path, answered(1, text=f"write to {MAIL}")) as (capture, answer):

        class Values(list[str]):
            def __iter__(self) -> Iterator[str]:
                """Wait, on the thread of the spool, until the model has read the answer."""
                loop.call_soon_threadsafe(answer.set)
                stored.wait()
                return super().__iter__()

        async def watch() -> None:
            await eventually(lambda: capture.redaction is not None and not capture.redaction.waiting)
            stored.set()

        done, _ = await asyncio.gather(capture.erasure.erase_values(Values([MAIL]), dry_run=False), watch())
        assert (1, 1) == (done.found, done.erased)


async def test_all_questions_of_a_held_text_are_erased(tmp_path: Path):
    """With `all_questions` all answers with a held text are erased, otherwise one; the others are named."""
    answers = [of_question(number, text=f"write to {MAIL}") for number in (1, 2, 3, 4)]
    async with reading(tmp_path, *answers, of_question(5, text="write to nobody")) as (capture, answer):
        one = await capture.erasure.erase_answer("p-1")
        assert (True, {"p-2", "p-3", "p-4"}) == (one.was_kept, set(one.same_text_ids))
        every = await capture.erasure.erase_answer("p-2", all_questions=True)
        assert (True, {"p-3", "p-4"}) == (every.was_kept, set(every.same_text_ids))
        answer.set()
        await eventually(lambda: capture.redaction is not None and not capture.redaction.waiting)
        report = await capture.privacy_report()
        assert [("pos-intent/intent", 1)] == [(each.task, each.kept) for each in report.held]


# --- retention --------------------------------------------------------------------------------------------------------


def kept(site: SiteCase) -> list[str]:
    return [row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM predictions ORDER BY row")]


def test_retention_days_of_a_task(tmp_path: Path):
    """Answers and feedback are deleted after the retention days of their task, sent or not, and counted."""
    site = SiteCase(tmp_path, retention_days={"pos-intent": 30}, window_seconds=300 * DAY)
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


def test_retention_counts_calendar_days(tmp_path: Path):
    """Days on which the daemon does not run count; a jump of the clock by years counts as a week."""
    site = SiteCase(tmp_path, retention_days={"pos-intent": 5}, window_seconds=300 * DAY)
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


def test_new_retention_setting_counts_from_its_start(tmp_path: Path):
    """A new retention setting deletes nothing at once: its days count from the first start with it."""
    site = SiteCase(tmp_path, window_seconds=300 * DAY)
    site.keep(answered(1))
    site.worker.close()
    site.clock.running = 0.0
    later = SiteCase(tmp_path, retention_days={"pos-intent": 2}, window_seconds=300 * DAY)
    later.worker.do_housekeeping()
    assert ["p-1"] == kept(later)
    later.clock.running += 2 * DAY + 20
    later.worker.do_housekeeping()
    assert [] == kept(later)


@pytest.mark.parametrize("labelled", [False, True])
def test_retention_of_a_task_applies_to_its_questions(tmp_path: Path, labelled: bool):
    """The task's retention also deletes a waiting question, or its teacher label, after the answer was sent."""
    ask = {"url": "https://models.example/v1", "model": "oracle-1", "tasks": ["pos-intent"]}
    site = SiteCase(tmp_path, retention_days={"pos-intent": 3}, window_seconds=DAY, escalation=ask)
    site.keep(answered(1, later="deferred"))
    site.worker.seal_all()
    site.clock.running += DAY + 20
    site.worker.do_housekeeping()
    table, spool = ("opinions" if labelled else "questions"), site.worker.spool
    if labelled:
        asked = site.worker.next_question(("pos-intent",))
        assert asked is not None
        with spool.transaction():
            assert site.worker.store_teacher_label(asked, "price", "oracle-1", manifest())
        site.worker.seal_all()
    assert ([], [("p-1",)]) == (kept(site), spool.db.rows(f"SELECT prediction_id FROM {table}"))
    site.clock.running += 2 * DAY
    site.worker.do_housekeeping()
    assert [] == spool.db.rows(f"SELECT prediction_id FROM {table}")
    assert 0 == spool.counters["retention_expired"]


def test_privacy_report_counts_by_task_and_rule(site: SiteCase):
    """The report has the captured, redacted (by rule), sealed and erased numbers, what is stored and what waits."""
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


@pytest.mark.parametrize("harm", ["lost", "earlier state"])
def test_record_that_is_sealed_again_counts_as_sent_once(site: SiteCase, harm: str):
    """A record of a lost segment does not count as sent until it is sealed again."""

    def sent() -> int:
        return sum(each.number for each in site.worker.privacy_report().counts if each.what == "sent")

    site.keep(answered(1))
    site.worker.seal_all()
    site.receipt(1)
    site.worker.read_receipts()
    site.keep(answered(2), answered(3))
    site.worker.seal_all()
    assert 3 == sent()
    with site.worker.spool.transaction():
        if harm == "lost":
            site.worker.outbox.ledger.mark_lost(2)
        else:
            site.worker.outbox.ledger.begin_incarnation()
    assert 1 == sent()
    site.worker.seal_all()
    assert 3 == sent()


def test_spool_of_an_earlier_agent_gets_the_privacy_tables(tmp_path: Path):
    """Opening the spool of an earlier agent adds the tables and changes no record."""
    site = SiteCase(tmp_path)
    site.keep(answered(1))
    for table in ("value_digests", "retention_dates", "privacy_counts", "erasures", "erased_predictions"):
        site.worker.spool.db.execute(f"DROP TABLE {table}")
    with contextlib.closing(sqlite3.connect(site.config.state_dir / "spool.db")) as database, database:
        for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            if any(word in name for word in ("value_digests", "retention", "erasure")):
                database.execute(f"DROP TRIGGER {name}")
    site.reopen()
    assert "value_digests" in tables(site)
    assert ["p-1"] == kept(site)
    assert [] == found(site, MAIL).prediction_ids

"""Keyed digests of values: found however people write them, and only with the key of the site.

Erasing what concerns a person, retention by task, and the figures of the privacy report.
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
from tests.support.site_cases import ASite, answered, config_of, judgement, manifest
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
    assert [(done.erasure, 2)] == [(each.number, each.confirmed) for each in site.worker.privacy_report().erasures]


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
    assert (2, 2, 1, {"pos-intent": 2}, 0) == (
        before.found,
        before.kept_here,
        before.sent,
        before.tasks,
        before.erasure,
    )
    assert before == describe(site.worker.spool, found(site, MAIL))


def _lose_the_segment(site: ASite) -> None:
    site.worker.seal_all()
    for path in (site.config.outbox / "segments").iterdir():
        path.unlink()
    site.reopen()


def _restore_an_earlier_spool(site: ASite) -> None:
    site.worker.close()
    shutil.copy(site.config.state_dir / "spool.db", site.config.state_dir / "earlier")
    site.open().seal_all()
    site.worker.close()
    (site.config.state_dir / "earlier").replace(site.config.state_dir / "spool.db")
    site.open()


@pytest.mark.parametrize("lose", [_lose_the_segment, _restore_an_earlier_spool])
def test_what_waits_to_be_sealed_again_is_erased_at_the_central_team_too(site: ASite, lose: Callable[[ASite], None]):
    """Its segment was lost or is of an earlier state of the spool, and can have been received all the same."""
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


def test_what_an_earlier_incarnation_has_sent_is_still_found_after_it_expired_here(site: ASite):
    """The spool was put back to an earlier state and has begun a new incarnation; the central team has the record."""
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


def test_a_question_for_the_large_model_is_found_by_its_text_after_the_answer_expired(tmp_path: Path):
    """It copies the input, and is asked for up to a week; erased, it is gone, and the central team is told."""
    ask = {"url": "https://models.example/v1", "model": "oracle-1", "tasks": ["pos-intent"]}
    site = ASite(tmp_path, escalation=ask, retention_days={"pos-intent": 30})
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
    """Open a capture whose redaction model has these answers at hand, and reads when the event is set."""
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


async def test_an_answer_that_is_redacted_while_it_is_searched_for_is_erased(tmp_path: Path):
    """It was in no database when the search began, and its text has a placeholder when the texts are searched."""
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


async def test_all_questions_of_a_text_that_waits_for_the_redaction_model_are_erased(tmp_path: Path):
    """Without `all_questions` the answer alone is, and the others that hold its text are named."""
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


@pytest.mark.parametrize("labelled", [False, True])
def test_a_question_for_the_large_model_stays_no_longer_than_its_answer_may(tmp_path: Path, labelled: bool):
    """It copies the input. The answer has left the site and its window is over; the retention of the task still ends
    for the question, and for the label that takes its place."""
    ask = {"url": "https://models.example/v1", "model": "oracle-1", "tasks": ["pos-intent"]}
    site = ASite(tmp_path, retention_days={"pos-intent": 3}, window_seconds=DAY, escalation=ask)
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


@pytest.mark.parametrize("harm", ["lost", "earlier state"])
def test_what_is_sealed_again_counts_as_sent_once(site: ASite, harm: str):
    """Until then it waits, and does not count; a segment that the central team has, stays counted."""

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


def test_a_spool_of_an_earlier_agent_gets_the_tables(tmp_path: Path):
    """Nothing in it changes."""
    site = ASite(tmp_path)
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

"""Deferred questions and teacher labels in the spool: asked once, limited, and deleted with their input by any version
of the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent.capture import spool
from edge_agent.capture.teacher_questions import TeacherQuestion
from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.formats.example_records import parse
from tests.support.site_cases import SiteCase, answered, judgement, manifest

TASKS = ("pos-intent", "visit", "talk")


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path)


def keep(site: SiteCase, *numbers: int, later: str = "deferred", **more: Any) -> None:
    """Capture answers about which the large model is to be asked."""
    site.keep(*(answered(number, later=later, **more) for number in numbers))


def take(site: SiteCase) -> TeacherQuestion:
    """Take the next question."""
    found = site.worker.next_question(TASKS)
    assert found is not None
    return found


def opine(site: SiteCase, said: str = "price", task: str = "pos-intent") -> bool:
    """Take a question and store the large model's answer."""
    question = take(site)
    with site.worker.spool.transaction():
        return site.worker.store_teacher_label(question, said, "oracle-1", manifest(task))


def waiting(site: SiteCase) -> dict[str, int]:
    return {why: count for why, count in site.worker.questions.queued().counts.items() if count}


def given_up(site: SiteCase) -> dict[str, int]:
    names = ("failed", "lost", "expired", "crowded")
    counters = {name: site.worker.spool.counters[f"questions_{name}"] for name in names}
    return {name: count for name, count in counters.items() if count}


def opinions(site: SiteCase) -> list[str]:
    """Return the predictions that have a teacher label in the spool."""
    return [row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM opinions ORDER BY row")]


def test_question_is_stored_with_its_answer_and_taken_once(site):
    """The question has the record of its answer, and is taken by one caller only."""
    keep(site, 1)
    site.keep(answered(2))
    assert {"deferred": 1} == waiting(site)
    question = take(site)
    assert ("p-1", "pos-intent", "deferred") == (question.prediction_id, question.task, question.why)
    assert "refund number 1" == json.loads(question.record)["input"]
    assert site.worker.next_question(TASKS) is None


def test_only_questions_of_permitted_tasks_are_taken(site):
    """A task whose inputs may not leave, or are not asked about at present, waits."""
    keep(site, 1)
    assert site.worker.next_question(("visit",)) is None
    assert site.worker.next_question(()) is None
    assert "p-1" == take(site).prediction_id


def test_teacher_label_replaces_its_question(site):
    """A teacher label is sealed like feedback and deleted with its receipt."""
    keep(site, 1)
    assert opine(site)
    assert ({}, ["p-1"], 1) == (waiting(site), opinions(site), site.worker.spool.counters["opinions"])
    site.worker.seal_all()
    record = site.records()["opinion:p-1"]
    assert ("pos-intent", "oracle-1", "deferred", "price") == (record.task, record.model, record.why, record.value)
    site.receipt(1)
    site.worker.read_receipts()
    assert [] == opinions(site)


def test_teacher_label_alone_makes_a_segment(site):
    """A teacher label that comes days after its prediction is sealed in a segment of its own."""
    keep(site, 1)
    site.worker.seal_all()
    opine(site)
    assert site.worker.outbox.ledger.waiting_bytes(10**6) > 0
    assert 1 == site.worker.seal_all()
    assert ["opinion"] == [record.type for record in site.segments()[2]]


def test_question_interrupted_by_a_kill_is_dropped(site):
    """A question that was taken and has no answer is dropped at the next start, and counted."""
    keep(site, 1, 2)
    take(site)
    site.reopen()
    assert ({"deferred": 1}, {"lost": 1}) == (waiting(site), given_up(site))
    assert "p-2" == take(site).prediction_id


def test_refused_question_waits_again(site):
    """A question that was refused unprocessed is taken again; one without a usable answer is not."""
    keep(site, 1)
    for done in (site.worker.questions.put_back, site.worker.questions.give_up):
        question = take(site)
        with site.worker.spool.transaction():
            done(question)
    assert ({}, {"failed": 1}) == (waiting(site), given_up(site))
    assert site.worker.next_question(TASKS) is None


def test_audit_questions_come_first_and_are_not_evicted(tmp_path):
    """However many questions are deferred offline, those of the audit stay; the oldest deferred ones are dropped."""
    site = SiteCase(tmp_path, escalation={"later_questions_max": 3})
    keep(site, 1, 2, later="audit", sure=True)
    keep(site, *range(10, 20))
    assert ({"audit": 2, "deferred": 3}, {"crowded": 7}) == (waiting(site), given_up(site))
    assert ["p-1", "p-2", "p-17", "p-18", "p-19"] == [take(site).prediction_id for _ in range(5)]


def test_question_in_progress_is_not_evicted(tmp_path):
    """The limit applies to waiting questions, not to one that is being asked."""
    site = SiteCase(tmp_path, escalation={"later_questions_max": 1})
    keep(site, 1)
    take(site)
    keep(site, 2)
    assert {"deferred": 1, "crowded": 1} == waiting(site) | given_up(site)


def test_questions_and_teacher_labels_are_limited_in_bytes(tmp_path):
    """Each has the same limit in bytes, and evictions are counted separately."""
    site = SiteCase(tmp_path, escalation={"later_bytes_max": 2**16})
    keep(site, *range(10), text="refund " * 2000)
    assert {"deferred": 4} == waiting(site)
    while waiting(site):
        opine(site, "x" * 30_000)
    assert (["p-8", "p-9"], 2) == (opinions(site), site.worker.spool.counters["opinions_crowded"])


def test_an_old_question_is_not_asked(tmp_path):
    """A question expires after its seconds of running, so a jump of the clock does not expire it."""
    site = SiteCase(tmp_path, escalation={"later_seconds_max": 1000.0})
    keep(site, 1)
    site.clock.wall += 10**8
    site.clock.running += 999
    site.worker.do_housekeeping()
    assert {"deferred": 1} == waiting(site)
    assert 999 == site.worker.questions.queued().oldest_seconds
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert ({}, {"expired": 1}, 0.0) == (waiting(site), given_up(site), site.worker.questions.queued().oldest_seconds)


def test_answer_with_a_question_is_always_sealed(tmp_path):
    """An answer that is audited is sealed although the routine sample excludes it, because the audit would be useless
    without it."""
    site = SiteCase(tmp_path, routine_share=0.0)
    keep(site, 1, later="audit", sure=True, confidence=0.99)
    site.keep(answered(2, sure=True, confidence=0.99))
    site.worker.seal_all()
    assert ("escalated", 1.0) == (
        site.records()["prediction:p-1"].kept.because,
        site.records()["prediction:p-1"].kept.share,
    )
    assert {"prediction:p-1"} == site.records().keys()


def erase(site: SiteCase, prediction_id: str) -> tuple[bool, bool]:
    with site.worker.spool.transaction():
        return site.worker.spool.erase(prediction_id, site.worker.recorder.build_tombstone(prediction_id, 0.0))


def test_erasing_deletes_question_and_teacher_label(site):
    """Erasing deletes the question and the teacher label; an answer of the large model that arrives later is
    dropped."""
    keep(site, 1, 2, 3)
    opine(site)
    under_way = take(site)
    for number in (1, 2, 3):
        erase(site, f"p-{number}")
    assert ({}, []) == (waiting(site), opinions(site))
    with site.worker.spool.transaction():
        assert not site.worker.store_teacher_label(under_way, "price", "oracle-1", manifest())
    assert [] == opinions(site)


def test_erasing_a_sent_teacher_label_makes_a_tombstone(site):
    """If only the teacher label may have been sent, erasing its prediction still makes a tombstone."""
    keep(site, 1)
    opine(site)
    with site.worker.spool.transaction():
        site.worker.outbox.ledger.assign_records(1)
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM predictions WHERE segment > 0")
    assert (True, True) == erase(site, "p-1")


def test_question_expires_with_an_answer_that_was_never_sent(tmp_path):
    """If the prediction expires before the central team has it, its question and teacher label are deleted as
    useless."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"}, window_seconds=100)
    keep(site, 1, 2)
    opine(site)
    site.clock.running += 200
    site.worker.do_housekeeping()
    assert ({}, []) == (waiting(site), opinions(site))


def test_question_outlives_an_answer_that_was_sent(tmp_path):
    """A question stays after its sent answer expired, because the central team can still use the teacher label."""
    site = SiteCase(tmp_path, window_seconds=100)
    keep(site, 1)
    site.worker.seal_all()
    site.clock.running += 200
    site.worker.do_housekeeping()
    assert {"feedback": 0} == site.worker.spool.count_retained()
    assert {"deferred": 1} == waiting(site)
    assert opine(site)


def test_teacher_labels_follow_their_segment(site):
    """A teacher label of a lost or unwritten segment is sealed again under a new number."""
    keep(site, 1)
    opine(site)
    site.worker.seal_all()
    (site.config.outbox / "segments" / site.files()[0]).unlink()
    site.worker.outbox.find_lost_segments(thoroughly=False)
    site.worker.seal_all()
    assert "opinion:p-1" in {record.record_id for record in site.segments()[2]}
    with site.worker.spool.transaction():
        site.worker.outbox.ledger.begin_incarnation()
    assert [(None,)] == site.worker.spool.db.rows("SELECT segment FROM opinions")


@pytest.mark.parametrize(
    ("task", "record", "said", "kept"),
    [
        ("talk", "hello anna@example.org", "write to ben@example.org, [EMAIL_1]", "write to [EMAIL_2], [EMAIL_1]"),
        (
            "visit",
            '{"PATIENT": ["Anna Berg"], "DRUG": ["ibuprofen"]}',
            '{"DRUG": ["ibuprofen"], "PATIENT": ["[PATIENT_1]", "Ben Toll"]}',
            '{"PATIENT":["[PATIENT_1]","[PATIENT_2]"],"DRUG":["ibuprofen"]}',
        ),
    ],
)
def test_teacher_label_is_redacted(site, task, record, said, kept):
    """Placeholders stay, new values get new ones, and fields are in the order of the answer."""
    keep(site, 1, manifest=manifest(task), text="from anna@example.org", local_answer=record, scores=())
    opine(site, said, task)
    ((written,),) = site.worker.spool.db.rows("SELECT record FROM opinions")
    assert kept == parse(written).value


# --- an older agent on the same file ----------------------------------------------------------------------------------


@contextmanager
def older(site: SiteCase) -> Iterator[Database]:
    """Open the file for one transaction as an agent that does not know questions."""
    site.worker.close()
    database = Database(site.config.state_dir / "spool.db", DatabaseSchema(spool.SCHEMA_VERSION, (), "", checked=False))
    with database.transaction():
        yield database
    database.close()


def test_older_agent_can_use_the_file(site):
    """The file has the same version; what an older agent erases, seals or loses applies to teacher labels as well."""
    keep(site, 1, 2, 3)
    opine(site)
    site.worker.seal_all()
    opine(site)
    with older(site) as database:
        database.execute("INSERT INTO tombstones (prediction_id, record) VALUES ('p-3', x'')")
        database.execute("DELETE FROM predictions WHERE prediction_id = 'p-2'")
        database.execute("UPDATE segments SET state = 'lost' WHERE sequence = 1")
    site.open()
    assert {} == waiting(site)
    assert [("p-1", None), ("p-2", None)] == site.worker.spool.db.rows("SELECT prediction_id, segment FROM opinions")


def test_file_of_an_older_agent_gets_the_tables(tmp_path):
    """The records of an older file stay, and questions can be stored in it."""
    site = SiteCase(tmp_path)
    site.keep(answered(1))
    site.judge(judgement(1))
    with older(site) as database:
        for name in database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f"DROP TRIGGER {name[0]}")
        for table in ("questions", "opinions"):
            database.execute(f"DROP TABLE {table}")
    site.open()
    keep(site, 2)
    assert {"deferred": 1} == waiting(site)
    assert 1 == site.worker.spool.count_retained()["feedback"]

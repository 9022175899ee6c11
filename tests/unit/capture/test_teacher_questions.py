"""Questions for later and opinions in the spool: asked once, bounded, forgotten with their input by any agent."""

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
from tests.support.site_cases import ASite, answered, judgement, manifest

TASKS = ("pos-intent", "visit", "talk")


@pytest.fixture
def site(tmp_path) -> ASite:
    return ASite(tmp_path)


def keep(site: ASite, *numbers: int, later: str = "deferred", **more: Any) -> None:
    """Keep answers that the large model is to be asked about."""
    site.keep(*(answered(number, later=later, **more) for number in numbers))


def take(site: ASite) -> TeacherQuestion:
    """Take the question whose turn it is."""
    found = site.worker.next_question(TASKS)
    assert found is not None
    return found


def opine(site: ASite, said: str = "price", task: str = "pos-intent") -> bool:
    """Take a question, and let the large model say that."""
    question = take(site)
    with site.worker.spool.transaction():
        return site.worker.store_teacher_label(question, said, "oracle-1", manifest(task))


def waiting(site: ASite) -> dict[str, int]:
    return {why: count for why, count in site.worker.questions.queued().counts.items() if count}


def given_up(site: ASite) -> dict[str, int]:
    names = ("failed", "lost", "expired", "crowded")
    counters = {name: site.worker.spool.counters[f"questions_{name}"] for name in names}
    return {name: count for name, count in counters.items() if count}


def opinions(site: ASite) -> list[str]:
    """Return the predictions that have an opinion in the spool."""
    return [row[0] for row in site.worker.spool.db.rows("SELECT prediction_id FROM opinions ORDER BY row")]


def test_a_question_is_kept_with_its_answer_and_asked_once(site):
    """Where there is one, it holds the record of the answer; who took it has it alone."""
    keep(site, 1)
    site.keep(answered(2))
    assert {"deferred": 1} == waiting(site)
    question = take(site)
    assert ("p-1", "pos-intent", "deferred") == (question.prediction_id, question.task, question.why)
    assert "refund number 1" == json.loads(question.record)["input"]
    assert site.worker.next_question(TASKS) is None


def test_only_what_may_be_asked_is_taken(site):
    """A task whose inputs may not leave, or are not asked about now, waits."""
    keep(site, 1)
    assert site.worker.next_question(("visit",)) is None
    assert site.worker.next_question(()) is None
    assert "p-1" == take(site).prediction_id


def test_an_opinion_takes_the_place_of_its_question(site):
    """It is sealed like everything else that was said of an answer, and goes when the central team has it."""
    keep(site, 1)
    assert opine(site)
    assert ({}, ["p-1"], 1) == (waiting(site), opinions(site), site.worker.spool.counters["opinions"])
    site.worker.seal_all()
    record = site.records()["opinion:p-1"]
    assert ("pos-intent", "oracle-1", "deferred", "price") == (record.task, record.model, record.why, record.value)
    site.receipt(1)
    site.worker.read_receipts()
    assert [] == opinions(site)


def test_an_opinion_alone_is_enough_for_a_segment(site):
    """It comes days after its prediction, and leaves all the same."""
    keep(site, 1)
    site.worker.seal_all()
    opine(site)
    assert site.worker.outbox.ledger.waiting_bytes(10**6) > 0
    assert 1 == site.worker.seal_all()
    assert ["opinion"] == [record.type for record in site.segments()[2]]


def test_whoever_was_killed_while_asking_does_not_ask_again(site):
    """What was marked, and has no answer, is given up at the next start, and counted."""
    keep(site, 1, 2)
    take(site)
    site.reopen()
    assert ({"deferred": 1}, {"lost": 1}) == (waiting(site), given_up(site))
    assert "p-2" == take(site).prediction_id


def test_what_nobody_worked_on_waits_again(site):
    """A question that was refused at the door has its turn again; one without a usable answer has not."""
    keep(site, 1)
    for done in (site.worker.questions.put_back, site.worker.questions.give_up):
        question = take(site)
        with site.worker.spool.transaction():
            done(question)
    assert ({}, {"failed": 1}) == (waiting(site), given_up(site))
    assert site.worker.next_question(TASKS) is None


def test_random_ones_go_first_and_are_not_crowded_out(tmp_path):
    """However many are put off in a night without a connection, those to audit stay; the oldest of a kind go."""
    site = ASite(tmp_path, escalation={"later_questions_max": 3})
    keep(site, 1, 2, later="audit", sure=True)
    keep(site, *range(10, 20))
    assert ({"audit": 2, "deferred": 3}, {"crowded": 7}) == (waiting(site), given_up(site))
    assert ["p-1", "p-2", "p-17", "p-18", "p-19"] == [take(site).prediction_id for _ in range(5)]


def test_what_is_under_way_is_not_crowded_out(tmp_path):
    """The bound is on what waits: an answer that is on its way is not thrown away."""
    site = ASite(tmp_path, escalation={"later_questions_max": 1})
    keep(site, 1)
    take(site)
    keep(site, 2)
    assert {"deferred": 1, "crowded": 1} == waiting(site) | given_up(site)


def test_questions_and_opinions_are_bounded_in_bytes(tmp_path):
    """By the same limit, each; what is given up is counted under its own name."""
    site = ASite(tmp_path, escalation={"later_bytes_max": 2**16})
    keep(site, *range(10), text="refund " * 2000)
    assert {"deferred": 4} == waiting(site)
    while waiting(site):
        opine(site, "x" * 30_000)
    assert (["p-8", "p-9"], 2) == (opinions(site), site.worker.spool.counters["opinions_crowded"])


def test_an_old_question_is_not_asked(tmp_path):
    """Its age counts in seconds of running, so no clock that jumps ends it."""
    site = ASite(tmp_path, escalation={"later_seconds_max": 1000.0})
    keep(site, 1)
    site.clock.wall += 10**8
    site.clock.running += 999
    site.worker.do_housekeeping()
    assert {"deferred": 1} == waiting(site)
    assert 999 == site.worker.questions.queued().oldest_seconds
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert ({}, {"expired": 1}, 0.0) == (waiting(site), given_up(site), site.worker.questions.queued().oldest_seconds)


def test_an_answer_with_a_question_is_sealed_in_any_case(tmp_path):
    """An audit of an answer that the sample passed over would be of no use to anybody."""
    site = ASite(tmp_path, routine_share=0.0)
    keep(site, 1, later="audit", sure=True, confidence=0.99)
    site.keep(answered(2, sure=True, confidence=0.99))
    site.worker.seal_all()
    assert ("escalated", 1.0) == (
        site.records()["prediction:p-1"].kept.because,
        site.records()["prediction:p-1"].kept.share,
    )
    assert {"prediction:p-1"} == site.records().keys()


def erase(site: ASite, prediction_id: str) -> tuple[bool, bool]:
    with site.worker.spool.transaction():
        return site.worker.spool.erase(prediction_id, site.worker.recorder.build_tombstone(prediction_id, 0.0))


def test_who_is_forgotten_is_not_asked_about(site):
    """Erasing takes the question and the opinion along; an answer that comes after it is dropped."""
    keep(site, 1, 2, 3)
    opine(site)
    under_way = take(site)
    for number in (1, 2, 3):
        erase(site, f"p-{number}")
    assert ({}, []) == (waiting(site), opinions(site))
    with site.worker.spool.transaction():
        assert not site.worker.store_teacher_label(under_way, "price", "oracle-1", manifest())
    assert [] == opinions(site)


def test_an_opinion_that_has_left_is_recalled(site):
    """Where nothing but the opinion may have left, the central team is told to forget it."""
    keep(site, 1)
    opine(site)
    with site.worker.spool.transaction():
        site.worker.outbox.ledger.assign_records(1)
    assert [] == site.worker.spool.db.rows("SELECT 1 FROM predictions WHERE segment > 0")
    assert (True, True) == erase(site, "p-1")


def test_a_question_does_not_outlive_its_answer_for_nothing(tmp_path):
    """When the prediction is given up before the central team has it, nothing could be done with an opinion."""
    site = ASite(tmp_path, collect={"pos-intent": "local"}, window_seconds=100)
    keep(site, 1, 2)
    opine(site)
    site.clock.running += 200
    site.worker.do_housekeeping()
    assert ({}, []) == (waiting(site), opinions(site))


def test_a_question_outlives_an_answer_that_the_central_team_has(tmp_path):
    """After a week without a connection to the large model, the opinions are still worth something there."""
    site = ASite(tmp_path, window_seconds=100)
    keep(site, 1)
    site.worker.seal_all()
    site.clock.running += 200
    site.worker.do_housekeeping()
    assert {"feedback": 0} == site.worker.spool.count_retained()
    assert {"deferred": 1} == waiting(site)
    assert opine(site)


def test_opinions_follow_their_segment(site):
    """What was in a segment that is lost waits again, under a new number; so does what was never written."""
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
def test_an_opinion_is_redacted(site, task, record, said, kept):
    """Placeholders stay what they are, values get new ones, and fields stand as in the answer."""
    keep(site, 1, manifest=manifest(task), text="from anna@example.org", local_answer=record, scores=())
    opine(site, said, task)
    ((written,),) = site.worker.spool.db.rows("SELECT record FROM opinions")
    assert kept == parse(written).value


# --- an older agent on the same file ----------------------------------------------------------------------------------


@contextmanager
def older(site: ASite) -> Iterator[Database]:
    """Open the file as an agent does that knows nothing of questions, for one transaction."""
    site.worker.close()
    database = Database(site.config.state_dir / "spool.db", DatabaseSchema(spool.SCHEMA_VERSION, (), "", checked=False))
    with database.transaction():
        yield database
    database.close()


def test_an_older_agent_can_use_the_file_and_forgets_all_the_same(site):
    """The version of the file is the same; what the older one erases, seals and loses is so for opinions, too."""
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


def test_a_file_of_an_older_agent_gets_the_tables(tmp_path):
    """What it holds stays, and questions can be kept in it."""
    site = ASite(tmp_path)
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

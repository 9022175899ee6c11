"""Deferred questions are asked when the large model has capacity: with the present labels, checked, once, and never at
the cost of a live call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from types import SimpleNamespace

import pytest

from edge_agent.capture.capture_values import SpoolWorkerDependencies
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.capture.text_redaction import RedactionDependencies
from edge_agent.config import RedactionConfig
from edge_agent.errors import DiskFull, RedactionHeld, UpstreamBusy, UpstreamFailed, UpstreamUnreachable
from edge_agent.formats.example_records import ExampleTeacherLabel, parse
from edge_agent.formats.manifest import Manifest
from edge_agent.routing.large_model_questions import ModelAnswer
from edge_agent.server.model_router import DeferredEscalations
from edge_agent.server.uplink_client import LargeModelFinish
from tests.support.eventually import eventually
from tests.support.site_cases import answered, config_of, manifest
from tests.unit.capture.test_question_examples import DESK, URGENT

URL = {"url": "http://127.0.0.1:9/v1", "model": "oracle-1", "tasks": ["pos-intent"]}
PRICE = '{"label": "price"}'


class ScriptedLargeModel:
    """A connection to a large model that gives these answers in turn, or raises them."""

    def __init__(self, *answers, model="big-1") -> None:
        self.answers, self.asked, self.spare, self.model = list(answers), [], True, model
        self.model = "oracle-1"

    async def ask(self, question, seconds):
        self.asked.append(question)
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        yield said
        yield LargeModelFinish(self.model, 10, 5, 0, complete=True)


class DeferringSite:
    """A site whose spool has questions, and the loop that asks them."""

    def __init__(
        self, folder, says, *, mode="hybrid", bundle: Manifest | None = None, redaction=None, **settings
    ) -> None:
        config = config_of(folder, commit_seconds=0.001, escalation=URL | settings)
        config = config.model_copy(update={"redaction": redaction or RedactionConfig()})
        around, reader = SpoolWorkerDependencies(lambda: (), "0.1.0"), RedactionDependencies(_no_model, lambda: "")
        self.collection = ExampleCapture(config, around, reader=reader)
        self.says, self.serving = says, {"pos-intent": SimpleNamespace(manifest=bundle or manifest())}
        self.mode = mode
        router = SimpleNamespace(mode=lambda _: self.mode)
        self.later = DeferredEscalations(says, self.collection, self, router, config.escalation)

    async def status(self):
        status = await self.collection.status()
        names = ("opinions", "questions_failed", "questions_lost")
        return status.questions["deferred"], {each: status.counters[each] for each in names if each in status.counters}


async def _no_model(_texts, _seconds):
    raise RedactionHeld("there is no redaction model")


@contextlib.asynccontextmanager
async def asking(folder, *answers, numbers=(1,), text=None, changes=None, **more):
    """Open a spool with a question for each number."""
    folder.mkdir(exist_ok=True)
    site = DeferringSite(folder, ScriptedLargeModel(*answers), **more)
    site.collection.start()
    reading = asyncio.create_task(site.collection.redaction.run()) if site.collection.redaction else None
    try:
        for number in numbers:
            given = {**({"manifest": more["bundle"], **changes} if changes else {}), **({"text": text} if text else {})}
            site.collection.queue_answer(answered(number, later="deferred", **given))
        await eventually(lambda: site.collection.questions.waiting == len(numbers))
        yield site
    finally:
        if reading:
            reading.cancel()
        await asyncio.to_thread(site.collection.stop)


async def test_answer_is_stored_as_a_teacher_label(tmp_path):
    """The question has the redacted input and the task's labels, is marked as not waited for, and its answer is stored
    as a teacher label."""
    async with asking(tmp_path, PRICE, text="ask anna@example.org") as site:
        assert await site.later.ask_one()
        assert (0, {"opinions": 1}) == await site.status()
        assert not await site.later.ask_one()
    (asked,) = site.says.asked
    assert ("[EMAIL_1]" in asked.turns[-1][1], "anna" in str(asked.turns)) == (True, False)
    assert ["refund", "price"] == json.loads(asked.schema_text)["properties"]["label"]["enum"]
    assert not asked.waited_for


async def test_probabilities_are_stored_with_the_teacher_label(tmp_path):
    """The stored record has a probability for each label of the task."""
    typed = (ModelAnswer("pos-intent", (("price", 0.75), ("refund", 0.25))),)
    async with asking(tmp_path, typed) as site:
        assert await site.later.ask_one()
        with contextlib.closing(sqlite3.connect(tmp_path / "spool.db")) as database:
            [(record,)] = database.execute("SELECT record FROM opinions").fetchall()
    opinion = parse(record)
    assert isinstance(opinion, ExampleTeacherLabel)
    assert ("price", (("refund", 0.25), ("price", 0.75))) == (opinion.value, opinion.scores)


@pytest.mark.parametrize(("answers", "opinions"), [(["prose", PRICE], 1), (["prose", '{"label": "no such"}'], 0)])
async def test_invalid_answer_is_corrected_once(tmp_path, answers, opinions):
    """An invalid answer is asked for once more, as in a live call; an unusable one is dropped and counted."""
    async with asking(tmp_path, *answers) as site:
        assert bool(opinions) is await site.later.ask_one()
        expected = {"opinions": 1} if opinions else {"questions_failed": 1}
        assert (0, expected) == await site.status()
    assert [False, False] == [each.waited_for for each in site.says.asked]


@pytest.mark.parametrize(
    ("answers", "waiting", "counted"),
    [
        ([UpstreamBusy("no")], 1, {}),
        ([DiskFull("no")], 1, {}),
        (["prose", UpstreamBusy("no")], 0, {"questions_failed": 1}),
        ([UpstreamFailed("no")], 0, {"questions_failed": 1}),
        ([UpstreamUnreachable("no")], 0, {"questions_failed": 1}),
    ],
)
async def test_question_is_repeated_only_if_it_was_not_processed(tmp_path, answers, waiting, counted):
    """A question that the large model may have answered is not sent again, at the cost of a training example."""
    async with asking(tmp_path, *answers) as site:
        assert not await site.later.ask_one()
        assert (waiting, counted) == await site.status()
        site.says.answers = [PRICE]
        assert bool(waiting) is await site.later.ask_one()


async def test_questions_wait_while_there_is_no_capacity(tmp_path):
    """Without spare capacity no question is sent or marked as sent."""
    async with asking(tmp_path) as site:
        site.says.spare = False
        assert not await site.later.ask_one()
        assert (1, {}) == await site.status()
    assert [] == site.says.asked


@pytest.mark.parametrize("change", [{"mode": "local"}, {"serving": {}}])
async def test_question_of_a_task_that_may_not_escalate_waits(tmp_path, change):
    """In mode local, or without a bundle, the question of a task waits until that changes."""
    async with asking(tmp_path, PRICE) as site:
        before = {name: getattr(site, name) for name in change}
        vars(site).update(change)
        assert not await site.later.ask_one()
        vars(site).update(before)
        assert await site.later.ask_one()


async def test_a_question_of_a_decide_task_is_asked(tmp_path):
    """A question stored under TASK/QUESTION is asked with the wording and answers of the task's bundle."""
    async with asking(tmp_path, '{"urgent": "no"}', bundle=DESK, changes=URGENT) as site:
        assert await site.later.ask_one()
        assert (0, {"opinions": 1}) == await site.status()
    (asked,) = site.says.asked
    assert "It cannot wait." in str(asked.turns)


async def test_rules_alone_are_allowed_for_the_questions_of_a_task(tmp_path):
    """If a site allows redaction by rules alone for a task, that holds for its questions too."""
    redaction = RedactionConfig(task="redactor", without_model={"pos-intent": "rules"})
    async with asking(tmp_path, '{"urgent": "no"}', bundle=DESK, changes=URGENT, redaction=redaction) as site:
        assert await site.later.ask_one()
        assert (0, {"opinions": 1}) == await site.status()


async def test_question_of_a_task_that_changed_its_kind_is_dropped(tmp_path):
    """A question about a classification is dropped if the task is now of another kind."""
    async with asking(tmp_path, bundle=manifest("talk")) as site:
        assert not await site.later.ask_one()
        assert (0, {"questions_failed": 1}) == await site.status()
    assert [] == site.says.asked


async def test_loop_asks_questions_one_after_the_other(tmp_path):
    """The loop asks each waiting question as soon as the previous one is answered."""
    async with asking(tmp_path, PRICE, PRICE, PRICE, numbers=(1, 2, 3)) as site:
        running = asyncio.create_task(site.later.run())
        await eventually(lambda: site.collection.questions.waiting == 0)
        running.cancel()
        assert (0, {"opinions": 3}) == await site.status()


@pytest.mark.parametrize(
    ("settings", "task", "expected"),
    [
        ({}, "pos-intent", True),
        ({}, "unknown", False),
        ({"later_questions_max": 0}, "pos-intent", False),
        ({"calls_max": 1}, "pos-intent", False),
        ({"url": ""}, "pos-intent", False),
    ],
)
def test_conditions_for_deferring_a_question(tmp_path, settings, task, expected):
    """A question is deferred only with consent to capture, space for questions, and a route that can be asked later."""
    site = DeferringSite(tmp_path, ScriptedLargeModel(), **settings)
    assert expected is site.collection.questions.can_defer(task)

"""Answers that wait for the redaction model: read, held, passed by rules alone, or dropped and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from edge_agent.capture.capture_values import CapturedAnswer
from edge_agent.capture.record_builder import RecordBuilder
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.capture.text_redaction import TRIES_MAX, RedactionDependencies, RedactionQueue
from edge_agent.config import ExamplesConfig, RedactionConfig
from edge_agent.errors import RedactionHeld
from tests.support.eventually import eventually, turns
from tests.support.site_cases import answered, config_of, manifest

HOLD = RedactionConfig(task="pii")
RULES = RedactionConfig(task="pii", without_model={"pos-intent": "rules"})


class AnnaFinder:
    """Finds "Anna", unless a test makes it fail or wait."""

    def __init__(self) -> None:
        self.model, self.broken, self.gate = "pii@1.0.0", "", asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []

    async def find(self, texts: Iterable[str], seconds: float) -> ModelFindings:
        await self.gate.wait()
        texts = list(texts)
        self.asked += texts
        if self.broken:
            raise RedactionHeld("the redaction model does not answer: it is gone")
        if any("poison" in text for text in texts):
            raise RedactionHeld("the redaction model does not read the text", permanent=True)
        found = {text: (FoundValue(at, at + 4, "NAME"),) if (at := text.find("Anna")) >= 0 else () for text in texts}
        return ModelFindings(found, self.model)


class Queue(RedactionQueue):
    """A running queue, with the answers that it stored."""

    def __init__(self, finder: AnnaFinder, config: RedactionConfig = HOLD, **limits: int) -> None:
        self.stored: list[CapturedAnswer] = []
        self.now = 0.0
        settings = ExamplesConfig(**limits)
        reader = RedactionDependencies(finder.find, lambda: finder.model)
        super().__init__(reader, config, settings, self.stored.append, self._turn, lambda: self.now)

    async def _turn(self, seconds: float) -> None:
        self.now += seconds
        await turns()

    async def until(self, count: int) -> None:
        """Run until so many are stored, with nothing waiting."""
        running = asyncio.create_task(self.run())
        await eventually(lambda: len(self.stored) == count and not self.waiting)
        running.cancel()


async def test_an_answer_is_stored_with_its_findings():
    """The model reads the text of an answer, which is then redacted by both rules and model."""
    queue = Queue(AnnaFinder())
    queue.put(answered(1, text="Anna wants a refund"))
    await queue.until(1)
    assert queue.stored[0].findings is not None
    builder = RecordBuilder(config_of(Path()).examples, "site-1", Redactor(), HOLD)
    assert b"Anna" not in builder.build_prediction(queue.stored[0], 0.0).record
    assert {"read_by_model": 1} == queue.counts


async def test_model_reads_generated_texts_and_records():
    """The model reads the input, a generated text, and every value and key of a record."""
    finder = AnnaFinder()
    queue = Queue(finder)
    queue.put(answered(1, manifest=manifest("talk"), local_answer="Dear Anna", text="write", scores=()))
    queue.put(answered(2, manifest=manifest("visit"), local_answer='{"DRUG": ["x"]}', text="see", scores=()))
    await queue.until(2)
    assert {"write", "Dear Anna", "see", "DRUG", "DRUG: x"} == set(finder.asked)


async def test_answer_is_held_while_the_model_is_unavailable():
    """Nothing is stored until the model answers again, the operator sees the problem, and the answer is then stored
    once."""
    finder = AnnaFinder()
    finder.broken = "gone"
    queue = Queue(finder)
    queue.put(answered(1, text="Anna"))
    running = asyncio.create_task(queue.run())
    await eventually(lambda: "it is gone" in queue.problem)
    assert ([], 1) == (queue.stored, queue.waiting)
    finder.broken = ""
    await eventually(lambda: not queue.waiting)
    assert [True] == [each.findings is not None for each in queue.stored]
    assert "" == queue.problem
    running.cancel()


async def test_answer_passes_by_rules_if_the_site_allows_it():
    """If the policy of its task allows that, an answer is redacted by rules alone and counted."""
    finder = AnnaFinder()
    finder.broken = "gone"
    queue = Queue(finder, RULES)
    queue.put(answered(1, text="Anna, a@example.org"))
    await queue.until(1)
    assert {"passed_by_rules": 1} == queue.counts
    builder = RecordBuilder(config_of(Path()).examples, "site-1", Redactor(), RULES)
    assert b"Anna, [EMAIL_1]" in builder.build_prediction(queue.stored[0], 0.0).record


def test_record_is_not_built_without_findings():
    """At a site with a redaction model, building a record from an answer without findings raises RedactionHeld."""
    builder = RecordBuilder(config_of(Path()).examples, "site-1", Redactor(), HOLD)
    with pytest.raises(RedactionHeld):
        builder.build_prediction(answered(1), 0.0)


async def test_an_answer_that_the_model_cannot_read_is_dropped():
    """A text on which the model fails repeatedly is dropped and counted, and the other answers are stored."""
    queue = Queue(AnnaFinder())
    queue.put(answered(1, text="poison"))
    queue.put(answered(2, text="hi"))
    await queue.until(1)
    assert {"read_by_model": 1, "dropped_unredacted": 1} == queue.counts
    assert ["p-2"] == [each.prediction_id for each in queue.stored]
    assert TRIES_MAX > 1


async def test_a_full_queue_drops_and_counts():
    """Answers beyond the limits of number or bytes are dropped and counted; those of the audit have twice the space."""
    queue = Queue(AnnaFinder(), queue_examples_max=2)
    for number in range(3):
        queue.put(answered(number))
    queue.put(answered(3, later="audit"))
    assert (3, {"dropped_unredacted": 1}) == (queue.waiting, queue.counts)
    large = Queue(AnnaFinder(), queue_bytes_max=2**16)
    large.put(answered(1, text="x" * 32_000))
    large.put(answered(2, text="x" * 32_000))
    large.put(answered(3, text="x" * 32_000))
    assert (2, {"dropped_unredacted": 1}) == (large.waiting, large.counts)


def test_generated_text_counts_in_the_size_of_the_queue():
    """Local and teacher answers count like the input; an answer over the limit is accepted only into an empty queue."""
    queue = Queue(AnnaFinder(), queue_bytes_max=2**16)
    talk = {"manifest": manifest("talk"), "text": "write", "scores": ()}
    queue.put(answered(1, **talk, local_answer="x" * 40_000))
    queue.put(answered(2, **talk, local_answer="x" * 1000, teacher_answer="x" * 30_000))
    assert (1, {"dropped_unredacted": 1}) == (queue.waiting, queue.counts)
    queue.erase(lambda _: True)
    queue.put(answered(3, **talk, local_answer="x" * 60_000))
    assert 1 == queue.waiting


async def test_a_cancelled_worker_puts_its_answer_back():
    """When a component restarts, the answer in progress waits again and is read once."""
    finder = AnnaFinder()
    finder.gate.clear()
    queue = Queue(finder)
    queue.put(answered(1))
    running = asyncio.create_task(queue.run())
    await eventually(lambda: not queue._queue)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert 1 == queue.waiting
    finder.gate.set()
    await queue.until(1)
    assert 1 == len(queue.stored)


async def test_stop_stores_what_the_model_can_read():
    """A daemon that stops lets the model read the waiting answers within a time limit; the rest are dropped and
    counted."""
    queue = Queue(AnnaFinder())
    queue.put(answered(1))
    await queue.finish()
    assert (1, 0) == (len(queue.stored), queue.waiting)
    stuck = Queue(finder := AnnaFinder())
    finder.gate.clear()
    stuck.put(answered(1))
    await stuck.finish(seconds_max=0.0)
    assert ([], {"dropped_unredacted": 1}) == (stuck.stored, stuck.counts)


async def test_a_slow_model_is_reported():
    """An answer that has waited for more than 30 s is reported with its time."""
    finder = AnnaFinder()
    finder.gate.clear()
    queue = Queue(finder)
    queue.put(answered(1))
    assert "" == queue.problem
    queue.now = 31.0
    assert "the oldest has waited 31 s" in queue.problem


async def test_held_answers_can_be_erased():
    """Matching answers are removed from the queue and from the workers; the others are stored."""
    finder = AnnaFinder()
    finder.broken = "gone"
    queue = Queue(finder)
    for number, text in enumerate(("Anna", "Bo", "Anna again", "Anna too", "Cy")):
        queue.put(answered(number, text=text))
    running = asyncio.create_task(queue.run())
    await eventually(lambda: queue.held_because != "")
    assert 3 == queue.erase(lambda each: "Anna" in each.text, dry_run=True)
    assert 5 == queue.waiting
    assert 3 == queue.erase(lambda each: "Anna" in each.text)
    finder.broken = ""
    await eventually(lambda: not queue.waiting)
    assert ["p-1", "p-4"] == sorted(each.prediction_id for each in queue.stored)
    assert 3 == queue.counts["erased_unredacted"]
    running.cancel()

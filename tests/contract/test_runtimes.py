"""The contract of every runtime with its caller (edge_agent/engine/runtimes/__init__.py), checked for each runtime and
kind."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_agent.engine import runtimes
from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, LoadRequest, TextChunk
from edge_agent.errors import EmptyInput, InputTooLong, ModelLoadFailed
from edge_agent.formats.manifest import RUNTIME_KINDS
from tests.support import bundles

STEPS_MAX = 10_000
OUTPUT_TOKENS = 12
TOLERANCE = 1e-5
BUILDERS: dict[str, Callable[..., Path]] = {
    "echo": bundles.echo_bundle,
    "onnx": bundles.tiny_onnx_bundle,
    "llama": bundles.smollm2_bundle,
}
# 1 thread for the others: more of them collapse when something else wants the cores.
THREADS = {"echo": (1,), "onnx": (1, 2), "llama": (1,)}
CASES = [
    (name, kind, threads) for name in BUILDERS for kind in sorted(RUNTIME_KINDS[name]) for threads in THREADS[name]
]
TEXTS = (
    "I want my money back for 2 lamps",
    "do you have this in blue",
    "When does the shop on the corner of the market square open on a Sunday in December, and until when?",
    "no",
    "The till says 5.99 but the shelf said 4.99, which one is it",
)


@dataclass
class Subject:
    """One loaded runtime with bundle "a" attached."""

    name: str
    kind: str
    runtime: runtimes.Runtime
    folder: Path
    ended_in: dict[str, int] = field(default_factory=dict)
    """The step in which each job ended, counted from when `finish` was called last."""

    def attach(self, digest: str, folder: Path) -> None:
        self.runtime.attach(digest, bundles.manifest_of(folder), bundles.paths_of(folder))

    def submit(self, job_id: str, text: str, digest: str = "a") -> None:
        writes = self.kind == "generate"
        run = JobRequest(job_id=job_id, digest=digest, text=text, output_tokens_max=OUTPUT_TOKENS if writes else 0)
        run.logprobs = 0 if writes and self.name == "llama" else None  # others do not tell them
        self.runtime.submit(run)

    def finish(self) -> list[Event]:
        """Step until no job is left."""
        events: list[Event] = []
        for step in range(STEPS_MAX):
            if not self.runtime.busy:
                return events
            said = self.runtime.step()
            self.ended_in |= dict.fromkeys(ends(said), step)
            events += said
            self.runtime.tidy()
        raise AssertionError(f"still busy after {STEPS_MAX} steps")

    def answers(self, texts: dict[str, str], digest: str = "a") -> dict[str, JobResult]:
        """Compute texts together; return each answer, a generation's text in `finish`."""
        for job_id, text in texts.items():
            self.submit(job_id, text, digest)
        events = self.finish()
        found = {event.job_id: event for event in events if isinstance(event, JobResult)}
        for job_id, done in found.items():
            done.finish += "".join(e.text for e in events if isinstance(e, TextChunk) and e.job_id == job_id)
        return found


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def loaded(request, tmp_path_factory) -> Iterator[Subject]:
    """Load each runtime once for each kind."""
    name, kind, threads = request.param
    folder = BUILDERS[name](tmp_path_factory.mktemp(name) / "a", kind=kind)
    subject = Subject(name, kind, runtimes.create(name), folder)
    load(subject.runtime, name, bundles.paths_of(folder).get("weights", ""), threads)
    subject.attach("a", folder)
    yield subject
    subject.runtime.close()
    assert not subject.runtime.busy


@pytest.fixture
def subject(loaded) -> Iterator[Subject]:
    """Yield an idle runtime, and require that it is idle again afterwards."""
    assert not loaded.runtime.busy
    yield loaded
    assert not loaded.runtime.busy


def load(runtime: runtimes.Runtime, name: str, weights: str, threads: int = 1) -> dict[str, str]:
    """Load weights."""
    return runtime.load(LoadRequest(runtime=name, weights=weights, threads=threads))


def ends(events: list[Event]) -> Counter[str]:
    """Count how often each job ended."""
    return Counter(event.job_id for event in events if isinstance(event, JobResult | FailureReport))


def assert_same(expected: JobResult, actual: JobResult) -> None:
    """Require that two answers are equal within the tolerance."""
    assert pytest.approx(expected.scores, abs=TOLERANCE) == actual.scores
    for one, other in zip(expected.question_scores, actual.question_scores, strict=True):
        assert pytest.approx(one, abs=TOLERANCE) == other
    assert pytest.approx(expected.confidence, abs=TOLERANCE) == actual.confidence
    assert (expected.record, pytest.approx(expected.fields, abs=TOLERANCE)) == (actual.record, actual.fields)
    plain = [(found.label, found.start, found.end) for found in expected.entities]
    assert plain == [(found.label, found.start, found.end) for found in actual.entities]
    vectors = [np.frombuffer(done.vector, "<f4") for done in (expected, actual)]
    np.testing.assert_allclose(*vectors, rtol=0, atol=TOLERANCE)
    assert (expected.finish, expected.input_tokens) == (actual.finish, actual.input_tokens)
    assert expected.tokens == actual.tokens


@pytest.mark.slow
def test_every_job_ends_exactly_once(subject):
    """More jobs than fit in one batch all end, each with one result after its chunks."""
    jobs = {f"{i}-{j}": text for i in range(4) for j, text in enumerate(TEXTS)}
    for job_id, text in jobs.items():
        subject.submit(job_id, text)
    events = subject.finish()
    assert dict.fromkeys(jobs, 1) == ends(events)
    last = {event.job_id: event for event in events}
    assert {JobResult} == {type(event) for event in last.values()}


def test_answers_have_the_fields_of_their_kind(subject):
    """An answer has the fields of its kind and the number of tokens read."""
    (done,) = subject.answers({"1": TEXTS[0]}).values()
    assert done.input_tokens > 0
    if subject.kind == "classify":
        assert len(bundles.INTENTS) == len(done.scores)
        assert math.isclose(1.0, sum(done.scores), abs_tol=1e-9)
        assert 0.0 < done.label_mass <= 1.0 + 1e-9
    elif subject.kind == "decide":
        questions = bundles.manifest_of(subject.folder).task.questions
        assert [len(each.outputs) for each in questions] == [len(scores) for scores in done.question_scores]
        assert all(math.isclose(1.0, sum(scores), abs_tol=1e-9) for scores in done.question_scores)
    elif subject.kind == "embed":
        assert math.isclose(1.0, float(np.linalg.norm(np.frombuffer(done.vector, "<f4"))), abs_tol=1e-6)
    elif subject.kind in ("extract", "redact"):
        assert 0.0 < done.confidence <= 1.0
        assert all(0 <= found.start < found.end <= len(TEXTS[0]) for found in done.entities)
        assert not done.record or (json.loads(done.record).keys() == done.fields.keys() and not done.entities)
    else:
        assert 0 < done.output_tokens <= OUTPUT_TOKENS
        assert done.finish.startswith(("stop", "length"))


@pytest.mark.slow
def test_answers_are_the_same_alone_and_together(subject):
    """An answer does not depend on the texts that are computed at the same time. A text that llama.cpp generates, and
    its log-probabilities, are compared until the first of the concurrent texts ends: the others may then take its cells
    (decision 0048)."""
    texts = {str(i): text for i, text in enumerate(TEXTS)}
    together = subject.answers(texts)
    ended_in = {job_id: subject.ended_in[job_id] for job_id in texts}
    for job_id, text in texts.items():
        (alone,) = subject.answers({job_id: text}).values()
        if together[job_id].tokens:
            # A stream writes one token in each step.
            beside_all = len(together[job_id].tokens) - (ended_in[job_id] - min(ended_in.values()))
            assert beside_all > 1
            assert alone.tokens[:beside_all] == together[job_id].tokens[:beside_all]
            assert alone.input_tokens == together[job_id].input_tokens
        else:
            assert_same(alone, together[job_id])


def test_cancel_ends_a_waiting_job(subject):
    """Cancelling a waiting job returns one CANCELLED failure and no later events of it; other jobs continue."""
    subject.submit("gone", TEXTS[0])
    subject.submit("kept", TEXTS[1])
    (failure,) = subject.runtime.cancel("gone")
    assert (FailureReport, "gone", "CANCELLED") == (type(failure), failure.job_id, failure.reason)
    assert {"kept"} == {event.job_id for event in subject.finish()}


def test_cancel_ends_a_running_job(subject):
    """A job that is cancelled between two of its steps ends there."""
    subject.submit("gone", TEXTS[2])
    events = subject.runtime.step()
    failures = subject.runtime.cancel("gone")
    assert Counter({"gone": 1}) == ends(events + failures)
    assert [] == subject.finish()


def test_unknown_jobs_and_bundles_are_ignored(subject):
    """Cancelling an unknown or finished job and detaching an unknown bundle have no effect."""
    subject.answers({"done": TEXTS[3]})
    assert ([], [], []) == (
        subject.runtime.cancel("done"),
        subject.runtime.cancel("nobody"),
        subject.runtime.detach("nothing"),
    )


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003"])
def test_blank_text_is_refused(subject, text):
    """A text of white space only is refused as the caller's error."""
    with pytest.raises(EmptyInput):
        subject.submit("1", text)


def test_too_long_text_is_refused_with_both_numbers(subject):
    """A text over the task's limit is refused with its tokens and the limit."""
    limit = bundles.manifest_of(subject.folder).task.limits.input_tokens_max
    with pytest.raises(InputTooLong) as caught:
        subject.submit("1", "word " * (limit + 1))
    assert str(limit) == caught.value.metadata["limit"]
    assert int(caught.value.metadata["tokens"]) > limit


def test_refused_job_does_not_affect_others(subject):
    """A refused job does not affect the jobs before and after it."""
    subject.submit("before", TEXTS[0])
    with pytest.raises(EmptyInput):
        subject.submit("empty", "")
    subject.submit("after", TEXTS[0])
    assert Counter({"before": 1, "after": 1}) == ends(subject.finish())


@pytest.mark.slow
def test_two_bundles_on_one_base_answer_independently(subject, tmp_path):
    """Two bundles on one base model answer at the same time, each by its own manifest, and the first answers as before
    after the second is detached."""
    other = BUILDERS[subject.name](tmp_path / "b", kind=subject.kind, confidence={"temperature": 8.0})
    (before,) = subject.answers({"1": TEXTS[0]}).values()
    subject.attach("b", other)
    subject.submit("1", TEXTS[0])
    both = subject.answers({"2": TEXTS[0]}, digest="b")
    assert_same(before, subject.answers({"1": TEXTS[0]})["1"])
    if subject.kind == "classify":
        assert max(both["2"].scores) < max(before.scores)
    subject.runtime.detach("b")
    assert_same(before, subject.answers({"1": TEXTS[0]})["1"])


@pytest.mark.slow
def test_detach_cancels_the_bundles_jobs(subject, tmp_path):
    """Detaching a bundle ends its jobs with CANCELLED and no others; it can be attached again."""
    other = BUILDERS[subject.name](tmp_path / "b", kind=subject.kind, version="2.0.0")
    subject.attach("b", other)
    subject.submit("gone", TEXTS[0], digest="b")
    subject.submit("kept", TEXTS[1])
    subject.submit("gone too", TEXTS[2], digest="b")
    failures = subject.runtime.detach("b")
    assert [("gone", "CANCELLED"), ("gone too", "CANCELLED")] == [(e.job_id, e.reason) for e in failures]
    assert Counter({"kept": 1}) == ends(subject.finish())
    subject.attach("b", other)
    assert {"again"} == set(subject.answers({"again": TEXTS[0]}, digest="b"))
    subject.runtime.detach("b")


@pytest.mark.parametrize("share", [0, 0.5], ids=["empty", "cut"])
@pytest.mark.parametrize("name", ["onnx", "llama"])
def test_damaged_weights_do_not_load(name, share, tmp_path):
    """Empty or truncated weights are refused with the file's name, and the runtime can then be closed."""
    weights = Path(bundles.paths_of(BUILDERS[name](tmp_path / "a"))["weights"])
    os.truncate(weights, int(weights.stat().st_size * share))
    runtime = runtimes.create(name)
    with pytest.raises(ModelLoadFailed, match=weights.name):
        load(runtime, name, str(weights))
    runtime.close()


@pytest.mark.parametrize("name", BUILDERS)
def test_missing_weights_do_not_load(name, tmp_path):
    """A weights path without a file is refused with the file's name."""
    with pytest.raises(ModelLoadFailed, match=r"weights\.bin"):
        load(runtimes.create(name), name, str(tmp_path / "weights.bin"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_runtime_can_be_closed_with_waiting_jobs(name, tmp_path):
    """A runtime that is closed with waiting jobs is idle, and another one in the same process works."""
    folder = BUILDERS[name](tmp_path / "a")
    for _ in range(2):
        subject = Subject(name, "classify", runtimes.create(name), folder)
        load(subject.runtime, name, bundles.paths_of(folder).get("weights", ""))
        subject.attach("a", folder)
        assert {"1"} == set(subject.answers({"1": TEXTS[0]}))
        subject.submit("2", TEXTS[1])
        subject.runtime.close()
        assert not subject.runtime.busy

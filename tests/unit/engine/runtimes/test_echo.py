"""The echo runtime: answers that a device developer and a test can predict."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path

import pytest

from edge_agent.engine.protocol import (
    AskedQuestion,
    EntitySpan,
    FailureReport,
    JobRequest,
    JobResult,
    LoadRequest,
    TextChunk,
)
from edge_agent.engine.runtimes import echo
from edge_agent.engine.runtimes.echo import VECTOR_LENGTH, EchoRuntime
from edge_agent.errors import ModelLoadFailed
from tests.support import bundles


@pytest.fixture
def answers(tmp_path):
    """Return a function that runs one text on an echo bundle of a kind and returns all events."""

    def run(kind: str, text: str, **options):
        runtime = EchoRuntime()
        runtime.load(LoadRequest(runtime="echo"))
        task = {"prompt": {"template": options.pop("template", "{input}")}}
        folder = bundles.echo_bundle(tmp_path / kind, kind=kind, labels=options.pop("labels", None), task=task)
        runtime.attach("d", bundles.manifest_of(folder), {})
        for number in range(options.pop("jobs", 1)):
            runtime.submit(JobRequest(job_id=str(number), digest="d", text=text, **options))
        events = []
        while runtime.busy:
            events += runtime.step()
        return events

    return run


def test_a_label_in_the_text_wins(answers):
    """A label that occurs in the text is the likeliest by far, in any case of letters."""
    (done,) = answers("classify", "a REFUND please", labels=("price", "refund"))
    assert done.scores[1] > 0.99
    assert math.isclose(1.0, sum(done.scores))


def test_each_question_is_answered(answers):
    """A label in the text wins its question, and "yes" wins a predicate whose name is in the text."""
    (done,) = answers("decide", "an urgent refund, high")
    intent, urgent, severity = done.question_scores
    assert ("refund", 1, 2) == (
        bundles.INTENTS[intent.index(max(intent))],
        urgent.index(max(urgent)),
        severity.index(max(severity)),
    )
    assert all(math.isclose(1.0, sum(each)) for each in done.question_scores)


def test_questions_of_the_call_replace_those_of_the_bundle(answers):
    """A job that brings questions is answered these, in their order, at the temperature that comes with each."""
    sharp = AskedQuestion("colour", "choice", "Which colour?", ("red", "blue"))
    flat = AskedQuestion("colour", "choice", "Which colour?", ("red", "blue"), temperature=8.0)
    (done,) = answers("decide", "the red one", questions=(sharp, flat))
    first, second = done.question_scores
    assert first[0] > 0.99
    assert 0.5 < second[0] < 0.8


def test_answers_repeat(answers):
    """The same text always gets the same answer, and another text another one."""
    first, again, other = (answers("classify", text)[0].scores for text in ("one", "one", "two"))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("kind", "varies"), [("classify", True), ("extract", True), ("generate", False)])
def test_a_bundle_may_be_told_to_let_its_scores_vary(tmp_path, kind, varies):
    """With `!vary` the runtime reports that scores depend on the batch, where answers have a score."""
    runtime = EchoRuntime()
    for name, template in (("d", "!vary {input}"), ("e", "{input}")):
        folder = bundles.echo_bundle(tmp_path / name, kind=kind, task={"prompt": {"template": template}})
        runtime.attach(name, bundles.manifest_of(folder), {})
    assert [varies, False] == [bool(runtime.score_variance(name)) for name in "de"]


def test_scores_that_vary_depend_on_the_batch(answers):
    """The same text has another score beside one more; without `!vary` it has the same."""
    for template, expected in (("!vary {input}", 2), ("{input}", 1)):
        alone, beside = (answers("classify", "one", jobs=jobs, template=template)[0].scores for jobs in (1, 2))
        assert expected == len({alone, beside})


def test_generation_says_the_text_again(answers):
    """A generation streams the input word by word and stops at its end."""
    *chunks, done = answers("generate", "Good  morning\nall", output_tokens_max=9)
    assert ["Good", " morning", " all"] == [chunk.text for chunk in chunks if isinstance(chunk, TextChunk)]
    assert ("stop", 3, 3) == (done.finish, done.input_tokens, done.output_tokens)


def test_generation_ends_at_the_limit(answers):
    """A generation over the token limit is cut there and says so."""
    *chunks, done = answers("generate", "one two three", output_tokens_max=2)
    assert (2, "length", 2) == (len(chunks), done.finish, done.output_tokens)


def test_digits_are_entities(answers):
    """Every run of digits is an entity of the first label."""
    (done,) = answers("extract", "2 lamps for 30", labels=("number",))
    assert (EntitySpan("number", 0, 1, 1.0), EntitySpan("number", 12, 14, 1.0)) == done.entities


def test_vectors_have_length_one(answers):
    """A text becomes a vector of length 1."""
    (done,) = answers("embed", "hello")
    assert math.isclose(1.0, sum(x * x for x in struct.unpack(f"<{VECTOR_LENGTH}f", done.vector)), abs_tol=1e-6)


def test_told_to_fail(answers):
    """!fail fails that job."""
    (failure,) = answers("classify", "!fail now")
    assert (FailureReport, "MODEL_FAILED") == (type(failure), failure.reason)


def test_a_bundle_told_to_fail(answers):
    """Its template orders the same of every text, at once or after some."""
    assert ["MODEL_FAILED"] == [event.reason for event in answers("classify", "x", template="!fail {input}")]
    events = answers("classify", "x", template="!fail after 2 {input}", jobs=4)
    assert [JobResult, JobResult, FailureReport, FailureReport] == [type(event) for event in events]


def test_a_bundle_with_a_prompt_is_told_nothing(answers):
    """Only the known words are orders."""
    (done,) = answers("classify", "x", template="Sort this after lunch: 5 {input}")
    assert isinstance(done, JobResult)


def test_told_to_leak(answers):
    """!leak N keeps N megabytes with each step."""
    before = len(echo._leaked)
    answers("classify", "!leak 1")
    assert [1 << 20] == [len(kept) for kept in echo._leaked[before:]]


def test_told_to_be_slow(answers):
    """!slow N makes a step take N milliseconds."""
    started = time.perf_counter()
    (done,) = answers("classify", "!slow 20")
    assert isinstance(done, JobResult)
    assert time.perf_counter() - started >= 0.02


def test_weights_are_optional_but_not_missing():
    """A bundle without weights loads; a path that does not exist does not."""
    EchoRuntime().load(LoadRequest(runtime="echo"))
    with pytest.raises(ModelLoadFailed, match=r"weights file /nowhere/echo\.bin does not exist"):
        EchoRuntime().load(LoadRequest(runtime="echo", weights="/nowhere/echo.bin"))


def test_an_adapter_is_optional_but_not_missing(tmp_path: Path):
    """It is looked for where a bundle is attached: other bundles of the engine answer without it."""
    described = bundles.manifest_of(bundles.echo_bundle(tmp_path / "bundle"))
    EchoRuntime().attach("a" * 64, described, {})
    with pytest.raises(ModelLoadFailed, match=r"adapter file /nowhere/adapter\.bin does not exist"):
        EchoRuntime().attach("a" * 64, described, {"adapter": "/nowhere/adapter.bin"})

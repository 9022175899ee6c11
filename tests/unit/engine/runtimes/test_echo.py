"""The echo runtime, whose answers a device developer and a test can predict."""

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


def test_label_in_the_text_wins(answers):
    """A label that occurs in the text, in upper or lower case, has a score above 0.99."""
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
    """A job with its own questions is answered for these, in their order, at the temperature of each."""
    sharp = AskedQuestion("colour", "choice", "Which colour?", ("red", "blue"))
    flat = AskedQuestion("colour", "choice", "Which colour?", ("red", "blue"), temperature=8.0)
    (done,) = answers("decide", "the red one", questions=(sharp, flat))
    first, second = done.question_scores
    assert first[0] > 0.99
    assert 0.5 < second[0] < 0.8


def test_same_text_gets_the_same_answer(answers):
    """The same text always gets the same answer, and a different text a different one."""
    first, again, other = (answers("classify", text)[0].scores for text in ("one", "one", "two"))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("kind", "varies"), [("classify", True), ("extract", True), ("generate", False)])
def test_vary_command_reports_score_variance(tmp_path, kind, varies):
    """With `!vary` in the template the runtime reports that scores depend on the batch, for kinds whose answers have a
    score."""
    runtime = EchoRuntime()
    for name, template in (("d", "!vary {input}"), ("e", "{input}")):
        folder = bundles.echo_bundle(tmp_path / name, kind=kind, task={"prompt": {"template": template}})
        runtime.attach(name, bundles.manifest_of(folder), {})
    assert [varies, False] == [bool(runtime.score_variance(name)) for name in "de"]


def test_varying_scores_depend_on_the_batch(answers):
    """With `!vary` the same text has another score in a batch of two than alone; without it the score is the same."""
    for template, expected in (("!vary {input}", 2), ("{input}", 1)):
        alone, beside = (answers("classify", "one", jobs=jobs, template=template)[0].scores for jobs in (1, 2))
        assert expected == len({alone, beside})


def test_generation_repeats_the_text(answers):
    """A generation streams the input word by word and stops at its end."""
    *chunks, done = answers("generate", "Good  morning\nall", output_tokens_max=9)
    assert ["Good", " morning", " all"] == [chunk.text for chunk in chunks if isinstance(chunk, TextChunk)]
    assert ("stop", 3, 3) == (done.finish, done.input_tokens, done.output_tokens)


def test_generation_ends_at_the_limit(answers):
    """A generation is cut off at the token limit with finish reason `length`."""
    *chunks, done = answers("generate", "one two three", output_tokens_max=2)
    assert (2, "length", 2) == (len(chunks), done.finish, done.output_tokens)


def test_digits_are_entities(answers):
    """Every run of digits is an entity with the first label."""
    (done,) = answers("extract", "2 lamps for 30", labels=("number",))
    assert (EntitySpan("number", 0, 1, 1.0), EntitySpan("number", 12, 14, 1.0)) == done.entities


def test_vectors_have_length_one(answers):
    """The embedding of a text has length 1."""
    (done,) = answers("embed", "hello")
    assert math.isclose(1.0, sum(x * x for x in struct.unpack(f"<{VECTOR_LENGTH}f", done.vector)), abs_tol=1e-6)


def test_fail_command_fails_the_job(answers):
    """`!fail` in a text fails that job with MODEL_FAILED."""
    (failure,) = answers("classify", "!fail now")
    assert (FailureReport, "MODEL_FAILED") == (type(failure), failure.reason)


def test_fail_command_in_the_template_fails_all_jobs(answers):
    """`!fail` in the template fails every job of the bundle, at once or after a number of jobs."""
    assert ["MODEL_FAILED"] == [event.reason for event in answers("classify", "x", template="!fail {input}")]
    events = answers("classify", "x", template="!fail after 2 {input}", jobs=4)
    assert [JobResult, JobResult, FailureReport, FailureReport] == [type(event) for event in events]


def test_ordinary_template_has_no_commands(answers):
    """A template without a known command word does not change the answers."""
    (done,) = answers("classify", "x", template="Sort this after lunch: 5 {input}")
    assert isinstance(done, JobResult)


def test_leak_command_keeps_memory(answers):
    """`!leak N` keeps N megabytes with each step."""
    before = len(echo._leaked)
    answers("classify", "!leak 1")
    assert [1 << 20] == [len(kept) for kept in echo._leaked[before:]]


def test_slow_command_delays_the_step(answers):
    """`!slow N` makes a step take at least N milliseconds."""
    started = time.perf_counter()
    (done,) = answers("classify", "!slow 20")
    assert isinstance(done, JobResult)
    assert time.perf_counter() - started >= 0.02


def test_weights_are_optional_but_must_exist_if_named():
    """A bundle without weights loads; one that names a file that does not exist fails to load."""
    EchoRuntime().load(LoadRequest(runtime="echo"))
    with pytest.raises(ModelLoadFailed, match=r"weights file /nowhere/echo\.bin does not exist"):
        EchoRuntime().load(LoadRequest(runtime="echo", weights="/nowhere/echo.bin"))


def test_adapter_is_optional_but_must_exist_if_named(tmp_path: Path):
    """A named adapter file must exist when the bundle is attached; other bundles of the engine are attached without an
    adapter."""
    described = bundles.manifest_of(bundles.echo_bundle(tmp_path / "bundle"))
    EchoRuntime().attach("a" * 64, described, {})
    with pytest.raises(ModelLoadFailed, match=r"adapter file /nowhere/adapter\.bin does not exist"):
        EchoRuntime().attach("a" * 64, described, {"adapter": "/nowhere/adapter.bin"})

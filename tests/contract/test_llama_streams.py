"""Streams that continue without planning each step write the same tokens as with planning.

test_llama_texts.py covers that a text does not depend on other jobs. Here streams start one after the other, each with
a prompt that is read in one step on any machine, and end in the same step, so that both ways of computing use the same
cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, LoadRequest, TextChunk, Token
from edge_agent.engine.runtimes.llama.kv_cells import SequenceSlot
from edge_agent.engine.runtimes.llama.llama_context import LONG_ROWS
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.step_scheduler import ROWS_MIN
from edge_agent.formats.manifest import Manifest
from tests.support.models import smollm2_path

THINGS = ("kettle", "lamp", "shirt", "clock", "chair")
TOKENS = 24
MANIFEST = Manifest.model_validate(
    {
        "schema": "edge-agent/bundle/v1",
        "task": {
            "name": "writer",
            "kind": "generate",
            "prompt": {"template": "A {input} in a shop. A numbered list of things:\n1."},
            "limits": {"input_tokens_max": 60, "output_tokens_max": 60},
        },
        "version": "1.0.0",
        "runtime": "llama",
        "engine": {"context_tokens": 120},
        "artifacts": [{"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}],
    }
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaRuntime]:
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), context_tokens=120, sequences_max=20))
    runtime.attach("w", MANIFEST, {})
    yield runtime
    runtime.close()


@pytest.fixture
def runtime(loaded: LlamaRuntime) -> Iterator[LlamaRuntime]:
    yield loaded
    assert not loaded.busy
    assert not loaded._cache._slots


class StreamedText:
    """The output of each job."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.ended: dict[str, Event] = {}

    @property
    def tokens(self) -> dict[str, tuple[Token, ...]]:
        """The tokens of each finished stream with their exact log-probabilities."""
        return {job_id: event.tokens for job_id, event in self.ended.items() if isinstance(event, JobResult)}

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TextChunk):
                self.texts[event.job_id] = self.texts.get(event.job_id, "") + event.text
            else:
                self.ended[event.job_id] = event


def ask(runtime: LlamaRuntime, said: StreamedText, things: Sequence[str], tokens: int = TOKENS) -> None:
    """Request streams one after the other, a step apart, that all end in the same step."""
    for later, thing in enumerate(things):
        job = JobRequest(job_id=thing, digest="w", text=thing, output_tokens_max=tokens - later, logprobs=0)
        runtime.submit(job)
        assert runtime._jobs[thing].pending <= ROWS_MIN + len(runtime._bundles["w"].prompt.tokens)
        said.take(runtime.step())
        assert runtime._jobs[thing].computed == runtime._jobs[thing].input_tokens


def finish(runtime: LlamaRuntime, said: StreamedText) -> StreamedText:
    while runtime.busy:
        said.take(runtime.step())
    return said


def write_on(runtime: LlamaRuntime, said: StreamedText, jobs: int) -> None:
    """Step until this number of streams continue without planning."""
    for _ in range(TOKENS):
        if len(runtime._writers) == jobs:
            return
        said.take(runtime.step())
    raise AssertionError("they do not write on")


@pytest.mark.parametrize("thing", THINGS)
def test_single_stream_is_the_same_with_and_without_planning(runtime: LlamaRuntime, thing: str) -> None:
    """A stream writes the same text and tokens with and without planning each step."""
    texts = []
    for planned in (True, False):
        said = StreamedText()
        ask(runtime, said, [thing])
        while runtime.busy:
            if planned:
                runtime._writers = []
            said.take(runtime.step())
        texts.append((said.texts, said.tokens))
    assert texts[0] == texts[1]


def test_streams_that_start_and_end_write_the_same_tokens(runtime: LlamaRuntime) -> None:
    """Two streams, a third that starts later and one that is cancelled write the same as when each step is planned."""
    texts, cut = [], []
    for planned in (True, False):
        said = StreamedText()
        ask(runtime, said, ["kettle", "lamp"])
        for step in range(2 * TOKENS):
            if step == 6:
                assert planned == (not runtime._writers)
                ask(runtime, said, ["shirt"])
                assert not runtime._writers
            if step == 12:
                cut.append(runtime._jobs["lamp"].tokens)
                said.take(runtime.cancel("lamp"))
                assert not runtime._writers
            said.take(runtime.step())
            if planned:
                runtime._writers = []
        assert not runtime.busy
        assert isinstance(said.ended["lamp"], FailureReport)
        assert isinstance(said.ended["kettle"], JobResult)
        del said.texts["lamp"]  # what was not due yet has gone with the job, and that is a matter of milliseconds
        texts.append((said.texts, said.tokens))
    assert {"kettle", "shirt"} == texts[0][0].keys() == texts[0][1].keys()
    assert texts[0] == texts[1]
    assert cut[0] == cut[1]


def test_bundle_attached_between_steps_changes_no_stream(runtime: LlamaRuntime) -> None:
    """A bundle's prompt is computed between two steps of the streams, which continue with the same tokens."""
    texts, twins = [], iter(("twin", "other"))
    for planned in (True, False):
        said = StreamedText()
        ask(runtime, said, ["kettle", "lamp"])
        write_on(runtime, said, 2)
        for _ in range(3):
            said.take(runtime.step())
        runtime.attach(twin := next(twins), MANIFEST, {})
        if planned:
            runtime._writers = []
        said.take(runtime.step())
        assert len(runtime._writers) == 2
        finish(runtime, said)
        runtime.detach(twin)
        texts.append((said.texts, said.tokens))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(16, marks=pytest.mark.slow)])
def test_failed_step_is_planned_again(runtime: LlamaRuntime, at: int) -> None:
    """A step with one row of each of five streams that is aborted is planned and repeated, and no token is lost or sent
    twice."""
    texts = []
    for disturbed in (True, False):
        said = StreamedText()
        ask(runtime, said, THINGS)
        write_on(runtime, said, len(THINGS))
        for _ in range(at):
            said.take(runtime.step())
        if disturbed:
            runtime._cache.context.abort()
            assert [] == runtime.step()
            assert not runtime._writers
            runtime._cache.context.forget_abort()
        finish(runtime, said)
        assert list(range(TOKENS, TOKENS - len(THINGS), -1)) == [len(said.tokens[thing]) for thing in THINGS]
        texts.append((said.texts, said.tokens))
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_many_streams_are_planned_step_by_step(runtime: LlamaRuntime) -> None:
    """A step with LONG_ROWS streams or more is always planned, because it must be possible to interrupt it."""
    for number in range(LONG_ROWS):
        runtime.submit(JobRequest(job_id=f"{number}", digest="w", text=f"thing {number}", output_tokens_max=TOKENS))
    while runtime.busy:
        runtime.step()
        assert len(runtime._writers) < LONG_ROWS


def in_a_row(place: SequenceSlot) -> bool:
    """Tell whether the last compacted tokens are in adjacent cells."""
    tail = place.cells[place.packed - 20 : place.packed]
    return len(tail) == 20 and tail == list(range(tail[0], tail[0] + 20))


@pytest.mark.slow
def test_tokens_of_streams_are_compacted(runtime: LlamaRuntime) -> None:
    """Without planning, the tokens of streams are moved into adjacent cells while no job leaves gaps, with the same
    texts as with planning, and nothing stays in the cache."""
    things = [f"{colour} {thing}" for colour in ("old", "small") for thing in THINGS]
    texts, gathered = [], 0
    for planned in (True, False):
        said = StreamedText()
        ask(runtime, said, things, 40)
        while runtime.busy:
            said.take(runtime.step())
            if planned:
                runtime._writers = []
            gathered += sum(map(in_a_row, runtime._cache._slots.values()))
        assert bool(gathered) != planned
        assert [event.finish for event in said.ended.values() if isinstance(event, JobResult)] == ["length"] * len(
            things
        )
        texts.append((said.texts, said.tokens))
    assert texts[0] == texts[1]
    runtime.tidy()
    assert runtime._cache._cells.taken == sum(len(each.cells) for each in runtime._cache._pinned_prefixes.pinned)

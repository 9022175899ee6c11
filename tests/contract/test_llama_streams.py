"""Streams that continue without new planning at each step write the same tokens as with it.

That a text does not depend on who else is there is test_llama_texts.py's. Here streams come one after the other, each
with a prompt that is read in one step however fast the machine is, and end in the same step, so that both ways of
computing them meet the same cells.
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


class Said:
    """What came of each job."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.ended: dict[str, Event] = {}

    @property
    def tokens(self) -> dict[str, tuple[Token, ...]]:
        """What each stream that is done has written, and how likely that was, to the last bit."""
        return {job_id: event.tokens for job_id, event in self.ended.items() if isinstance(event, JobResult)}

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TextChunk):
                self.texts[event.job_id] = self.texts.get(event.job_id, "") + event.text
            else:
                self.ended[event.job_id] = event


def ask(runtime: LlamaRuntime, said: Said, things: Sequence[str], tokens: int = TOKENS) -> None:
    """Ask for one stream after the other, a step apart; all come to their end in the same step."""
    for later, thing in enumerate(things):
        job = JobRequest(job_id=thing, digest="w", text=thing, output_tokens_max=tokens - later, logprobs=0)
        runtime.submit(job)
        assert runtime._jobs[thing].pending <= ROWS_MIN + len(runtime._bundles["w"].prompt.tokens)
        said.take(runtime.step())
        assert runtime._jobs[thing].computed == runtime._jobs[thing].input_tokens


def finish(runtime: LlamaRuntime, said: Said) -> Said:
    while runtime.busy:
        said.take(runtime.step())
    return said


def write_on(runtime: LlamaRuntime, said: Said, jobs: int) -> None:
    """Step until so many streams write on by themselves."""
    for _ in range(TOKENS):
        if len(runtime._writers) == jobs:
            return
        said.take(runtime.step())
    raise AssertionError("they do not write on")


@pytest.mark.parametrize("thing", THINGS)
def test_one_stream_says_what_it_says_when_each_step_is_planned(runtime: LlamaRuntime, thing: str) -> None:
    """Token for token."""
    texts = []
    for planned in (True, False):
        said = Said()
        ask(runtime, said, [thing])
        while runtime.busy:
            if planned:
                runtime._writers = []
            said.take(runtime.step())
        texts.append((said.texts, said.tokens))
    assert texts[0] == texts[1]


def test_streams_that_come_and_go(runtime: LlamaRuntime) -> None:
    """Two write, a third joins, one is cancelled: all the same as when each step is planned."""
    texts, cut = [], []
    for planned in (True, False):
        said = Said()
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


def test_a_bundle_that_is_attached_meanwhile(runtime: LlamaRuntime) -> None:
    """Its prompt is computed between two steps of the others, who write on at their own places."""
    texts, twins = [], iter(("twin", "other"))
    for planned in (True, False):
        said = Said()
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
def test_a_step_that_fails_is_planned_anew(runtime: LlamaRuntime, at: int) -> None:
    """One row of each of five streams, ended twice: as they wrote on, and as planned. Nothing is lost or said twice."""
    texts = []
    for disturbed in (True, False):
        said = Said()
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
def test_a_crowd_is_planned_step_by_step(runtime: LlamaRuntime) -> None:
    """A step that somebody has to be able to end is not one of those."""
    for number in range(LONG_ROWS):
        runtime.submit(JobRequest(job_id=f"{number}", digest="w", text=f"thing {number}", output_tokens_max=TOKENS))
    while runtime.busy:
        runtime.step()
        assert len(runtime._writers) < LONG_ROWS


def in_a_row(place: SequenceSlot) -> bool:
    """Tell whether the last tokens that were gathered lie side by side."""
    tail = place.cells[place.packed - 20 : place.packed]
    return len(tail) == 20 and tail == list(range(tail[0], tail[0] + 20))


@pytest.mark.slow
def test_what_streams_have_written_is_put_side_by_side(runtime: LlamaRuntime) -> None:
    """While nobody leaves holes, each says what it says where every step is planned; nothing is left behind."""
    things = [f"{colour} {thing}" for colour in ("old", "small") for thing in THINGS]
    texts, gathered = [], 0
    for planned in (True, False):
        said = Said()
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

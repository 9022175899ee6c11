"""Many inputs to classify at once on SmolLM2-135M: they share padded bulk steps, and no score changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.engine.protocol import Event, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.autotune import OTHERS, SAME
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.step_costs import EXACT_ROWS_MAX, ROWS_GROUP, padded_rows
from tests.contract.test_llama_runtime import CHAT, CONTEXT_TOKENS, LONG, SHORT, WEIGHTS, classify, make
from tests.support.attention import by_row
from tests.support.gguf_adapter import write_adapter
from tests.support.llama_mixed_jobs import cells_in_use, finish

TEXTS = [
    f"How much is the {colour} lamp by the door, and can it be sent to my sister on Friday?"
    for colour in ("red", "blue", "green", "white", "black", "brown", "yellow", "grey")
]


class Counted:
    """A runtime whose steps are counted; it is given the settings that it would otherwise measure."""

    def __init__(self, bulk_scores: str, groups: int) -> None:
        spec = LoadRequest(
            runtime="llama",
            weights=str(WEIGHTS),
            context_tokens=CONTEXT_TOKENS,
            threads=2,
            sequences_max=len(TEXTS) + 1,
        )
        measured = LlamaRuntime()
        settings = measured.load(spec) | {"bulk_scores": bulk_scores, "row_groups": str(groups)}
        measured.close()
        self.runtime = LlamaRuntime()
        assert "remembered" == self.runtime.load(msgspec.structs.replace(spec, tune=True, settings=settings))["tuned"]
        self.rows: list[int] = []
        decode = self.runtime._cache.context.decode

        def counted(parts: Any) -> None:
            self.rows.append(sum(len(part.tokens) for part in parts))
            decode(parts)

        self.runtime._cache.context.decode = counted  # type: ignore[method-assign]  # to look at what it is given
        self.runtime.attach("c", make(), {})
        self.runtime.attach("g", CHAT, {})
        for _ in range(2):  # it learns what steps cost
            self.together([SHORT, *TEXTS])
        self.rows.clear()

    def together(self, texts: list[str], digest: str = "c") -> list[JobResult]:
        """Classify texts at the same time; return their answers in order."""
        for number, text in enumerate(texts):
            self.runtime.submit(JobRequest(job_id=str(number), digest=digest, text=text))
        return self.answers(finish(self.runtime), len(texts))

    def answers(self, events: list[Event], count: int) -> list[JobResult]:
        """Return the answers to the texts."""
        found = {done.job_id: done for done in events if isinstance(done, JobResult)}
        self.runtime.tidy()
        return [found[str(number)] for number in range(count)]


@pytest.fixture(scope="module")
def alone() -> Iterator[LlamaRuntime]:
    """Load a runtime that uses only small steps and pads none."""
    counted = Counted(OTHERS, 0)
    counted.together(TEXTS)
    assert max(counted.rows) <= EXACT_ROWS_MAX
    yield counted.runtime
    counted.runtime.close()


@pytest.fixture(scope="module")
def crowd() -> Iterator[Counted]:
    """Load a runtime that uses bulk steps and pads them."""
    counted = Counted(SAME, ROWS_GROUP)
    yield counted
    counted.runtime.close()


@pytest.mark.slow
@by_row
def test_scores_in_bulk_steps_equal_scores_alone(alone: LlamaRuntime, crowd: Counted) -> None:
    """Many texts, including long ones that the prefix cache keeps, share bulk steps with the same scores as alone, and
    again when they are found in the cache."""
    texts = [f"{LONG[:300]} {TEXTS[0]}", *TEXTS[1:]]
    expected = [classify(alone, text).scores for text in texts]
    assert expected == [done.scores for done in crowd.together(texts)]
    assert max(crowd.rows) > EXACT_ROWS_MAX
    assert expected == [done.scores for done in crowd.together(texts)]


@pytest.mark.slow
@by_row
def test_stream_in_a_bulk_step_changes_no_score(alone: LlamaRuntime, crowd: Counted) -> None:
    """A generation's row in a bulk step changes no score."""
    crowd.runtime.submit(JobRequest(job_id="story", digest="g", text="Tell me about lamps.", output_tokens_max=30))
    events = [event for _ in range(4) for event in crowd.runtime.step()]
    for number, text in enumerate(TEXTS):
        crowd.runtime.submit(JobRequest(job_id=str(number), digest="c", text=text))
    found = crowd.answers([*events, *finish(crowd.runtime)], len(TEXTS))
    assert [classify(alone, text).scores for text in TEXTS] == [done.scores for done in found]


@pytest.mark.slow
@by_row
def test_bundle_with_an_adapter_uses_small_steps(alone: LlamaRuntime, crowd: Counted, tmp_path: Path) -> None:
    """Inputs of a bundle with an adapter are computed in small steps, because its half-float matrices were not measured
    in steps of any size."""
    paths = {"adapter": str(write_adapter(tmp_path / "tuned.gguf", 1))}
    for runtime in (alone, crowd.runtime):
        runtime.attach("tuned", make(), paths)
    crowd.rows.clear()
    found = crowd.together(TEXTS, "tuned")
    assert max(crowd.rows) <= EXACT_ROWS_MAX
    assert [classify(alone, text, "tuned").scores for text in TEXTS] == [done.scores for done in found]
    for runtime in (alone, crowd.runtime):
        runtime.detach("tuned")


@pytest.mark.slow
def test_padding_rows_change_nothing_and_are_removed(alone: LlamaRuntime, crowd: Counted) -> None:
    """Steps are padded with rows that belong to no job, change no score and leave no cells behind."""
    crowd.rows.clear()
    before = cells_in_use(crowd.runtime)
    texts = [TEXTS[0][:length] for length in range(5, len(TEXTS[0]), 7)]
    assert [classify(alone, text).scores for text in texts] == [classify(crowd.runtime, text).scores for text in texts]
    assert crowd.rows == [padded_rows(rows, ROWS_GROUP) for rows in crowd.rows]
    assert before == cells_in_use(crowd.runtime)

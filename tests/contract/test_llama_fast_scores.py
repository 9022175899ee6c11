"""Fast scores on SmolLM2-135M: what a crowd's answers are off by, who says so, and what stays exact."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from edge_agent.engine.protocol import Done, Run
from edge_agent.engine.runtimes.llama.runtime import LlamaRuntime
from tests.contract.test_llama_runtime import LONG, SHORT, classify, finish, load, make

TEXTS = [
    f"How much is the {colour} lamp by the door, and can it be sent to my sister on Friday?"
    for colour in ("red", "blue", "green", "white", "black", "brown", "yellow", "grey")
]
JOBS = len(TEXTS)


@pytest.fixture(scope="module")
def exact() -> Iterator[LlamaRuntime]:
    """Load as a site has it that did not ask for fast scores."""
    yield from loaded(fast=False)


@pytest.fixture(scope="module")
def fast() -> Iterator[LlamaRuntime]:
    """Load as one that did."""
    yield from loaded(fast=True)


def loaded(*, fast: bool) -> Iterator[LlamaRuntime]:
    """Return a runtime that knows what steps cost."""
    runtime = load(sequences_max=JOBS, fast_scores=fast)
    runtime.attach("c", make(), {})
    for _ in range(2):
        together(runtime, [SHORT, *TEXTS])
    yield runtime
    runtime.close()


def together(runtime: LlamaRuntime, texts: list[str]) -> list[Done]:
    """Classify texts at the same time; return their answers in order."""
    for number, text in enumerate(texts):
        runtime.submit(Run(job_id=str(number), digest="c", text=text))
    answers = {done.job_id: done for done in finish(runtime) if isinstance(done, Done)}
    runtime.tidy()
    return [answers[str(number)] for number in range(len(texts))]


def log_odds(probability: float) -> float:
    """Return what noise is told in."""
    return math.log(probability / (1 - probability))


def test_a_crowd_says_by_how_much_it_may_be_off(exact: LlamaRuntime, fast: LlamaRuntime) -> None:
    """Its scores are not those of an exact engine, and no further from them than they say."""
    crowd, alone = together(fast, TEXTS), [classify(exact, text) for text in TEXTS]
    blurred = [(there, here) for there, here in zip(crowd, alone, strict=True) if there.noise]
    assert len(blurred) > JOBS / 2, "a crowd shares bulk steps"
    assert any(there.scores != here.scores for there, here in blurred)
    for there, here in blurred:
        best = max(range(len(here.scores)), key=here.scores.__getitem__)
        assert abs(log_odds(there.scores[best]) - log_odds(here.scores[best])) <= there.noise


def test_whoever_is_alone_is_exact(exact: LlamaRuntime, fast: LlamaRuntime) -> None:
    """A text by itself, a few, and a crowd's own texts asked again afterwards have the bits of an exact engine."""
    together(fast, TEXTS)
    assert [(classify(exact, text).scores, 0.0) for text in TEXTS[:2]] == [
        ((done := classify(fast, text)).scores, done.noise) for text in TEXTS[:2]
    ]
    few = together(fast, [SHORT, TEXTS[0]])
    assert [classify(exact, text).scores for text in (SHORT, TEXTS[0])] == [done.scores for done in few]
    assert [0.0, 0.0] == [done.noise for done in few]


def test_nothing_exact_stands_on_what_is_not(exact: LlamaRuntime, fast: LlamaRuntime) -> None:
    """A text so long that it is kept, read in a crowd, is not what it is found as when it is asked again in peace."""
    long = f"{LONG[:300]} {TEXTS[0]}"
    crowd = together(fast, [long, *TEXTS[1:]])
    assert crowd[0].noise, "it was in a bulk step"
    again = classify(fast, long)
    assert (0.0, classify(exact, long).scores) == (again.noise, again.scores)


def test_an_exact_engine_has_no_noise(exact: LlamaRuntime) -> None:
    """Unasked, a crowd has the bits of whoever is alone."""
    crowd = together(exact, TEXTS)
    assert [0.0] * JOBS == [done.noise for done in crowd]
    assert [classify(exact, text).scores for text in TEXTS] == [done.scores for done in crowd]

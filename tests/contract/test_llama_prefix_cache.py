"""Scores with the prefix cache compared with scores without: many jobs in any order, on several adapters, in little
memory.

The comparison is of bits: every batch with a score has fewer than 64 rows and its cells in order, so the shape of a
batch changes no score of quantized weights, nor of the tiny model's float weights (tested here).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.kv_cache import KEPT_TOKENS_MIN
from edge_agent.engine.runtimes.llama.llama_context import ContextShape, LlamaContext, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.contract.test_llama_runtime import LONG, TEMPLATE, make
from tests.support import tiny_gguf
from tests.support.gguf_adapter import TINY, write_adapter
from tests.support.llama_mixed_jobs import finish
from tests.support.models import smollm2_path

WORDS = (LONG + "Where are the toilets, and when do you close on Sundays? Size nine boots, please.").split()
BUNDLES = 5


def texts(dice: random.Random, count: int) -> list[str]:
    """Return texts of which many share a beginning: some are short, some longer than the cache keeps."""
    made: list[str] = []
    for _ in range(count):
        start = dice.choice(made).split() if made and dice.random() < 0.6 else []
        words = start[: dice.randrange(len(start) + 1)] + dice.choices(WORDS, k=dice.randrange(1, 60))
        made.append(" ".join(words)[:600])
    return made


def load(weights: Path, kept: int) -> LlamaRuntime:
    runtime = LlamaRuntime()
    runtime.load(
        LoadRequest(
            runtime="llama", weights=str(weights), context_tokens=320, sequences_max=5, prompt_cache_bytes_max=kept
        )
    )
    return runtime


def attach(runtime: LlamaRuntime, adapters: list[Path]) -> list[str]:
    """Attach a bundle for each adapter, and one without, whose prompts share a beginning."""
    digests = []
    for place, adapter in enumerate([None, *adapters]):
        paths = {"adapter": str(adapter)} if adapter else {}
        manifest = make(
            prompt={"template": f"{TEMPLATE[: 60 + 9 * place]} {{input}}\nWants:"},
            limits={"input_tokens_max": 300, "output_tokens_max": 1},
            labels=("refund", "price", "opening hours", "opening times", "lost and found"),
        )
        runtime.attach(str(place), manifest, paths)
        digests.append(str(place))
    return digests


def compare(weights: Path, adapters: list[Path], jobs: int, kept: int) -> tuple[int, int]:
    """Run the jobs in random order next to each other, then each alone without a cache; return hits and lookups."""
    dice = random.Random(jobs)
    inputs = texts(dice, max(20, jobs // 10))
    runtime = load(weights, kept)
    digests = attach(runtime, adapters)
    asked = {str(job): (dice.choice(digests), dice.choice(inputs)) for job in range(jobs)}
    answers: dict[str, JobResult] = {}
    waiting = list(asked)
    while waiting or runtime.busy:
        for job_id in waiting[: dice.randrange(4)]:
            digest, text = asked[job_id]
            runtime.submit(JobRequest(job_id=job_id, digest=digest, text=text))
            waiting.remove(job_id)
        events = runtime.step() if runtime.busy else []
        answers |= {event.job_id: event for event in events if isinstance(event, JobResult)}
    use = runtime.cache_use
    runtime.close()
    assert use is not None
    assert use.kept_bytes <= kept
    assert asked.keys() == answers.keys()
    fresh = load(weights, kept)
    attach(fresh, adapters)
    alone: dict[tuple[str, str], JobResult] = {}
    for job_id, question in asked.items():
        if question not in alone:
            fresh._cache._stored.clear()  # prompts of bundles too: every token is computed
            fresh.submit(JobRequest(job_id="alone", digest=question[0], text=question[1]))
            (done,) = finish(fresh)
            assert isinstance(done, JobResult)
            alone[question] = done
        expected, answer = alone[question], answers[job_id]
        assert expected.scores == answer.scores
        assert expected.label_mass == answer.label_mass
    fresh.close()
    return use.hits, use.lookups


def tiny(folder: Path) -> tuple[Path, list[Path]]:
    """Return a model of three layers with meaningful attention, and adapters for it."""
    weights = tiny_gguf.write(folder / "tiny.gguf", sharpened=True)
    return weights, [write_adapter(folder / f"{seed}.gguf", seed, model=TINY) for seed in range(BUNDLES - 1)]


def test_number_of_rows_with_logits_changes_no_bit(tmp_path: Path) -> None:
    """The number of rows with logits in a step does not change the logits, for weights that are not quantized either,
    on every build (decision 0051)."""
    weights, _ = tiny(tmp_path)
    model = LlamaModel(str(weights))
    context = LlamaContext(model, ContextShape(cells=256, sequences=2, kv_type="f16", threads=1))
    tokens = model.tokenize(LONG, special=False)
    worst = 0.0
    for count in (2, 3, 8, 21, 63):
        context.decode([TokenRows(0, 0, tokens[:count], logits=1)])
        one = context.logits(count - 1).copy()
        context.drop(0)
        context.decode([TokenRows(0, 0, tokens[:count], logits=count)])
        worst = max(worst, float(abs(context.logits(count - 1) - one).max()))
        context.drop(0)
    context.close()
    model.close()
    assert 0 == worst


@pytest.mark.slow
def test_scores_are_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    """Every answer is the same with the cache as without, while prefixes are found, split and evicted."""
    hits, lookups = compare(*tiny(tmp_path), jobs=200, kept=60_000)
    assert 0 < hits < lookups


@pytest.mark.release
def test_thousands_of_scores_are_the_same_with_and_without_cache(tmp_path: Path) -> None:
    """4,000 jobs have the same answers with the cache as without."""
    hits, lookups = compare(*tiny(tmp_path), jobs=4000, kept=60_000)
    assert 0 < hits < lookups


@pytest.mark.release
def test_real_model_scores_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    """SmolLM2 with quantized weights, which amplify rounding differences, has the same answers with the cache as
    without."""
    adapters = [write_adapter(tmp_path / f"{seed}.gguf", seed) for seed in range(2)]
    hits, lookups = compare(smollm2_path(), adapters, jobs=120, kept=12_000_000)
    assert 0 < hits < lookups


def test_cached_prompt_is_not_computed_again(tmp_path: Path) -> None:
    """A repeated text computes one token, a text that continues it computes only the new part, and a short text is not
    cached."""
    weights, _ = tiny(tmp_path)
    runtime = load(weights, 2**20)
    attach(runtime, [])
    counts = []
    long = " ".join(WORDS[:40])
    for text in (long, long, f"{long} and {long[:90]}", "Where?", "Where?"):
        before = runtime.cache_use
        assert before is not None
        already = before.computed
        runtime.submit(JobRequest(job_id="a", digest="0", text=text))
        finish(runtime)
        after = runtime.cache_use
        assert after is not None
        counts.append(after.computed - already)
    runtime.close()
    first, again, longer, short, short_again = counts
    assert first > KEPT_TOKENS_MIN > again
    assert first > longer > again
    assert short == short_again

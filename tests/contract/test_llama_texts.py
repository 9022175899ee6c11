"""A generated text is the same in any batch, to the last bit of its log-probabilities (decision 66)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest, Token
from edge_agent.engine.runtimes.llama.kv_cache import HELD_MIN
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.contract.test_llama_rows import LABELS, LAYERS, TEXTS, WIDTH, format_of_weights, weights
from tests.contract.test_llama_runtime import make
from tests.support.gguf_adapter import write_adapter
from tests.support.models import smollm2_path

WRITERS, TOKENS_MAX = 12, 90
"""Texts that are compared; they come at different times, and some end early."""
SEEDS_MAX = 10
CONTEXT_TOKENS = 192
LIMITS = {"input_tokens_max": 96, "output_tokens_max": TOKENS_MAX}
Told = tuple[Token, ...]


class Writers:
    """A runtime with bundles that generate, with and without an adapter, and one that scores."""

    def __init__(self, path: Path, adapter: Path | None) -> None:
        self.runtime = LlamaRuntime()
        self.runtime.load(
            LoadRequest(runtime="llama", weights=str(path), context_tokens=CONTEXT_TOKENS, sequences_max=6)
        )
        prompt = {"template": "A message at a counter, and what was said then.\n{input}\n"}
        self.runtime.attach("write", make("generate", prompt=prompt, limits=LIMITS), {})
        self.runtime.attach("sort", make(prompt=prompt, labels=LABELS, limits=LIMITS), {})
        if adapter is not None:
            self.runtime.attach("tuned", make("generate", prompt=prompt, limits=LIMITS), {"adapter": str(adapter)})
        self.digests = ("write", "tuned") if adapter is not None else ("write",)
        self.held = 0

    def alone(self, number: int) -> Told:
        """Return a text that is generated alone."""
        self._ask(number, TOKENS_MAX)
        told: dict[str, Told] = {}
        while self.runtime.busy:
            self._step(told)
        self.runtime.tidy()
        return told[str(number)]

    def in_company(self, seed: int) -> dict[str, Told]:
        """Return all texts, which start at moments that depend on the seed, next to shorter ones and scores."""
        chosen, told = random.Random(seed), dict[str, Told]()
        coming = list(range(WRITERS))
        others = 0
        while coming or self.runtime.busy:
            if coming and chosen.random() < 0.1:
                number = coming.pop(chosen.randrange(len(coming)))
                self._ask(number, chosen.choice((TOKENS_MAX, TOKENS_MAX, 20)))
            for digest in ("write", "sort"):
                if coming and chosen.random() < 0.12:
                    others += 1
                    self._ask(others % len(TEXTS), chosen.randrange(1, 30), digest, f"other {others}")
            if self.runtime.busy:
                self._step(told)
        self.runtime.tidy()
        return told

    def _ask(self, number: int, tokens: int, digest: str = "", job_id: str = "") -> None:
        digest = digest or self.digests[number % len(self.digests)]
        self.runtime.submit(
            JobRequest(
                job_id=job_id or str(number), digest=digest, text=TEXTS[number], output_tokens_max=tokens, logprobs=0
            )
        )

    def _step(self, told: dict[str, Told]) -> None:
        for event in self.runtime.step():
            if isinstance(event, JobResult):
                told[event.job_id] = event.tokens
        self.held = max(self.held, self.runtime._cache._cells.held)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for weights."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "tuned.gguf", 1, model=(WIDTH, LAYERS))


def require_the_same(writers: Writers) -> None:
    """Require that each text next to other jobs has the bits that it has alone, as far as it gets, until streams were
    moved. That moment depends on how long steps take, as the order of the jobs does."""
    alone = {str(number): writers.alone(number) for number in range(WRITERS)}
    assert WRITERS == len({repr(told) for told in alone.values()})
    for seed in range(SEEDS_MAX):
        told = writers.in_company(seed)
        wrong = [number for number in alone if told[number] != alone[number][: len(told[number])]]
        assert [] == wrong, f"seed {seed}"
        if writers.held >= HELD_MIN:
            break
    assert writers.held >= HELD_MIN
    assert 0 == writers.runtime._cache._cells.held
    writers.runtime.close()


@format_of_weights
def test_texts_are_the_same_next_to_other_jobs(folder: Path, adapter: Path, kind: str) -> None:
    """Texts are the same while other jobs start, end and are scored next to them, with an adapter and without."""
    require_the_same(Writers(weights(folder, kind), adapter))


@pytest.mark.slow
def test_real_model_writes_the_same_texts_next_to_other_jobs() -> None:
    """SmolLM2, whose steps are long enough for jobs to arrive meanwhile, writes the same texts next to other jobs."""
    require_the_same(Writers(smollm2_path(), None))

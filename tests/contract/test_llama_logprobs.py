"""The llama runtime's log-probabilities of generated tokens, on SmolLM2-135M-Instruct."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest, Token
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from tests.support import bundles

TEXT, TOKENS = "Say hello.", 6


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaRuntime]:
    """Load once, with one task that generates."""
    folder: Path = bundles.smollm2_bundle(tmp_path_factory.mktemp("talk") / "talk", "generate")
    loaded = LlamaRuntime()
    paths = bundles.paths_of(folder)
    loaded.load(LoadRequest(runtime="llama", weights=paths["weights"], context_tokens=256, sequences_max=1))
    loaded.attach("g", bundles.manifest_of(folder), paths)
    yield loaded
    loaded.close()


def written(runtime: LlamaRuntime, **options: Any) -> tuple[str, tuple[Token, ...]]:
    """Return the text and the reported tokens."""
    runtime.submit(JobRequest(job_id="one", digest="g", text=TEXT, output_tokens_max=TOKENS, **options))
    text = ""
    while runtime.busy:
        for event in runtime.step():
            if isinstance(event, JobResult):
                assert len(event.tokens) in (0, event.output_tokens)
                return text, event.tokens
            text += getattr(event, "text", "")
    raise AssertionError("it did not end")


def test_logprobs_are_reported_for_each_token(runtime: LlamaRuntime) -> None:
    """With `logprobs` each token of the text has its log-probability and the likeliest alternatives, the first of which
    is the token itself in a greedy text. The text does not change, and without `logprobs` no tokens are reported."""
    text, none = written(runtime)
    assert () == none
    same, tokens = written(runtime, logprobs=3)
    assert text == same
    assert text == b"".join(token.piece for token in tokens).decode()
    for token in tokens:
        assert (token.piece, token.logprob) == token.alternatives[0]
        odds = [logprob for _, logprob in token.alternatives]
        assert sorted(odds, reverse=True) == odds
        assert 0 < sum(map(math.exp, odds)) <= 1.0001


def test_logprobs_are_those_before_temperature(runtime: LlamaRuntime) -> None:
    """The first token has the same alternatives at temperature 2 as in a greedy text, and the same seed gives the same
    tokens."""
    _, cold = written(runtime, logprobs=5)
    hot = [written(runtime, logprobs=5, temperature=2.0, seed=seed)[1] for seed in (7, 7, 8)]
    assert hot[0] == hot[1] != hot[2]
    assert [cold[0].alternatives] * 3 == [tokens[0].alternatives for tokens in hot]
    _, bare = written(runtime, logprobs=0, temperature=2.0, seed=7)
    assert [(token.piece, token.logprob, ()) for token in hot[0]] == [tuple(each) for each in map(parts, bare)]


def parts(token: Token) -> tuple[bytes, float, tuple[tuple[bytes, float], ...]]:
    """Return a token's fields."""
    return token.piece, token.logprob, token.alternatives

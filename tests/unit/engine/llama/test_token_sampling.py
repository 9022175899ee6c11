"""edge_agent/engine/runtimes/llama/token_sampling.py against the plain definitions, in double precision."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.token_sampling import (
    BLOCK,
    TEMPERATURE_MIN,
    TokenSampler,
    likeliest_tokens,
    token_at,
)

SIZES = st.sampled_from([1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
EDGE = 1e-5
"""Single precision moves the border between two tokens by less than this."""


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Return a row of logits, with ties and tokens that are ruled out."""
    size, spread, kinds = draw(SIZES), draw(st.sampled_from([0.0, 0.5, 4.0, 30.0])), draw(st.integers(1, 9))
    logits = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(0, spread, size).astype(np.float32)
    logits[:: kinds + 1] = logits[0]
    logits[kinds :: 2 * kinds] = -np.inf if draw(st.booleans()) else logits.max()
    return logits


def reached(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the cumulative distribution by its definition."""
    plain = logits.astype(np.float64)
    shares = np.exp((plain - plain.max()) / temperature)
    return np.cumsum(shares / shares.sum())


@given(rows(), st.sampled_from([0.05, 0.7, 1.0, 2.0]), st.integers(0, 2**64 - 1))
def test_a_token_is_drawn_by_its_probability(logits: np.ndarray, temperature: float, seed: int) -> None:
    """It is the first one whose cumulative probability exceeds a uniform number: that of the seed."""
    token = TokenSampler(temperature, seed).draw(logits, int(logits.argmax()))
    until, place = reached(logits, temperature), random.Random(seed).random()
    assert (until[token - 1] if token else 0.0) <= place + EDGE
    assert place - EDGE <= until[token]
    assert logits[token] > -np.inf


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4 * BLOCK).filter(any), st.data())
def test_every_share_is_drawn_from_its_begin_to_its_end(shares: list[int], data: st.DataObject) -> None:
    """Shares that single precision holds exactly: each place belongs to the token that the definition gives it to."""
    total = sum(shares)
    place = data.draw(st.integers(0, total - 1))
    expected = int(np.cumsum(shares).searchsorted(place, "right"))
    assert expected == token_at(np.array(shares, np.float32), (place + 0.25) / total)


@pytest.mark.parametrize("place", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_what_has_no_share_is_never_drawn(place: float) -> None:
    """Neither at the ends nor between: with one token that can be, it is that one."""
    for size in (1, BLOCK, 2 * BLOCK + 3):
        for token in {0, size // 2, size - 1}:
            shares = np.zeros(size, np.float32)
            shares[token] = 0.1
            assert token == token_at(shares, place)


def test_tokens_come_as_often_as_they_are_likely() -> None:
    """Of 4,000 draws with one sampler each token has its part (within four standard deviations)."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    sampler, draws = TokenSampler(1.0, 7), 4000
    counts = np.bincount([sampler.draw(logits, 0) for _ in range(draws)], minlength=4)
    expected = np.exp(logits.astype(np.float64))
    assert (np.abs(counts - draws * expected) < 4 * np.sqrt(draws * expected * (1 - expected))).all()


def test_a_seed_draws_the_same_again() -> None:
    """Two samplers of one seed draw alike; one of another seed does not."""
    logits = np.random.default_rng(1).normal(0, 1, 1000).astype(np.float32)
    one, again, other = (
        [s.draw(logits, int(logits.argmax())) for _ in range(50)]
        for s in (TokenSampler(0.9, seed) for seed in (5, 5, 6))
    )
    assert one == again
    assert one != other


def test_a_temperature_next_to_nothing_draws_the_likeliest() -> None:
    """However small it is, also where single precision holds it for 0; equal logits share the draw."""
    logits = np.array([1.0, 3.0, 2.9, 3.0], np.float32)
    for temperature in (TEMPERATURE_MIN, 1e-60, 5e-324):
        drawn = {TokenSampler(temperature, seed).draw(logits, 1) for seed in range(30)}
        assert {1, 3} == drawn


def test_what_is_no_number_is_told() -> None:
    """NaN anywhere, or an infinite logit, draws nothing."""
    for logits in ([1.0, np.nan, 0.0], [np.inf, 1.0]):
        assert -1 == TokenSampler(1.0, 1).draw(np.array(logits, np.float32), 0)


def test_the_logits_are_left_alone() -> None:
    """They are the model's own memory: nothing is written to them."""
    logits = np.random.default_rng(2).normal(0, 1, 700).astype(np.float32)
    before = logits.tobytes()
    TokenSampler(0.5, 1).draw(logits, int(logits.argmax()))
    likeliest_tokens(logits, 20)
    assert before == logits.tobytes()


@given(rows(), st.integers(0, 20))
def test_the_likeliest_are_those_of_a_stable_sort(logits: np.ndarray, count: int) -> None:
    """The highest first, and of equal ones the lower number, as if all of them were sorted."""
    assert np.argsort(-logits, kind="stable")[:count].tolist() == likeliest_tokens(logits, count)


@pytest.mark.parametrize(("count", "best"), [(0, []), (1, [3]), (3, [3, 0, 4])])
def test_the_likeliest_come_in_their_order(count: int, best: list[int]) -> None:
    """As many as were asked for, the highest logit first."""
    assert best == likeliest_tokens(np.array([2.0, -1.0, 0.0, 5.0, 1.0], np.float32), count)

"""Token probabilities: label scores and sampling, compared with plain definitions in double precision."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.token_probabilities import (
    BLOCK,
    TEMPERATURE_MIN,
    LabelScorer,
    LabelTree,
    TokenSampler,
    TreeChunk,
    label_scores,
    likeliest_tokens,
    log_probs,
    token_at,
)

VOCABULARY = 12


def row_for(history: tuple[int, ...]) -> np.ndarray:
    """Return the logits that a simulated model gives after these tokens."""
    return np.random.default_rng([7, *history]).normal(0, 3, VOCABULARY).astype(np.float32)


def naive(path: tuple[int, ...]) -> float:
    """Return the joint log-probability of a label, token by token."""
    total = 0.0
    for i, token in enumerate(path):
        total += float(log_probs(row_for(path[:i]), [token])[0])  # sum() rounds in another way from Python 3.12 on
    return total


def tallied(paths: list[tuple[int, ...]], rows_max: int) -> list[float]:
    """Return the joint log-probabilities from a tree that is computed in steps."""
    tree = LabelTree([str(path) for path in paths], paths)
    tally = LabelScorer(tree)
    tally.add_prompt(row_for(()))
    for chunk in tree.chunks(rows_max, rows_max):
        behind = chunk_histories(chunk)
        tally.add_chunk(chunk, [row_for(history) for history in behind[chunk.known :]])
    return tally.joint.tolist()


def chunk_histories(chunk: TreeChunk) -> list[tuple[int, ...]]:
    """Return, for each row of a chunk, the tokens up to and including its own."""
    sequences: list[tuple[int, ...]] = [()] * chunk.branches
    rows = []
    for token, first, last in zip(chunk.tokens, chunk.first, chunk.last, strict=True):
        sequences[first:last] = [(*sequences[first], token)] * (last - first)
        rows.append(sequences[first])
    return rows


def test_log_probs_are_a_softmax() -> None:
    """Over the whole vocabulary the probabilities add up to 1, also for very large logits."""
    logits = row_for(()) + np.float32(10_000)
    assert math.isclose(1.0, float(np.exp(log_probs(logits, range(VOCABULARY))).sum()), rel_tol=1e-5)


def test_log_probs_agree_with_double_precision() -> None:
    """Over a vocabulary of 152,000 tokens the log-probabilities are within 1e-6 of those computed in float64."""
    logits = np.random.default_rng(3).normal(0, 4, 152_000).astype(np.float32)
    exact = logits[:50].astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    assert pytest.approx(exact, abs=1e-6) == log_probs(logits, range(50))


def test_log_probs_do_not_modify_the_logits() -> None:
    """The logits, which are the model's own memory, are not written to."""
    logits = row_for(())
    log_probs(logits, [0])
    assert row_for(()).tolist() == logits.tolist()


PATHS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5).map(tuple), min_size=2, max_size=40, unique=True
)


@given(PATHS, st.integers(4, 63))
def test_joint_log_probabilities_equal_naive_ones(paths: list[tuple[int, ...]], rows_max: int) -> None:
    """For any set of labels, in steps of any size, the sums equal to the last bit those of one pass for each label."""
    assert [naive(path) for path in paths] == tallied(paths, rows_max)


@given(PATHS)
def test_branches_can_be_computed_separately(paths: list[tuple[int, ...]]) -> None:
    """One sequence for each branch, in any order, gives the same sums as shared rows."""
    tree = LabelTree([str(path) for path in paths], paths)
    tally = LabelScorer(tree)
    tally.add_prompt(row_for(()))
    for branch in sorted(tree.branches, key=len):
        tally.add_branch(branch, [row_for(branch[: i + 1]) for i in range(len(branch))])
    assert tallied(paths, 63) == tally.joint.tolist()


def test_label_mass_is_the_probability_before_renormalising() -> None:
    """Two labels with probabilities 0.2 and 0.1 have a mass of 0.3 and scores of 2/3 and 1/3."""
    scores, mass = label_scores(np.log([0.2, 0.1]), temperature=1.0)
    assert pytest.approx((2 / 3, 1 / 3)) == scores
    assert pytest.approx(0.3) == mass


def test_temperature_flattens_the_scores_but_not_the_mass() -> None:
    """A high temperature moves the scores towards each other; the mass is the model's own and stays."""
    joint = np.log([0.6, 0.1])
    cold, warm = label_scores(joint, temperature=1.0), label_scores(joint, temperature=4.0)
    assert cold[0][0] > warm[0][0] > 0.5
    assert cold[1] == warm[1]


@given(
    st.lists(st.floats(-700, 0), min_size=2, max_size=50),
    st.floats(0.01, 100),
)
def test_scores_are_probabilities(joint: list[float], temperature: float) -> None:
    """Scores add up to 1 and keep the order of the labels; the mass stays in [0, 1]."""
    scores, mass = label_scores(np.array(joint), temperature)
    assert math.isclose(1.0, sum(scores), rel_tol=1e-9)
    assert 0.0 <= mass <= 1.0
    assert scores[int(np.argmax(joint))] == max(scores)


SIZES = st.sampled_from([1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
EDGE = 1e-5
"""Single precision moves the border between two tokens by less than this."""


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Return a row of logits with ties and excluded tokens."""
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
def test_token_is_sampled_by_its_probability(logits: np.ndarray, temperature: float, seed: int) -> None:
    """The sampled token is the first one whose cumulative probability exceeds the uniform number of the seed."""
    token = TokenSampler(temperature, seed).draw(logits, int(logits.argmax()))
    until, place = reached(logits, temperature), random.Random(seed).random()
    assert (until[token - 1] if token else 0.0) <= place + EDGE
    assert place - EDGE <= until[token]
    assert logits[token] > -np.inf


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4 * BLOCK).filter(any), st.data())
def test_token_at_covers_each_share_exactly(shares: list[int], data: st.DataObject) -> None:
    """For shares that single precision represents exactly, each position belongs to the token of the plain
    definition."""
    total = sum(shares)
    place = data.draw(st.integers(0, total - 1))
    expected = int(np.cumsum(shares).searchsorted(place, "right"))
    assert expected == token_at(np.array(shares, np.float32), (place + 0.25) / total)


@pytest.mark.parametrize("place", [0.0, 0.5, math.nextafter(1.0, 0.0)])
def test_token_without_probability_is_never_sampled(place: float) -> None:
    """If one token has all the probability, that token is sampled at every position, in arrays of one and more
    blocks."""
    for size in (1, BLOCK, 2 * BLOCK + 3):
        for token in {0, size // 2, size - 1}:
            shares = np.zeros(size, np.float32)
            shares[token] = 0.1
            assert token == token_at(shares, place)


def test_sampled_frequencies_match_the_probabilities() -> None:
    """In 4,000 draws with one sampler each token has its expected share within four standard deviations."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    sampler, draws = TokenSampler(1.0, 7), 4000
    counts = np.bincount([sampler.draw(logits, 0) for _ in range(draws)], minlength=4)
    expected = np.exp(logits.astype(np.float64))
    assert (np.abs(counts - draws * expected) < 4 * np.sqrt(draws * expected * (1 - expected))).all()


def test_same_seed_samples_the_same_tokens() -> None:
    """Two samplers with the same seed sample the same tokens; one with another seed does not."""
    logits = np.random.default_rng(1).normal(0, 1, 1000).astype(np.float32)
    one, again, other = (
        [s.draw(logits, int(logits.argmax())) for _ in range(50)]
        for s in (TokenSampler(0.9, seed) for seed in (5, 5, 6))
    )
    assert one == again
    assert one != other


def test_tiny_temperature_samples_the_likeliest_token() -> None:
    """With a tiny temperature, even one that single precision rounds to 0, the likeliest token is sampled; tokens with
    equal logits share the draws."""
    logits = np.array([1.0, 3.0, 2.9, 3.0], np.float32)
    for temperature in (TEMPERATURE_MIN, 1e-60, 5e-324):
        drawn = {TokenSampler(temperature, seed).draw(logits, 1) for seed in range(30)}
        assert {1, 3} == drawn


def test_nan_and_infinite_logits_are_reported() -> None:
    """If a logit is NaN or infinite, the sampler returns -1."""
    for logits in ([1.0, np.nan, 0.0], [np.inf, 1.0]):
        assert -1 == TokenSampler(1.0, 1).draw(np.array(logits, np.float32), 0)


def test_sampling_does_not_modify_the_logits() -> None:
    """Sampling and `likeliest_tokens` do not write to the logits, which are the model's own memory."""
    logits = np.random.default_rng(2).normal(0, 1, 700).astype(np.float32)
    before = logits.tobytes()
    TokenSampler(0.5, 1).draw(logits, int(logits.argmax()))
    likeliest_tokens(logits, 20)
    assert before == logits.tobytes()


@given(rows(), st.integers(0, 20))
def test_likeliest_tokens_equal_a_stable_sort(logits: np.ndarray, count: int) -> None:
    """The likeliest tokens are ordered by logit, and equal logits by token number, as in a stable sort of all
    tokens."""
    assert np.argsort(-logits, kind="stable")[:count].tolist() == likeliest_tokens(logits, count)


@pytest.mark.parametrize(("count", "best"), [(0, []), (1, [3]), (3, [3, 0, 4])])
def test_likeliest_tokens_are_ordered_by_logit(count: int, best: list[int]) -> None:
    """As many tokens as requested are returned, the highest logit first."""
    assert best == likeliest_tokens(np.array([2.0, -1.0, 0.0, 5.0, 1.0], np.float32), count)

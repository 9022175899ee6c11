"""edge_agent/engine/runtimes/llama/label_scoring.py"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.label_scoring import LabelScorer, LabelTree, TreeChunk, label_scores, log_probs

VOCABULARY = 12


def row_for(history: tuple[int, ...]) -> np.ndarray:
    """Return the logits of a make-believe model behind these tokens."""
    return np.random.default_rng([7, *history]).normal(0, 3, VOCABULARY).astype(np.float32)


def naive(path: tuple[int, ...]) -> float:
    """Return the joint log-probability of a label, token by token."""
    return sum(float(log_probs(row_for(path[:i]), [token])[0]) for i, token in enumerate(path))


def tallied(paths: list[tuple[int, ...]], rows_max: int) -> list[float]:
    """Return the joint log-probabilities by a tree that is computed in steps."""
    tree = LabelTree([str(path) for path in paths], paths)
    tally = LabelScorer(tree)
    tally.add_prompt(row_for(()))
    for chunk in tree.chunks(rows_max, rows_max):
        behind = chunk_histories(chunk)
        tally.add_chunk(chunk, [row_for(history) for history in behind[chunk.known :]])
    return tally.joint.tolist()


def chunk_histories(chunk: TreeChunk) -> list[tuple[int, ...]]:
    """Return the tokens that each row of a chunk has behind it, its own included."""
    sequences: list[tuple[int, ...]] = [()] * chunk.branches
    rows = []
    for token, first, last in zip(chunk.tokens, chunk.first, chunk.last, strict=True):
        sequences[first:last] = [(*sequences[first], token)] * (last - first)
        rows.append(sequences[first])
    return rows


def test_log_probs_are_a_softmax() -> None:
    """Over the whole vocabulary the probabilities add up to 1, also for huge logits."""
    logits = row_for(()) + np.float32(10_000)
    assert math.isclose(1.0, float(np.exp(log_probs(logits, range(VOCABULARY))).sum()), rel_tol=1e-5)


def test_log_probs_agree_with_double_precision() -> None:
    """Over a vocabulary as large as a model's the softmax is within 1e-6 of one that is computed in float64."""
    logits = np.random.default_rng(3).normal(0, 4, 152_000).astype(np.float32)
    exact = logits[:50].astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())
    assert pytest.approx(exact, abs=1e-6) == log_probs(logits, range(50))


def test_log_probs_leave_the_logits_alone() -> None:
    """The logits, which are the model's own memory, are not written to."""
    logits = row_for(())
    log_probs(logits, [0])
    assert row_for(()).tolist() == logits.tolist()


PATHS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5).map(tuple), min_size=2, max_size=40, unique=True
)


@given(PATHS, st.integers(4, 63))
def test_joint_log_probabilities_equal_naive_ones(paths: list[tuple[int, ...]], rows_max: int) -> None:
    """Any set of labels, in steps of any size, gets to the last bit the sums that one walk per label gives."""
    assert [naive(path) for path in paths] == tallied(paths, rows_max)


@given(PATHS)
def test_branches_can_be_computed_on_their_own(paths: list[tuple[int, ...]]) -> None:
    """One sequence per branch, in any order, gives the same sums as shared rows do."""
    tree = LabelTree([str(path) for path in paths], paths)
    tally = LabelScorer(tree)
    tally.add_prompt(row_for(()))
    for branch in sorted(tree.branches, key=len):
        tally.add_branch(branch, [row_for(branch[: i + 1]) for i in range(len(branch))])
    assert tallied(paths, 63) == tally.joint.tolist()


def test_label_mass_is_the_probability_before_renormalising() -> None:
    """Two labels with 0.2 and 0.1 have a mass of 0.3 and scores of 2/3 and 1/3."""
    scores, mass = label_scores(np.log([0.2, 0.1]), temperature=1.0)
    assert pytest.approx((2 / 3, 1 / 3)) == scores
    assert pytest.approx(0.3) == mass


def test_temperature_flattens_the_scores_and_not_the_mass() -> None:
    """A high temperature moves the scores towards each other; the mass is of the model itself."""
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

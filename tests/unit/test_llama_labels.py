"""edge_agent/engine/runtimes/llama/labels.py"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.labels import LABEL_TOKENS_MAX, LabelTree, Tally, log_probs, scores_of
from edge_agent.errors import ModelLoadFailed

VOCABULARY = 12


def row_for(history: tuple[int, ...]) -> np.ndarray:
    """Return the logits of a make-believe model behind these tokens."""
    return np.random.default_rng([7, *history]).normal(0, 3, VOCABULARY).astype(np.float32)


def naive(path: tuple[int, ...]) -> float:
    """Return the joint log-probability of a label, token by token."""
    return sum(float(log_probs(row_for(path[:i]), [token])[0]) for i, token in enumerate(path))


def tallied(paths: list[tuple[int, ...]]) -> np.ndarray:
    """Return the joint log-probabilities by branches."""
    tree = LabelTree([str(path) for path in paths], paths)
    tally = Tally(tree)
    tally.add_prompt(row_for(()))
    for branch in tree.branches:
        tally.add_branch(branch, [row_for(branch[: i + 1]) for i in range(len(branch))])
    return tally.joint


def test_log_probs_are_a_softmax() -> None:
    """Over the whole vocabulary the probabilities add up to 1, also for huge logits."""
    logits = row_for(()) + np.float32(10_000)
    assert math.isclose(1.0, float(np.exp(log_probs(logits, range(VOCABULARY))).sum()), rel_tol=1e-5)


@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5).map(tuple), min_size=2, unique=True))
def test_joint_log_probabilities_equal_naive_ones(paths: list[tuple[int, ...]]) -> None:
    """Any set of labels gets the sums that one walk per label gives, prefixes of other labels included."""
    assert [pytest.approx(naive(path), abs=1e-9) for path in paths] == tallied(paths).tolist()


def test_labels_that_differ_in_the_last_token_share_a_branch() -> None:
    """Nine labels "a b c", "a b d" ... cost one branch of two tokens; labels of one token cost none."""
    tree = LabelTree([str(i) for i in range(10)], [(1, 2, i) for i in range(9)] + [(5,)])
    assert ((1, 2),) == tree.branches


def test_labels_of_the_same_tokens_are_refused() -> None:
    """Two labels that the model cannot tell apart are named in the error."""
    with pytest.raises(ModelLoadFailed, match="labels 'a' and 'b' are the same tokens"):
        LabelTree(["a", "b"], [(1, 2), (1, 2)])


@pytest.mark.parametrize("length", [0, LABEL_TOKENS_MAX + 1])
def test_labels_without_tokens_or_with_too_many_are_refused(length: int) -> None:
    """The error has the count and the limit."""
    with pytest.raises(ModelLoadFailed, match=f"'long' has {length} tokens; 1 to {LABEL_TOKENS_MAX}"):
        LabelTree(["a", "long"], [(1,), tuple(range(length))])


def test_label_mass_is_the_probability_before_renormalising() -> None:
    """Two labels with 0.2 and 0.1 have a mass of 0.3 and scores of 2/3 and 1/3."""
    scores, mass = scores_of(np.log([0.2, 0.1]), temperature=1.0)
    assert pytest.approx((2 / 3, 1 / 3)) == scores
    assert pytest.approx(0.3) == mass


def test_temperature_flattens_the_scores_and_not_the_mass() -> None:
    """A high temperature moves the scores towards each other; the mass is of the model itself."""
    joint = np.log([0.6, 0.1])
    cold, warm = scores_of(joint, temperature=1.0), scores_of(joint, temperature=4.0)
    assert cold[0][0] > warm[0][0] > 0.5
    assert cold[1] == warm[1]


@given(
    st.lists(st.floats(-700, 0), min_size=2, max_size=50),
    st.floats(0.01, 100),
)
def test_scores_are_probabilities(joint: list[float], temperature: float) -> None:
    """Scores add up to 1 and keep the order of the labels; the mass stays in [0, 1]."""
    scores, mass = scores_of(np.array(joint), temperature)
    assert math.isclose(1.0, sum(scores), rel_tol=1e-9)
    assert 0.0 <= mass <= 1.0
    assert scores[int(np.argmax(joint))] == max(scores)

"""Properties of training that hold for any labels, rows and settings."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.data.data_row import DataRow
from convert.pipeline.recipe import FinetuneSection
from convert.training import decoder_trainer, lora
from convert.training.decoder_trainer import AnswerTarget, label_answers, targets
from convert.training.training_loop import ValidationResult, train_validation_split
from edge_agent.errors import InvalidRequest
from tests.support import tiny_decoder

CPU = torch.device("cpu")
VOCABULARY = 6

tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3).map(tuple)


def prefix_free(paths: list[tuple[int, ...]]) -> bool:
    """Return whether no label begins with another one."""
    return not any(first == second[: len(first)] for first, second in itertools.permutations(paths, 2))


labels = st.lists(tokens, min_size=2, max_size=5, unique=True).filter(prefix_free)


@settings(deadline=None, max_examples=40)
@given(labels, st.integers(0, 999))
def test_label_probabilities_sum_to_one(paths: list[tuple[int, ...]], seed: int) -> None:
    """Without the vocabulary's share, exp(-loss) of all labels sums to 1."""
    table = torch.randn(VOCABULARY**3, VOCABULARY, generator=torch.Generator().manual_seed(seed))

    def behind(path: tuple[int, ...], at: int) -> torch.Tensor:
        # What a model says depends on the tokens before, and on nothing else.
        return table[sum((token + 1) * (VOCABULARY + 1) ** place for place, token in enumerate(path[:at])) % len(table)]

    total = 0.0
    for answer in label_answers(paths):
        logits = torch.stack([behind(answer.tokens, at) for at in range(len(answer.tokens))])[None]
        total += float(torch.exp(-decoder_trainer.loss(logits, targets([answer], CPU), vocabulary_share=0.0)))
    assert pytest.approx(1.0, abs=1e-4) == total


@settings(deadline=None, max_examples=40)
@given(labels)
def test_certain_model_has_zero_loss(paths: list[tuple[int, ...]]) -> None:
    """If the right tokens have all the probability, the loss is 0 and the answer is counted as exact."""
    for answer in label_answers(paths):
        wanted = targets([answer], CPU)
        logits = torch.nn.functional.one_hot(wanted.tokens, VOCABULARY) * 50.0
        assert pytest.approx(0.0, abs=1e-4) == float(decoder_trainer.loss(logits, wanted))
        assert 1 == decoder_trainer.count_exact(logits, wanted)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4))
def test_answers_are_aligned_at_their_ends(rows: list[tuple[int, ...]]) -> None:
    """Answers of a batch are aligned at their ends, and padding in front of shorter ones is ignored."""
    wanted = targets([AnswerTarget(row) for row in rows], CPU)
    assert max(map(len, rows)) == wanted.length
    assert rows == [tuple(token for token in line if token != -100) for line in wanted.tokens.tolist()]
    assert all(line[-1] != -100 for line in wanted.tokens.tolist())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.booleans()), min_size=1, max_size=40),
    st.floats(0.05, 0.9),
    st.integers(0, 9),
)
def test_validation_split_keeps_rows_families_and_labels(
    drawn: list[tuple[str, int, bool]], share: float, seed: int
) -> None:
    """For any rows, the split loses and duplicates none, separates no family, and leaves training rows for each label
    with several families."""
    rows = [
        DataRow(f"{n}", label=label, family=f"{label}{family}", synthetic=synthetic)
        for n, (label, family, synthetic) in enumerate(drawn)
    ]
    try:
        kept = train_validation_split(rows, share, seed)
    except InvalidRequest:
        assert len(families(rows)) < 2 or families(rows) == families([row for row in rows if row.synthetic])
        return
    assert Counter(row.text for row in rows) == Counter(row.text for row in (*kept.train, *kept.validation))
    assert not families(kept.train) & families(kept.validation)
    assert kept.validation
    several = Counter(name[0] for name in families(rows))
    assert {label for label, count in several.items() if count > 1} <= {row.label for row in kept.train}


def families(rows: Iterable[DataRow]) -> set[str]:
    return {row.family for row in rows}


def test_validation_prefers_accuracy_then_loss() -> None:
    """A validation result is better with a higher accuracy, or the same accuracy and a lower loss; the first result is
    always better than none."""
    now = ValidationResult(loss=1.0, accuracy=0.5)
    better = [ValidationResult(2.0, 0.6), ValidationResult(0.9, 0.5)]
    worse = [ValidationResult(1.0, 0.5), ValidationResult(0.1, 0.4), ValidationResult(float("nan"), 0.5)]
    assert now.is_better_than(None)
    assert [True, True, False, False, False] == [each.is_better_than(now) for each in (*better, *worse)]


@pytest.mark.parametrize(
    ("rank", "targets_", "count"), [(1, ("q_proj",), 2), (3, ("q_proj", "up_proj"), 4), (2, (), 14)]
)
def test_rank_and_targets_select_the_trained_matrices(rank: int, targets_: tuple[str, ...], count: int) -> None:
    """An adapter has two matrices of the requested rank for each named linear layer, and changes nothing before
    training."""
    bare = tiny_decoder.model()
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        expected = bare(ids).logits
    model = lora.add_adapter(bare, FinetuneSection(method="lora", rank=rank, targets=targets_, layers_from=2)).eval()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert count == len(trained)
    assert all(rank in weight.shape for weight in trained)
    with torch.inference_mode():
        torch.testing.assert_close(expected, model(ids).logits)

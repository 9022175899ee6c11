"""The cut-off of redaction: its fixed-sequence test, its guarantee under clusters, and its report when no cut-off
passes."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.redacting.bound import FAMILIES, KINDS, TARGET, bound_bars, population, sample_choice
from convert.calibrate.redaction_cutoff import (
    CUTOFFS,
    MarkedDocument,
    MissedTarget,
    choose_cutoff,
    divide_documents,
    family_means,
)
from edge_agent.statistics import MissedValues, missed_interval, missed_log_capital, proof_rates

TWO = MissedTarget(0.02, 0.1)


def documents(count: int, values: int = 2) -> list[MarkedDocument]:
    """Return documents, each of a family of its own."""
    return [MarkedDocument(f"d{number}", values) for number in range(count)]


def test_highest_proved_cutoff_is_chosen():
    """Cut-offs are tested from the lowest upwards, and the sequence ends at the first that is not proved."""
    asked = []

    def missed_at(cutoff: float) -> list[int]:
        asked.append(cutoff)
        return [int(cutoff > 0.1 and number % 20 == 0) for number in range(300)]

    choice = choose_cutoff(documents(300), missed_at, TWO)
    assert 0.1 == choice.cutoff
    assert list(CUTOFFS[:7]) == asked
    verdicts = [each.verdict for each in choice.tests]
    assert ["proved"] * 6 + ["not proved"] + ["not tested"] * 8 == verdicts
    assert (270, 270, 540, 2) == (choice.documents, choice.families, choice.values, choice.values_max)


def test_too_few_documents_prove_nothing_and_the_need_is_estimated():
    """60 documents without a miss do not prove the target; with the estimated number of further documents it is
    proved."""
    few = choose_cutoff(documents(60), lambda _cutoff: [0] * 60, TWO)
    assert (None, "not proved") == (few.cutoff, few.tests[0].verdict)
    assert few.needed is not None
    more = 60 + math.ceil(few.needed * 60 / few.documents)
    assert CUTOFFS[-1] == choose_cutoff(documents(more), lambda _cutoff: [0] * more, TWO).cutoff


def test_no_number_of_documents_is_estimated_for_a_bad_model():
    """If the share of missed values is above the target, the report names no number of documents."""
    choice = choose_cutoff(documents(300), lambda _cutoff: [1, 0, 0] * 100, TWO)
    assert (None, None) == (choice.cutoff, choice.needed)


def test_cutoff_that_replaces_harmless_texts_is_skipped():
    """Every site refuses a cut-off that replaces harmless texts, so the sequence continues with the next one."""
    choice = choose_cutoff(documents(300), lambda cutoff: None if cutoff < 0.05 else [0] * 300, TWO)
    assert ["replaces harmless texts"] * 3 + ["proved"] * 12 == [each.verdict for each in choice.tests]


@pytest.mark.parametrize("texts", [[], [MarkedDocument("only", 3)]])
def test_no_document_or_one_proves_nothing(texts):
    """Without documents, or with one, no cut-off is chosen and no error is raised."""
    assert choose_cutoff(texts, lambda _cutoff: [0] * len(texts), TWO).cutoff is None


def test_values_of_a_document_are_capped():
    """The cap comes from families that are not used for the proof; a longer document counts as the cap, with its share
    of misses."""
    texts = [*documents(90, 3), MarkedDocument("long", 300)]
    limit, proving = divide_documents(texts)
    assert (3, 91 - 10) == (limit, len(proving))
    assert {MissedValues(3.0, 1.5): 1} == family_means([texts[-1]], [150], limit)


def test_family_counts_as_one_document():
    """Ten documents of one family have the weight of one document."""
    ten = [MarkedDocument("same", 2)] * 10
    assert {MissedValues(2.0, 0.2): 1} == family_means(ten, [2, *[0] * 9], 5)


def test_completely_missed_document_does_not_end_the_bets():
    """After a document with every value missed, the log capital is finite: only a bet on a rate of zero loses
    everything."""
    log = missed_log_capital({MissedValues(2.0, 2.0): 1, MissedValues(2.0, 0.0): 50}, 2, 0.05, proof_rates(0.05))
    assert -math.inf < log < missed_log_capital({MissedValues(2.0, 0.0): 51}, 2, 0.05, proof_rates(0.05))


def test_capital_is_a_martingale_under_the_null_hypothesis():
    """The expected capital over all outcomes of a document is 1, however the misses within the document depend on each
    other."""
    outcomes = {MissedValues(0.0, 0.0): 0.5, MissedValues(4.0, 0.0): 0.4, MissedValues(4.0, 4.0): 0.1}
    for rate, bets in itertools.product((0.2,), ([0.0], [0.1], [0.5], proof_rates(0.2))):
        mean = sum(math.exp(missed_log_capital({each: 1}, 6, rate, bets)) * p for each, p in outcomes.items())
        assert pytest.approx(1.0) == mean


def test_interval_narrows_and_contains_the_observed_share():
    """Without documents the interval is 0 to 1; with more documents it narrows, and it contains the observed share of
    misses."""
    none, few, many = (
        missed_interval({MissedValues(3.0, 1.0): n, MissedValues(3.0, 0.0): 9 * n}, 5) for n in (0, 5, 60)
    )
    assert (0.0, 1.0) == (none.low, none.high)
    assert pytest.approx(1 / 30) == few.value == many.value
    assert few.low <= many.low < 1 / 30 < many.high < few.high


@pytest.mark.slow
def test_interval_is_valid_at_repeated_looks():
    """If the interval is read after every fiftieth document, it excludes the true share in at most 5% of the
    histories."""
    rng, broken, histories = np.random.default_rng(7), 0, 60
    for _ in range(histories):
        values = rng.integers(0, 6, 200)
        missed = np.where(rng.random(200) < 0.1, values, 0)  # all of a document or nothing: 10% of the values
        for seen in range(50, 201, 50):
            counts: dict[MissedValues, int] = {}
            for pair in zip(values[:seen].tolist(), missed[:seen].tolist(), strict=True):
                counts[MissedValues(*map(float, pair))] = counts.get(MissedValues(*map(float, pair)), 0) + 1
            found = missed_interval(counts, 5)
            if not found.low <= 0.1 <= found.high:
                broken += 1
                break
    assert broken <= 0.05 * histories + 2 * math.sqrt(0.05 * 0.95 * histories)


@pytest.mark.slow
def test_bound_holds_under_clusters():
    """In resamples of made-up documents with a known true share, the bound is exceeded no more often than `delta`
    allows."""
    bars = list(bound_bars(resamples=60))
    assert [] == [each.line() for each in bars if not each.ok]
    assert len(KINDS) == len([each for each in bars if each.limit is not None])


@pytest.mark.slow
def test_benchmark_sample_proves_a_cutoff():
    """The benchmark's samples are large enough to prove a cut-off, so the bound does not hold merely because nothing is
    proved."""
    drawn = population(KINDS[1], families=2000)
    choice = sample_choice(drawn, np.arange(FAMILIES))
    assert choice.cutoff is not None
    assert drawn.truth(choice.cutoff) <= TARGET.missed_max

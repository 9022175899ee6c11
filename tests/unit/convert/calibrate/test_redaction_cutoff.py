"""The cut-off of redaction: its fixed sequence, its promise under clusters, and what it reports when nothing passes."""

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
    """Return documents of a family each."""
    return [MarkedDocument(f"d{number}", values) for number in range(count)]


def test_the_highest_proved_cutoff_is_chosen_and_the_sequence_ends_at_a_failure():
    """Cut-offs are asked from the lowest on, no further than the first that is not proved."""
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


def test_too_few_documents_prove_nothing_and_their_number_is_reported():
    """With 60 documents without a miss the target is not proved; the estimate says how many more are needed."""
    few = choose_cutoff(documents(60), lambda _cutoff: [0] * 60, TWO)
    assert (None, "not proved") == (few.cutoff, few.tests[0].verdict)
    assert few.needed is not None
    more = 60 + math.ceil(few.needed * 60 / few.documents)
    assert CUTOFFS[-1] == choose_cutoff(documents(more), lambda _cutoff: [0] * more, TWO).cutoff


def test_more_documents_do_not_help_a_bad_model():
    """If more is missed than the target, no number of documents is named."""
    choice = choose_cutoff(documents(300), lambda _cutoff: [1, 0, 0] * 100, TWO)
    assert (None, None) == (choice.cutoff, choice.needed)


def test_a_cutoff_that_no_site_loads_is_skipped():
    """What replaces harmless texts is refused by every site; the sequence continues with the next cut-off."""
    choice = choose_cutoff(documents(300), lambda cutoff: None if cutoff < 0.05 else [0] * 300, TWO)
    assert ["replaces harmless texts"] * 3 + ["proved"] * 12 == [each.verdict for each in choice.tests]


@pytest.mark.parametrize("texts", [[], [MarkedDocument("only", 3)]])
def test_hardly_any_document_proves_nothing(texts):
    """No document, or one, gives no proof and no error."""
    assert choose_cutoff(texts, lambda _cutoff: [0] * len(texts), TWO).cutoff is None


def test_a_document_counts_as_so_many_values_at_most():
    """The limit comes from families that do not prove; a longer document counts with the share that it misses."""
    texts = [*documents(90, 3), MarkedDocument("long", 300)]
    limit, proving = divide_documents(texts)
    assert (3, 91 - 10) == (limit, len(proving))
    assert {MissedValues(3.0, 1.5): 1} == family_means([texts[-1]], [150], limit)


def test_a_family_is_one_unit():
    """Ten documents of one family weigh as much as one."""
    ten = [MarkedDocument("same", 2)] * 10
    assert {MissedValues(2.0, 0.2): 1} == family_means(ten, [2, *[0] * 9], 5)


def test_a_document_of_which_everything_remains_ends_no_bettor_at_all():
    """Capital on a rate of zero is lost with the first miss; the other bets survive."""
    log = missed_log_capital({MissedValues(2.0, 2.0): 1, MissedValues(2.0, 0.0): 50}, 2, 0.05, proof_rates(0.05))
    assert -math.inf < log < missed_log_capital({MissedValues(2.0, 0.0): 51}, 2, 0.05, proof_rates(0.05))


def test_the_capital_is_a_martingale_if_the_claim_is_true():
    """Its expectation over every outcome of a document is 1, whatever depends on what within it."""
    outcomes = {MissedValues(0.0, 0.0): 0.5, MissedValues(4.0, 0.0): 0.4, MissedValues(4.0, 4.0): 0.1}
    for rate, bets in itertools.product((0.2,), ([0.0], [0.1], [0.5], proof_rates(0.2))):
        mean = sum(math.exp(missed_log_capital({each: 1}, 6, rate, bets)) * p for each, p in outcomes.items())
        assert pytest.approx(1.0) == mean


def test_the_interval_at_a_site_narrows_and_holds_what_was_seen():
    """Without a document nothing is known; with more the interval is narrower, and it holds the share that was seen."""
    none, few, many = (
        missed_interval({MissedValues(3.0, 1.0): n, MissedValues(3.0, 0.0): 9 * n}, 5) for n in (0, 5, 60)
    )
    assert (0.0, 1.0) == (none.low, none.high)
    assert pytest.approx(1 / 30) == few.value == many.value
    assert few.low <= many.low < 1 / 30 < many.high < few.high


@pytest.mark.slow
def test_the_interval_holds_at_every_moment():
    """Looked at after every fiftieth document, it leaves the true share out in at most 5% of the histories."""
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
def test_the_bound_keeps_its_promise_under_clusters():
    """Over resamples of made-up documents with known truth, it is broken no more often than `delta` allows."""
    bars = list(bound_bars(resamples=60))
    assert [] == [each.line() for each in bars if not each.ok]
    assert len(KINDS) == len([each for each in bars if each.limit is not None])


@pytest.mark.slow
def test_a_sample_of_the_benchmark_proves_a_cutoff():
    """The benchmark's samples are large enough that the bound is not kept by proving nothing."""
    drawn = population(KINDS[1], families=2000)
    choice = sample_choice(drawn, np.arange(FAMILIES))
    assert choice.cutoff is not None
    assert drawn.truth(choice.cutoff) <= TARGET.missed_max

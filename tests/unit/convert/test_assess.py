"""The assessment of collected examples: levels, labels, reviewers, repetition, and missing reviews."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.calibrate.threshold import Risk
from convert.cli import app
from convert.dataset.assessment import assess
from edge_agent.errors import FileMissing
from edge_agent.formats import example_records
from tests.support.examples import distinct_text, feedback, opinion, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

RISK = Risk(0.05, 0.1)
DRAWN = {"review_stream": "audit", "sampling_probability": 0.5}
CHOSEN = {"review_stream": "uncertain", "sampling_probability": None}


def judged(
    number: int, *, right: bool = True, confidence: float = 0.9, label: str = "refund", **more: Any
) -> list[Record]:
    """Return a prediction and a review of it."""
    made = prediction(number, input=distinct_text(number), output=label, confidence=confidence, **{**DRAWN, **more})
    said = {"verdict": "accept", "value": ""} if right else {"value": "price"}
    return [made, feedback(number, **said)]


def collected(root: Path, records: list[Record]) -> Path:
    SealingSite(root / "store").seal(records)
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


def many(count: int, wrong_every: int = 10**9, **more: Any) -> list[Record]:
    return [record for n in range(1, count + 1) for record in judged(n, right=n % wrong_every != 0, **more)]


@pytest.mark.parametrize(("count", "mark"), [(19, 0), (20, 20), (100, 100), (500, 500)])
def test_mark_is_the_highest_level_reached(tmp_path: Path, count: int, mark: int):
    """The mark is the highest level that the number of usable examples reaches."""
    found = assess(collected(tmp_path, many(count)), "pos-intent", RISK)
    assert (count, mark) == (found.usable, found.mark)


def test_labels_are_counted(tmp_path: Path):
    """A label of the model that no example has counts 0, and the evenness is that of the counts."""
    records = [*many(30), *[record for n in range(31, 41) for record in judged(n, right=False)]]
    scores = [["refund", 0.5], ["price", 0.3], ["stock", 0.2]]
    found = assess(collected(tmp_path, [*records, prediction(99, scores=scores)]), "pos-intent", RISK)
    assert ({"refund": 30, "price": 10, "stock": 0}, ["price", "stock"]) == (found.labels, found.short)
    assert math.isclose(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))), found.labels_even)
    assert not found.suffices


def test_duplicates_and_contradictions_are_not_usable(tmp_path: Path):
    """Duplicates, and texts with two different labels, are counted and not used."""
    copy = [prediction(2, input=distinct_text(1).upper()), feedback(2, verdict="accept", value="")]
    torn = [prediction(4, input=distinct_text(3)), feedback(4)]
    found = assess(collected(tmp_path, [*judged(1), *copy, *judged(3), *torn]), "pos-intent", RISK)
    assert (4, 1, 1, 1) == (found.examples, found.duplicates, found.contradictions, found.usable)


def test_reviewers_are_compared(tmp_path: Path):
    """Each pair of reviewers is compared by their last reviews of the answers that both reviewed."""
    second = [
        feedback(1, record_id="f:a", feedback_id="a", reviewer="ben", value="stock"),
        feedback(1, record_id="f:b", feedback_id="b", reviewer="ben", verdict="accept", value=""),
        feedback(2, record_id="f:c", feedback_id="c", reviewer="ben", value="stock"),
    ]
    found = assess(collected(tmp_path, [*judged(1), *judged(2), *judged(3), *second]), "pos-intent", RISK)
    assert [("anna", "ben", 2, 1)] == [(pair.one, pair.other, pair.predictions, pair.agreed) for pair in found.pairs]
    assert (2, 1) == (found.reviewed_twice, found.conflicts)


@pytest.mark.parametrize(
    ("records", "threshold", "needed"),
    [
        (many(50), 0.01, 50),
        (many(40), None, 46),
        (many(3), None, RISK.rows_min),
        (many(60, wrong_every=3), None, None),
        ([], None, RISK.rows_min),
    ],
)
def test_risk_guarantee_and_reviews_needed(
    tmp_path: Path, records: list[Record], threshold: float | None, needed: int | None
):
    """The guarantee is proved, in reach, out of reach, or has too few reviews; the assessment estimates the number of
    reviews."""
    found = assess(collected(tmp_path, [*records, prediction(9999)]), "pos-intent", RISK).promise
    assert threshold == found.threshold
    assert (needed is None) == (found.reviews_needed is None)
    if needed is not None:
        assert needed <= found.reviews_needed <= needed + 40


def test_only_audit_reviews_count_for_the_guarantee(tmp_path: Path):
    """Reviews of answers that people chose are usable for training but prove nothing; the command prints the unreviewed
    audit answers."""
    folder = collected(tmp_path, [*many(60, **CHOSEN), prediction(99, input=distinct_text(99), **DRAWN)])
    found = assess(folder, "pos-intent", RISK)
    assert (60, 60, 0, None) == (found.reviewed, found.usable, found.promise.reviews, found.promise.threshold)
    output = CliRunner().invoke(app, ["assess", str(folder), "--task", "pos-intent"]).output
    assert "no local answer of the random audit is reviewed (1 wait)" in output


def test_reviews_of_different_probability_are_made_equally_likely(tmp_path: Path):
    """A site that draws every answer does not outweigh one that draws a tenth."""
    often = [record for n in range(1, 201) for record in judged(n, sampling_probability=1.0)]
    rare = [record for n in range(201, 221) for record in judged(n, right=False, sampling_probability=0.1)]
    found = assess(collected(tmp_path, [*often, *rare]), "pos-intent", RISK)
    assert (220, True) == (found.reviewed, 30 <= found.promise.reviews <= 55)
    assert found.right.value < 0.65


def test_fixed_sequence_test_skips_strict_thresholds_with_few_rows(tmp_path: Path):
    """Few rows at the strictest thresholds, some of them wrong, do not end the test before it reaches the many rows
    below."""
    surest = [record for n in range(1, 61) for record in judged(n, right=n % 10 != 0, confidence=0.995)]
    usual = [record for n in range(61, 561) for record in judged(n, confidence=0.9)]
    found = assess(collected(tmp_path, [*surest, *usual]), "pos-intent", RISK).promise
    assert found.threshold is not None
    assert found.threshold <= 0.9
    assert (560, 1.0) == (found.reviews, found.coverage)


def test_near_duplicates_count_as_one_review(tmp_path: Path):
    """Only one review of equal or similar texts counts for the guarantee."""
    copies = [
        record
        for n in range(1, 61)
        for record in (
            prediction(n, input=distinct_text(1 + n % 2), confidence=0.9, **DRAWN),
            feedback(n, verdict="accept", value=""),
        )
    ]
    found = assess(collected(tmp_path, copies), "pos-intent", RISK).promise
    assert (2, None) == (found.reviews, found.threshold)


ESCALATED = {"route": "upstream", "model": "large-1", "output": "price"}


def escalated(number: int, ours: str, *, scores: bool = True, **said: Any) -> list[Record]:
    """Return an escalated input with the large model's correct answer, as version 0.1 wrote it, and a review of it."""
    made = prediction(number, input=distinct_text(number), **DRAWN).model_dump(mode="json", by_alias=True)
    grades = {"confidence": 0.4, "sure": False, "scores": [[ours, 0.4], ["stock", 0.3]] if scores else []}
    old = example_records.ExamplePrediction.model_validate({**made, **grades, **ESCALATED})
    return [old, feedback(number, **{"verdict": "accept", "value": "", **said})]


def test_the_local_answer_is_judged_by_its_own_confidence(tmp_path: Path):
    """If the large model was right each time and the local model wrong, no threshold is proved."""
    records = [record for number in range(1, 101) for record in escalated(number, "refund")]
    found = assess(collected(tmp_path, records), "pos-intent", RISK)
    assert (None, 0.0, 100, 0) == (found.promise.threshold, found.right.value, found.promise.reviews, found.unjudged)


def test_review_of_an_unknown_local_answer_is_left_out(tmp_path: Path):
    """Version 0.1 stored no local answer of escalated records; a rejected answer of the large model does not judge the
    local one."""
    rejected = {"verdict": "reject", "value": "", "reason": "no"}
    records = [
        *(record for number in range(1, 101) for record in escalated(number, "refund", scores=False)),
        *escalated(101, "refund", **rejected),
        *escalated(102, "price", **rejected),
        *judged(103),
    ]
    folder = collected(tmp_path, records)
    found = assess(folder, "pos-intent", RISK)
    assert (101, 2, 0.5) == (found.unjudged, found.promise.reviews, found.right.value)
    output = CliRunner().invoke(app, ["assess", str(folder), "--task", "pos-intent"]).output
    assert "left out of this share: 101 reviews of a large model's answer" in " ".join(output.split())


def test_answers_of_a_generate_task_are_not_counted_as_labels(tmp_path: Path):
    """The labels of a generate task are empty, because each answer can be different."""
    made = prediction(1, kind="generate", scores=[], confidence=None, threshold=None, output="a long answer")
    found = assess(collected(tmp_path, [made, feedback(1, value="another one")]), "pos-intent", RISK)
    assert ({}, 1, 0, False) == (found.labels, found.usable, found.promise.reviews, found.suffices)


def audited(number: int, value: str = "refund", *said: Record) -> list[Record]:
    """Return a confident answer of the audit, and the teacher label of it."""
    made = prediction(number, input=distinct_text(number), sure=True, confidence=0.95)
    return [made, opinion(number, why="audit", value=value), *said]


def test_audit_estimate_uses_reviews_and_teacher_labels(tmp_path: Path):
    """A person's review counts if there is one; otherwise the teacher label counts."""
    accept = feedback(5, verdict="accept", value="")
    torn = [feedback(6), feedback(6, record_id="f:b", feedback_id="b", reviewer="ben", value="stock")]
    records = [
        *(record for number in (1, 2, 3) for record in audited(number)),
        *audited(4, "refund", feedback(4)),
        *audited(5, "price", accept),
        *audited(6, "refund", *torn),
        *audited(7, "price"),
        prediction(8, input=distinct_text(8), sure=True),
        *[prediction(9, input=distinct_text(9)), opinion(9)],
    ]
    folder = collected(tmp_path, records)
    audit = assess(folder, "pos-intent", RISK).audit
    assert (6, 2, 4) == (audit.answers, audit.by_people, audit.by_opinion)
    assert math.isclose(4 / 6, audit.right.value)
    result = CliRunner().invoke(app, ["assess", str(folder), "--task", "pos-intent"])
    assert "of 6 confident answers drawn at random" in result.output
    assert "an estimate: 2 judged by people, 4 only by the large model" in result.output
    plain = json.loads(CliRunner().invoke(app, ["assess", str(folder), "--task", "pos-intent", "--json"]).output)
    assert (6, 4) == (plain["audit"]["answers"], plain["audit"]["by_opinion"])


def test_audit_above_the_target_risk_is_reported(tmp_path: Path):
    """The command reports an audit whose lowest plausible risk is above the target risk."""
    records = [record for number in range(1, 21) for record in audited(number, "price")]
    result = CliRunner().invoke(app, ["assess", str(collected(tmp_path, records)), "--task", "pos-intent"])
    assert "above the target risk" in result.output


def test_teacher_label_alone_proves_nothing(tmp_path: Path):
    """Neither the guarantee nor the figures count answers with only a teacher label."""
    records = [record for number in range(1, 101) for record in audited(number)]
    found = assess(collected(tmp_path, records), "pos-intent", RISK)
    assert (0, 0, 0, None) == (found.reviewed, found.usable, found.promise.reviews, found.promise.threshold)


def test_collection_with_enough_examples_suffices(tmp_path: Path):
    """520 right answers of two labels suffice and prove the guarantee."""
    records = [record for n in range(1, 521) for record in judged(n, label=("refund", "price")[n % 2])]
    assert assess(collected(tmp_path, records), "pos-intent", RISK).suffices


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "labels", "ready", "said"),
    [
        (1000, ("refund", "price"), True, "ready: enough to fine-tune, calibrate and test a first model"),
        (990, ("refund", "price"), False, "not ready for a first model: it needs 10 more usable examples"),
        (1000, ("refund",) * 99 + ("price",), False, "it needs more of price"),
        (99, ("refund",) * 98 + ("price",), False, "it needs 901 more usable examples, and more of price"),
    ],
)
def test_reviewed_large_model_answers_can_suffice_for_a_first_model(
    tmp_path: Path, count: int, labels: tuple[str, ...], ready: bool, said: str
):
    """Answers of the large model have no confidence and prove no guarantee, but their reviews can train the first
    model."""
    large = {"confidence": None, "threshold": None, "scores": [], "route": "upstream", "model": "large-1"}
    accepted = {"verdict": "accept", "value": ""}
    records = [
        record
        for n in range(1, count + 1)
        for record in (
            prediction(n, input=distinct_text(n), output=labels[n % len(labels)], sure=False, **large, **DRAWN),
            feedback(n, **accepted),
        )
    ]
    out = collected(tmp_path, records)
    found = assess(out, "pos-intent", RISK)
    assert (ready, False, 0) == (found.ready, found.suffices, found.promise.reviews)
    output = CliRunner().invoke(app, ["assess", str(out), "--task", "pos-intent"]).output
    assert said in output
    assert "no local answer of the random audit is reviewed (0 wait)" in output


def test_command_prints_counts_labels_and_missing_reviews(tmp_path: Path):
    """`assess` prints counts, labels and the missing reviews, and --json has the same figures."""
    out = collected(tmp_path, [*many(40, wrong_every=40), prediction(99, input="again")])

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["assess", str(out), "--task", "pos-intent", *arguments])
        assert 0 == result.exit_code, result.output
        return result.output

    output = run()
    for said in ("41 examples, 40 reviewed, 40 usable", "level 20:", "price", "more reviews"):
        assert said in output
    assert "is proved from confidence" in run("--target", "0.2")
    plain = json.loads(run("--json"))
    assert (40, 20, {"refund": 39, "price": 1}) == (plain["usable"], plain["mark"], plain["labels"])
    assert plain["promise"]["reviews_needed"] > 40


def test_assess_without_a_collection_is_an_error(tmp_path: Path):
    """The remedy names `edge-convert collect`."""
    with pytest.raises(FileMissing) as caught:
        assess(tmp_path, "pos-intent", RISK)
    assert "collect" in caught.value.remedy

"""Scoring: which answers count as right, the figures of a report, and the comparison of two versions."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.clustered_statistics import mcnemar, paired_difference, share
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate import scoring
from convert.evaluate.predictions import FoundEntity, ServedPrediction, unscaled_log_probabilities
from convert.evaluate.scoring import FAILED, expected_answer, is_right, latency, measure
from convert.report import comparison
from edge_agent.formats.calibration_and_gate import OodGate, Threshold
from edge_agent.formats.manifest import Manifest, TaskSpec

CLASSIFY = TaskSpec(name="intent", kind="classify", labels=("refund", "price", "hours"))
EXTRACT = TaskSpec(name="fields", kind="extract", labels=("O", "B-item", "I-item", "B-price"))
GENERATE = TaskSpec(name="talk", kind="generate")
EMBED = TaskSpec(name="vector", kind="embed")
SURE_FROM = Threshold(temperature=1.0, threshold=0.8, target_risk=0.05, delta=0.1, n=9, bound=0.05, coverage=0.7)
SPAN, FOUND = TextSpan(0, 4, "item"), FoundEntity(0, 4, "item")


def manifest(task: TaskSpec, **more) -> Manifest:
    return Manifest(task=task, version="1.0.0", runtime="echo", **more)


AT_08 = manifest(CLASSIFY, confidence=SURE_FROM)


def said(*answers: str) -> list[ServedPrediction]:
    return [ServedPrediction(answer, failure="" if answer else "INPUT_TOO_LONG") for answer in answers]


def values(figures: dict[str, Any]) -> tuple[Any, ...]:
    """Return the number of rows of a label and the values of its figures."""
    return (figures["rows"], *(figures[name]["value"] for name in ("precision", "recall", "f1")))


def labelled(*labels: str) -> list[DataRow]:
    return [DataRow(f"text {i}", label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("kind", "row", "prediction", "right"),
    [
        ("classify", DataRow("x", "price"), ServedPrediction("price"), True),
        ("classify", DataRow("x", "price"), ServedPrediction("hours"), False),
        ("classify", DataRow("x", "price"), ServedPrediction("price", failure="MODEL_FAILED"), False),
        ("extract", DataRow("lamp 3", spans=(SPAN,)), ServedPrediction(entities=(FOUND,)), True),
        ("extract", DataRow("lamp 3", spans=(SPAN,)), ServedPrediction(entities=(FoundEntity(0, 4, "price"),)), False),
        (
            "extract",
            DataRow("lamp 3", spans=(SPAN,)),
            ServedPrediction(entities=(FOUND, FoundEntity(5, 6, "price"))),
            False,
        ),
        ("extract", DataRow("lamp 3"), ServedPrediction(), True),
        ("extract", DataRow("a", completion='{"n": 1, "m": null}'), ServedPrediction('{"m":null,"n":1}'), True),
        ("extract", DataRow("a", completion='{"n": 1}'), ServedPrediction('{"n": 2}'), False),
        ("generate", DataRow("x", completion="Hello."), ServedPrediction(" Hello.\n"), True),
        ("generate", DataRow("x", completion="Hello."), ServedPrediction("Hallo."), False),
        ("generate", DataRow("x", completion='{"a": 1, "b": [2]}'), ServedPrediction('{"b":[2],"a":1}'), True),
        ("generate", DataRow("x", completion='{"a": 1}'), ServedPrediction('{"a": 1'), False),
        ("generate", DataRow("x", completion="null"), ServedPrediction("nothing"), False),
    ],
)  # fmt: skip
def test_answer_is_right_only_as_a_whole(kind, row, prediction, right):
    """An answer is right if the label, all entities, the JSON value or the trimmed text equal the expected ones; a
    failure is never right."""
    assert right is is_right(kind, row, prediction)


def test_classifier_report_has_figures_per_label():
    """The confusion matrix has each pair that occurred, with failures as a column, and each label has precision, recall
    and F1."""
    rows = labelled("refund", "refund", "price", "price", "price")
    report = measure(manifest(CLASSIFY), rows, said("refund", "price", "price", "price", ""))
    assert {"refund": {"refund": 1, "price": 1}, "price": {"price": 2, FAILED: 1}} == report["confusion"]
    assert (3, 2 / 3, 2 / 3, pytest.approx(4 / 6)) == values(report["per_label"]["price"])
    assert (0, None, None, None) == values(report["per_label"]["hours"])
    assert share(2, 3).plain() == report["per_label"]["price"]["recall"]
    assert (5, 3 / 5, {"INPUT_TOO_LONG": 1}) == (report["rows"], report["accuracy"]["value"], report["failed"])
    assert report["accuracy"]["low"] < 0.6 < report["accuracy"]["high"]


def test_confident_answers_are_reported_separately():
    """With a threshold, the report has the share of confident answers and the share of wrong ones among them; without
    one it has neither."""
    at = Threshold(temperature=1.0, threshold=0.8, target_risk=0.05, delta=0.1, n=9, bound=0.04, coverage=0.7)
    rows = labelled("refund", "price", "price", "hours")
    answers = [
        ServedPrediction("refund", 0.8),
        ServedPrediction("refund", 0.9),
        ServedPrediction("price", 0.79),
        ServedPrediction(failure="X"),
    ]
    sure = measure(manifest(CLASSIFY, confidence=at), rows, answers)["sure"]
    assert (0.8, 0.5, 0.5) == (sure["threshold"], sure["coverage"]["value"], sure["wrong"]["value"])
    assert "sure" not in measure(manifest(CLASSIFY), rows, answers)


def test_answers_held_up_by_the_gate_are_counted_by_label():
    """The report has the share of rows that the gate holds up, overall and for each label; a failed answer counts as a
    row that is not held up."""
    gate = OodGate(score="label_mass", held_up_max=0.2, scores=(1.0, 2.0, 3.0, 4.0))
    rows = labelled("refund", "price", "price", "hours")
    answered = [ServedPrediction("price", 0.9, label_mass=math.exp(-score)) for score in (5.0, 3.5, 9.0)]
    answers = [*answered, ServedPrediction(failure="X", label_mass=0.0)]
    report = measure(manifest(CLASSIFY, confidence=SURE_FROM.model_copy(update={"gate": gate})), rows, answers)
    assert (0.2, 0.5) == (report["gate"]["held_up_max"], report["gate"]["held_up"]["value"])
    assert [1.0, 0.5, 0.0] == [report["per_label"][label]["held_up"]["value"] for label in CLASSIFY.labels]
    assert "gate" not in measure(AT_08, rows, answers)


@given(st.lists(st.tuples(st.sampled_from(CLASSIFY.labels), st.sampled_from([*CLASSIFY.labels, ""])), max_size=60))
def test_classification_figures_add_up(pairs):
    """Each row is in the confusion matrix once, and the share of rows on its diagonal is the accuracy."""
    rows, answers = labelled(*(true for true, _ in pairs)), said(*(answer for _, answer in pairs))
    report = measure(manifest(CLASSIFY), rows, answers)
    confusion = report["confusion"]
    assert len(pairs) == sum(sum(row.values()) for row in confusion.values())
    hits = sum(confusion[label].get(label, 0) for label in confusion)
    assert (hits / len(pairs) if pairs else None) == report["accuracy"]["value"]
    assert len(pairs) == sum(figures["rows"] for figures in report["per_label"].values())


def test_entities_are_counted_by_type():
    """Precision and recall of an extraction count entities by type; its accuracy counts records in which all entities
    are right."""
    rows = [DataRow("lamp 3", spans=(SPAN, TextSpan(5, 6, "price"))), DataRow("lamp", spans=(SPAN,))]
    report = measure(
        manifest(EXTRACT),
        rows,
        [ServedPrediction(entities=(FOUND, FoundEntity(0, 1, "price"))), ServedPrediction(entities=(FOUND,))],
    )
    assert 0.5 == report["accuracy"]["value"]
    assert (2, 1.0, 1.0, 1.0) == values(report["per_label"]["item"])
    assert (1, 0.0, 0.0, 0.0) == values(report["per_label"]["price"])


def test_fields_of_generated_json_are_counted():
    """If the expected completions are JSON objects, the report has the share of right rows for each field."""
    rows = [
        DataRow("x", completion='{"a": "k", "b": 2}'),
        DataRow("y", completion='{"a": "l"}'),
        DataRow("z", completion="text"),
    ]
    report = measure(manifest(GENERATE), rows, said('{"a": "k", "b": 3}', "no", "text"))
    assert (0.5, 0.0) == (report["fields"]["a"]["value"], report["fields"]["b"]["value"])
    assert pytest.approx(1 / 3) == report["accuracy"]["value"]
    assert "fields" not in measure(manifest(GENERATE), rows[2:], said("text"))


def test_embeddings_are_judged_by_nearest_neighbours():
    """Embeddings are scored by how often the nearest neighbour has the same label; without labels the report has only
    the latency."""
    rows = labelled("a", "a", "b")
    vectors = [ServedPrediction(vector=v) for v in ((1.0, 0.0), (0.9, 0.1), (0.0, 1.0))]
    assert pytest.approx(2 / 3) == measure(manifest(EMBED), rows, vectors)["neighbours"]["value"]
    assert {"rows", "failed", "latency_ms"} == set(measure(manifest(EMBED), [DataRow("x"), DataRow("y")], vectors[:2]))


def test_latency_excludes_failed_answers():
    """Latency percentiles are in milliseconds and exclude failed answers."""
    answers = [ServedPrediction(seconds=s / 1000) for s in (1, 2, 3)] + [ServedPrediction(seconds=9, failure="X")]
    assert {"p50": 2.0, "mean": 2.0} == {key: latency(answers)[key] for key in ("p50", "mean")}
    assert {} == latency(answers[3:])


def compared(rows: list[DataRow], first: list[ServedPrediction], second: list[ServedPrediction]) -> dict[str, Any]:
    return scoring.compare((AT_08, AT_08), rows, first, second)


def test_two_bundles_are_compared_on_the_same_rows():
    """The comparison counts the rows that only one bundle answers right, and its p-value is that of McNemar's exact
    test on them."""
    rows = labelled(*["price"] * 10)
    report = compared(rows, said(*["hours"] * 6, *["price"] * 4), said(*["price"] * 9, ""))
    assert (6, 1) == (report["only_second"], report["only_first"])
    assert (0.4, 0.9) == (report["first"]["accuracy"]["value"], report["second"]["accuracy"]["value"])
    assert 0.3 == report["same_answer"]["value"]
    found = report["differences"]["accuracy"]
    assert (0.5, pytest.approx(2 * 8 / 128)) == (found["value"], found["p_value"])
    assert (found["low"], found["high"]) == (paired_difference(1, 6, 10).low, paired_difference(1, 6, 10).high)
    assert [] == report["better"] == report["worse"]


def test_less_confident_version_disagrees_and_loses_coverage():
    """A version with the same answers that is confident in 21 of 100 rows instead of 90 agrees on 31 rows and is worse
    in coverage."""
    rows = labelled(*["price"] * 100)
    first = [ServedPrediction("price", 0.95 if i < 90 else 0.5) for i in range(100)]
    second = [ServedPrediction("price", 0.95 if i < 21 else 0.5) for i in range(100)]
    report = compared(rows, first, second)
    assert (1.0, 0.31) == (report["same_answer"]["value"], report["agreement"]["value"])
    coverage = report["differences"]["coverage"]
    assert (-0.69, mcnemar(69, 0)) == (pytest.approx(coverage["value"]), coverage["p_value"])
    assert coverage["low"] < coverage["value"] < coverage["high"] < -0.5
    assert "coverage" in report["worse"]
    assert (90, 21) == tuple(round(100 * report[each]["sure"]["coverage"]["value"]) for each in ("first", "second"))
    said_so = comparison.comparison({"bundles": ["a", "b"], **report})
    assert "The second is worse in confident answers" in said_so
    assert "| confident answers | 90.0% (82.4 to 95.1) | 21.0% (13.5 to 30.3) | -69.0% (" in said_so
    label = report["per_label"]["price"]
    assert (0.9, 0.21) == (label["first"]["coverage"]["value"], label["second"]["coverage"]["value"])
    assert label["p_confident"] < 1e-15


def test_version_with_more_confident_errors_is_worse():
    """A version with 30 instead of 2 wrong confident answers in 100 is worse in accuracy, realised risk and calibration
    error, whichever version comes first."""
    rows = labelled(*["price"] * 100)
    first = [ServedPrediction("price" if i >= 2 else "hours", 0.95) for i in range(100)]
    second = [ServedPrediction("price" if i >= 30 else "hours", 0.95) for i in range(100)]
    report = compared(rows, first, second)
    assert ["accuracy", "wrong", "calibration_error"] == report["worse"]
    assert 0.28 == pytest.approx(report["differences"]["wrong"]["value"])
    assert report["differences"]["wrong"]["low"] > 0.1
    back = compared(rows, second, first)
    assert (["accuracy", "wrong", "calibration_error"], []) == (back["better"], back["worse"])


def test_rows_of_a_family_count_as_one_observation():
    """Seven rows that only the second version answers right are significant as single rows, but not as one family."""
    alone = labelled(*["price"] * 20)
    kin = [DataRow(row.text, row.label, family="f" if i < 7 else "") for i, row in enumerate(alone)]
    first, second = said(*["hours"] * 7, *["price"] * 13), said(*["price"] * 20)
    p_values = [compared(rows, first, second)["differences"]["accuracy"]["p_value"] for rows in (alone, kin)]
    assert (2 / 128, 1.0) == (pytest.approx(p_values[0]), pytest.approx(p_values[1]))


def test_version_without_threshold_has_no_coverage():
    """In a comparison, a version without a threshold has coverage 0, and its realised risk is unknown and not
    tested."""
    rows = labelled(*["price"] * 30)
    answers = [ServedPrediction("price", 0.9)] * 30
    report = scoring.compare((AT_08, manifest(CLASSIFY)), rows, answers, answers)
    assert (-1.0, None) == (report["differences"]["coverage"]["value"], report["differences"]["wrong"]["p_value"])
    assert "sure" not in report["second"]
    assert "| wrong among the confident | 0.0% (0.0 to 11.6) | none | - | - |" in comparison.comparison(
        {"bundles": ["a", "b"], **report}
    )


def test_embeddings_are_compared_by_cosine():
    """Two embedding bundles are compared by the mean and the least cosine over the texts for which both gave a
    vector."""
    first = [ServedPrediction(vector=(1.0, 0.0)), ServedPrediction(vector=(0.0, 2.0)), ServedPrediction(failure="X")]
    second = [
        ServedPrediction(vector=(3.0, 0.0)),
        ServedPrediction(vector=(1.0, 1.0)),
        ServedPrediction(vector=(1.0, 1.0)),
    ]
    report = scoring.compare((manifest(EMBED), manifest(EMBED)), labelled("", "", ""), first, second)
    assert {"mean": pytest.approx((1 + math.sqrt(0.5)) / 2), "least": pytest.approx(math.sqrt(0.5))} == report["cosine"]
    assert {} == scoring.cosine(first[2:], second[2:])


@given(st.lists(st.floats(-20, 0), min_size=2, max_size=9), st.floats(0.3, 5))
def test_scores_are_converted_to_temperature_one(raw, temperature):
    """`unscaled_log_probabilities` computes the log-probabilities at temperature 1 from scores that were served at
    another temperature."""
    weights = [math.exp(value / temperature) for value in raw]
    wanted = [value - math.log(sum(map(math.exp, raw))) for value in raw]
    assert wanted == pytest.approx(
        unscaled_log_probabilities([weight / sum(weights) for weight in weights], temperature), abs=1e-6
    )


def test_score_of_zero_gets_a_finite_log_probability():
    """A score that underflowed to 0 gets the log-probability -745 instead of minus infinity."""
    assert (0.0, -745.0) == pytest.approx(unscaled_log_probabilities([1.0, 0.0], 1.0))
    assert () == unscaled_log_probabilities([], 1.0)


def test_prediction_line_has_only_the_fields_that_are_set():
    """A line of predictions.jsonl has the text, the expected answer and the fields with a value, rounded to six
    digits."""
    line = ServedPrediction("price", 0.123456789, (-0.1, -2.0), seconds=0.5, entities=(FOUND,)).line(
        "how much?", "price"
    )
    plain = json.loads(line)
    assert ("how much?", "price", 0.123457) == (plain["text"], plain["expected"], plain["confidence"])
    assert [{"start": 0, "end": 4, "label": "item"}] == plain["entities"]
    assert not {"vector", "failure"} & set(plain)


def test_expected_answer_has_the_format_of_the_prediction():
    """The expected answer is JSON of the spans for an extraction, the label for a classification, and the text for a
    generation."""
    assert '[["item", 0, 4]]' == expected_answer("extract", DataRow("lamp", spans=(SPAN,)))
    assert "price" == expected_answer("classify", DataRow("x", "price"))
    assert "yes" == expected_answer("generate", DataRow("x", completion="yes"))

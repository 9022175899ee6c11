"""The golden file: its format, the comparison of answers, and the cases that are only reported."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity, ServedPrediction
from convert.package import golden_cases as chosen
from edge_agent.errors import BundleUnreadable
from edge_agent.formats.calibration_and_gate import AlwaysEscalate, Threshold
from edge_agent.formats.golden_cases import TOLERANCE, GoldenAnswer, GoldenCase, differences, encode, is_binding, parse
from edge_agent.formats.manifest import Manifest, TaskSpec

AT_80 = Threshold(temperature=1.0, threshold=0.8, target_risk=0.05, delta=0.1, n=100, bound=0.04, coverage=0.7)
LABELS = ("refund", "price", "hours")


def manifest(kind="classify", confidence=AT_80, labels=LABELS) -> Manifest:
    task = TaskSpec(name="till", kind=kind, labels=labels if kind == "classify" else ())
    return Manifest(task=task, version="1.0.0", runtime="echo", confidence=confidence)


def said(*scores: float) -> ServedPrediction:
    best = max(scores)
    return ServedPrediction(LABELS[scores.index(best)], best, scores=scores)


@given(
    st.lists(
        st.builds(
            GoldenCase,
            input=st.text(min_size=1),
            answer=st.one_of(st.none(), st.text()),
            scores=st.lists(st.floats(0, 1), max_size=3).map(tuple),
            tolerance=st.floats(0, 2),
            report_only=st.booleans(),
        ),
        max_size=4,
    )
)
def test_golden_file_is_read_back(cases):
    """A written golden file is read with the same cases, whatever characters they have."""
    assert tuple(cases) == parse(encode(cases))


def test_case_without_an_answer_has_one_key():
    """A case that only shows an input, as made from samples.txt, has no other key."""
    assert b'{"input": "caf\xc3\xa9"}\n' == encode([GoldenCase(input="café")])
    assert (GoldenCase(input="a"),) == parse(b'{"input": "a"}')
    assert () == parse(b"")


@pytest.mark.parametrize(
    "raw", [b"\xff", b"no json\n", b"[]\n", b'{"text": "a"}\n', b'{"input": "a", "anser": ""}\n', b"\n\n"]
)
def test_invalid_line_is_refused_with_its_number(raw):
    """A line that is no case is refused with its number; nothing else comes out."""
    with pytest.raises(BundleUnreadable, match=r"UTF-8|line 1"):
        parse(raw)
    with pytest.raises(BundleUnreadable, match=r"UTF-8|line 2"):
        parse(b'{"input": "a"}\n' + raw)


@pytest.mark.parametrize(
    ("answer", "scores", "count"),
    [
        ("price", (0.1, 0.9), 0),
        ("price", (0.14, 0.86), 0),
        ("price", (0.16, 0.84), 1),
        ("refund", (0.1, 0.9), 1),
        ("refund", (0.9, 0.1), 2),
        ("price", (0.9,), 1),
        ("price", (math.nan, 0.9), 1),
        ("price", (0.1, math.nan), 1),
    ],
)
def test_an_answer_is_compared_with_its_case(answer, scores, count):
    """The answer must be equal and every score within the tolerance; NaN never is."""
    case = GoldenCase(input="how much?", answer="price", scores=(0.1, 0.9))
    assert count == len(differences(case, GoldenAnswer(answer, scores)))


def test_a_vector_is_compared_by_its_direction():
    """A vector's length does not matter, its angle does; a case without an answer never differs."""
    case = GoldenCase(input="x", answer="", scores=(1.0, 0.0))
    assert [] == differences(case, GoldenAnswer("", (3.0, 0.1)), vector=True)
    assert 1 == len(differences(case, GoldenAnswer("", (1.0, 1.0)), vector=True))
    assert 1 == len(differences(case, GoldenAnswer("", (0.0, 0.0)), vector=True))
    nothing = GoldenCase(input="x", answer="", scores=(0.0, 0.0))
    assert [] == differences(nothing, GoldenAnswer("", (0.0, 0.0)), vector=True)
    assert [] == differences(GoldenCase(input="x"), GoldenAnswer("anything", (1.0,)))


@pytest.mark.parametrize(
    ("scores", "confidence", "report_only"),
    [
        ((0.95, 0.03, 0.02), AT_80, False),
        ((0.84, 0.1, 0.06), AT_80, False),
        ((0.76, 0.2, 0.04), AT_80, False),
        ((0.84, 0.1, 0.06), AlwaysEscalate(), False),
        ((0.52, 0.43, 0.05), AlwaysEscalate(), True),
        ((0.6, 0.3, 0.1), AT_80, False),
    ],
)
def test_nearly_equal_labels_are_only_reported(scores, confidence, report_only):
    """Labels whose scores are nearly equal fail no other machine; a confidence close to the threshold is compared like
    any other."""
    case = chosen.case(manifest(confidence=confidence), "text", said(*scores))
    assert (report_only, scores, TOLERANCE) == (case.report_only, case.scores, case.tolerance)


def test_marked_case_of_version_0_1_with_clear_scores_is_compared():
    """Version 0.1 marked confidences close to the threshold; if the labels are far enough apart, the case is
    compared."""
    marked = [
        GoldenCase(input="x", answer="a", scores=scores, report_only=True)
        for scores in ((0.98, 0.02), (0.54, 0.46), (0.93,), (0.53,), ())
    ]
    assert [True, False, True, False, False] == [is_binding(case) for case in marked]
    assert is_binding(GoldenCase(input="x", answer="a"))
    assert not is_binding(GoldenCase(input="x"))


def test_a_generated_text_is_only_reported():
    """A generated text is not promised, because each token affects the following ones; neither is a record with a low
    confidence."""
    assert chosen.case(manifest("generate"), "x", ServedPrediction("hello")).report_only
    record = ServedPrediction("[]", 0.53, entities=(FoundEntity(0, 1, "x"),))
    assert chosen.case(manifest("extract", AlwaysEscalate()), "x", record).report_only
    firm = chosen.case(manifest("extract", AlwaysEscalate()), "x", ServedPrediction("[]", 0.93))
    assert (False, (0.93,), "[]") == (firm.report_only, firm.scores, firm.answer)
    assert "" == chosen.case(manifest("embed"), "x", ServedPrediction(vector=(0.1,))).answer


def test_every_label_has_cases_with_clear_ones_first():
    """At most four cases are chosen for each label, correct and clear ones first; a label that is never right shows
    another answer."""
    rows = [DataRow(f"r{i}", "refund") for i in range(5)] + [DataRow("p", "price"), DataRow("f", "hours")]
    answers = [
        said(0.82, 0.1, 0.08),
        said(0.1, 0.9, 0.0),
        *[said(0.95, 0.05, 0.0)] * 3,
        said(0.9, 0.1, 0.0),
        ServedPrediction(failure="X"),
    ]
    made = chosen.cases(manifest(), rows, answers)
    assert ["r0", "r2", "r3", "r4", "p"] == [case.input for case in made]
    assert ["refund"] * 5 == [case.answer for case in made]


def test_many_labels_have_one_case_each():
    """Of 150 labels each has one case, so that the set stays small."""
    labels = tuple(f"label {i}" for i in range(150))
    rows = [DataRow(f"{label} {i}", label) for label in labels for i in range(2)]
    answers = [ServedPrediction(row.label, 0.95, scores=(0.95, 0.05)) for row in rows]
    assert 150 == len(chosen.cases(manifest(labels=labels), rows, answers))


def test_choice_of_rows_does_not_depend_on_their_order():
    """From a shuffled file the same rows are tried, at most eight for each label."""
    task = manifest().task
    rows = [DataRow(f"{label} {i}", label) for i in range(20) for label in LABELS]
    first = chosen.choose_rows(task, rows)
    assert first == chosen.choose_rows(task, rows[::-1])
    assert [label for label in LABELS for _ in range(8)] == [row.label for row in first]
    plain = chosen.choose_rows(
        TaskSpec(name="x", kind="extract", labels=("O",)), [DataRow("a", spans=(TextSpan(0, 1, "x"),))]
    )
    assert 1 == len(plain)


DECISION = GoldenCase(
    input="hi",
    answer="",
    answers={"intent": "refund", "urgent": "no"},
    question_scores={"intent": (0.9, 0.1), "urgent": (0.52, 0.48)},
)


def test_each_question_is_compared_separately():
    """A clear label that changed is a difference, one that rounding may change is not, and its scores still count."""
    alike = GoldenAnswer(
        "", (), None, {"intent": "refund", "urgent": "yes"}, {"intent": (0.88, 0.12), "urgent": (0.49, 0.51)}
    )
    assert [] == differences(DECISION, alike)
    turned = GoldenAnswer(
        "", (), None, {"intent": "price", "urgent": "no"}, {"intent": (0.1, 0.9), "urgent": (0.4, 0.6)}
    )
    assert [
        "the answer to 'intent' is 'price', not 'refund'",
        "the scores of 'intent' differ by 0.8000; 0.05 is allowed",
        "the scores of 'urgent' differ by 0.1200; 0.05 is allowed",
    ] == differences(DECISION, turned)


def test_a_question_without_an_answer_is_a_difference():
    """A bundle that does not answer a question of the case differs."""
    lost = GoldenAnswer("", (), None, {"intent": "refund"}, {"intent": (0.9, 0.1)})
    assert ["0 scores of 'urgent', not 2"] == differences(DECISION, lost)

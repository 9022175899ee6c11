"""`edge-agent demo`: answers to a decide task's questions about labelled messages, their scores and the tables."""

import io
import json

import pytest
from rich.console import Console

from edge_agent.cli import demo_questions
from edge_agent.cli.demo_questions import DemoAnswer, LabelledMessage, MessageAnswers
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Manifest, parse
from tests.support.bundles import QUESTIONS

THRESHOLD = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.8, "target_risk": 0.1, "delta": 0.05},
    **{"n": 100, "bound": 0.1, "coverage": 0.5},
}


def manifest() -> Manifest:
    """A decide bundle in which `intent` alone has a threshold."""
    plain = {
        "schema": "edge-agent/bundle/v1",
        "version": "1.0.0",
        "runtime": "echo",
        "task": {"name": "desk", "kind": "decide", "questions": QUESTIONS},
        "artifacts": [],
        "question_confidence": {"intent": THRESHOLD, "urgent": {"policy": "always_escalate"}},
    }
    return parse(json.dumps(plain).encode())


def message(text: str, **answers: str) -> LabelledMessage:
    return LabelledMessage(text, answers=answers)


def answered(asked: LabelledMessage, **labels: tuple[str, bool]) -> MessageAnswers:
    said = {question: DemoAnswer(label, sure, 5.0) for question, (label, sure) in labels.items()}
    return MessageAnswers(asked, said, 5.0)


def shown(said: list[MessageAnswers]) -> str:
    page = io.StringIO()
    demo_questions.show_questions(Console(file=page, width=80), manifest(), said)
    return page.getvalue()


def test_answers_are_shown_under_their_questions_and_scored():
    """Right, wrong and not confident answers can be told apart without colours; a failed call has no answer and counts
    as wrong."""
    asked = [message(f"text {n}", intent="refund", urgent="no") for n in range(3)]
    said = [
        answered(asked[0], intent=("refund", True), urgent=("no", False), severity=("low", False)),
        answered(asked[1], intent=("price", True), urgent=("yes", False), severity=("low", False)),
        answered(asked[2]),
    ]
    lines = [line.split() for line in shown(said).splitlines()]
    assert ["intent", "urgent", "severity"] in lines
    assert ["✓", "refund", "✓", "no?", "low?"] in lines
    assert ["✗", "price", "✗", "yes?", "low?"] in lines
    assert ["✗", "no", "answer"] * 3 in lines
    [intent] = [line for line in lines if line[:1] == ["intent"] and line[1:2] != ["urgent"]]
    assert ["33%", "67%", "50%"] == [cell for cell in intent if cell.endswith("%")]
    [urgent] = [line for line in lines if line[:1] == ["urgent"]]
    assert ["always", "asks", "-"] == urgent[-3:]
    [severity] = [line for line in lines if line[:1] == ["severity"]]
    assert ["-", "-", "-"] == severity[-3:]  # nothing is labelled for it


@pytest.mark.parametrize(
    ("answers", "fits"),
    [
        ({"intent": "refund"}, True),
        ({"intent": "refund", "urgent": "yes"}, True),
        ({"intent": "no such label"}, False),
        ({"colour": "red"}, False),
        ({}, False),
    ],
)
def test_bundle_needs_the_questions_and_answers_of_the_rows(answers: dict[str, str], fits: bool):
    """A bundle is scored only if it has every question and answer of the labelled messages."""
    assert fits == demo_questions.has_questions_for(manifest(), [message("text", **answers)])


def test_row_needs_a_label_or_answers(tmp_path):
    """A row with 'answers' by question is read; a row with neither a label nor valid answers is refused with a remedy
    that describes the format."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "answers": {"intent": "refund"}, "family": "f"}\n')
    assert (LabelledMessage("a", family="f", answers={"intent": "refund"}),) == demo_questions.read_labelled(file)
    wrong = (
        '{"text": "a"}',
        '{"text": "a", "answers": ["refund"]}',
        '{"text": "a", "answers": null}',
        "[" * 100_000,
        '{"text": "\\ud83d", "label": "x"}',
    )
    for line in wrong:
        file.write_text(line)
        with pytest.raises(InvalidRequest) as caught:
            demo_questions.read_labelled(file)
        assert "'answers' by question" in caught.value.remedy

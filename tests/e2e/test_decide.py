"""Decide tasks: several questions about one input, from the client device to the stored examples and the large
model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.client import (
    AsyncClient,
    CallFailed,
    Classification,
    Decision,
    Failure,
    Prediction,
    QuestionOption,
    ReviewClient,
    TaskQuestion,
)
from tests.support.bundles import QUESTIONS, echo_bundle, tiny_onnx_bundle
from tests.support.daemon import RunningDaemon
from tests.support.escalating_site import EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.large_model import LargeModel
from tests.support.remedy_commands import commands_in

DESK, OPEN, INTENT = "front-desk", "any-question", "pos-intent"
CALIBRATED: dict[str, Any] = {
    **{"policy": "threshold", "temperature": 1.0, "threshold": 0.9, "target_risk": 0.05, "delta": 0.03},
    **{"n": 100, "bound": 0.05, "coverage": 0.9},
}
CONFIDENCE = {"intent": CALIBRATED, "urgent": {**CALIBRATED, "threshold": 0.95}}
TEXT = "an urgent refund"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with RunningDaemon(folder / "site", examples={"collect": {DESK: "local"}, "commit_seconds": 0.05}) as running:
        running.install(echo_bundle(folder / "desk", DESK, "decide", question_confidence=CONFIDENCE))
        running.install(echo_bundle(folder / "open", OPEN, "decide", task={"open_questions": True}))
        running.install(echo_bundle(folder / "intent", INTENT, labels=("refund", "price")))
        running.install(tiny_onnx_bundle(folder / "tiny", "decide", "encoder"))
        yield running


@pytest.fixture
def client(daemon):
    with daemon.client() as connected:
        yield connected


def test_each_question_gets_own_answer(client):
    """Each question of a decision has its own label, probabilities, threshold, confidence and prediction id."""
    [decision] = client.decide(DESK, [TEXT])
    assert isinstance(decision, Decision)
    intent, urgent, severity = decision.answers
    assert ("refund", "CHOICE", 0.9, True, True) == (
        intent.label,
        intent.type,
        intent.threshold,
        intent.calibrated,
        intent.confident,
    )
    assert ("yes", "PREDICATE", 0.95) == (urgent.label, urgent.type, urgent.threshold)
    assert (None, False, False, True) == (
        severity.threshold,
        severity.calibrated,
        severity.confident,
        severity.below_threshold,
    )
    assert ["low", "middle", "high"] == [label for label, _ in severity.probabilities]
    assert (
        pytest.approx(sum(place * share for place, (_, share) in enumerate(severity.probabilities))) == severity.score
    )
    assert (None, 3) == (intent.score, len({each.prediction_id for each in decision.answers}))
    assert decision["urgent"] == urgent


def test_decide_answers_selected_questions_per_input(client):
    """Decide answers the selected questions for each input, in the task's order of questions; an input that fails has
    its own error."""
    first, failed, last = client.decide(DESK, ["a price", " ", "!fail"], questions=["severity", "intent"])
    assert ["intent", "severity"] == [each.question for each in first.answers]
    assert ("INPUT_EMPTY", "MODEL_FAILED") == (failed.reason, last.reason)
    assert isinstance(failed, Failure)


def test_encoder_answers_selected_questions_unchanged(client):
    """An encoder gives a selected question the same probabilities as in a call for all questions."""
    [whole], [part] = client.decide("encoder", [TEXT]), client.decide("encoder", [TEXT], questions=["urgent"])
    assert [whole["urgent"].probabilities] == [each.probabilities for each in part.answers]


def test_abstain_withholds_only_unconfident_answers(client):
    """With ABSTAIN, only the answers that are not confident lose their labels."""
    [decision] = client.decide(DESK, ["refund"], on_low_confidence="abstain")
    assert [("refund", "LOCAL"), ("", "ABSTAINED"), ("", "ABSTAINED")] == [
        (each.label, each.route) for each in decision.answers
    ]
    assert decision["severity"].probabilities


def test_repeated_decide_request_returns_same_answers(client):
    """A Decide call repeated with its request id returns the same answers and prediction ids; the id is refused for
    another input."""
    once, again = (client.decide(DESK, [TEXT], request_id="r-1") for _ in range(2))
    assert once == again
    with pytest.raises(CallFailed, match="request_id"):
        client.decide(DESK, ["another"], request_id="r-1")


def test_an_unknown_question_is_refused(client):
    """A call with an unknown question fails with QUESTION_UNKNOWN, and the message lists the task's questions."""
    with pytest.raises(CallFailed) as caught:
        client.decide(DESK, [TEXT], questions=["colour"])
    assert ("QUESTION_UNKNOWN", "INVALID_ARGUMENT") == (caught.value.reason, caught.value.code)
    assert "its questions are: intent, urgent, severity" in caught.value.message


def test_open_questions_are_answered_but_never_confident(client):
    """Questions that the caller defines are answered but never confident, because no threshold was calibrated for
    them."""
    colours = (QuestionOption("red", "Like blood."), QuestionOption("blue"))
    mine = TaskQuestion("colour", "CHOICE", "Which colour does the customer want?", colours)
    [decision] = client.decide(OPEN, ["the red one, it is urgent"], open_questions=[mine, TaskQuestion("urgent")])
    assert [("red", False, False), ("yes", False, False)] == [
        (each.label, each.calibrated, each.confident) for each in decision.answers
    ]


def test_classify_and_decide_both_answer_a_single_choice(client):
    """Decide on a classify task returns the label and scores of Classify under a question with the task's name;
    Classify on a decide task is refused."""
    [decision], [classified] = client.decide(INTENT, [TEXT]), client.classify(INTENT, [TEXT])
    assert isinstance(classified, Classification)
    (answer,) = decision.answers
    assert (INTENT, "CHOICE", classified.label) == (answer.question, answer.type, answer.label)
    assert dict(classified.scores) == dict(answer.probabilities)
    with pytest.raises(CallFailed, match="is of kind decide"):
        client.classify(DESK, [TEXT])


def test_task_lists_its_questions(client):
    """The description of a decide task lists its questions with types and thresholds, and whether it accepts open
    questions."""
    task = client.task(DESK)
    assert ("DECIDE", False) == (task.kind, task.open_questions)
    assert [each["name"] for each in QUESTIONS] == [each.name for each in task.questions]
    assert ("PREDICATE", 0.95) == (task.questions[1].type, task.questions[1].threshold)
    assert client.task(OPEN).open_questions


def kept(reviewer: ReviewClient, prediction_id: str) -> Prediction | None:
    try:
        return reviewer.prediction(prediction_id)
    except CallFailed:
        return None


def test_each_answer_of_decision_is_stored_separately(client, daemon):
    """The daemon stores each answer of a decision as its own example, and a reviewer can fetch each by its prediction
    id."""
    [decision] = client.decide(DESK, ["keep this refund"])
    wanted = {each.prediction_id: each.label for each in decision.answers}
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        for prediction_id in wanted:
            eventually_sync(lambda id_=prediction_id: kept(reviewer, id_) is not None)
        found = [reviewer.prediction(prediction_id) for prediction_id in wanted]
    assert wanted == {each.prediction_id: each.output for each in found}


@pytest.mark.slow
def test_unconfident_questions_are_escalated_together(tmp_path: Path):
    """One request to the large model has all questions of an input that are not confident; a second asks to correct an
    answer outside the options. If that fails, the local model answers that question."""
    said = json.dumps({"urgent": "yes", "severity": "enormous"})
    with LargeModel(lambda _: said) as oracle:
        oracle.repairs = False
        with EscalatingSite(tmp_path, oracle, tasks=[DESK], modes={DESK: "hybrid"}) as site:
            site.admin.install(echo_bundle(tmp_path / "desk", DESK, "decide", question_confidence=CONFIDENCE))
            site.start_uplink()
            site.await_online(True)
            oracle.asked.clear()
            [decision] = site.client.decide(DESK, ["refund"])
            routes = {each.question: (each.label, each.route) for each in decision.answers}
            assert ("refund", "LOCAL") == routes["intent"]
            assert ("yes", "UPSTREAM") == routes["urgent"]
            assert "UPSTREAM_FAILED" in decision["severity"].degraded
            assert 2 == len(oracle.asked)
            schema = oracle.asked[0]["response_format"]["json_schema"]["schema"]
            assert {"urgent", "severity"} == schema["properties"].keys()
            assert ["no", "yes"] == schema["properties"]["urgent"]["enum"]


async def test_asyncio_client_supports_decide(daemon):
    """The asyncio client returns the same answer to Decide as the synchronous client."""
    async with AsyncClient(f"unix:{daemon.run_dir}/inference.sock") as client:
        [decision] = await client.decide(DESK, [TEXT], questions=["intent"])
    assert [("intent", "refund")] == [(each.question, each.label) for each in decision.answers]


def test_decide_refuses_too_long_input_with_limit(client):
    """Decide refuses a text over the token limit with INPUT_TOO_LONG; the message has the limit."""
    with pytest.raises(CallFailed) as caught:
        client.decide(DESK, ["word " * 5000])
    assert "INPUT_TOO_LONG" == caught.value.reason
    assert "512" in caught.value.message


def test_each_question_has_own_review_queue(client, daemon):
    """The review queue of TASK/QUESTION has only that question's answers, and a correction must be one of that
    question's options."""
    [decision] = client.decide(DESK, ["judge this refund"])
    urgent, severity = decision["urgent"].prediction_id, decision["severity"].prediction_id
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        eventually_sync(lambda: kept(reviewer, severity) is not None)
        queue = {each.prediction_id: each for each in reviewer.queue(f"{DESK}/urgent")}
        assert {"urgent"} == {each.question for each in queue.values()}
        assert ("DECIDE", ("no", "yes")) == (queue[urgent].kind, queue[urgent].labels)
        reviewer.correct(urgent, "yes", reviewer="anna")
        with pytest.raises(CallFailed, match="middle"):
            reviewer.correct(severity, "yes", reviewer="anna")
        assert [("corrected", "yes")] == [(each.verdict, each.value) for each in reviewer.prediction(urgent).feedback]
        assert [] == list(reviewer.prediction(severity).feedback)


def test_report_has_figures_per_question(client, daemon):
    """The report of a decide task lists each question with its own threshold and daily figures."""
    [decision] = client.decide(DESK, ["count this refund"])
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        eventually_sync(lambda: kept(reviewer, decision.answers[-1].prediction_id) is not None)
    found = CliRunner().invoke(app, [*daemon.command()[3:], "report", "--json"])
    of_desk = {each["question"]: each for each in json.loads(found.stdout)["tasks"] if each["task"] == DESK}
    assert [each["name"] for each in QUESTIONS] == list(of_desk)
    assert (pytest.approx(0.9), None) == (of_desk["intent"]["threshold"], of_desk["severity"]["threshold"])
    assert all(each["days"] for each in of_desk.values())


def test_erase_names_other_answers_with_same_text(client, daemon):
    """`edge-agent erase` of one answer names the other questions' answers that hold the same text, and the printed
    command erases them and the text."""
    [decision] = client.decide(DESK, ["ERASEDTEXT refund"])
    ids = [each.prediction_id for each in decision.answers]
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        eventually_sync(lambda: all(kept(reviewer, each) for each in ids))
        said = erase(daemon, ids[0])
        assert "2 answers to other questions about the same text are still here" in said
        [command] = commands_in(said)
        assert "with 1 answer to other questions about the same text" in erase(daemon, *command.steps[0][2:])
        assert [None, None, None] == [kept(reviewer, each) for each in ids]
    assert b"ERASEDTEXT" not in b"".join(path.read_bytes() for path in daemon.state_dir.glob("spool.db*"))


def erase(daemon: RunningDaemon, *arguments: str) -> str:
    """Run `edge-agent erase`; return its output on one line."""
    done = CliRunner().invoke(app, [*daemon.command()[3:], "erase", *arguments, "--yes"])
    return " ".join(done.output.split())

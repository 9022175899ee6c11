"""convert/data/synthesis.py and its command, against a real HTTP server with the chat API."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.data import row_files, synthesis
from convert.data.data_row import DataRow, TextSpan
from convert.data.synthesis import (
    ChatEndpoint,
    GenerationRequest,
    ParsedRow,
    RejectedRow,
    SimilarityIndex,
    SynthesisRequest,
    SynthesisResult,
    messages,
    rows_of,
)
from convert.pipeline.recipe import Recipe
from edge_agent.errors import EngineNotReady, InvalidRequest
from edge_agent.formats.manifest import TaskSpec
from tests.support import chat_server
from tests.support.recipes import recipe_of, text_label

TASK = TaskSpec(name="t", kind="classify", labels=("refund", "price", "other"))
EXTRACT = TaskSpec(name="t", kind="extract", labels=("O", "B-item", "I-item"))


def request(task: TaskSpec = TASK, format_: str = "text-label", **more: Any) -> GenerationRequest:
    return GenerationRequest(
        **({"task": task, "format": format_, "about": "a", "label": "refund", "examples": (), "count": 3} | more)
    )


def saying(number: int, asked: str) -> str:
    """Answer as a good model does: with the requested number of texts, new ones each time."""
    count = int(re.search(r"Write (\d+)", asked).group(1))
    # No words, but no two alike.
    texts = [hashlib.sha256(f"{number} {at}".encode()).hexdigest()[:30] for at in range(count)]
    return json.dumps({"rows": [{"text": text} for text in texts]})


def made(recipe: Recipe, server: chat_server.ChatServer, **wanted: Any) -> SynthesisResult:
    settings = {"about": "What customers want.", "rows": 12, "tokens_max": 10_000, "rows_a_request": 5} | wanted
    endpoint = ChatEndpoint(server.url, chat_server.KEY, "big")
    *_, last = synthesis.synthesize(recipe, SynthesisRequest(**settings), "big", endpoint.ask, lambda *_: None)
    return last


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_request_adapts_to_the_members_that_a_server_refuses(tmp_path: Path):
    """Refused members are renamed or left out, and a reasoning model gets more tokens."""
    refuses = ("max_tokens", "temperature", "seed")
    with chat_server.serving(lambda *asked: f"<think>{{?}}</think>{saying(*asked)}", refuses=refuses) as server:
        found = made(recipe_of(tmp_path), server)
    assert (12, 3) == (len(found.rows), server.refused)
    assert all({"model", "messages", "max_completion_tokens"} == each.keys() for each in server.asked)
    assert server.asked[0]["max_completion_tokens"] > synthesis.ANSWER_TOKENS_MAX


def test_generated_rows_are_marked_as_synthetic(tmp_path: Path) -> None:
    """Each label is requested in turn, and the test split refuses the rows."""
    recipe = recipe_of(tmp_path)
    with chat_server.serving(saying) as server:
        found = made(recipe, server)
    assert (12, 3, 300, "") == (len(found.rows), found.requests, found.tokens, found.stopped)
    assert ["refund"] * 5 + ["price"] * 5 + ["other"] * 2 == [row["label"] for row in found.rows]
    assert all(row["synthetic"] is True and row["model"] == "big" for row in found.rows)
    assert {("teacher", "big")} == {(row["label_source"], row["labeled_by"]) for row in found.rows}
    lines = "".join(map(synthesis.line, found.rows))
    trained = row_files.rows(recipe_of(tmp_path, train=lines), "train")
    assert {"big"} == {row.model for row in trained}
    with pytest.raises(InvalidRequest, match="12 rows are synthetic; the test split accepts none"):
        row_files.rows(recipe_of(tmp_path, test=lines), "test")


def test_only_training_rows_are_sent_to_the_model(tmp_path: Path) -> None:
    """The model gets the task and training rows of the label, and no rows of calibration and test."""
    recipe = recipe_of(tmp_path)
    with chat_server.serving(saying) as server:
        made(recipe, server)
    asked = json.dumps(server.asked)
    assert "What customers want." in asked
    for split, there in (("train", True), ("calibration", False), ("test", False)):
        assert all((row.text in asked) == there for row in row_files.rows(recipe, split))
    assert "I want my money back" in json.dumps(server.asked[0])
    assert "How much is it?" not in json.dumps(server.asked[0])
    assert server.asked[0]["seed"] != server.asked[1]["seed"]


def test_near_duplicates_of_existing_rows_are_dropped(tmp_path: Path) -> None:
    """Near duplicates of each other and of every split are dropped and counted; after five answers without a new row
    the run ends."""
    held = text_label(("Refund please", "refund"), ("what would this velvet sofa cost", "price"))
    rows = [
        {"text": "What would this velvet sofa cost?!"},
        {"text": "A brand-new thing"},
        {"text": "a brand new thing."},
    ]
    with chat_server.serving(lambda *_: json.dumps({"rows": rows})) as server:
        found = made(recipe_of(tmp_path, test=held), server)
    assert ["A brand-new thing"] == [row["text"] for row in found.rows]
    assert {"resembles an existing row": 2 + 3 * 5} == dict(found.dropped)
    assert "5 answers in a row brought no new row" == found.stopped


def test_invalid_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    """Prose, invalid JSON and invalid rows cost their request, and the run continues."""
    answers = ["I cannot help with that.", '{"rows": [', '{"rows": "none"}', '{"rows": [{"text": ""}, 7]}']
    with chat_server.serving(lambda n, asked: answers[n] if n < 4 else saying(n, asked)) as server:
        found = made(recipe_of(tmp_path), server, rows=5)
    assert 5 == len(found.rows)
    assert {
        "answer is not the JSON that was asked for": 3,
        "text: String should have at least 1 character": 1,
        "row is not a JSON object": 1,
    } == dict(found.dropped)
    assert (5, 500) == (found.requests, found.tokens)


@pytest.mark.parametrize(("tokens", "requests"), [(100, 3), (None, 2)])
def test_token_limit_ends_the_run(tmp_path: Path, tokens: int | None, requests: int) -> None:
    """No request follows the one that reaches the limit; if the server does not count tokens, they are estimated from
    characters."""
    with chat_server.serving(saying, tokens=tokens) as server:
        found = made(recipe_of(tmp_path), server, rows=1000, tokens_max=250)
    assert requests == found.requests
    assert found.tokens >= 250
    assert f"{found.tokens} tokens are used; the limit is 250" == found.stopped


@pytest.mark.slow
def test_busy_server_is_retried(tmp_path: Path) -> None:
    """Two load errors are retried; a server that does not answer is a retryable error."""
    with chat_server.serving(saying, statuses=[429, 503]) as server:
        assert 5 == len(made(recipe_of(tmp_path), server, rows=5).rows)
    with pytest.raises(EngineNotReady, match="did not answer"):
        made(recipe_of(tmp_path), server)


@pytest.mark.parametrize(
    ("status", "said", "remedy"), [(401, "refused the key", "OPENAI_API_KEY"), (404, "for big", "/v1")]
)
def test_refused_request_names_the_setting_to_correct(tmp_path: Path, status: int, said: str, remedy: str) -> None:
    """An invalid key or model name is not retried, and the message does not contain the key."""
    with chat_server.serving(saying, statuses=[status]) as server, pytest.raises(InvalidRequest, match=said) as caught:
        made(recipe_of(tmp_path), server)
    assert remedy in caught.value.remedy
    assert chat_server.KEY not in caught.value.message


# --- the command ------------------------------------------------------------------------------------------------------


def run(tmp_path: Path, url: str, *more: str) -> Any:
    environment = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": chat_server.KEY, "OPENAI_MODEL": "big"}
    out = str(tmp_path / "more.jsonl")
    return CliRunner().invoke(
        app, ["synthesize", str(tmp_path), "--about", "Tills.", "--out", out, *more], env=environment
    )


def test_second_run_adds_only_new_rows(tmp_path: Path) -> None:
    """A second run appends only new rows to the file and counts the dropped ones."""
    recipe_of(tmp_path)
    with chat_server.serving(saying) as server:
        first = run(tmp_path, server.url, "--rows", "10")
        server.answer = lambda number, asked: saying(number - 1, asked)  # once more what it said first
        second = run(tmp_path, server.url, "--rows", "10")
    assert (0, 0) == (first.exit_code, second.exit_code)
    assert "Wrote 10 rows by big" in first.output
    assert "1 request, 100 tokens" in first.output
    assert "Dropped 10: resembles an existing row." in second.output
    texts = [json.loads(line)["text"] for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert (20, 20) == (len(texts), len(set(texts)))


def test_missing_final_newline_is_added_before_new_rows(tmp_path: Path) -> None:
    """Without the newline, the first new row would join the last old line, and neither could be read."""
    recipe_of(tmp_path)
    (tmp_path / "more.jsonl").write_text('{"text": "is this mine", "label": "refund"}')
    with chat_server.serving(saying) as server:
        assert 0 == run(tmp_path, server.url, "--rows", "10").exit_code
    texts = [json.loads(line)["text"] for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert (11, "is this mine") == (len(texts), texts[0])


def test_rows_before_a_server_failure_are_kept(tmp_path: Path) -> None:
    """If the server fails, the rows so far are in the file, and the exit code 4 means that the command can be
    retried."""
    recipe_of(tmp_path)
    with chat_server.serving(saying, statuses=[200, 503, 503, 503]) as server:
        result = run(tmp_path, server.url, "--rows", "20")
    assert 4 == result.exit_code
    assert 10 == len((tmp_path / "more.jsonl").read_text().splitlines())


def test_run_that_failed_at_once_can_be_repeated(tmp_path: Path) -> None:
    """The empty file of the failed run does not make the next run fail."""
    recipe_of(tmp_path)
    with chat_server.serving(saying, statuses=[503, 503, 503]) as server:
        assert 4 == run(tmp_path, server.url, "--rows", "10").exit_code
        again = run(tmp_path, server.url, "--rows", "10")
    assert (0, True) == (again.exit_code, "Wrote 10 rows" in again.output), again.output


def test_unsupported_kind_of_task_is_refused(tmp_path: Path) -> None:
    """The command refuses a decide task before any request, and the message names the supported kinds."""
    with chat_server.serving(saying) as server:
        recipe_of(tmp_path)
        task = "version: 1.0.0\nruntime: onnx\ntask:\n  name: t\n  kind: decide\n  questions:\n"
        (tmp_path / "task.yaml").write_text(f"{task}  - {{name: q, type: predicate, instructions: It is.}}\n")
        refused = run(tmp_path, server.url, "--rows", "10")
        assert [] == server.asked
    assert (2, True) == (refused.exit_code, "rows for a task of kind decide cannot be written" in refused.output), (
        refused.output
    )
    assert "classify, generate, extract" in refused.output


def test_output_file_must_be_jsonl(tmp_path: Path) -> None:
    """Another suffix is refused before any request."""
    recipe_of(tmp_path)
    assert 2 == run(tmp_path, "http://127.0.0.1:9/v1", "--out", str(tmp_path / "more.csv")).exit_code


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "row", "expected"),
    [
        (request(), {"text": " hi "}, {"text": "hi", "label": "refund"}),
        (request(), {"text": "hi", "label": "price"}, "row has another label than was asked for"),
        (request(), {"text": "x" * 2001}, "text: String should have at most 2000 characters"),
        (request(format_="prompt-completion"), {"text": "hi"}, {"prompt": "hi", "completion": "refund"}),
        (
            request(TaskSpec(name="t", kind="generate"), "messages"),
            {"text": "hi", "answer": "yes"},
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]},
        ),
        (request(TaskSpec(name="t", kind="generate"), "messages"), {"text": "hi"}, "answer: Field required"),
        (
            request(EXTRACT, "text-spans"),
            {"text": "two teas", "found": [{"label": "item", "text": "teas"}]},
            {"text": "two teas", "spans": [{"start": 4, "end": 8, "label": "item"}]},
        ),
        (
            request(EXTRACT, "text-spans"),
            {"text": "tea and tea", "found": [{"label": "item", "text": "tea"}]},
            "a span does not occur exactly once in the text",
        ),
        (
            request(EXTRACT, "text-spans"),
            {"text": "tea", "found": [{"label": "size", "text": "tea"}]},
            "row has a label that the task lacks",
        ),
        (
            request(EXTRACT, "text-spans"),
            {"text": "green tea", "found": [{"label": "item", "text": each} for each in ("green tea", "tea")]},
            "spans overlap",
        ),
        (request(EXTRACT, "text-spans"), {"text": "tea", "found": "tea"}, "found: Input should be a valid list"),
        (request(EXTRACT, "prompt-completion"), {"text": "a", "answer": "{}"}, {"prompt": "a", "completion": "{}"}),
    ],
)
def test_row_is_accepted_as_requested_or_rejected_with_a_reason(
    asked: GenerationRequest, row: dict[str, Any], expected: Any
) -> None:
    """A row that does not match the request is rejected instead of being corrected by guessing."""
    (found,) = rows_of(f"Sure!\n```json\n{json.dumps({'rows': [row]})}\n```", asked)
    assert (found.reason if isinstance(found, RejectedRow) else found.plain) == expected


def test_no_more_rows_are_taken_than_requested() -> None:
    """Rows beyond the requested number are dropped."""
    many = json.dumps({"rows": [{"text": f"text {n}"} for n in range(9)]})
    assert [ParsedRow] * 3 == [type(row) for row in rows_of(many, request())]


def test_similarity_ignores_case_punctuation_and_one_letter() -> None:
    """Case, punctuation and one changed letter do not make a new text; other words do."""
    known = SimilarityIndex(["How much is the blue backpack?"])
    assert [False, False, True, False, True, True] == [
        known.add(text)
        for text in (
            "how much is the blue backpack",
            "How much is the blue backpacks!",
            "What does the red kettle cost?",
            "what does the red kettle cost",
            "??",
            "你好",
        )
    ]


def test_prompt_shows_rows_in_the_requested_form() -> None:
    """The prompt shows spans as words, and conversations as question and answer."""
    spans = request(EXTRACT, "text-spans", examples=[DataRow("two teas", spans=(TextSpan(4, 8, "item"),))])
    assert '{"text": "two teas", "found": [{"label": "item", "text": "teas"}]}' in messages(spans)[-1]["content"]
    answers = request(TaskSpec(name="t", kind="generate"), "messages", examples=[DataRow("hi", completion="yes")])
    assert '{"text": "hi", "answer": "yes"}' in messages(answers)[-1]["content"]
    assert "'refund' and to none of: price, other" in messages(request())[-1]["content"]

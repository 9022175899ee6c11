"""Captured examples over the daemon's sockets: stored, reviewed, erased and sealed, and still there after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import CallFailed, Classification, ReviewClient
from edge_agent.formats import segment
from edge_agent.formats.signed_document import public_key_hex
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY, IDENTITY, RECIPIENT, records_of
from tests.support.site_cases import read_outbox

CARD = "4111 1111 1111 1111"
SITE = {"id": "site-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}
COLLECT = {
    "pos": "upstream",
    "home": "local",
    "talk": "upstream",
    "visit": "upstream",
    "near": "upstream",
    "paged": "local",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory) -> Iterator[RunningDaemon]:
    folder: Path = tmp_path_factory.mktemp("site")
    with RunningDaemon(folder, examples={"collect": COLLECT, "commit_seconds": 0.05}, site=SITE) as running:
        labels = ("refund", "price")
        running.install(
            echo_bundle(folder / "pos", "pos", labels=labels),
            echo_bundle(folder / "home", "home", labels=labels),
            echo_bundle(folder / "paged", "paged", labels=labels),
            echo_bundle(folder / "off", "off", labels=labels),
            echo_bundle(folder / "talk", "talk", "generate"),
            echo_bundle(folder / "visit", "visit", "extract", labels=("NAME", "DRUG")),
            echo_bundle(folder / "near", "near", "embed"),
        )
        yield running


def reviewing(daemon: RunningDaemon) -> ReviewClient:
    return ReviewClient(f"unix:{daemon.run_dir}/review.sock")


def ask(daemon: RunningDaemon, text: str, task: str = "pos") -> str:
    """Classify one text; return the id of the answer."""
    with daemon.client() as client:
        (answer,) = client.classify(task, [text])
        assert isinstance(answer, Classification)
        return answer.prediction_id


def refusal(call, *arguments, **options) -> str:
    """Return the reason for which a call fails."""
    with pytest.raises(CallFailed) as caught:
        call(*arguments, **options)
    return caught.value.reason


def test_answer_is_reviewable_at_once_and_redacted(daemon):
    """The next call after an answer can fetch it for review; its input is redacted there and in the spool's files."""
    asked = ask(daemon, f"pay with {CARD}")
    with reviewing(daemon) as client:
        found = client.prediction(asked)
    assert ("pay with [CARD_1]", "CLASSIFY", ("refund", "price")) == (found.input, found.kind, found.labels)
    assert (asked, "pos", "LOCAL", False) == (found.prediction_id, found.bundle.task, found.route, found.reviewed)
    assert found.output == found.scores[0][0]
    assert CARD.encode() not in b"".join(path.read_bytes() for path in daemon.state_dir.glob("spool.db*"))


def test_feedback_survives_a_kill_and_is_idempotent(daemon):
    """Acknowledged feedback is stored despite a kill; the same request again changes nothing, and its id is refused for
    other feedback."""
    asked, request_id = ask(daemon, "feedback"), str(uuid.uuid4())
    with reviewing(daemon) as client:
        client.correct(asked, "price", reviewer="anna", request_id=request_id)
    daemon.kill()
    daemon.start(*COLLECT, "off")
    with reviewing(daemon) as client:
        client.correct(asked, "price", reviewer="anna", request_id=request_id)
        assert "REQUEST_INVALID" == refusal(client.accept, asked, reviewer="anna", request_id=request_id)
        (said,) = client.prediction(asked).feedback
    assert ("anna", "corrected", "price") == (said.reviewer, said.verdict, said.value)


@pytest.mark.parametrize(
    ("task", "value"),
    [("pos", "no such label"), ("visit", "no json"), ("visit", "[]"), ("visit", '{"OTHER": []}'), ("talk", " ")],
)
def test_invalid_correction_is_refused(daemon, task, value):
    """The daemon refuses a correction with a label that the task lacks, or a record with other fields, and stores
    nothing."""
    with daemon.client() as client:
        if task == "talk":
            stream = client.generate(task, "hello")
            list(stream)
            asked = stream.finish.prediction_id
        else:
            (answer,) = (client.classify if task == "pos" else client.extract)(task, ["Anna takes ibuprofen"])
            asked = answer.prediction_id
    with reviewing(daemon) as client:
        assert "REQUEST_INVALID" == refusal(client.correct, asked, value, reviewer="anna")
        assert not client.prediction(asked).reviewed
        good = {"pos": "refund", "visit": json.dumps({"NAME": ["x"], "DRUG": []}), "talk": "better"}[task]
        client.correct(asked, good, reviewer="anna")
        client.reject(asked, "makes no sense", reviewer="ben")
        assert ["corrected", "reject"] == [said.verdict for said in client.prediction(asked).feedback]


def test_task_without_collection_stores_nothing(daemon):
    """Answers of a task that 'collect' does not name are not stored: the default is off."""
    asked = ask(daemon, "not collected", "off")
    with reviewing(daemon) as client:
        assert "PREDICTION_UNKNOWN" == refusal(client.prediction, asked)
        assert "PREDICTION_UNKNOWN" == refusal(client.accept, asked, reviewer="anna")


def test_embeddings_are_not_stored_with_warning(daemon):
    """Inputs of an embed task are not stored although 'collect' names it, because nobody can correct a vector; status
    has a warning."""
    with daemon.client() as client:
        (answer,) = client.embed("near", ["a text for a vector"])
    with reviewing(daemon) as client:
        assert "PREDICTION_UNKNOWN" == refusal(client.prediction, answer.prediction_id)
    with daemon.admin() as admin:
        assert 1 == sum("Task near answers with vectors" in warning for warning in admin.status().warnings)


def test_review_queue_is_paginated_and_ordered(daemon):
    """The review queue returns all answers over its pages with the uncertain ones in order of confidence, without
    judged ones."""
    asked = {ask(daemon, f"queue {number}", "paged") for number in range(7)}
    with reviewing(daemon) as client:
        queue = list(client.queue("paged", page_size=3))
        assert asked == {each.prediction_id for each in queue}
        assert {"UNCERTAIN", "DIVERSE"} == {each.review_stream for each in queue}
        unsure = [each.confidence for each in queue if each.review_stream == "UNCERTAIN"]
        assert sorted(unsure) == unsure
        assert unsure == [each.confidence for each in client.queue("paged", stream="uncertain")]
        client.accept(queue[0].prediction_id, reviewer="anna")
        assert 6 == len(list(client.queue("paged")))
        assert 7 == len(list(client.queue("paged", include_reviewed=True)))
        limit = queue[3].confidence
        assert all(each.confidence <= limit for each in client.queue("paged", confidence_max=limit))


@pytest.mark.parametrize("token", ["x", "AAAA", "\u00e9", "=" * 40])
def test_invalid_page_token_is_refused(daemon, token):
    """The daemon refuses a page token that it did not issue."""
    with reviewing(daemon) as client:
        assert "REQUEST_INVALID" == refusal(client.page, page_token=token)


def test_erased_example_is_removed_from_spool(daemon):
    """An erased example can no longer be fetched, and its text is not in the spool's files; an invalid id is
    refused."""
    asked = ask(daemon, "ERASEDWORD here", "home")
    with reviewing(daemon) as client:
        client.prediction(asked)
        assert client.erase(asked)[0]
        assert "PREDICTION_UNKNOWN" == refusal(client.prediction, asked)
        assert "REQUEST_INVALID" == refusal(client.erase, "../etc")
    assert b"ERASEDWORD" not in b"".join(path.read_bytes() for path in daemon.state_dir.glob("spool.db*"))


def test_sealed_segments_contain_only_shareable_records(daemon):
    """Segments sealed on demand contain redacted predictions and feedback of tasks collected as upstream, and none of
    tasks collected as local."""
    asked, at_home = ask(daemon, f"sealed {CARD}"), ask(daemon, "stays", "home")
    with reviewing(daemon) as client:
        client.correct(asked, "price", reviewer="anna")
        client.accept(at_home, reviewer="anna")
    with daemon.admin() as admin:
        sealed = admin.seal_examples()
        status = admin.status()
    assert ("site-1", str(daemon.state_dir / "outbox")) == (sealed.site, sealed.outbox_path)
    assert status.examples is not None
    records = {
        record.record_id: record
        for part in read_outbox(daemon.state_dir / "outbox", status.examples.epoch).values()
        for record in part
    }
    assert "sealed [CARD_1]" == records[f"prediction:{asked}"].input
    assert f"prediction:{at_home}" not in records
    assert asked in {record.prediction_id for record in records.values() if record.type == "feedback"}
    assert status.examples.counters["feedback"] >= 2
    assert {"pos": "upstream", "home": "local"}.items() <= status.examples.collect.items()


@pytest.mark.skipif(not shutil.which("age"), reason="the tool 'age' is not installed")
def test_age_tool_opens_segment(daemon, tmp_path):
    """The standard `age` tool decrypts a segment into zstd data: the central team does not need this project to read
    it."""
    ask(daemon, "for age")
    with daemon.admin() as admin:
        admin.seal_examples()
    (tmp_path / "identity").write_text(str(IDENTITY))
    sealed = next((daemon.state_dir / "outbox" / "segments").glob("*.age"))
    command = ["age", "--decrypt", "-i", str(tmp_path / "identity"), str(sealed)]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    assert b"\x28\xb5\x2f\xfd" == packed[:4]
    assert records_of(segment.unseal(sealed.read_bytes(), [IDENTITY]))


def test_feedback_is_refused_on_inference_socket(daemon):
    """inference.sock does not serve FeedbackService; review.sock has mode 0660 and serves health."""
    with ReviewClient(daemon.inference) as client:
        assert "UNIMPLEMENTED" == refusal(client.accept, "p", reviewer="x")
    assert 0o660 == (daemon.run_dir / "review.sock").stat().st_mode & 0o777
    eventually_sync(lambda: reviewing(daemon).serving(), 5)

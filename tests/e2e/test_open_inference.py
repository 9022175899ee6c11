"""The Open Inference Protocol: its answers and refusals are those of the daemon's own API."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_agent.client import Classification, ReviewClient
from edge_agent.server.open_inference.oip_tensors import pb
from tests.support.bundles import echo_bundle
from tests.support.daemon import STOP_SECONDS_MAX, RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.hostile_calls import ended
from tests.support.open_inference import Calls, final, floats, infer, opened, strings

LABELS = ("refund", "price")
TEXTS = ("a refund, please", "what is the price", "twelve lamps")
DRAIN_SECONDS = 10 * STOP_SECONDS_MAX  # whoever waits for the end of the drain is not waited for
STREAMS_MAX = 4


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with one task of each kind; answers of the first are stored."""
    folder = tmp_path_factory.mktemp("site")
    kinds = [echo_bundle(folder / kind, kind, kind) for kind in ("extract", "embed", "generate")]
    limits = {"limits": {"inputs_max": 4, "input_tokens_max": 50}}
    intent = echo_bundle(folder / "intent", "intent", labels=LABELS, version="1.2.0", task=limits)
    settings = {"examples": {"collect": {"intent": "local"}, "disk_reserve_bytes": 0}, "site": {"id": "shop-1"}}
    with RunningDaemon(folder / "site", access={"client_streams_max": STREAMS_MAX}, **settings) as running:
        running.install(intent, *kinds)
        yield running


@pytest.fixture
def calls(daemon: RunningDaemon) -> Iterator[Calls]:
    with opened(daemon.inference) as made:
        yield made


def refused(calls: Calls, name: str, request: Any) -> tuple[str, str, str]:
    """Make a call that fails; return its code, reason and message."""
    with pytest.raises(grpc.RpcError) as failed:
        calls(name, request)
    how = ended(failed.value)
    return how.code, how.reason, how.said


def test_model_infer_returns_answers_of_own_api(daemon: RunningDaemon, calls: Calls) -> None:
    """ModelInfer returns the labels, confidences and scores of Classify for a batch, with a prediction id for each
    input."""
    answer = calls("ModelInfer", infer("intent", *TEXTS, id="till 3/7"))
    with daemon.client() as client:
        own = client.classify("intent", list(TEXTS))
    assert all(isinstance(each, Classification) for each in own)
    assert ("intent", "1002000", "till 3/7") == (answer.model_name, answer.model_version, answer.id)
    assert [each.label for each in own] == strings(answer, "label")
    assert pytest.approx([each.confidence for each in own]) == floats(answer, "confidence")
    expected = [dict(each.scores)[label] for each in own for label in LABELS]
    assert pytest.approx(expected) == floats(answer, "scores")
    assert ["LOCAL"] * 3 == strings(answer, "route")
    assert 3 == len(set(strings(answer, "prediction_id")))


def test_model_infer_supports_extract_embed_and_generate(daemon: RunningDaemon, calls: Calls) -> None:
    """ModelInfer returns a record as JSON, embeddings as a matrix, and a generated text as a whole."""
    found = calls("ModelInfer", infer("extract", "12 lamps, 3 pots", outputs=[{"name": "record"}]))
    assert ['{"product": [], "price": [], "O": ["12", "3"]}'] == strings(found, "record")
    assert ["record"] == [output.name for output in found.outputs]
    matrix = calls("ModelInfer", infer("embed", "a", "b"))
    assert [2, 8] == list(matrix.outputs[0].shape)
    with daemon.client() as client:
        own = client.embed("embed", ["a", "b"])
    assert pytest.approx([value for each in own for value in each.values]) == floats(matrix, "embedding")
    text = calls("ModelInfer", infer("generate", "one two three"))
    assert (["one two three"], ["stop"]) == (strings(text, "text"), strings(text, "finish_reason"))


def test_stream_infer_streams_text_and_marks_last_response(calls: Calls) -> None:
    """ModelStreamInfer returns a text in pieces; the last response is marked as final and has the finish reason and the
    prediction id."""
    asked = infer("generate", "one two three", id="9", parameters={"output_tokens_max": {"int64_param": 2}})
    responses = list(calls("ModelStreamInfer", iter([asked])))
    assert [False, False, True] == final(responses)
    assert ["one", " two", ""] == [strings(each.infer_response, "text")[0] for each in responses]
    assert ["text"] == [output.name for output in responses[0].infer_response.outputs]
    last = responses[-1].infer_response
    assert (["length"], "9") == (strings(last, "finish_reason"), last.id)
    assert 36 == len(strings(last, "prediction_id")[0])


def test_stream_infer_continues_after_error(calls: Calls) -> None:
    """ModelStreamInfer answers its requests in order with their ids; a failed request gets an error response with its
    reason and does not end the stream."""
    asked = [infer("intent", "a refund", id="1"), infer("nobody", "x", id="2"), infer("intent", "price", id="3")]
    first, failed, third = calls("ModelStreamInfer", iter(asked))
    assert (["refund"], ["price"]) == tuple(strings(each.infer_response, "label") for each in (first, third))
    assert ["1", "2", "3"] == [each.infer_response.id for each in (first, failed, third)]
    assert failed.error_message.startswith("Request for unknown model: no task is called 'nobody'; known tasks: ")
    assert "TASK_UNKNOWN" == failed.infer_response.parameters["reason"].string_param
    assert [True] * 3 == final([first, failed, third])


def test_stream_infer_can_end_with_grpc_status(calls: Calls) -> None:
    """With the metadata `triton_grpc_error` the first error ends the stream with a gRPC status and its details."""
    answers = calls("ModelStreamInfer", iter([infer("intent")]), metadata=(("triton_grpc_error", "true"),))
    with pytest.raises(grpc.RpcError) as failed:
        list(answers)
    how = ended(failed.value)
    assert ("INVALID_ARGUMENT", "REQUEST_INVALID") == (how.code, how.reason)


def test_open_streams_per_client_are_limited(calls: Calls) -> None:
    """A client at its limit of 4 open streams is refused another one with CLIENT_SHARE_FULL, but can make other calls;
    an ended stream makes room."""
    hold = threading.Event()

    def held() -> Iterator[Any]:
        yield infer("intent", "a refund")
        hold.wait()

    streams = [calls("ModelStreamInfer", held()) for _ in range(STREAMS_MAX)]
    assert [["refund"]] * STREAMS_MAX == [strings(next(each).infer_response, "label") for each in streams]
    with pytest.raises(grpc.RpcError) as failed:
        next(calls("ModelStreamInfer", iter([infer("intent", "a refund")])))
    how = ended(failed.value)
    assert ("RESOURCE_EXHAUSTED", "CLIENT_SHARE_FULL") == (how.code, how.reason)
    assert "4 streams of requests of inference.sock are in progress; the limit is 4" == how.said
    assert ["price"] == strings(calls("ModelInfer", infer("intent", "price")), "label")
    hold.set()
    assert [[]] * STREAMS_MAX == [list(each) for each in streams]
    assert 1 == len(list(calls("ModelStreamInfer", iter([infer("intent", "a refund")]))))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (infer("nobody", "x"), ("NOT_FOUND", "TASK_UNKNOWN", "Request for unknown model: ")),
        (infer("intent", "x", model_version="7"), ("NOT_FOUND", "BUNDLE_UNKNOWN", "has no version 7")),
        (infer("intent", "x", model_version="1.2.0"), ("INVALID_ARGUMENT", "REQUEST_INVALID", "whole number")),
        (infer("intent", " "), ("INVALID_ARGUMENT", "INPUT_EMPTY", "no text")),
        (infer("intent", "a", " "), ("INVALID_ARGUMENT", "INPUT_EMPTY", "input 2 of 2: the input has no text")),
        (infer("intent", *"abcde"), ("INVALID_ARGUMENT", "TOO_MANY_INPUTS", "the limit is 4")),
        (infer("intent", "a " * 51), ("INVALID_ARGUMENT", "INPUT_TOO_LONG", "51")),
        (infer("intent"), ("INVALID_ARGUMENT", "REQUEST_INVALID", "no texts")),
        (infer("generate", "a", "b"), ("INVALID_ARGUMENT", "REQUEST_INVALID", "a generation has one input")),
        (
            infer("generate", "a", parameters={"seed": {"int64_param": -1}}),
            ("INVALID_ARGUMENT", "REQUEST_INVALID", "out of range"),
        ),
        (
            infer("intent", "a", parameters={"priority": {"uint64_param": 1}}),
            ("INVALID_ARGUMENT", "REQUEST_INVALID", "'priority'"),
        ),
        *(
            (
                infer("intent", "a", parameters={name: {"int64_param": 1}}),
                ("INVALID_ARGUMENT", "REQUEST_INVALID", f"known are: on_low_confidence, request_id. {instead}"),
            )
            for name, instead in (
                ("timeout", "Set the call's own deadline instead"),
                ("sequence_start", "Leave it out: requests do not belong together"),
            )
        ),
        (infer("intent", "!fail"), ("INTERNAL", "MODEL_FAILED", "told to fail")),
    ],
)
def test_invalid_request_is_refused_like_own_api(calls: Calls, request_: Any, expected: Any) -> None:
    """An invalid request fails with the code and reason of the daemon's own API; the message is complete, because users
    of tritonclient see nothing else."""
    code, reason, part = expected
    found = refused(calls, "ModelInfer", request_)
    assert (code, reason) == found[:2]
    assert part in found[2]


def test_requested_model_version_must_be_active(calls: Calls) -> None:
    """A request can name the active version, which the response repeats; another version is NOT_FOUND."""
    assert "1002000" == calls("ModelInfer", infer("intent", "x", model_version="1002000")).model_version
    assert calls("ModelReady", pb.ModelReadyRequest(name="intent", version="1002000")).ready
    assert "NOT_FOUND" == refused(calls, "ModelReady", pb.ModelReadyRequest(name="intent", version="3"))[0]


def test_request_id_parameter_is_idempotent(daemon: RunningDaemon, calls: Calls) -> None:
    """The parameter `request_id` returns the same prediction, shared with the daemon's own API; the protocol's `id`
    does not."""
    same = {"request_id": {"string_param": "d3b0"}}
    ids = [strings(calls("ModelInfer", infer("intent", "x", parameters=same)), "prediction_id") for _ in range(2)]
    with daemon.client() as client:
        [own] = client.classify("intent", ["x"], request_id="d3b0")
    other = calls("ModelInfer", infer("intent", "x", id="d3b0"))
    assert ids[0] == ids[1] == [own.prediction_id]
    assert ids[0] != strings(other, "prediction_id")


def test_answers_are_stored_and_counted(daemon: RunningDaemon, calls: Calls) -> None:
    """Answers over this protocol are counted in ModelStatistics, and reviewers can fetch them by prediction id."""
    [before] = calls("ModelStatistics", pb.ModelStatisticsRequest(name="intent")).model_stats
    answer = calls("ModelInfer", infer("intent", "a refund", "the price"))
    [counted] = calls("ModelStatistics", pb.ModelStatisticsRequest(name="intent")).model_stats
    assert before.inference_count + 2 == counted.inference_count == counted.inference_stats.success.count
    assert counted.inference_stats.success.ns > counted.inference_stats.compute_infer.ns
    ids = strings(answer, "prediction_id")
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        eventually_sync(lambda: {*ids} <= {each.prediction_id for each in reviewer.queue("intent")})
        assert ["a refund", "the price"] == [reviewer.prediction(each).input for each in ids]


def test_statistics_without_name_list_all_tasks(calls: Calls) -> None:
    """ModelStatistics without a name returns all tasks."""
    found = calls("ModelStatistics").model_stats
    assert ["embed", "extract", "generate", "intent"] == [each.name for each in found]


def test_server_metadata_lists_supported_extensions(calls: Calls) -> None:
    """The server is live and ready, and its metadata lists exactly the supported extensions."""
    assert calls("ServerLive").live
    assert calls("ServerReady").ready
    about = calls("ServerMetadata")
    assert "edge-agent" == about.name
    assert ["binary_tensor_data", "model_configuration", "parameters", "statistics"] == list(about.extensions)


@pytest.mark.slow
def test_unloadable_model_makes_server_not_ready(tmp_path: Path) -> None:
    """With a model whose weights are missing, neither the model nor the server is ready, but the server is live."""
    broken = echo_bundle(tmp_path / "broken", "broken", weights=b"x")
    with RunningDaemon(tmp_path / "site") as daemon:
        daemon.install(broken)
        [weights] = [
            each for each in (daemon.state_dir / "blobs").rglob("*") if each.is_file() and each.stat().st_size == 1
        ]
        daemon.stop()
        weights.unlink()
        daemon.start()
        with opened(daemon.inference) as calls:
            assert not calls("ModelReady", pb.ModelReadyRequest(name="broken")).ready
            assert not calls("ServerReady").ready
            assert calls("ServerLive").live


@pytest.mark.slow
def test_stop_ends_idle_open_stream(tmp_path: Path) -> None:
    """A stop ends a stream that has no request in progress with DRAINING, without waiting for the drain time."""
    with RunningDaemon(tmp_path / "site", service={"drain_seconds": DRAIN_SECONDS}) as daemon:
        daemon.install(echo_bundle(tmp_path / "b", "intent", labels=LABELS))
        hold = threading.Event()

        def requests() -> Iterator[Any]:
            yield infer("intent", "a refund")
            hold.wait()

        with opened(daemon.inference) as calls:
            stream = calls("ModelStreamInfer", requests())
            assert ["refund"] == strings(next(stream).infer_response, "label")
            assert 0 == daemon.stop()
            with pytest.raises(grpc.RpcError) as failed:
                next(stream)
            hold.set()
    assert ("UNAVAILABLE", "DRAINING") == (ended(failed.value).code, ended(failed.value).reason)


def test_model_infer_respects_deadline(calls: Calls) -> None:
    """ModelInfer ends at the caller's deadline with DEADLINE_EXCEEDED."""
    with pytest.raises(grpc.RpcError) as failed:
        calls("ModelInfer", infer("intent", "!slow 3000"), timeout=0.3)
    assert "DEADLINE_EXCEEDED" == ended(failed.value).code


@pytest.mark.slow
def test_raw_scores_are_little_endian_floats(calls: Calls) -> None:
    """Raw scores are little-endian floats of four bytes that add up to one."""
    answer = calls("ModelInfer", infer("intent", "a refund"))
    scores = answer.raw_output_contents[[output.name for output in answer.outputs].index("scores")]
    assert pytest.approx(1.0) == sum(struct.unpack("<2f", scores))

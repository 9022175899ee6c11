"""The Open Inference Protocol, served: every answer is the one that our own API gives, and so is every refusal."""

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
    """One task of each kind; answers of the first are kept."""
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
    """Make a call that fails; return code, reason and message."""
    with pytest.raises(grpc.RpcError) as failed:
        calls(name, request)
    how = ended(failed.value)
    return how.code, how.reason, how.said


def test_a_request_gets_what_our_own_api_answers(daemon: RunningDaemon, calls: Calls) -> None:
    """Label, confidence and scores of a batch are the same numbers, and each input has an id of its own."""
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


def test_other_kinds_are_answered_too(daemon: RunningDaemon, calls: Calls) -> None:
    """A record as JSON, a matrix, and the whole of a text."""
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


def test_a_generation_comes_in_pieces_and_the_last_is_marked(calls: Calls) -> None:
    """It has what all answers have; its text is what came before."""
    asked = infer("generate", "one two three", id="9", parameters={"output_tokens_max": {"int64_param": 2}})
    responses = list(calls("ModelStreamInfer", iter([asked])))
    assert [False, False, True] == final(responses)
    assert ["one", " two", ""] == [strings(each.infer_response, "text")[0] for each in responses]
    assert ["text"] == [output.name for output in responses[0].infer_response.outputs]
    last = responses[-1].infer_response
    assert (["length"], "9") == (strings(last, "finish_reason"), last.id)
    assert 36 == len(strings(last, "prediction_id")[0])


def test_a_stream_answers_one_after_the_other_and_outlives_errors(calls: Calls) -> None:
    """Each response has the id of its request; an error is said in the stream, with its reason."""
    asked = [infer("intent", "a refund", id="1"), infer("nobody", "x", id="2"), infer("intent", "price", id="3")]
    first, failed, third = calls("ModelStreamInfer", iter(asked))
    assert (["refund"], ["price"]) == tuple(strings(each.infer_response, "label") for each in (first, third))
    assert ["1", "2", "3"] == [each.infer_response.id for each in (first, failed, third)]
    assert failed.error_message.startswith("Request for unknown model: no task is called 'nobody'; known tasks: ")
    assert "TASK_UNKNOWN" == failed.infer_response.parameters["reason"].string_param
    assert [True] * 3 == final([first, failed, third])


def test_a_stream_may_ask_for_statuses(calls: Calls) -> None:
    """Then the first error ends it, with the details of any call."""
    answers = calls("ModelStreamInfer", iter([infer("intent")]), metadata=(("triton_grpc_error", "true"),))
    with pytest.raises(grpc.RpcError) as failed:
        list(answers)
    how = ended(failed.value)
    assert ("INVALID_ARGUMENT", "REQUEST_INVALID") == (how.code, how.reason)


def test_a_caller_cannot_hold_streams_without_end(calls: Calls) -> None:
    """Those that wait count, too: one more is refused like any call that is too much, and one that ends makes room."""
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
def test_what_is_wrong_is_refused_as_our_own_api_refuses_it(calls: Calls, request_: Any, expected: Any) -> None:
    """Code, reason and a message that stands alone: tritonclient's users see nothing else."""
    code, reason, part = expected
    found = refused(calls, "ModelInfer", request_)
    assert (code, reason) == found[:2]
    assert part in found[2]


def test_a_version_that_is_named_is_the_one_that_answers(calls: Calls) -> None:
    """Empty or the active one's number; the response states it."""
    assert "1002000" == calls("ModelInfer", infer("intent", "x", model_version="1002000")).model_version
    assert calls("ModelReady", pb.ModelReadyRequest(name="intent", version="1002000")).ready
    assert "NOT_FOUND" == refused(calls, "ModelReady", pb.ModelReadyRequest(name="intent", version="3"))[0]


def test_a_repeated_request_id_gets_the_same_answer(daemon: RunningDaemon, calls: Calls) -> None:
    """The parameter, for the protocol's own `id` is only echoed; the window is the one of our own API."""
    same = {"request_id": {"string_param": "d3b0"}}
    ids = [strings(calls("ModelInfer", infer("intent", "x", parameters=same)), "prediction_id") for _ in range(2)]
    with daemon.client() as client:
        [own] = client.classify("intent", ["x"], request_id="d3b0")
    other = calls("ModelInfer", infer("intent", "x", id="d3b0"))
    assert ids[0] == ids[1] == [own.prediction_id]
    assert ids[0] != strings(other, "prediction_id")


def test_answers_are_kept_and_counted_like_all_others(daemon: RunningDaemon, calls: Calls) -> None:
    """A reviewer finds them by their ids, and the counts are those of the task, whatever API asked."""
    [before] = calls("ModelStatistics", pb.ModelStatisticsRequest(name="intent")).model_stats
    answer = calls("ModelInfer", infer("intent", "a refund", "the price"))
    [counted] = calls("ModelStatistics", pb.ModelStatisticsRequest(name="intent")).model_stats
    assert before.inference_count + 2 == counted.inference_count == counted.inference_stats.success.count
    assert counted.inference_stats.success.ns > counted.inference_stats.compute_infer.ns
    ids = strings(answer, "prediction_id")
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        eventually_sync(lambda: {*ids} <= {each.prediction_id for each in reviewer.queue("intent")})
        assert ["a refund", "the price"] == [reviewer.prediction(each).input for each in ids]


def test_statistics_of_everything(calls: Calls) -> None:
    """Without a name all tasks are listed."""
    found = calls("ModelStatistics").model_stats
    assert ["embed", "extract", "generate", "intent"] == [each.name for each in found]


def test_the_server_says_what_it_is(calls: Calls) -> None:
    """And lists no extension that it does not have."""
    assert calls("ServerLive").live
    assert calls("ServerReady").ready
    about = calls("ServerMetadata")
    assert "edge-agent" == about.name
    assert ["binary_tensor_data", "model_configuration", "parameters", "statistics"] == list(about.extensions)


@pytest.mark.slow
def test_a_model_is_ready_when_it_is_loaded(tmp_path: Path) -> None:
    """One that does not load is known and not ready, and then the server is not, either."""
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
def test_a_stop_does_not_wait_for_open_streams(tmp_path: Path) -> None:
    """One that waits for its next request is ended at once, with the reason."""
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


def test_a_deadline_reaches_the_model(calls: Calls) -> None:
    """As with any call."""
    with pytest.raises(grpc.RpcError) as failed:
        calls("ModelInfer", infer("intent", "!slow 3000"), timeout=0.3)
    assert "DEADLINE_EXCEEDED" == ended(failed.value).code


@pytest.mark.slow
def test_raw_numbers_are_little_endian(calls: Calls) -> None:
    """Four bytes each, and they add up to one."""
    answer = calls("ModelInfer", infer("intent", "a refund"))
    scores = answer.raw_output_contents[[output.name for output in answer.outputs].index("scores")]
    assert pytest.approx(1.0) == sum(struct.unpack("<2f", scores))

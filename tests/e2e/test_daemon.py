"""The whole daemon from the view of a client device and an operator: real process, real sockets, the echo runtime."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from edge_agent.client import CallFailed, Classification, Client, Failure
from edge_agent.v1 import inference_pb2, inference_pb2_grpc
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port

LABELS = ("refund", "price")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with a task of each kind; its tests leave its state unchanged."""
    folder = tmp_path_factory.mktemp("daemon")
    limits = {"limits": {"input_tokens_max": 8, "inputs_max": 3}}
    with RunningDaemon(folder, engine={"queue_requests_max": 4, "sequences_max": 2}) as running:
        running.install(
            echo_bundle(folder / "a", "intent", "classify", LABELS, task=limits),
            echo_bundle(folder / "b", "talk", "generate"),
            echo_bundle(folder / "c", "numbers", "extract", ("number",)),
            echo_bundle(folder / "d", "vector", "embed"),
        )
        yield running


def refused(daemon: RunningDaemon, task: str, texts: list[str], timeout_seconds: float = 10) -> CallFailed:
    with daemon.client() as client, pytest.raises(CallFailed) as caught:
        client.classify(task, texts, timeout_seconds=timeout_seconds)
    return caught.value


# --- answers -----------------------------------------------------------------------------------------------------


def test_classify_answers_each_input(daemon: RunningDaemon) -> None:
    """Classify returns one answer for each input, each with its own UUID 4 as prediction id and the digest of the
    bundle."""
    with daemon.client() as client:
        answers = client.classify("intent", ["a refund", "the price"])
        digest = client.task("intent").bundle.digest
    assert all(isinstance(answer, Classification) for answer in answers)
    assert ["refund", "price"] == [answer.label for answer in answers]
    ids = {uuid.UUID(answer.prediction_id) for answer in answers}
    assert [(4, uuid.RFC_4122)] * 2 == [(each.version, each.variant) for each in ids]
    assert [digest, digest] == [answer.bundle.digest for answer in answers]
    assert "LOCAL" == answers[0].route
    assert answers[0].below_threshold, "the bundle has no threshold, so nothing counts as sure"


def test_invalid_input_in_batch_fails_alone(daemon: RunningDaemon) -> None:
    """In a batch, an empty and a too long input get errors at their positions, and the valid input is answered."""
    with daemon.client() as client:
        empty, good, long = client.classify("intent", [" ", "refund", "1 2 3 4 5 6 7 8 9"])
    assert isinstance(empty, Failure)
    assert "INPUT_EMPTY" == empty.reason
    assert isinstance(good, Classification)
    assert isinstance(long, Failure)
    assert ("INPUT_TOO_LONG", "9", "8") == (long.reason, long.metadata["tokens"], long.metadata["limit"])


def test_generate_streams_text_and_finish(daemon: RunningDaemon) -> None:
    """Generate streams the text in pieces; the final message has the finish reason and the number of tokens."""
    with daemon.client() as client, client.generate("talk", "one two three", output_tokens_max=2, logprobs=1) as stream:
        assert ["one", " two"] == list(stream)
        assert stream.finish is not None
        assert ("LENGTH", 2) == (stream.finish.reason, stream.finish.output_tokens)
        assert () == stream.finish.tokens, "echo knows no probabilities"


def test_extract_returns_record_and_offsets(daemon: RunningDaemon) -> None:
    """Extract returns a JSON record and the start and end offsets of each value."""
    with daemon.client() as client:
        [answer] = client.extract("numbers", ["pay 12 or 7"])
    assert {"number": ["12", "7"]} == json.loads(answer.json)
    assert [(4, 6), (10, 11)] == [(entity.start, entity.end) for entity in answer.entities]


def test_embed_returns_unit_vector(daemon: RunningDaemon) -> None:
    """Embed returns the same vector of length 1 for the same text."""
    with daemon.client() as client:
        first, second = client.embed("vector", ["tea", "tea"])
    assert first.values == second.values
    assert 1.0 == pytest.approx(sum(value * value for value in first.values))


def test_retry_with_same_request_id_gets_same_answer(daemon: RunningDaemon) -> None:
    """A retry with the same request id returns the first prediction; the daemon refuses the id for a different
    request."""
    request_id = str(uuid.uuid4())
    with daemon.client() as client:
        [first] = client.classify("intent", ["refund"], request_id=request_id)
        [second] = client.classify("intent", ["refund"], request_id=request_id)
        assert first.prediction_id == second.prediction_id
        with pytest.raises(CallFailed, match="another request") as caught:
            client.classify("intent", ["price"], request_id=request_id)
    assert "REQUEST_INVALID" == caught.value.reason


def test_abstain_withholds_the_label(daemon: RunningDaemon) -> None:
    """A caller that requests only confident answers gets none from an uncalibrated bundle."""
    with daemon.client() as client:
        [answer] = client.classify("intent", ["refund"], on_low_confidence="abstain")
    assert ("ABSTAINED", "") == (answer.route, answer.label)


# --- bad input ---------------------------------------------------------------------------------------------------


def test_unknown_task_error_lists_known_tasks(daemon: RunningDaemon) -> None:
    """A call to an unknown task fails with TASK_UNKNOWN, and the message lists the known tasks."""
    failed = refused(daemon, "intend", ["x"])
    assert ("NOT_FOUND", "TASK_UNKNOWN") == (failed.code, failed.reason)
    assert "known tasks: intent, numbers, talk, vector" in failed.message


def test_single_empty_input_fails_the_call(daemon: RunningDaemon) -> None:
    """A call whose only input is empty fails with INPUT_EMPTY and a remedy."""
    failed = refused(daemon, "intent", ["  \n"])
    assert ("INVALID_ARGUMENT", "INPUT_EMPTY") == (failed.code, failed.reason)
    assert failed.remedy


def test_input_over_token_limit_is_refused(daemon: RunningDaemon) -> None:
    """A call whose only input is too long fails with INPUT_TOO_LONG; the message has the token count and the limit."""
    failed = refused(daemon, "intent", ["1 2 3 4 5 6 7 8 9"])
    assert ("INVALID_ARGUMENT", "INPUT_TOO_LONG") == (failed.code, failed.reason)
    assert "the input has 9 tokens; the limit is 8" == failed.message


def test_batch_size_limits(daemon: RunningDaemon) -> None:
    """The daemon refuses a batch without inputs and one with more than inputs_max."""
    assert "REQUEST_INVALID" == refused(daemon, "intent", []).reason
    failed = refused(daemon, "intent", ["x"] * 4)
    assert ("TOO_MANY_INPUTS", "the request has 4 texts; the limit is 3") == (failed.reason, failed.message)


def test_wrong_call_for_task_kind_is_refused(daemon: RunningDaemon) -> None:
    """Classify on a generate task fails with TASK_KIND_MISMATCH, and the message names the task's kind."""
    failed = refused(daemon, "talk", ["x"])
    assert ("INVALID_ARGUMENT", "TASK_KIND_MISMATCH") == (failed.code, failed.reason)
    assert "kind generate" in failed.message


def test_expired_deadline_ends_the_call(daemon: RunningDaemon) -> None:
    """A call that exceeds its deadline ends with DEADLINE_EXCEEDED, and the daemon answers the next one."""
    assert "DEADLINE_EXCEEDED" == refused(daemon, "intent", ["!slow 500"], timeout_seconds=0.1).code
    with daemon.client() as client:
        assert "refund" == client.classify("intent", ["refund"])[0].label


def test_full_queue_returns_retry_delay(daemon: RunningDaemon) -> None:
    """Under overload the daemon refuses calls with RESOURCE_EXHAUSTED and a retry delay, and answers the accepted
    ones."""
    results: list[list[Classification | Failure] | CallFailed] = []

    def call() -> None:
        with daemon.client() as client:
            try:
                results.append(client.classify("intent", ["!slow 100"] * 3))
            except CallFailed as failed:
                results.append(failed)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    full = [result for result in results if isinstance(result, CallFailed)]
    assert full
    assert {("RESOURCE_EXHAUSTED", "QUEUE_FULL")} == {(failed.code, failed.reason) for failed in full}
    assert all(failed.retry_after_seconds for failed in full)
    assert len(full) < len(results)


def test_a_message_over_the_limit_is_refused(daemon: RunningDaemon) -> None:
    """The daemon refuses a message of 5 MB with RESOURCE_EXHAUSTED."""
    assert "RESOURCE_EXHAUSTED" == refused(daemon, "intent", ["x" * 5_000_000]).code


def test_generation_options_are_checked(daemon: RunningDaemon) -> None:
    """The daemon refuses a temperature, stop text, output length or logprobs value outside its range, and the message
    has the range."""
    for options, said in (
        ({"temperature": 3.0}, "from 0 to 2"),
        ({"stops": ("",)}, "1 to 64 characters"),
        ({"output_tokens_max": 10_000}, "the task's limit is 256"),
        ({"logprobs": 6}, "from 0 to 5"),
    ):
        with daemon.client() as client, pytest.raises(CallFailed, match=said):
            list(client.generate("talk", "hello", **options))


def test_garbage_on_socket_does_not_disturb_daemon(daemon: RunningDaemon) -> None:
    """After bytes that are not HTTP/2 and a message that is not protobuf, the daemon still serves."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(daemon.inference.removeprefix("unix:"))
        raw.sendall(b"\xff" * 4096)
    with grpc.insecure_channel(daemon.inference) as channel:
        classify = channel.unary_unary("/edge_agent.v1.InferenceService/Classify")
        with pytest.raises(grpc.RpcError):
            classify(b"\xff\xff\xff", timeout=60)
    with daemon.client() as client:
        assert client.serving()


# --- the operator ------------------------------------------------------------------------------------------------


def test_status_shows_tasks_engines_and_unsigned_bundles(daemon: RunningDaemon) -> None:
    """Status shows four tasks that share one engine, and a warning lists the unsigned bundles."""
    with daemon.admin() as admin:
        status = admin.status()
    assert ["intent", "numbers", "talk", "vector"] == [task.name for task in status.tasks]
    (engine,) = status.engines
    assert ("READY", 4) == (engine.state, len(engine.tasks))
    assert engine.pid != os.getpid()
    assert not any(task.signed for task in status.tasks)
    assert any("Without a verified signature: intent, numbers" in warning for warning in status.warnings)


def test_socket_modes_and_services_follow_roles(daemon: RunningDaemon) -> None:
    """inference.sock and review.sock have mode 0660 and do not serve AdminService; admin.sock has mode 0600."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in daemon.run_dir.iterdir()}
    assert {"inference.sock": 0o660, "review.sock": 0o660, "admin.sock": 0o600} == modes
    for name in ("inference.sock", "review.sock"):
        with grpc.insecure_channel(f"unix:{daemon.run_dir / name}") as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/edge_agent.v1.AdminService/GetStatus")(b"", timeout=60)
        assert grpc.StatusCode.UNIMPLEMENTED == caught.value.code()


def test_admin_group_owns_admin_socket(tmp_path: Path) -> None:
    """With `admin_group` set, admin.sock has mode 0660 and that group."""
    group = grp.getgrgid(os.getegid()).gr_name
    with RunningDaemon(tmp_path, service={"admin_group": group}) as running:
        found = (running.run_dir / "admin.sock").stat()
    assert (0o660, os.getegid()) == (stat.S_IMODE(found.st_mode), found.st_gid)


def test_reflection_is_served_on_admin_but_not_inference_socket(daemon: RunningDaemon) -> None:
    """admin.sock offers reflection for its services; inference.sock does not."""
    with grpc.insecure_channel(daemon.admin_target) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"edge_agent.v1.AdminService", "edge_agent.v1.InferenceService", "grpc.health.v1.Health"} <= services
    assert "edge_agent.v1.FeedbackService" not in services, "it is served on review.sock"
    with grpc.insecure_channel(daemon.inference) as channel, pytest.raises(grpc.RpcError):
        list(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_health_reports_daemon_and_each_task(daemon: RunningDaemon) -> None:
    """The health service reports the daemon's state and each task's, and NOT_FOUND for an unknown task."""
    with daemon.client() as client:
        assert client.serving()
        assert client.serving("intent")
        with pytest.raises(CallFailed) as caught:
            client.serving("nothing")
    assert "NOT_FOUND" == caught.value.code


@pytest.mark.slow
def test_frequent_keepalive_pings_are_tolerated(daemon: RunningDaemon) -> None:
    """The daemon keeps the connection of a client that pings every 11 s without calls; gRPC's default minimum is 300
    s."""
    options = [("grpc.keepalive_time_ms", 11_000), ("grpc.http2.max_pings_without_data", 0)]
    with grpc.insecure_channel(daemon.inference, options=options) as channel, pytest.raises(grpc.RpcError) as caught:
        list(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=75))
    assert grpc.StatusCode.DEADLINE_EXCEEDED == caught.value.code(), caught.value


def test_list_tasks_is_paginated(daemon: RunningDaemon) -> None:
    """ListTasks returns pages in the order of names and an empty token at the end; a negative page size is refused."""
    with grpc.insecure_channel(daemon.inference) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        first = stub.ListTasks(inference_pb2.ListTasksRequest(page_size=3))
        rest = stub.ListTasks(inference_pb2.ListTasksRequest(page_size=3, page_token=first.next_page_token))
        assert ["intent", "numbers", "talk"] == [task.name for task in first.tasks]
        assert (["vector"], "") == ([task.name for task in rest.tasks], rest.next_page_token)
        with pytest.raises(grpc.RpcError, match="negative"):
            stub.ListTasks(inference_pb2.ListTasksRequest(page_size=-1))


# --- a second daemon ---------------------------------------------------------------------------------------------


def serve_again(daemon: RunningDaemon, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*daemon.command(), *options, "serve"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_second_daemon_on_same_state_directory_is_refused(daemon: RunningDaemon) -> None:
    """A second daemon on the same state directory exits with 3, and its error has a remedy and no traceback."""
    second = serve_again(daemon)
    assert 3 == second.returncode
    assert "another" in second.stderr.lower()
    assert "what to do" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.slow
def test_socket_in_use_is_not_taken_over(daemon: RunningDaemon, tmp_path: Path) -> None:
    """A second daemon with another state directory exits with 3 and leaves the sockets of the first; gRPC alone would
    take them over."""
    second = serve_again(daemon, "--state-dir", str(tmp_path / "other"))
    assert 3 == second.returncode
    assert "another process listens" in second.stderr
    with daemon.client() as client:
        assert client.serving()


@pytest.mark.slow
def test_port_in_use_is_refused(tmp_path: Path) -> None:
    """A daemon whose port is in use exits with 3; SO_REUSEPORT, which would split the traffic silently, is off."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = RunningDaemon(tmp_path, service={"tcp_address": address, "insecure": True})
        second = serve_again(daemon)
    assert 3 == second.returncode
    assert f"cannot listen on {address}" in second.stderr


@pytest.mark.slow
def test_insecure_tcp_port_is_served_with_warning(tmp_path: Path) -> None:
    """With a TCP address and `insecure: true` the daemon answers on that port, and the log has a warning."""
    address = f"127.0.0.1:{free_port()}"
    with RunningDaemon(tmp_path, service={"tcp_address": address, "insecure": True}) as daemon:
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            assert [] == list(stub.ListTasks(inference_pb2.ListTasksRequest(), timeout=60).tasks)
        assert "listening_without_tls" in daemon.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("written", ["[::1]:{}", "::1:{}"])
def test_ipv6_address_works_with_and_without_brackets(tmp_path: Path, written: str) -> None:
    """The daemon listens on an IPv6 address with or without brackets; as for metrics and the console, the last colon
    separates the port."""
    port = free_port()
    with (
        RunningDaemon(tmp_path, service={"tcp_address": written.format(port), "insecure": True}),
        Client(f"[::1]:{port}") as client,
    ):
        assert client.serving()


# --- stopping ----------------------------------------------------------------------------------------------------


def test_sigterm_completes_running_call_and_removes_sockets(tmp_path: Path) -> None:
    """After SIGTERM the daemon completes a running call, removes its sockets and exits with 0; a later call fails with
    UNREACHABLE."""
    with RunningDaemon(tmp_path) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        answers: list[Classification | Failure] = []

        def call() -> None:
            with daemon.client() as client:
                answers.extend(client.classify("intent", ["!slow 800 refund"]))

        thread = threading.Thread(target=call)
        with daemon.admin() as admin:
            thread.start()
            eventually_sync(lambda: admin.status().engines[0].pending == 1)
        assert 0 == daemon.stop()
        thread.join()
        assert ["refund"] == [answer.label for answer in answers if isinstance(answer, Classification)]
        assert [] == list(daemon.run_dir.iterdir())
        with daemon.client() as client, pytest.raises(CallFailed) as caught:
            client.classify("intent", ["refund"], timeout_seconds=2)
        assert "UNREACHABLE" == caught.value.reason


def test_drain_reports_not_serving_and_refuses_calls(tmp_path: Path) -> None:
    """After Drain the daemon's health is NOT_SERVING, and new calls fail with UNAVAILABLE and a retry delay."""
    with RunningDaemon(tmp_path) as daemon, daemon.client() as client, daemon.admin() as admin:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        admin.drain()
        eventually_sync(lambda: not client.serving())
        with pytest.raises(CallFailed) as caught:
            client.classify("intent", ["refund"])
        assert ("UNAVAILABLE", "DRAINING") == (caught.value.code, caught.value.reason)
        assert caught.value.retry_after_seconds


@pytest.mark.slow
def test_daemon_notifies_systemd_of_start_and_stop(tmp_path: Path) -> None:
    """The daemon sends READY=1 to NOTIFY_SOCKET when it is ready, and STOPPING=1 when it stops."""
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(60)
        daemon = RunningDaemon(tmp_path / "d")
        daemon.environment["NOTIFY_SOCKET"] = path
        with daemon:
            assert b"READY=1" == sock.recv(100)
        assert b"STOPPING=1" == sock.recv(100)


def test_status_reports_confinement_of_engine(daemon: RunningDaemon) -> None:
    """Status reports each confinement measure of an engine, with a warning for each of seccomp and Landlock that is
    off."""
    with daemon.admin() as admin:
        status = admin.status()
    details = status.engines[0].details
    assert {"seccomp", "landlock", "memory"} <= set(details)
    weak = [measure for measure in ("seccomp", "landlock") if details[measure] != "on"]
    assert len(weak) == len([warning for warning in status.warnings if "not fully confined" in warning])

"""Third-party clients of the Open Inference Protocol, unchanged, each in its own environment."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import environments
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.tls_site import TlsSite

SECONDS_MAX = 100.0
REQUESTS = 20
CONCURRENCY = 2
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@dataclass
class Site:
    """A daemon with one task of each kind on its sockets and on TCP with certificates."""

    daemon: RunningDaemon
    tls: TlsSite
    folder: Path

    @property
    def certificates(self) -> list[str]:
        """The certificate files of a client device."""
        self.tls.client("till", "infer")
        return [str(self.tls.folder / name) for name in ("ca.crt", "till.crt", "till.key")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    tls = TlsSite(folder / "tls")
    kinds = [echo_bundle(folder / kind, kind, kind) for kind in ("extract", "embed", "generate")]
    intent = echo_bundle(folder / "intent", "intent", labels=("refund", "price"), version="1.2.0")
    with RunningDaemon(folder / "site", **tls.settings()) as daemon:
        daemon.install(intent, *kinds)
        yield Site(daemon, tls, folder)


def told(environment: str, script: str, *words: str) -> Any:
    """Run a client; return its output."""
    command = [environments.interpreter(environment), environments.CLIENTS / f"{script}.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_triton(found: Any) -> None:
    """Compare tritonclient's answers with the expected ones of the daemon's own API."""
    assert (True, True, True, "edge-agent") == tuple(found[key] for key in ("live", "ready", "model_ready", "server"))
    assert ["label", "confidence", "below_threshold", "scores"] == [o["name"] for o in found["metadata"]["outputs"]][:4]
    assert (["1002000"], 64) == (found["metadata"]["versions"], found["config"]["max_batch_size"])
    assert '["refund", "price"]' == found["config"]["parameters"]["labels"]["string_value"]
    batch = found["batch"]
    assert (["refund", "price"], [True, True]) == (batch["label"], batch["below_threshold"])
    assert [2, 2] == found["scores_shape"]
    assert [batch["scores"][0], batch["scores"][3]] == batch["confidence"]
    assert pytest.approx([1.0, 1.0]) == [sum(batch["scores"][:2]), sum(batch["scores"][2:])]
    assert (2, ["LOCAL", "LOCAL"]) == (len(set(batch["prediction_id"])), batch["route"])
    assert ("a/7", ["scores", "label"]) == (found["id"], found["wanted"])
    assert {"record": ['{"product": [], "price": [], "O": ["12"]}']} == found["record"]
    assert [3, 8] == found["embedding_shape"]
    assert {"label": [""], "route": ["ABSTAINED"]} == found["abstained"]
    assert int(found["statistics"]["inference_count"]) >= 4


def check_refusals(found: Any) -> None:
    """Check the code and the message of refused calls, which is all that tritonclient shows."""
    code, message = found["unknown"]
    assert "StatusCode.NOT_FOUND" == code
    assert message.startswith("Request for unknown model: no task is called 'nobody'; known tasks: ")
    for key, named in (("parameter", "'colour'"), ("priority", "'priority'")):
        code, message = found[key]
        assert "StatusCode.INVALID_ARGUMENT" == code
        assert named in message
    assert "StatusCode.DEADLINE_EXCEEDED" == found["late"][0]


@pytest.mark.slow
def test_tritonclient_over_socket(site: Site) -> None:
    """tritonclient gets answers, refusals and a stream with an error in the middle over the socket."""
    found = told("triton", "triton_sync", site.daemon.inference)
    check_triton(found)
    check_refusals(found)
    *pieces, failed, four, end = found["stream"]
    assert [[["one"], False], [[" two"], False], [[" three"], False], [[""], True]] == pieces
    assert [[["four"], False], [[""], True]] == [four, end]
    assert failed[0].startswith("Request for unknown model")


@pytest.mark.slow
def test_tritonclient_with_certificates(site: Site) -> None:
    """tritonclient gets the same answers over TCP with a client certificate."""
    check_triton(told("triton", "triton_sync", site.tls.address, *site.certificates))


@pytest.mark.slow
def test_tritonclient_aio(site: Site) -> None:
    """tritonclient's asyncio client makes 16 concurrent calls and a stream of two requests."""
    found = told("triton", "triton_aio", site.daemon.inference)
    assert found["ready"]
    assert ["refund", "price"] * 8 == found["labels"]
    first, second = [["one two", "one", False], ["one two", " two", False], ["one two", "", True]], found["pieces"][3:]
    assert first == found["pieces"][:3]
    assert [["three", "three", False], ["three", "", True]] == second


@pytest.mark.slow
def test_kserve_client(site: Site) -> None:
    """KServe's client gets the same answers to raw and typed requests, and NOT_FOUND with the known tasks for an
    unknown model."""
    found = told("kserve", "kserve_client", site.daemon.inference)
    assert (True, True, True, "k/1") == tuple(found[key] for key in ("live", "ready", "model_ready", "id"))
    for form in ("raw", "typed"):
        assert ["refund", "price"] == found[form]["label"]
        assert 2 == len(set(found[form]["prediction_id"]))
    assert found["raw"]["confidence"] == found["typed"]["confidence"]
    assert {"label": [""], "route": ["ABSTAINED"]} == found["abstained"]
    assert {"text": ["one two"], "finish_reason": ["stop"]} == found["text"]
    code, message = found["unknown"]
    assert "NOT_FOUND" == code
    assert "known tasks: embed, extract, generate, intent" in message


@pytest.mark.slow
def test_reflection_client_calls_both_apis(site: Site) -> None:
    """A client without the protocol files finds both APIs by reflection on admin.sock and calls them."""
    found = told("triton", "reflecting", site.daemon.admin_target)
    assert {"inference.GRPCInferenceService", "edge_agent.v1.InferenceService"} <= set(found["services"])
    assert {"live": True} == found["live"]
    for answer in (found["answer"], found["stream"][0]["infer_response"]):
        assert b"\6\0\0\0refund" == base64.b64decode(answer["raw_output_contents"][0])
    assert "refund" == found["own"]["results"][0]["classification"]["label"]


def analysed(site: Site, model: str, text: str, *words: str) -> list[Any]:
    """Run perf_analyzer; return its requests with the outputs of each response."""
    data, out = site.folder / "data.json", site.folder / "profile.json"
    data.write_text(json.dumps({"data": [{"text": {"content": [text], "shape": [1]}}]}))
    out.unlink(missing_ok=True)
    program = environments.interpreter("triton").with_name("perf_analyzer")
    given = [
        "-m",
        model,
        "-i",
        "grpc",
        "--request-count",
        REQUESTS,
        "--input-data",
        data,
        "--concurrency-range",
        CONCURRENCY,
    ]
    command = [program, *given, "--profile-export-file", out, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert out.exists(), done.stdout + done.stderr  # its exit code is 0 whatever happens
    [experiment] = json.loads(out.read_text())["experiments"]
    # The client's own count. The server's, read at the end of the window, may lack the last of them or have one more.
    assert f"    Request count: {REQUESTS}\n" in done.stdout
    served = [int(count) for count in re.findall(r"Successful request count: (\d+)", done.stdout)]
    assert all(abs(count - REQUESTS) <= CONCURRENCY for count in served), done.stdout
    return list(experiment["requests"])


def test_perf_analyzer_over_socket(site: Site) -> None:
    """perf_analyzer reads metadata, configuration and statistics over the socket, and every answer is right."""
    requests = analysed(site, "intent", "a refund", "-u", site.daemon.inference)
    assert REQUESTS == len(requests)
    assert [["refund"]] * REQUESTS == [[each["label"] for each in made["response_outputs"]] for made in requests]


def test_perf_analyzer_with_certificates(site: Site) -> None:
    """perf_analyzer gets the right answers over TCP with a client certificate."""
    ca, certificate, key = site.certificates
    files = ["--ssl-grpc-root-certifications-file", ca, "--ssl-grpc-certificate-chain-file", certificate]
    secure = ["--ssl-grpc-use-ssl", *files, "--ssl-grpc-private-key-file", key]
    requests = analysed(site, "intent", "the price", "-u", site.tls.address, *secure)
    assert {"price"} == {each["label"] for made in requests for each in made["response_outputs"]}


def test_perf_analyzer_streaming(site: Site) -> None:
    """perf_analyzer handles a generate task as a decoupled model: three pieces and an end for each text."""
    requests = analysed(site, "generate", "one two three", "-u", site.daemon.inference, "--streaming", "--async")
    assert [["one", " two", " three", ""]] * REQUESTS == [
        [each["text"] for each in made["response_outputs"]] for made in requests
    ]
    assert {"stop"} == {made["response_outputs"][-1]["finish_reason"] for made in requests}


@pytest.mark.slow
def test_health_check_and_watch(tmp_path: Path) -> None:
    """The standard health service reports the daemon and each task; a watch reports a removed task and a drain."""
    with RunningDaemon(tmp_path / "site") as daemon:
        daemon.install(echo_bundle(tmp_path / "intent", "intent"), echo_bundle(tmp_path / "other", "other"))
        with grpc.insecure_channel(daemon.inference) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            checked = [stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "intent")]
            assert [SERVING, SERVING] == checked
            with pytest.raises(grpc.RpcError) as unknown:
                stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert grpc.StatusCode.NOT_FOUND is unknown.value.code()
            task, overall = (stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("other", ""))
            assert (SERVING, SERVING) == (next(task).status, next(overall).status)
            with daemon.admin() as admin:
                admin.remove("other", "")
            assert SERVICE_UNKNOWN == next(task).status
            with daemon.admin() as admin:
                admin.drain()
            assert NOT_SERVING == next(overall).status

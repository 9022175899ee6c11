"""A daemon without models for tests of clients: real gRPC on real sockets, answers from a table.

    with FakeDaemon(f"unix:{tmp_path}/inference.sock") as daemon:
        Client(daemon.targets[0]).classify("pos-intent", ["hello"])
        daemon.inference.requests[-1]          # what the client sent

Tasks by name: "unknown" is not there, "busy" has a full queue, "stuck" never answers, "stuck-later" not what holds the
text "three", "endless" writes until it is cancelled, "bootstrapped" has no model here and "abstaining" gives no label,
and every other name answers. A text "bad" fails alone; a request
of "lone" with nothing else fails as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status

from edge_agent.errors import QueueFull
from edge_agent.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc, task_pb2

DIGEST = "ab" * 32
WAIT_SECONDS_MAX = 60.0
RECORD_SCHEMA = '{"type": "object", "properties": {"price": {"type": "string"}}}'
WAITING = ("stuck", "stuck-later", "endless")
KINDS = {
    **dict.fromkeys(("assistant", "endless", "breaks"), task_pb2.TASK_KIND_GENERATE),
    "pos-fields": task_pb2.TASK_KIND_EXTRACT,
    "product-search": task_pb2.TASK_KIND_EMBED,
}
"""As GetTask says; every other task classifies."""
REMEDIES = {"QUEUE_FULL": QueueFull.remedy_default, "REQUEST_INVALID": ""}


def provenance(task: str) -> task_pb2.Provenance:
    """Return the provenance of an answer."""
    return task_pb2.Provenance(
        prediction_id="p-1",
        bundle=task_pb2.BundleRef(task=task, version="1.2.0", digest=DIGEST),
        route=task_pb2.ROUTE_LOCAL,
        timings=task_pb2.Timings(queue_ms=1, prefill_ms=20, decode_ms=3),
        device="cpu",
        degraded=["CPU_SHARED"],
        input_tokens=7,
        output_tokens=2,
    )


def abort(
    context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, message: str, retry_seconds: float = 0
) -> None:
    """End a call the way the service does."""
    info = error_details_pb2.ErrorInfo(
        reason=reason,
        domain="edge-agent",
        metadata={"task": "x", "remedy": REMEDIES.get(reason, f"the remedy for {reason}")},
    )
    details: list[Any] = [info]
    if retry_seconds:
        details.append(error_details_pb2.RetryInfo())
        details[-1].retry_delay.FromMilliseconds(int(retry_seconds * 1000))
    packed = [Packed() for _ in details]
    for box, detail in zip(packed, details, strict=True):
        box.Pack(detail)
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=packed))
    )


class FakeInference(inference_pb2_grpc.InferenceServiceServicer):
    """Answers like a device's daemon."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.stream_ended = threading.Event()
        """Set when a call to "endless" or "stuck" is over, for whatever reason."""
        self.tasks = [task_message(name) for name in ("assistant", "pos-intent", "product-search")]
        self.page_size = 2
        self.refusals = 0
        """How many calls are still to be refused with a full queue and a short delay."""

    def _begin(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self._refuse(request, context)
        if request.task == "unknown":
            abort(context, grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "no task 'unknown'; installed: pos-intent")
        if request.task == "busy":
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "64 inputs wait; the limit is 64", 1.5)
        if request.task == "plain":
            context.abort(grpc.StatusCode.DATA_LOSS, "the bits fell out")
        if request.task == "crowded":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        # gRPC takes no callback for a call that is over already.
        if request.task in WAITING and not context.add_callback(self.stream_ended.set):
            self.stream_ended.set()
        if request.task == "stuck" or (request.task == "stuck-later" and "three" in getattr(request, "texts", [])):
            self.stream_ended.wait(WAIT_SECONDS_MAX)

    def _refuse(self, request: Any, context: grpc.ServicerContext) -> None:
        if self.refusals:
            self.refusals -= 1
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "64 inputs wait; the limit is 64", 0.02)
        if request.task == "lone" and list(getattr(request, "texts", [])) == ["bad"]:
            abort(context, grpc.StatusCode.INVALID_ARGUMENT, "INPUT_TOO_LONG", "9 tokens; the limit is 4")

    def Classify(
        self, request: inference_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ClassifyResponse:
        self._begin(request, context)
        return inference_pb2.ClassifyResponse(results=[_classify(request, text) for text in request.texts])

    def Extract(
        self, request: inference_pb2.ExtractRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ExtractResponse:
        self._begin(request, context)
        found = inference_pb2.Extraction(
            json='{"price":"5"}',
            entities=[inference_pb2.Entity(label="price", text="5", start=3, end=4, score=0.5)],
            fields=[inference_pb2.Field(name="price", confidence=0.9)],
            confidence=task_pb2.Confidence(value=0.75, threshold=0.5),
            provenance=provenance(request.task),
        )
        return inference_pb2.ExtractResponse(results=[inference_pb2.ExtractResult(extraction=found)])

    def Embed(self, request: inference_pb2.EmbedRequest, context: grpc.ServicerContext) -> inference_pb2.EmbedResponse:
        self._begin(request, context)
        vector = inference_pb2.Embedding(values=[0.5, -0.25], provenance=provenance(request.task))
        results = [
            inference_pb2.EmbedResult(error=_bad()) if text == "bad" else inference_pb2.EmbedResult(embedding=vector)
            for text in request.texts
        ]
        return inference_pb2.EmbedResponse(results=results)

    def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.GenerateResponse]:
        self._begin(request, context)
        if request.output_tokens_max > 4096:
            abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "REQUEST_INVALID",
                "output_tokens_max is 5000; the limit is 64",
            )
        yield inference_pb2.GenerateResponse(text="Hello")
        if request.task == "endless":
            self.stream_ended.wait(WAIT_SECONDS_MAX)
            return
        if request.task == "breaks":
            abort(context, grpc.StatusCode.UNAVAILABLE, "STREAM_BROKEN", "the engine ended", 0.5)
        yield inference_pb2.GenerateResponse(text=" there")
        finish = inference_pb2.GenerateFinish(
            reason=inference_pb2.FINISH_REASON_LENGTH, provenance=provenance(request.task)
        )
        if request.HasField("logprobs"):
            other = inference_pb2.TokenLogprob(token=b"Hi", logprob=-2.0)
            finish.tokens.add(token=b"Hello", logprob=-0.5, alternatives=[other] * request.logprobs)
            finish.tokens.add(token=b" th\xc3", logprob=0.0)
        if request.escalate:
            finish.provenance.reason = "UPSTREAM_OFFLINE"
        yield inference_pb2.GenerateResponse(finish=finish)

    def ListTasks(
        self, request: inference_pb2.ListTasksRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ListTasksResponse:
        start = int(request.page_token or 0)
        end = start + self.page_size
        more = str(end) if end < len(self.tasks) else ""
        return inference_pb2.ListTasksResponse(tasks=self.tasks[start:end], next_page_token=more)

    def GetTask(
        self, request: inference_pb2.GetTaskRequest, context: grpc.ServicerContext
    ) -> inference_pb2.GetTaskResponse:
        if request.task not in WAITING:
            self._begin(request, context)
        task = task_message(request.task)
        task.kind = KINDS.get(request.task, task.kind)
        if task.kind == task_pb2.TASK_KIND_GENERATE:
            task.limits.output_tokens_max = 64
        schema = RECORD_SCHEMA if task.kind == task_pb2.TASK_KIND_EXTRACT else ""
        return inference_pb2.GetTaskResponse(task=task, record_schema=schema)


def _bad() -> task_pb2.InputError:
    metadata = {"limit": "4", "remedy": "Shorten it."}
    return task_pb2.InputError(reason="INPUT_TOO_LONG", message="9 tokens; the limit is 4", metadata=metadata)


def _classify(request: inference_pb2.ClassifyRequest, text: str) -> inference_pb2.ClassifyResult:
    if text == "bad":
        return inference_pb2.ClassifyResult(error=_bad())
    if request.task == "bootstrapped":  # only a large model answers: no confidence, no scores
        found = inference_pb2.Classification(label="refund", provenance=provenance(request.task))
        return inference_pb2.ClassifyResult(classification=found)
    scores = [inference_pb2.LabelScore(label="refund", score=0.75), inference_pb2.LabelScore(label="price", score=0.25)]
    scores = scores[: request.top_k or None]
    confidence = task_pb2.Confidence(value=0.75, threshold=0.8, below_threshold=True)
    return inference_pb2.ClassifyResult(
        classification=inference_pb2.Classification(
            label="" if request.task == "abstaining" else "refund",
            confidence=confidence,
            scores=scores,
            label_mass=0.5,
            provenance=provenance(request.task),
        )
    )


def task_message(name: str, *, ready: bool = True) -> task_pb2.Task:
    """Write an installed task."""
    return task_pb2.Task(
        name=name,
        kind=task_pb2.TASK_KIND_CLASSIFY,
        bundle=task_pb2.BundleRef(task=name, version="1.2.0", digest=DIGEST),
        labels=["refund", "price"],
        limits=task_pb2.TaskLimits(input_tokens_max=512, output_tokens_max=0, inputs_max=2),
        ready=ready,
        signed=False,
    )


class FakeAdmin(admin_pb2_grpc.AdminServiceServicer):
    """Answers like the operator's daemon."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.status_calls = 0
        self.digests = [DIGEST, DIGEST]
        """Of the two bundles that are listed."""
        self.status = admin_pb2.GetStatusResponse(
            agent_version="0.1.0",
            serving=True,
            resident_bytes=60_000_000,
            tasks=[task_message("pos-intent")],
            engines=[
                admin_pb2.Engine(
                    name="echo-1234",
                    runtime="echo",
                    state=admin_pb2.ENGINE_STATE_READY,
                    pid=42,
                    tasks=["pos-intent"],
                    device="cpu",
                )
            ],
        )
        self.warn("UNSIGNED", "Without a verified signature: pos-intent.")
        self.status.start_time.FromJsonString("2026-01-02T03:04:05Z")
        self.field = admin_pb2.GetFieldReportResponse(tasks=[task_message("pos-intent")])

    def warn(self, kind: str, message: str, about: str = "") -> None:
        """Add a warning to the status."""
        self.status.warnings.append(message)
        self.status.warning_details.add(
            kind=admin_pb2.WarningKind.Value(f"WARNING_KIND_{kind}"), about=about, message=message
        )

    def bundle(self, active: bool = True, digest: str = DIGEST) -> admin_pb2.Bundle:
        """Write an installed bundle."""
        made = admin_pb2.Bundle(
            ref=task_pb2.BundleRef(task="pos-intent", version="1.2.0", digest=digest),
            kind=task_pb2.TASK_KIND_CLASSIFY,
            runtime="echo",
            active=active,
            size_bytes=98_000_000,
        )
        made.install_time.FromJsonString("2026-01-02T03:04:05Z")
        return made

    def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetStatusResponse:
        self.status_calls += 1
        return self.status

    def ListBundles(
        self, request: admin_pb2.ListBundlesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListBundlesResponse:
        self.requests.append(request)
        if request.task not in ("", "pos-intent"):
            return admin_pb2.ListBundlesResponse()
        digest = self.digests[1 if request.page_token else 0]
        return admin_pb2.ListBundlesResponse(
            bundles=[self.bundle(digest=digest)], next_page_token="" if request.page_token else "next"
        )

    def GetFieldReport(
        self, request: admin_pb2.GetFieldReportRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetFieldReportResponse:
        return self.field

    def InstallBundle(
        self, request: admin_pb2.InstallBundleRequest, context: grpc.ServicerContext
    ) -> admin_pb2.InstallBundleResponse:
        self.requests.append(request)
        if request.path.endswith("hostile"):
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_UNSIGNED", "the bundle has no signature")
        return admin_pb2.InstallBundleResponse(bundle=self.bundle(not request.no_activate), newly_installed=True)

    def ActivateBundle(
        self, request: admin_pb2.ActivateBundleRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ActivateBundleResponse:
        self.requests.append(request)
        return admin_pb2.ActivateBundleResponse(bundle=self.bundle())

    def RollbackTask(
        self, request: admin_pb2.RollbackTaskRequest, context: grpc.ServicerContext
    ) -> admin_pb2.RollbackTaskResponse:
        if request.task == "young":
            abort(context, grpc.StatusCode.FAILED_PRECONDITION, "NOTHING_TO_ROLL_BACK", "no bundle before")
        return admin_pb2.RollbackTaskResponse(bundle=self.bundle())

    def RemoveBundle(
        self, request: admin_pb2.RemoveBundleRequest, context: grpc.ServicerContext
    ) -> admin_pb2.RemoveBundleResponse:
        self.requests.append(request)
        return admin_pb2.RemoveBundleResponse(freed_bytes=98_000_000)

    def Drain(self, request: admin_pb2.DrainRequest, context: grpc.ServicerContext) -> admin_pb2.DrainResponse:
        self.requests.append(request)
        return admin_pb2.DrainResponse()


class FakeDaemon:
    """Serves both services and health on the addresses given; a port 0 becomes the one that was free."""

    def __init__(self, *addresses: str) -> None:
        self.inference = FakeInference()
        self.admin = FakeAdmin()
        self._server = grpc.server(ThreadPoolExecutor(8))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.inference, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self.admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), self._server)
        ports = [self._server.add_insecure_port(address) for address in addresses]
        self.targets = [
            f"127.0.0.1:{port}" if address.endswith(":0") else address
            for address, port in zip(addresses, ports, strict=True)
        ]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inference.stream_ended.set()
        self._server.stop(None).wait()

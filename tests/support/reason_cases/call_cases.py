"""Rows of calls: errors for a device developer or a reviewer. Most remedies are a different call, which is made."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from edge_agent.client import CallFailed, Classification, Client, Decision, RedactionState, ReviewClient
from edge_agent.v1 import inference_pb2, inference_pb2_grpc
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.reason_cases.case import CaseOutcome, case, edge_agent, excuse, failure, follow

TASK, LABELS = "intent", ("refund", "price")
PATIENT_SECONDS, STALL_SECONDS = 60.0, 20.0
TEXT, SLOW = "I want a refund", "!slow 100 one two three"


def wait_as_told(failed: CallFailed) -> None:
    """Let the delay of RetryInfo pass; there must be one."""
    assert failed.retry_after_seconds
    until = time.monotonic() + failed.retry_after_seconds
    eventually_sync(lambda: time.monotonic() > until)


@contextmanager
def serving(
    folder: Path, kind: str = "classify", bundle: dict[str, Any] | None = None, **settings: Any
) -> Iterator[RunningDaemon]:
    """Run a daemon with one task."""
    labels = LABELS if kind == "classify" else None
    with RunningDaemon(folder / "site", **settings) as daemon:
        daemon.install(echo_bundle(folder / "bundle", TASK, kind, labels, **(bundle or {})))
        yield daemon


def answers(daemon: RunningDaemon, text: str = TEXT) -> bool:
    """Return whether a device gets an answer."""
    with daemon.client() as client:
        return isinstance(client.classify(TASK, [text])[0], Classification)


@case("TASK_UNKNOWN", "device")
def task_unknown(folder: Path) -> CaseOutcome:
    """A device names a task that is not here; an operator installs it. The message lists the tasks that are."""
    with serving(folder) as daemon:
        met = edge_agent(daemon, "classify", "order", TEXT)
        assert (2, True) == (met.code, "'order'" in met.text), met.text
        assert f"known tasks: {TASK}" in met.text, met.text
        follow(daemon, folder, met.remedy, BUNDLE=str(echo_bundle(folder / "order", "order", "classify", LABELS)))
        return CaseOutcome(met.reasons, not edge_agent(daemon, "classify", "order", TEXT).code)


@case("TASK_KIND_MISMATCH", "device")
def task_kind_mismatch(folder: Path) -> CaseOutcome:
    """A device asks a classifier for a record; the message names the kind, which is the name of the right command."""
    with serving(folder) as daemon:
        met = edge_agent(daemon, "extract", TASK, TEXT)
        kind = next(word for word in ("classify", "generate", "embed") if word in met.text.lower())
        return CaseOutcome(met.reasons, met.code == 2 and not edge_agent(daemon, kind, TASK, TEXT).code)


@case("QUESTION_UNKNOWN", "device")
def question_unknown(folder: Path) -> CaseOutcome:
    """A device asks something that the task does not answer; the message lists the questions that it does."""
    with serving(folder, "decide") as daemon, daemon.client() as client:
        failed = failure(lambda: client.decide(TASK, [TEXT], questions=["colour"]))
        names = failed.message.partition("its questions are: ")[2].split(", ")
        [decision] = client.decide(TASK, [TEXT], questions=names)
        assert isinstance(decision, Decision), decision
        return CaseOutcome((failed.reason,), names == [each.question for each in decision.answers])


@case("REQUEST_INVALID", "device")
def request_invalid(folder: Path) -> CaseOutcome:
    """A device sends an id that is too long; the message has the limit."""
    with serving(folder) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, [TEXT], request_id="x" * 1000))
        limit = max(
            int(word) for word in failed.message.replace(";", " ").split() if word.isdigit() and int(word) < 1000
        )
        [answer] = client.classify(TASK, [TEXT], request_id="x" * limit)
        return CaseOutcome((failed.reason,), isinstance(answer, Classification) and "request_id" in failed.message)


@case("INPUT_EMPTY", "device")
def input_empty(folder: Path) -> CaseOutcome:
    """A device sends white space."""
    with serving(folder) as daemon, daemon.client() as client:
        return CaseOutcome((failure(lambda: client.classify(TASK, [" "])).reason,), answers(daemon))


@case("INPUT_TOO_LONG", "device")
def input_too_long(folder: Path) -> CaseOutcome:
    """A device sends more tokens than the task allows; in several inputs they are answered."""
    with serving(folder, bundle={"task": {"limits": {"input_tokens_max": 4}}}) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, ["one two three four five six"]))
        parts = client.classify(TASK, ["one two three", "four five six"])
        return CaseOutcome((failed.reason,), all(isinstance(each, Classification) for each in parts))


@case("TOO_MANY_INPUTS", "device")
def too_many_inputs(folder: Path) -> CaseOutcome:
    """A device sends more inputs than a request may have; in several requests they are answered."""
    with serving(folder, bundle={"task": {"limits": {"inputs_max": 2}}}) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, [TEXT] * 3))
        parts = client.classify(TASK, [TEXT] * 2) + client.classify(TASK, [TEXT])
        return CaseOutcome((failed.reason,), len(parts) == 3)


@case("PREDICTION_UNKNOWN", "reviewer")
def prediction_unknown(folder: Path) -> CaseOutcome:
    """A reviewer judges an answer that nothing collected; with 'collect' in agent.yaml the next one can be judged."""
    with serving(folder) as daemon:
        answer = _classified(daemon)
        failed = failure(lambda: _accept(daemon, answer.prediction_id))
    with serving(folder / "collecting", examples={"collect": {TASK: "local"}, "commit_seconds": 0.05}) as daemon:
        answer = _classified(daemon)
        unknown = failure(lambda: _accept(daemon, "another"))
        _accept(daemon, answer.prediction_id)
        return CaseOutcome(tuple({failed.reason, unknown.reason}), "'collect'" in failed.remedy)


def _classified(daemon: RunningDaemon) -> Classification:
    with daemon.client() as client:
        [answer] = client.classify(TASK, [TEXT])
    assert isinstance(answer, Classification), answer
    return answer


def _read_by_model(state: RedactionState | None) -> int:
    return state.counts.get("read_by_model", 0) if state else 0


def _accept(daemon: RunningDaemon, prediction: str) -> None:
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        reviewer.accept(prediction, reviewer="anna", timeout_seconds=PATIENT_SECONDS)


@case("REDACTION_HELD", "reviewer")
def redaction_held(folder: Path) -> CaseOutcome:
    """A reviewer's words wait for a redaction model that fails; status names the task, whose next bundle reads."""
    examples = {"collect": {TASK: "local"}, "commit_seconds": 0.05}

    def redactor(version: str, order: str) -> Path:
        prompt = {"prompt": {"template": f"{order}{{input}}"}}
        tags = ("O", "B-ROOM", "I-ROOM")
        return echo_bundle(folder / version, "pii", "redact", tags, version, weights=b"pii", task=prompt)

    def reject(prediction: str) -> None:
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
            reviewer.reject(prediction, reviewer="anna", reason="it is room 4", timeout_seconds=PATIENT_SECONDS)

    with serving(folder, examples=examples, redaction={"task": "pii"}) as daemon:
        daemon.install(redactor("1.0.0", "!fail after 1 "))
        answer = _classified(daemon)
        with daemon.admin() as admin:
            eventually_sync(lambda: _read_by_model(admin.status().redaction) == 1)
        failed = failure(lambda: reject(answer.prediction_id))
        daemon.install(redactor("1.0.1", ""))
        wait_as_told(failed)
        reject(answer.prediction_id)
        return CaseOutcome((failed.reason,), "'redaction' in agent.yaml" in failed.remedy)


@case("DEADLINE_EXPIRED", "device")
def deadline_expired(folder: Path) -> CaseOutcome:
    """A device allows less time than the model needs; with more time, or less text, it is answered."""
    with serving(folder) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, [SLOW], timeout_seconds=0.1))
        [answer] = client.classify(TASK, [SLOW], timeout_seconds=30)
        return CaseOutcome((failed.reason,), isinstance(answer, Classification) and answers(daemon))


@case("CANCELLED", "device")
def cancelled(folder: Path) -> CaseOutcome:
    """A device hangs up: there is nothing to do, and its next call is answered."""
    with serving(folder) as daemon, grpc.insecure_channel(daemon.inference) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        future = stub.Classify.future(inference_pb2.ClassifyRequest(task=TASK, texts=[SLOW]))
        with daemon.admin() as admin:
            eventually_sync(lambda: any(engine.pending for engine in admin.status().engines))
        future.cancel()
        return CaseOutcome((future.code().name,), answers(daemon))


def _refused_when_busy(daemon: RunningDaemon, calls: int, work: Callable[[Client], object]) -> CallFailed:
    """Make concurrent calls until one is refused; return its error after its retry delay, once no call runs."""

    def attempt(_: int) -> CallFailed | None:
        with daemon.client() as client:
            try:
                work(client)
            except CallFailed as failed:
                return failed
        return None

    with ThreadPoolExecutor(calls) as pool:
        refusals = [each for each in pool.map(attempt, range(calls)) if each is not None]
    reasons = {each.reason for each in refusals}
    assert len(reasons) == 1, reasons
    wait_as_told(refusals[0])
    return refusals[0]


@case("QUEUE_FULL", "device")
def queue_full(folder: Path) -> CaseOutcome:
    """A device calls while the queue is full; after the delay in RetryInfo the same call is answered."""
    with serving(folder, engine={"queue_requests_max": 1, "sequences_max": 1}, service={"calls_max": 2}) as daemon:
        failed = _refused_when_busy(daemon, 8, lambda client: client.classify(TASK, [SLOW], timeout_seconds=30))
        return CaseOutcome((failed.reason,), answers(daemon))


@case("CLIENT_SHARE_FULL", "device")
def client_share_full(folder: Path) -> CaseOutcome:
    """A device has more calls in progress than one may; one after the other they are answered."""
    with serving(folder, access={"client_calls_max": 1}) as daemon:
        failed = _refused_when_busy(daemon, 4, lambda client: client.classify(TASK, [SLOW], timeout_seconds=30))
        return CaseOutcome((failed.reason,), answers(daemon) and answers(daemon))


@case("CLIENT_RATE_EXCEEDED", "device")
def client_rate_exceeded(folder: Path) -> CaseOutcome:
    """A device calls too often; after the delay in RetryInfo it is answered. The remedy names the limit's key."""
    access = {"client_calls_per_second_max": 2.0, "client_calls_burst_max": 1}
    with serving(folder, access=access) as daemon, daemon.client() as client:
        client.classify(TASK, [TEXT])
        failed = _rate_refusal(client)
        wait_as_told(failed)
        return CaseOutcome((failed.reason,), answers(daemon) and "client_calls_per_second_max" in failed.remedy)


def _rate_refusal(client: Client) -> CallFailed:
    """Call until a call is refused: a slow machine may not be too fast for the limit at once."""
    for _ in range(100):
        try:
            client.classify(TASK, [TEXT])
        except CallFailed as failed:
            return failed
    raise AssertionError("no call was refused")


excuse(
    "DEADLINE_UNATTAINABLE",
    "device",
    "Needs a llama model and a processor that is slow by a measured factor: tests/contract/test_llama_planning.py has"
    " the error. The remedy, more time or a quiet processor, is that of DEADLINE_EXPIRED, which is played.",
)


@case("ENGINE_NOT_READY", "device")
def engine_not_ready(folder: Path) -> CaseOutcome:
    """A device calls while the model's process restarts; after the delay the same call is answered."""
    with (
        serving(folder, engine={"restart_seconds_first": 1.0}) as daemon,
        daemon.client() as client,
        daemon.admin() as admin,
    ):
        os.kill(admin.status().engines[0].pid, signal.SIGKILL)
        eventually_sync(lambda: not client.serving(TASK))
        failed = failure(lambda: client.classify(TASK, [TEXT]))
        eventually_sync(lambda: client.serving(TASK))
        return CaseOutcome((failed.reason,), bool(failed.retry_after_seconds) and answers(daemon))


@case("DRAINING", "device")
def draining(folder: Path) -> CaseOutcome:
    """A device calls a daemon that is stopping; when the daemon is back it is answered."""
    with serving(folder) as daemon:
        with daemon.admin() as admin, daemon.client() as client:
            admin.drain()
            failed = failure(lambda: client.classify(TASK, [TEXT]))
        daemon.stop()
        daemon.start(TASK)
        return CaseOutcome((failed.reason,), answers(daemon))


@contextmanager
def _stalled(daemon: RunningDaemon) -> Iterator[None]:
    """Let each sync of the daemon take longer than the daemon waits for a disk."""
    assert daemon.process
    slow = f"inject=fdatasync,fsync:delay_enter={int(STALL_SECONDS * 1e6)}"
    command = ["strace", "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", slow, "-p", str(daemon.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        status = Path(f"/proc/{daemon.process.pid}/status")
        eventually_sync(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text())
        yield
        tracer.terminate()


@case("SPOOL_STALLED", "reviewer")
def spool_stalled(folder: Path) -> CaseOutcome:
    """A reviewer's feedback meets a disk that takes no writes; doctor shows for how long, and later it is stored."""
    with serving(folder, examples={"collect": {TASK: "local"}, "commit_seconds": 0.05}) as daemon:
        kept = _classified(daemon)
        _accept(daemon, kept.prediction_id)
        with _stalled(daemon):
            answer = _classified(daemon)
            eventually_sync(lambda: not _has_feedback(daemon))
            failed = failure(lambda: _accept(daemon, answer.prediction_id))
            [shown] = follow(daemon, folder, failed.remedy)
        eventually_sync(lambda: _accepted(daemon, answer.prediction_id))
        return CaseOutcome((failed.reason,), "disk" in shown.said)


def _has_feedback(daemon: RunningDaemon) -> bool:
    """Return whether health says that feedback can be acknowledged."""
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        return reviewer.serving("edge_agent.v1.FeedbackService")


def _accepted(daemon: RunningDaemon, prediction: str) -> bool:
    try:
        _accept(daemon, prediction)
    except CallFailed:
        return False
    return True


@case("STREAM_BROKEN", "device")
def stream_broken(folder: Path) -> CaseOutcome:
    """The model's process ends in a stream; the request, sent again, is answered whole."""
    with serving(folder, "generate", engine={"restart_seconds_first": 0.05}) as daemon, daemon.client() as client:
        stream = iter(client.generate(TASK, "!slow 100 " + " ".join(["word"] * 50)))
        next(stream)
        with daemon.admin() as admin:
            os.kill(admin.status().engines[0].pid, signal.SIGKILL)
        failed = failure(lambda: list(stream))
        eventually_sync(lambda: client.serving(TASK))
        return CaseOutcome((failed.reason,), bool("".join(map(str, client.generate(TASK, "one two")))))


def _names_the_team(failed: CallFailed) -> str:
    return "the team that made the bundle" if "team that made the bundle" in failed.remedy else ""


@case("MODEL_FAILED", "device")
def model_failed(folder: Path) -> CaseOutcome:
    """The model gives no answer to one text: the team that made the bundle gets the text, and its digest."""
    with serving(folder) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, ["!fail"]))
        return CaseOutcome((failed.reason,), cured=False, person=_names_the_team(failed))


@case("ENGINE_CRASHED", "device")
def engine_crashed(folder: Path) -> CaseOutcome:
    """A text kills the model's process."""
    with serving(folder, engine={"restart_seconds_first": 0.05}) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, ["!crash"]))
        return CaseOutcome((failed.reason,), cured=False, person=_names_the_team(failed))


@case("INPUT_QUARANTINED", "device")
def input_quarantined(folder: Path) -> CaseOutcome:
    """The text that has killed the process is refused; other texts are answered."""
    with serving(folder, engine={"restart_seconds_first": 0.05}) as daemon, daemon.client() as client:
        reasons = []
        for _ in range(10):
            eventually_sync(lambda: client.serving(TASK))
            reasons.append(failure(lambda: client.classify(TASK, ["!crash"])).reason)
            if reasons[-1] == "INPUT_QUARANTINED":
                break
        eventually_sync(lambda: client.serving(TASK))
        failed = failure(lambda: client.classify(TASK, ["!crash"]))
        return CaseOutcome((failed.reason,), cured=answers(daemon), person=_names_the_team(failed))


@case("MESSAGE_TOO_LARGE", "device")
def message_too_large(folder: Path) -> CaseOutcome:
    """A device sends more than gRPC takes here; shorter texts, or a larger 'message_bytes_max', are answered."""
    with serving(folder, service={"message_bytes_max": 2**20}) as daemon, daemon.client() as client:
        failed = failure(lambda: client.classify(TASK, ["word " * 300_000]))
        is_named = "message_bytes_max" in failed.remedy
        return CaseOutcome((failed.reason,), is_named and answers(daemon))

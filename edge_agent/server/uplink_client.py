"""The uplink as the daemon sees it: the client of its socket, which asks the large model, and its `uplink.json`.

The uplink is not trusted: its file may be a pipe, contain control characters, or hold wrong values.

`UplinkClient.availability` never waits. Without an uplink, or after its death, the large model counts as offline at
once; when the uplink hangs, it counts as offline after SILENT_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.config import Config
from edge_agent.durable.atomic_files import read_regular
from edge_agent.errors import DiskFull, DocumentInvalid, UpstreamBusy, UpstreamFailed, UpstreamUnreachable, from_wire
from edge_agent.formats import uplink_state
from edge_agent.routing.large_model_questions import LargeModelQuestion, ModelAnswer
from edge_agent.routing.policy import LargeModelAvailability
from edge_agent.server import messages
from edge_agent.update.blocked_update_messages import DownloadBlocker
from edge_agent.v1 import admin_pb2, escalation_pb2_grpc
from edge_agent.v1 import escalation_pb2 as pb

SILENT_REASON = "UPLINK_SILENT"
_STATES = messages.words_of(admin_pb2.LinkState)
_COUNT_MAX = 2**62
"""The limit of numbers in the message; those in the file have none."""
_START = "Start it with 'sudo systemctl enable --now edge-uplink', and read its log: 'edge-agent logs uplink'."
_RIGHTS = "Give this daemon's user, edge-agent, the right to read the folder 'uplink' in the state directory."


@dataclass(frozen=True)
class UplinkReport:
    """The content of the file; `silence` and `remedy` are set if it does not describe the present."""

    state: uplink_state.UplinkState | None
    age_seconds: float = 0.0
    silence: str = ""
    remedy: str = ""


def uplink_message(config: Config) -> admin_pb2.UplinkStatus | None:
    """Describe the uplink; None if none is configured and none has written its file."""
    path = config.uplink_notes / uplink_state.FILE_NAME
    report = read_uplink_report(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    configured = bool(config.uplink.url or config.uplink.updates_url)
    if report.state is None and not configured and not os.path.lexists(path):
        return None
    message = _status_message(report.state) if report.state else admin_pb2.UplinkStatus()
    message.age_seconds = report.age_seconds
    if report.silence:
        message.state = admin_pb2.LINK_STATE_SILENT
        message.problems.insert(
            0, admin_pb2.UplinkProblem(reason=SILENT_REASON, message=report.silence, remedy=report.remedy)
        )
    return message


def download_blocker(config: Config) -> DownloadBlocker | None:
    """Return why the uplink does not download updates; None = by its report it does."""
    if not config.uplink.updates_url:
        return DownloadBlocker("no uplink for updates is configured", has_uplink=False)
    path = config.uplink_notes / uplink_state.FILE_NAME
    report = read_uplink_report(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    if report.silence or report.state is None or report.state.downloads is None:
        return DownloadBlocker("the uplink does not report that it downloads updates")
    if any(each.reason == DiskFull.reason for each in report.state.problems):
        return DownloadBlocker("the uplink's disk is full", disk_full=True)
    if report.state.downloads.state == "offline":
        return DownloadBlocker("the uplink is offline")
    return None


def read_uplink_report(path: Path, running_seconds: float) -> UplinkReport:
    """Read the file; `running_seconds` is CLOCK_BOOTTIME now."""
    try:
        state = uplink_state.parse(read_regular(path, uplink_state.STATE_BYTES_MAX))
    except FileNotFoundError:
        return UplinkReport(None, silence=f"the uplink has not reported yet: {path} does not exist", remedy=_START)
    except OSError as error:
        return UplinkReport(
            None, silence=f"the uplink's report cannot be read: {path}: {error.strerror}", remedy=_RIGHTS
        )
    except DocumentInvalid as error:
        return UplinkReport(None, silence=f"the uplink's report is not valid: {error.message}", remedy=_START)
    age = running_seconds - state.running_seconds
    if age < 0:
        return UplinkReport(state, silence="the uplink has not reported since this machine was started", remedy=_START)
    if age > uplink_state.FRESH_SECONDS:
        silence = (
            f"the uplink has not reported for {age / 60:.0f} min; it does so every minute: it was stopped, or hangs"
        )
        return UplinkReport(state, age, silence, _START)
    return UplinkReport(state, age)


def _status_message(state: uplink_state.UplinkState) -> admin_pb2.UplinkStatus:
    return admin_pb2.UplinkStatus(
        state=_STATES[state.state],
        upstream=_printable(state.upstream),
        since_time=_timestamp(state.since),
        contact_time=_timestamp(state.last_contact),
        retry_time=_timestamp(state.retry_at),
        failures=min(state.failures, _COUNT_MAX),
        waiting_segments=min(state.waiting_segments, _COUNT_MAX),
        waiting_bytes=min(state.waiting_bytes, _COUNT_MAX),
        sent_segments=min(state.sent_segments, _COUNT_MAX),
        sent_bytes=min(state.sent_bytes, _COUNT_MAX),
        downloads=_downloads(state.downloads),
        problems=[
            admin_pb2.UplinkProblem(**{name: _printable(text) for name, text in each}) for each in state.problems
        ],
    )


def _downloads(progress: uplink_state.DownloadProgress | None) -> admin_pb2.UplinkDownloads | None:
    if progress is None:
        return None
    return admin_pb2.UplinkDownloads(
        state=_STATES[progress.state],
        repository=_printable(progress.repository),
        since_time=_timestamp(progress.since),
        retry_time=_timestamp(progress.retry_at),
        refresh_time=_timestamp(progress.refreshed_at),
        waiting_blobs=min(progress.waiting_blobs, _COUNT_MAX),
        waiting_bytes=min(progress.waiting_bytes, _COUNT_MAX),
        fetched_blobs=min(progress.fetched_blobs, _COUNT_MAX),
        fetched_bytes=min(progress.fetched_bytes, _COUNT_MAX),
    )


def _printable(text: str) -> str:
    """Replace control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _timestamp(at: str | None) -> Timestamp | None:
    if at is None:
        return None
    moment = Timestamp()
    moment.FromJsonString(at)
    return moment


log = structlog.get_logger("edge_agent.server")

RECONNECT_SECONDS = 0.5
SILENT_SECONDS = 6.0
"""The uplink reports its state every 2 s; one that is silent for this long hangs, or is stopped."""
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
COST_MICROS_MAX = 10**12
"""A million in the currency of the prices. The charge for one question is cut to it: the database adds charges up."""
_LOST = "the uplink does not answer"
_LATE = "the large model did not answer in time"
# Reconnect at once to an uplink that comes back, not after gRPC's pause, which grows to two minutes.
_CHANNEL = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_STATE_FIELDS = ("online", "affordable", "model", "problem_reason", "problem", "usual_ms")
_COST_FIELDS = ("day_micros", "month_micros", "day_micros_max", "month_micros_max")


@dataclass(frozen=True)
class LargeModelFinish:
    """The end of a large model's answer."""

    model: str
    input_tokens: int
    output_tokens: int
    cost_micros: int
    complete: bool


LargeModelEvent = str | tuple[ModelAnswer, ...] | LargeModelFinish
"""A piece of text, or the answers to typed questions; at last the end."""


class UplinkClient:
    """See the module. One event loop owns it."""

    def __init__(self, config: Config, capture: ExampleCapture | None = None) -> None:
        """Prepare; `run` watches the uplink. `capture` records the price of each answered question."""
        self._tasks = frozenset(config.escalation.tasks)
        self.configured = bool(config.escalation.url)
        """Whether the site has a large model."""
        self._address = f"unix:{config.escalation_socket}"
        self._capture = capture
        self._state = pb.WatchResponse()
        self._stub: escalation_pb2_grpc.EscalationServiceStub | None = None

    @property
    def model(self) -> str:
        """The name of the large model; empty while the uplink is silent."""
        return self._state.model

    @property
    def spare(self) -> bool:
        """Whether the uplink has capacity for a question that no caller waits for."""
        return self._state.spare

    def availability(self, task: str) -> LargeModelAvailability:
        """Return whether the large model can be asked about a task."""
        state = self._state
        return LargeModelAvailability(
            configured=self.configured,
            allowed=task in self._tasks,
            online=state.online,
            affordable=state.affordable,
            free=state.free,
            seconds_expected=state.usual_ms / 1000,
        )

    def can_ask(self, task: str) -> bool:
        """Tell whether a task may ask the large model at all."""
        return self.configured and task in self._tasks

    def message(self) -> admin_pb2.EscalationStatus | None:
        """Describe the large model; None if the site has none."""
        if not self.configured:
            return None
        state = self._state
        status = admin_pb2.EscalationStatus(tasks=sorted(self._tasks))
        for name in (*_STATE_FIELDS, *_COST_FIELDS):
            setattr(status, name, getattr(state, name))
        if not state.tasks and not state.model:
            status.problem_reason, status.problem = SILENT_REASON, f"{_LOST}: it listens on {self._address}"
        return status

    async def run(self) -> None:
        """Watch, until cancelled; from then on the large model counts as offline."""
        try:
            async with grpc.aio.insecure_channel(self._address, options=_CHANNEL) as channel:
                self._stub = escalation_pb2_grpc.EscalationServiceStub(channel)
                await self._watch(self._stub)
        finally:
            self._stub = None
            self._update(pb.WatchResponse())

    async def _watch(self, stub: escalation_pb2_grpc.EscalationServiceStub) -> None:
        while True:
            call = stub.Watch(pb.WatchRequest())
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError), _cancelling(call):
                while True:
                    async with asyncio.timeout(SILENT_SECONDS):
                        state = await call.read()
                    if not state:
                        break
                    self._update(state)
            self._update(pb.WatchResponse())
            await asyncio.sleep(RECONNECT_SECONDS)

    async def ask(self, question: LargeModelQuestion, seconds: float) -> AsyncGenerator[LargeModelEvent, None]:
        """Ask the large model for at most `seconds`; yield the pieces of its answer, and its end.

        Raises:
            EdgeAgentError: there is no answer, or no whole one.
        """
        if self._stub is None:
            raise UpstreamUnreachable(_LOST)
        deadline = asyncio.get_running_loop().time() + seconds
        call = self._stub.Ask(_ask_request(question), timeout=seconds)
        with _cancelling(call):
            while response := await _next_response(call, deadline):
                if response.HasField("finish"):
                    response.finish.cost_micros = min(response.finish.cost_micros, COST_MICROS_MAX)
                    if self._capture is not None:
                        self._capture.add_charge(question.task, response.finish.cost_micros)
                yield _event(response)
                if response.HasField("finish"):
                    return
        raise UpstreamFailed("the uplink gave no whole answer")

    def _update(self, state: pb.WatchResponse) -> None:
        if state.online != self._state.online:
            log.info("large_model_online" if state.online else "large_model_offline", reason=state.problem_reason)
        state.usual_ms = state.usual_ms if 0 <= state.usual_ms < math.inf else 0.0
        self._state = state


async def _next_response(call: grpc.aio.UnaryStreamCall[pb.AskRequest, pb.AskResponse], deadline: float) -> Any:
    """Return the next part of an answer; at its end an object that is false.

    The time limit is set for each read: one around the whole answer would cancel what its reader awaits between reads.

    Raises:
        UpstreamUnreachable, UpstreamBusy: there is no more of it.
    """
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    try:
        async with asyncio.timeout_at(deadline):
            return await call.read()
    except TimeoutError:
        raise UpstreamUnreachable(_LATE) from None
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # more calls at once than the uplink's server takes
            raise UpstreamBusy("the uplink has reached its limit of concurrent questions") from None
        raise UpstreamUnreachable(_LATE if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else _LOST) from None
    except asyncio.CancelledError:
        if task.cancelling():
            raise
        raise UpstreamUnreachable(_LOST) from None  # the connection was closed, which cancels the calls on it


@contextlib.contextmanager
def _cancelling(call: grpc.aio.Call) -> Iterator[None]:
    """Cancel a call at the end of the block: grpc.aio does not when its stream is abandoned (grpc/grpc#43462)."""
    try:
        yield
    finally:
        call.cancel()


def _ask_request(question: LargeModelQuestion) -> pb.AskRequest:
    request = pb.AskRequest(
        task=question.task,
        turns=[pb.Turn(role=role, text=text) for role, text in question.turns],
        answer_schema=question.schema_text,
        output_tokens_max=question.output_tokens_max,
        background=not question.waited_for,
        input=question.text if question.questions else "",
    )
    for item in question.questions:
        message = request.questions.add(name=item.name, type=item.type, instructions=item.instructions)
        for value, description in zip_longest(item.options, item.descriptions, fillvalue=""):
            message.options.add(value=value, description=description)
    return request


def _event(response: pb.AskResponse) -> LargeModelEvent:
    if response.HasField("failure"):
        failure = response.failure
        raise from_wire(failure.reason, failure.message, failure.remedy, {})
    if response.HasField("typed"):
        return tuple(
            ModelAnswer(each.question, tuple((pair.value, pair.probability) for pair in each.probabilities))
            for each in response.typed.answers
        )
    if not response.HasField("finish"):
        return response.text
    end = response.finish
    return LargeModelFinish(end.model, end.input_tokens, end.output_tokens, end.cost_micros, end.complete)

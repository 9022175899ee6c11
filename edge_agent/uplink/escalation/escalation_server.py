"""escalation.sock: the gRPC service through which the daemon asks the large model.

Access to the socket is the permission: a process that can open it may ask, for the allowed tasks and within the caps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from edge_agent.config import Config, EscalationConfig
from edge_agent.errors import CapacityError, ConfigInvalid, EdgeAgentError, InvalidRequest, SocketInUse
from edge_agent.supervision import Component, DeathPolicy, Supervisor
from edge_agent.uplink.escalation import decision_protocols
from edge_agent.uplink.escalation.decision_protocols import TypedQuestion
from edge_agent.uplink.escalation.large_model_client import EscalationQuestion, LargeModelClient
from edge_agent.uplink.escalation.question_broker import EscalationBroker, PricedEvent
from edge_agent.uplink.escalation.spend_ledger import SpendLedger
from edge_agent.v1 import escalation_pb2 as pb
from edge_agent.v1 import escalation_pb2_grpc

MESSAGE_BYTES_MAX = 2 * 1024 * 1024
WATCHES_MAX = 4
HEARTBEAT_SECONDS = 2.0
"""Interval of messages to a watcher, so that silence means that this process is not working."""
KEY_BYTES_MAX = 4096
STOP_SECONDS = 1.0
_KEY_REMEDY = "Write the key alone into the file, readable for the uplink's user."
BUDGET_SPENT = "UPSTREAM_BUDGET_SPENT"


class EscalationServicer(escalation_pb2_grpc.EscalationServiceServicer):
    """Translates between gRPC and the broker."""

    def __init__(
        self, config: EscalationConfig, broker: EscalationBroker, deaths: Callable[[], list[str]] = list
    ) -> None:
        """Serve questions of the allowed tasks; `deaths` returns the failed components of this daemon as sentences."""
        self._config, self._broker, self._deaths = config, broker, deaths
        self._watches = 0

    async def Watch(self, request: pb.WatchRequest, context: Any) -> None:
        """Send the status: now, at every change, and every HEARTBEAT_SECONDS."""
        if self._watches >= WATCHES_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"there are {WATCHES_MAX} watchers already")
        self._watches += 1
        last_response, due = None, 0.0
        try:
            with self._broker.watching() as changed:
                while True:
                    changed.clear()
                    if (response := self._watch_response()) != last_response or time.monotonic() >= due:
                        last_response, due = response, time.monotonic() + HEARTBEAT_SECONDS
                        await context.write(response)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(HEARTBEAT_SECONDS):
                            await changed.wait()
        finally:
            self._watches -= 1

    async def Ask(self, request: pb.AskRequest, context: Any) -> None:
        """Ask one question."""
        seconds_left = context.time_remaining()
        try:
            if request.task not in self._config.tasks:
                raise InvalidRequest(f"task {request.task!r} is not in 'tasks' under 'escalation' in agent.yaml")
            question = parse_question(request, self._config)
            answer = self._broker.ask(question, self._config.seconds_max if seconds_left is None else seconds_left)
            async with contextlib.aclosing(answer) as events:
                async for event in events:
                    await context.write(_message(event))
        except EdgeAgentError as error:
            await context.write(failure_response(error))

    def _watch_response(self) -> pb.WatchResponse:
        status, ledger = self._broker.status(), self._broker.ledger
        problem = status.problem or next(map(EdgeAgentError, self._deaths()), None)
        return pb.WatchResponse(
            online=status.online,
            affordable=status.affordable,
            free=status.free,
            spare=status.spare,
            usual_ms=status.usual_ms,
            model=self._config.model,
            problem_reason=problem.reason if problem else "" if status.affordable else BUDGET_SPENT,
            problem=problem.message if problem else "",
            day_micros=ledger.paid.on(ledger.today),
            month_micros=ledger.paid.in_month(ledger.today),
            day_micros_max=ledger.caps.day_micros,
            month_micros_max=ledger.caps.month_micros,
            tasks=self._config.tasks,
        )


def _message(event: PricedEvent) -> pb.AskResponse:
    if isinstance(event, str):
        return pb.AskResponse(text=event)
    if isinstance(event, tuple):
        return pb.AskResponse(typed=pb.TypedAnswers(answers=map(_typed_answer, event)))
    end = event.end
    return pb.AskResponse(
        finish=pb.AskFinish(
            model=end.model,
            input_tokens=end.input_tokens,
            output_tokens=end.output_tokens,
            cost_micros=event.cost_micros,
            complete=end.complete,
        )
    )


def _typed_answer(answer: decision_protocols.TypedAnswer) -> pb.TypedAnswer:
    pairs = [pb.OptionProbability(value=value, probability=probability) for value, probability in answer.probabilities]
    return pb.TypedAnswer(question=answer.question, probabilities=pairs)


@contextlib.asynccontextmanager
async def serve_escalations(config: Config, now: Callable[[], float], supervisor: Supervisor) -> AsyncIterator[None]:
    """Serve questions within the block; the supervisor runs the probing of the large model.

    Raises:
        ConfigInvalid: the key of the large model cannot be read.
        SocketInUse: the socket's path is taken.
        StoreDamaged, ExchangeDirUnusable: the spending cannot be read.
    """
    settings = config.escalation
    model = LargeModelClient(settings, read_key(settings))
    broker = EscalationBroker(settings, model, SpendLedger(config.uplink_notes, settings, now))
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)],
        maximum_concurrent_rpcs=settings.calls_max * 2 + WATCHES_MAX,
    )
    escalation_pb2_grpc.add_EscalationServiceServicer_to_server(
        EscalationServicer(settings, broker, lambda: supervisor.problems), server
    )
    _bind(server, config.escalation_socket)
    why = "questions are still asked and answered; only a large model that went offline is not found again"
    supervisor.add(Component("large-model", broker.run, DeathPolicy.RESTART, why))
    await server.start()
    try:
        yield
    finally:
        await server.stop(STOP_SECONDS)
        await model.close()
        config.escalation_socket.unlink(missing_ok=True)


def _bind(server: grpc.aio.Server, path: Path) -> None:
    """Bind the socket; replace one of an earlier process, which is certainly gone, since this one has its lock."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    mask = os.umask(0o117)  # its user and group, from the first moment
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise SocketInUse(f"cannot listen on {path}", path=path) from None
    finally:
        os.umask(mask)


def read_key(config: EscalationConfig) -> str:
    """Return the key for the large model; empty = it needs none. Raises ConfigInvalid."""
    if not config.credentials_file:
        return ""
    path = Path(config.credentials_file)
    try:
        with path.open("rb") as file:
            raw = file.read(KEY_BYTES_MAX + 1)
        key = raw.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise ConfigInvalid(
            f"escalation.credentials_file {path} cannot be read: {reason}", remedy=_KEY_REMEDY
        ) from None
    if not key or len(raw) > KEY_BYTES_MAX or not key.isprintable() or " " in key:
        raise ConfigInvalid(f"escalation.credentials_file {path} does not hold one key", remedy=_KEY_REMEDY)
    return key


TURNS_MAX = 16
QUESTIONS_MAX = 400
BYTES_MAX = 1024 * 1024
ROLES = frozenset({"system", "user", "assistant"})


def parse_question(request: pb.AskRequest, config: EscalationConfig) -> EscalationQuestion:
    """Read a question, with its typed form if the protocol of the large model needs it.

    Raises:
        InvalidRequest: the question is malformed or too large.
    """
    size = request.ByteSize()
    if not 0 < len(request.turns) <= TURNS_MAX or size > BYTES_MAX:
        message = (
            f"the question has {len(request.turns)} turns and {size} bytes; the limits are {TURNS_MAX}, {BYTES_MAX}"
        )
        raise InvalidRequest(message)
    if {turn.role for turn in request.turns} - ROLES:
        raise InvalidRequest(f"a turn has another role than {', '.join(sorted(ROLES))}")
    try:
        schema = json.loads(request.answer_schema) if request.answer_schema else None
    except (ValueError, RecursionError):
        raise InvalidRequest("answer_schema is not JSON") from None
    tokens = min(request.output_tokens_max or config.answer_tokens_max, config.answer_tokens_max)
    tokens += config.thinking_tokens_max
    turns = tuple((turn.role, turn.text) for turn in request.turns)
    typed = () if config.protocol == "chat" else _typed_questions(request)
    return EscalationQuestion(turns, schema, tokens, request.background, request.task, typed, request.input)


def _typed_questions(request: pb.AskRequest) -> tuple[TypedQuestion, ...]:
    if len(request.questions) > QUESTIONS_MAX:
        raise InvalidRequest(f"there are {len(request.questions)} questions; the limit is {QUESTIONS_MAX}")
    if any(each.type not in decision_protocols.QUESTION_TYPES for each in request.questions):
        raise InvalidRequest(f"a question has another type than {', '.join(decision_protocols.QUESTION_TYPES)}")
    if len({each.name for each in request.questions}) < len(request.questions):
        raise InvalidRequest("two questions have one name")
    return tuple(_typed_question(each, named=each.name != request.task) for each in request.questions)


def _typed_question(question: pb.AskedQuestion, *, named: bool) -> TypedQuestion:
    options = tuple((option.value, option.description) for option in question.options)
    return TypedQuestion(question.name, question.type, question.instructions, options, named)


def failure_response(error: EdgeAgentError) -> pb.AskResponse:
    """Return the response for an error."""
    retry_seconds = error.retry_seconds if isinstance(error, CapacityError) else 0.0
    failure = pb.AskFailure(
        reason=error.reason, message=error.message, remedy=error.remedy, retry_seconds=retry_seconds
    )
    return pb.AskResponse(failure=failure)

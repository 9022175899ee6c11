"""One question to a server: by OpenAI's chat API, which streams text, or by a decision API, which returns
probabilities.

Servers and models of the chat API refuse different members of a request (`formats/chat_request_form.py`). A refused
request is sent again without the member; the accepted form is remembered per model and task.

Responses are untrusted: here they are bounded in bytes and in time, and the daemon checks their content. No redirect is
followed, and the library does not retry. Errors contain the status, and no text from the server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2 as httpx
import openai
import structlog

from edge_agent.config import EscalationConfig
from edge_agent.errors import (
    EdgeAgentError,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)
from edge_agent.formats.chat_request_form import ChatRequestForm
from edge_agent.uplink.escalation import decision_protocols
from edge_agent.uplink.escalation.decision_protocols import TypedAnswer, TypedQuestion

log = structlog.get_logger("edge_agent.uplink")

BYTES_PER_TOKEN = 2
"""Minimum bytes of text per token, to reserve the price before the server has counted."""
_ENDPOINT_REMEDY = (
    "Check 'url' and 'model' under 'escalation' in agent.yaml, and the server; it is retried automatically."
)
_PROXY_REMEDY = (
    "Check 'proxy_url' under 'escalation' in agent.yaml, and whether the proxy lets this machine connect to the server"
    " without a password; it is retried automatically."
)
_QUESTION_REMEDY = (
    "Other questions are still asked. If this message stays, check that the server accepts inputs of this length, and "
    "the model and the parameters that 'model', 'task_models' and 'parameters' under 'escalation' in agent.yaml name."
)
_TOKENS_REMEDY = (
    "If the model thinks before it answers, set 'thinking_tokens_max' under 'escalation' in agent.yaml, or let it think"
    " less, e.g. with 'parameters: {reasoning_effort: low}'."
)
_NO_COMPRESSION = {"Accept-Encoding": "identity"}
"""A few compressed bytes can become a large answer, so compression is neither requested nor accepted."""
# Of the libraries; ValueError and the two after it for bodies that are not JSON or do not fit the API.
_FAILURES = (openai.OpenAIError, httpx.HTTPError, ValueError, AttributeError, TypeError)
_NOT_SENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NOT_FOUND = 404
_MISSING_STATUSES = (_NOT_FOUND, 405, 410, 415)
_UNSUITABLE_STATUSES = (400, 413, 422)
_IDLE_SECONDS_MAX = 4.0
"""For reuse of a connection. Many servers close one after 5 s, and a question under way would then be lost."""
_THOUGHT_MARKS = "<think>", "</think>"
_BLANKS_MAX = 100
"""Characters after which white space at the beginning belongs to the answer."""


@dataclass(frozen=True)
class EscalationQuestion:
    """A question for the large model."""

    turns: tuple[tuple[str, str], ...]
    """Role and text, in order."""
    schema: dict[str, Any] | None
    """JSON schema of the answer; None = free text."""
    output_tokens_max: int
    background: bool = False
    """Nobody waits for the answer."""
    task: str = ""
    questions: tuple[TypedQuestion, ...] = ()
    """The same as typed questions about `text`; empty for the chat protocol."""
    text: str = ""

    @property
    def input_tokens_max(self) -> int:
        """An upper bound on its tokens."""
        typed = (self.text, *(each.instructions for each in self.questions)) if self.questions else ()
        options = (word for each in self.questions for option in each.options for word in option)
        texts = (*(text for _, text in self.turns), *typed, *options)
        return sum(len(text.encode()) // BYTES_PER_TOKEN + 16 for text in texts) + len(str(self.schema or ""))


@dataclass(frozen=True)
class AnswerEnd:
    """The end of an answer."""

    model: str
    input_tokens: int
    output_tokens: int
    complete: bool


AnswerEvent = str | tuple[TypedAnswer, ...] | AnswerEnd
"""A piece of text, or the answers to typed questions; finally the end."""


class LargeModelBusy(UpstreamBusy):
    """The server refused the question without working on it, and may say when to retry."""

    retry_after: str | None = None


class QuestionRefused(UpstreamFailed):
    """The server refused this question for its length or format; others may be answered."""


class ConnectionLost(UpstreamUnreachable):
    """The connection broke after the question was sent, so it may have been answered and charged."""


class LargeModelClient:
    """One endpoint."""

    def __init__(self, config: EscalationConfig, key: str) -> None:
        """Prepare; no request is made yet."""
        self._config = config
        self._forms: dict[tuple[str, str], ChatRequestForm] = {}
        """The accepted forms by model and task; bounded by the tasks of the configuration."""
        limits = httpx.Limits(max_connections=config.calls_max + 2, keepalive_expiry=_IDLE_SECONDS_MAX)
        timeout = httpx.Timeout(config.seconds_max, connect=config.connect_seconds_max)
        transport = _BoundedTransport(config.answer_bytes_max, limits, config.proxy_url or None)
        http = httpx.AsyncClient(
            transport=transport, timeout=timeout, follow_redirects=False, trust_env=False, headers=_NO_COMPRESSION
        )
        self._client = openai.AsyncOpenAI(
            base_url=config.url, api_key=key or "none", max_retries=0, http_client=http, timeout=timeout
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def check_reachable(self) -> None:
        """Request the list of models, which costs nothing.

        A key may be allowed to use a model but not to list models, so if the list is refused, an empty question is
        sent, which every server rejects.

        Raises:
            CapacityError, UpstreamRefused, UpstreamMissing: no answer, the key is refused, or the API is not there.
        """
        seconds = self._config.connect_seconds_max
        try:
            try:
                await self._client.models.list(timeout=seconds)
            except (openai.AuthenticationError, openai.PermissionDeniedError):
                if self._config.protocol != "chat":
                    raise
                empty: Any = {"model": self._config.model, "messages": [], "max_tokens": 1}
                try:
                    await self._client.chat.completions.create(**empty, timeout=seconds)
                except openai.NotFoundError as error:  # so the server has not checked the key
                    raise self._translate_error(error) from None
        except _FAILURES as error:
            problem = self._translate_error(error)
            # A server without that page, or one that rejects the empty question, is reachable.
            if not isinstance(problem, UpstreamMissing | QuestionRefused):
                raise problem from None

    @asynccontextmanager
    async def answering(self, question: EscalationQuestion) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """Ask; yield the events of the answer as they arrive, and finally its end.

        Raises:
            CapacityError, UpstreamRefused, UpstreamMissing: no answer, or an incomplete one.
        """
        if question.questions and self._config.protocol != "chat":
            yield self._typed_answers(question, self._config.protocol)
            return
        answer = await self._answer(question)
        if not isinstance(answer, openai.AsyncStream):
            yield self._events(_once(answer), question)
            return
        try:
            yield self._events(answer, question)
        finally:
            await answer.close()

    async def _answer(self, question: EscalationQuestion) -> Any:
        """Send a question in a form that the server accepts; return the stream of the answer, or the whole answer."""
        key = self._model(question), question.task
        stored_form = form = self._forms.get(key, ChatRequestForm())
        while True:
            request = self._request(question, form)
            try:
                answer = await self._client.chat.completions.create(**request)
            except openai.APIStatusError as error:
                adapted_form = form.adapted(error.status_code, error.body, request)
                if adapted_form is None:
                    raise self._translate_error(error, question.task) from None
                form = adapted_form
            except _FAILURES as error:
                raise self._translate_error(error, question.task) from None
            else:
                break
        if form != stored_form:
            self._forms[key] = form
            fields = {"limit": form.limit, "format": form.format, "without": sorted(form.without)}
            log.info("large_model_request_adapted", model=key[0], task=key[1], **fields)
        return answer

    async def _typed_answers(
        self, question: EscalationQuestion, protocol: decision_protocols.DecisionProtocol
    ) -> AsyncIterator[AnswerEvent]:
        body = decision_protocols.build_body(protocol, self._model(question), question.text, question.questions)
        try:
            response = await self._client.post(f"/{protocol}", body=body, cast_to=httpx.Response)
        except _FAILURES as error:
            raise self._translate_error(error, question.task) from None
        try:
            parsed = decision_protocols.parse_answers(protocol, response.content, question.questions)
        except ValueError as error:
            raise self._incomplete_answer(str(error)) from None
        yield parsed.answers
        input_tokens = question.input_tokens_max if parsed.input_tokens is None else parsed.input_tokens
        yield AnswerEnd(parsed.model or self._model(question), input_tokens, parsed.output_tokens or 0, complete=True)

    def _model(self, question: EscalationQuestion) -> str:
        return self._config.task_models.get(question.task, self._config.model)

    def _request(self, question: EscalationQuestion, form: ChatRequestForm) -> Any:
        plain: dict[str, Any] = {
            "model": self._model(question),
            "messages": [{"role": role, "content": text} for role, text in question.turns],
            "temperature": 0.0,
            form.limit: question.output_tokens_max,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.schema is not None and form.format == "object":
            plain["response_format"] = {"type": "json_object"}
        elif question.schema is not None and form.format != "none":
            format_ = {"name": "answer", "strict": form.format == "strict", "schema": question.schema}
            plain["response_format"] = {"type": "json_schema", "json_schema": format_}
        members = {name: value for name, value in plain.items() if name not in form.without}
        return members | {"extra_body": self._config.parameters}

    async def _events(self, stream: Any, question: EscalationQuestion) -> AsyncIterator[AnswerEvent]:
        parts = _AnswerStream(self._model(question))
        try:
            async for chunk in stream:
                if text := parts.take(chunk):
                    yield text
        except _FAILURES as error:
            raise self._translate_error(error) from None
        if parts.finish is None:
            raise self._incomplete_answer("it stops in the middle")
        if parts.finish == "length" and not parts.is_answering:
            message = (
                f"the large model at {self._config.url} used its {question.output_tokens_max} tokens before it answered"
            )
            raise UpstreamFailed(message, remedy=_TOKENS_REMEDY)
        if parts.rest and not parts.rest.startswith(_THOUGHT_MARKS[0]):
            yield parts.rest
        if parts.usage:
            tokens = _count(parts.usage.prompt_tokens), _count(parts.usage.completion_tokens)
        else:
            # A server need not send the thoughts that it charges for.
            thinking_tokens = question.output_tokens_max if self._config.thinking_tokens_max else 0
            tokens = question.input_tokens_max, max(parts.bytes // BYTES_PER_TOKEN, thinking_tokens)
        yield AnswerEnd(str(parts.model)[:200], *tokens, complete=parts.finish == "stop")

    def _translate_error(self, error: Exception, task: str = "") -> EdgeAgentError:
        """Return our error for an error of the libraries, with URL and status, but without text from the server.

        `task` is the task of the question, if one was asked.
        """
        url = self._config.url
        if isinstance(error, openai.APIStatusError):
            return self._error_of_status(error.status_code, error.response.headers.get("retry-after"), task)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            if isinstance(cause, httpx.ProxyError):
                message = f"the proxy {self._config.proxy_url} does not connect to the large model at {url}"
                return UpstreamUnreachable(message, remedy=_PROXY_REMEDY)
            kind = UpstreamUnreachable if isinstance(cause, _NOT_SENT_ERRORS) else ConnectionLost
            return kind(f"the large model at {url} cannot be reached ({type(cause).__name__})", remedy=_ENDPOINT_REMEDY)
        return self._incomplete_answer(type(error).__name__)

    def _error_of_status(self, status: int, retry_after: str | None, task: str) -> EdgeAgentError:
        url, task_model = self._config.url, self._config.task_models.get(task)
        if status in (401, 403):
            remedy = "Give the uplink another key: the credential 'escalation', or 'credentials_file' in agent.yaml."
            return UpstreamRefused(f"the large model at {url} refuses the key (HTTP {status})", remedy=remedy)
        if status in (429, 503):
            message = f"the large model at {url} is overloaded (HTTP {status})"
            busy = LargeModelBusy(message, remedy="Nothing: it is retried automatically, with longer pauses.")
            busy.retry_after = retry_after
            return busy
        if status in _UNSUITABLE_STATUSES or (status == _NOT_FOUND and task_model):
            model = f" for the model {task_model!r}" if task_model else ""
            return QuestionRefused(
                f"the large model at {url} refuses one question{model} (HTTP {status})", remedy=_QUESTION_REMEDY
            )
        if status in _MISSING_STATUSES:
            message = f"{url} refuses the question for the model {self._config.model!r} (HTTP {status})"
            return UpstreamMissing(message, remedy=_ENDPOINT_REMEDY)
        return UpstreamFailed(f"the large model at {url} failed (HTTP {status})", remedy=_ENDPOINT_REMEDY)

    def _incomplete_answer(self, problem: str) -> UpstreamFailed:
        return UpstreamFailed(
            f"the large model at {self._config.url} gave no whole answer: {problem}", remedy=_ENDPOINT_REMEDY
        )


async def _once(answer: Any) -> AsyncIterator[Any]:
    """Yield an answer that was not streamed."""
    yield answer


@dataclass
class _AnswerStream:
    """The parts of one answer so far."""

    model: str
    bytes: int = 0
    """Of the answer and of other text from the server, such as thoughts."""
    usage: Any = None
    finish: str | None = None
    rest: str = ""
    """Text that may still belong to thoughts, which some servers write into the answer."""
    has_thought: str = ""
    """The mark at the end of such thoughts; empty until it has arrived."""
    is_answering: bool = False
    """The answer itself has begun."""

    def take(self, chunk: Any) -> str:
        """Take a chunk of the library; return its text without thoughts."""
        self.model, self.usage = chunk.model or self.model, chunk.usage or self.usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self.finish = choice.finish_reason or self.finish
        part = choice.message if hasattr(choice, "message") else choice.delta
        text, extra = (part.content or "", part.model_extra or {}) if part else ("", {})
        self.bytes += sum(len(value.encode()) for value in (text, *extra.values()) if isinstance(value, str))
        return str(text) if self.is_answering else self._without_thoughts(str(text))

    def _without_thoughts(self, text: str) -> str:
        """Return the text that certainly belongs to the answer, and hold back the rest."""
        begin, end = _THOUGHT_MARKS
        pending = self.rest + text
        stripped = pending.lstrip()
        if not self.has_thought and stripped.startswith(begin):
            _, self.has_thought, pending = stripped.partition(end)
            if not self.has_thought:  # only a possible part of the mark is kept
                self.rest = begin + stripped[len(begin) :][-len(end) :]
                return ""
        elif not self.has_thought and begin.startswith(stripped[: len(begin)]) and len(pending) < _BLANKS_MAX:
            self.rest = pending
            return ""
        pending = pending.lstrip() if self.has_thought else pending
        self.rest, self.is_answering = "", bool(pending)
        return pending


def _count(tokens: object) -> int:
    return min(tokens, 2**31) if isinstance(tokens, int) and tokens >= 0 else 0


class _BoundedTransport(httpx.AsyncHTTPTransport):
    """Aborts an answer that exceeds the byte limit, or that is compressed."""

    def __init__(self, bytes_max: int, limits: httpx.Limits, proxy: str | None) -> None:
        super().__init__(limits=limits, retries=0, proxy=proxy)
        self._bytes_max = bytes_max

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx.DecodingError("compressed, though that was not requested")
        response.stream = _BoundedBody(cast(httpx.AsyncByteStream, response.stream), self._bytes_max)
        return response


class _BoundedBody(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, bytes_max: int) -> None:
        self._inner, self._bytes_left = inner, bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._bytes_left -= len(part)
            if self._bytes_left < 0:
                raise httpx.ReadError("more bytes than the limit")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()

"""Responses and errors as OpenAI's clients read them. Pure.

    {"error": {"message": "…. What to do about it.", "type": "rate_limit_error", "param": null, "code": "QUEUE_FULL"}}

In a response, the member `edge_agent` has the data that OpenAI's format has no member for. The `openai` library retries
by status unless a header decides, so each error states in headers whether a retry helps.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.client import Answer, CallFailed, Classification, Embedding, Extraction, Failure, Finish, Task

REQUEST_INVALID = "REQUEST_INVALID"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
QUEUE_FULL = "QUEUE_FULL"
NOT_FOUND = 404
SERVER_FAILED = 500
STATUSES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": NOT_FOUND,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""By gRPC code; any other is 500, also a refused certificate of the gateway, which no caller can fix."""
INPUT_CODES: Mapping[str, str] = {
    **dict.fromkeys(("INPUT_EMPTY", "INPUT_TOO_LONG", REQUEST_INVALID), "INVALID_ARGUMENT"),
    **dict.fromkeys((QUEUE_FULL, "CLIENT_SHARE_FULL", "DEADLINE_UNATTAINABLE"), "RESOURCE_EXHAUSTED"),
    **dict.fromkeys(("ENGINE_NOT_READY", "DRAINING", "STREAM_BROKEN"), "UNAVAILABLE"),
    "DEADLINE_EXPIRED": "DEADLINE_EXCEEDED",
    "CANCELLED": "CANCELLED",
}
"""The code of a single call with that input; any other reason is INTERNAL."""
REASON_STATUSES: Mapping[str, int] = {MESSAGE_TOO_LARGE: 413}
"""Reasons with a status of their own in HTTP."""
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MODEL_REASONS = frozenset({"TASK_UNKNOWN", "TASK_KIND_MISMATCH"})
_INPUT_REASONS = frozenset({"INPUT_EMPTY", "INPUT_TOO_LONG", "INPUT_QUARANTINED", "TOO_MANY_INPUTS"})
_RETRY_SECONDS = 1.0
"""Delay if the daemon names none."""


class GatewayError(Exception):
    """A request that fails, as the caller reads it."""

    def __init__(self, message: str, *, param: str = "", remedy: str = "", reason: str = REQUEST_INVALID) -> None:
        """Keep the parts; `param` is the member of the request to change, empty when there is none."""
        super().__init__(message)
        self.message = _escape_surrogates(message)
        self.param = _escape_surrogates(param)
        self.remedy = remedy
        self.reason = reason
        self.status = REASON_STATUSES.get(reason, STATUSES["INVALID_ARGUMENT"])
        self.retry_seconds: float | None = None
        """Delay after which the same request may succeed; None when a retry does not help."""

    def as_json(self) -> dict[str, Any]:
        """Return it in OpenAI's format."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= SERVER_FAILED else "invalid_request_error")
        sentence = self.message if self.message.endswith((".", "!", "?")) else f"{self.message}."
        text = f"{sentence} {self.remedy}".rstrip()
        error = {"message": text, "type": kind, "param": self.param or None, "code": self.reason}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers that control retries."""
        seconds = self.retry_seconds
        if seconds is None:
            return {"x-should-retry": "false"}
        delays = {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
        return {"x-should-retry": "true", **delays}


def _escape_surrogates(text: str) -> str:
    """Return a text that may quote a caller, with halves of surrogate pairs as escapes: no response can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def from_call_failure(failure: CallFailed, inputs: str) -> GatewayError:
    """Return the error of a failed call; `inputs` names the member with its inputs."""
    error = _gateway_error(failure, inputs)
    error.status = REASON_STATUSES.get(failure.reason) or STATUSES.get(failure.code, SERVER_FAILED)
    error.retry_seconds = failure.retry_after_seconds
    if failure.reason in ("UNREACHABLE", "STREAM_BROKEN") and error.retry_seconds is None:
        error.retry_seconds = _RETRY_SECONDS
    return error


def from_input_failure(failure: Failure, inputs: str) -> GatewayError:
    """Return the error of one input of several."""
    error = _gateway_error(failure, inputs)
    code = INPUT_CODES.get(failure.reason, "")
    error.status = STATUSES.get(code, SERVER_FAILED)
    if code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        error.retry_seconds = _RETRY_SECONDS
    return error


def _gateway_error(failure: CallFailed | Failure, inputs: str) -> GatewayError:
    param = "model" if failure.reason in _MODEL_REASONS else inputs if failure.reason in _INPUT_REASONS else ""
    return GatewayError(failure.message, param=param, remedy=failure.remedy, reason=failure.reason)


EXTENSION = "edge_agent"
_STANDARD_MEMBERS = frozenset({"values", "json", "reason", "tokens"})
"""Parts of an answer that have a place in OpenAI's format."""
_PAIRS: Mapping[str, tuple[str, str]] = {
    "scores": ("label", "score"),
    "probabilities": ("label", "probability"),
    "fields": ("name", "confidence"),
}
END = b"data: [DONE]\n\n"
"""The last event of a stream."""
JsonObject = dict[str, Any]


def answer_details(answer: Answer) -> JsonObject:
    """Return everything that the daemon reports of an answer."""
    details = {
        field.name: getattr(answer, field.name)
        for field in dataclasses.fields(answer)
        if field.name not in _STANDARD_MEMBERS
    }
    for name in _PAIRS.keys() & details.keys():
        details[name] = [dict(zip(_PAIRS[name], pair, strict=True)) for pair in details[name]]
    entities = {"entities": list(map(dataclasses.asdict, answer.entities))} if isinstance(answer, Extraction) else {}
    return {
        **details,
        **entities,
        "bundle": dataclasses.asdict(answer.bundle),
        "timings": dataclasses.asdict(answer.timings),
    }


def usage(answers: Sequence[Answer]) -> JsonObject:
    """Sum the tokens that the daemon counted."""
    prompt, output = sum(each.input_tokens for each in answers), sum(each.output_tokens for each in answers)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


@dataclasses.dataclass(frozen=True)
class CompletionHead:
    """The common members of a completion and of its chunks."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str


def completion(head: CompletionHead, text: str, answer: Answer) -> JsonObject:
    """Return a whole completion."""
    message = {"role": "assistant", **message_content(text, answer)}
    choice = {"index": 0, "message": message, "logprobs": logprobs(answer), "finish_reason": finish_reason(answer)}
    return {
        **_head(head, "chat.completion", [choice]),
        "system_fingerprint": answer.bundle.digest,
        "usage": usage([answer]),
        EXTENSION: answer_details(answer),
    }


def stream_chunk(head: CompletionHead, delta: JsonObject) -> JsonObject:
    """Return one chunk of a stream."""
    return _head(head, "chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": None}])


def final_chunks(head: CompletionHead, answer: Answer, *, include_usage: bool) -> list[JsonObject]:
    """Return the end of a stream: the reason, then the usage if it was requested."""
    choice = {"index": 0, "delta": {}, "logprobs": logprobs(answer), "finish_reason": finish_reason(answer)}
    end = {
        **_head(head, "chat.completion.chunk", [choice]),
        "system_fingerprint": answer.bundle.digest,
        EXTENSION: answer_details(answer),
    }
    usage_chunk = {**_head(head, "chat.completion.chunk", []), "usage": usage([answer])}
    return [end, usage_chunk] if include_usage else [end]


def message_content(text: str, answer: Answer) -> JsonObject:
    """Return the text of a message, or a refusal with the reason when the task abstained."""
    if answer.route != "ABSTAINED":
        return {"content": text, "refusal": None}
    confidence = f", confidence {answer.confidence:.2f}" if isinstance(answer, Classification | Extraction) else ""
    return {"content": None, "refusal": f"no answer: {answer.route_reason}{confidence}"}


def logprobs(answer: Answer) -> JsonObject | None:
    """Return the tokens' log probabilities; None unless they were requested and are known."""
    if not isinstance(answer, Finish) or not answer.tokens:
        return None
    tokens = [
        {**_token(each.token, each.logprob), "top_logprobs": [_token(*other) for other in each.alternatives]}
        for each in answer.tokens
    ]
    return {"content": tokens, "refusal": None}


def _token(token: bytes, logprob: float) -> JsonObject:
    """Return one token. Part of a character becomes U+FFFD; `bytes` is exact."""
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


def finish_reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's terms."""
    return answer.reason.lower() if isinstance(answer, Finish) else "stop"


def _head(head: CompletionHead, kind: str, choices: list[JsonObject]) -> JsonObject:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}


def embedding_list(task: str, embeddings: Sequence[Embedding], *, as_base64: bool) -> JsonObject:
    """Return vectors as lists of numbers, or as little-endian 32-bit floats in base64."""
    data = [
        {"object": "embedding", "index": index, "embedding": _pack_base64(each.values) if as_base64 else each.values}
        for index, each in enumerate(embeddings)
    ]
    tokens = usage(embeddings)
    del tokens["completion_tokens"]
    return {
        "object": "list",
        "data": data,
        "model": task,
        "usage": tokens,
        EXTENSION: {"results": [answer_details(each) for each in embeddings]},
    }


def _pack_base64(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def model_entry(task: Task) -> JsonObject:
    """Return a task as a model. Its creation time is unknown: 0."""
    details = dataclasses.asdict(task)
    del details["name"]
    details["record_schema"] = json.loads(task.record_schema) if task.record_schema else None
    return {"id": task.name, "object": "model", "created": 0, "owned_by": "edge-agent", EXTENSION: details}


def sse_event(body: JsonObject) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

"""Responses as OpenAI's clients read them. The member `edge_agent` has what OpenAI's format has no place for. Pure."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.client import Answer, Classification, Embedding, Extraction, Finish, Task

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
    plain = {
        field.name: getattr(answer, field.name)
        for field in dataclasses.fields(answer)
        if field.name not in _STANDARD_MEMBERS
    }
    for name in _PAIRS.keys() & plain.keys():
        plain[name] = [dict(zip(_PAIRS[name], pair, strict=True)) for pair in plain[name]]
    entities = {"entities": list(map(dataclasses.asdict, answer.entities))} if isinstance(answer, Extraction) else {}
    return {
        **plain,
        **entities,
        "bundle": dataclasses.asdict(answer.bundle),
        "timings": dataclasses.asdict(answer.timings),
    }


def usage(answers: Sequence[Answer]) -> JsonObject:
    """Sum the tokens that the daemon counted."""
    read, written = sum(each.input_tokens for each in answers), sum(each.output_tokens for each in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


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
    counted = {**_head(head, "chat.completion.chunk", []), "usage": usage([answer])}
    return [end, counted] if include_usage else [end]


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
    message_content = [
        {**_token(each.token, each.logprob), "top_logprobs": [_token(*other) for other in each.alternatives]}
        for each in answer.tokens
    ]
    return {"content": message_content, "refusal": None}


def _token(token: bytes, logprob: float) -> JsonObject:
    """Return one token. Part of a character becomes U+FFFD; `bytes` is exact."""
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


def finish_reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's terms."""
    return answer.reason.lower() if isinstance(answer, Finish) else "stop"


def _head(head: CompletionHead, kind: str, choices: list[JsonObject]) -> JsonObject:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}


def embedding_list(task: str, found: Sequence[Embedding], *, as_base64: bool) -> JsonObject:
    """Return vectors as lists of numbers, or as little-endian 32-bit floats in base64."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(each.values) if as_base64 else each.values}
        for index, each in enumerate(found)
    ]
    counted = usage(found)
    del counted["completion_tokens"]
    return {
        "object": "list",
        "data": data,
        "model": task,
        "usage": counted,
        EXTENSION: {"results": [answer_details(each) for each in found]},
    }


def _packed(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def model_entry(task: Task) -> JsonObject:
    """Return a task as a model. Its creation time is unknown: 0."""
    known = dataclasses.asdict(task)
    del known["name"]
    known["record_schema"] = json.loads(task.record_schema) if task.record_schema else None
    return {"id": task.name, "object": "model", "created": 0, "owned_by": "edge-agent", EXTENSION: known}


def sse_event(body: JsonObject) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

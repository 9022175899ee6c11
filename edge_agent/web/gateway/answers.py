"""What is answered, as OpenAI's clients read it; what the agent knows beyond that is in `edge_agent`. Pure."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.client import Answer, Classification, Embedding, Extraction, Finish, Task

EXTRA = "edge_agent"
_ELSEWHERE = frozenset({"values", "json", "reason", "tokens"})
"""Of an answer: what stands at OpenAI's own place."""
_PAIRS: Mapping[str, tuple[str, str]] = {"scores": ("label", "score"), "fields": ("name", "confidence")}
END = b"data: [DONE]\n\n"
"""The last event of a stream."""
Plain = dict[str, Any]


def told(answer: Answer) -> Plain:
    """Return all that the agent says of an answer."""
    plain = {
        field.name: getattr(answer, field.name) for field in dataclasses.fields(answer) if field.name not in _ELSEWHERE
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


def usage(answers: Sequence[Answer]) -> Plain:
    """Count as the daemon does."""
    read, written = sum(each.input_tokens for each in answers), sum(each.output_tokens for each in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


@dataclasses.dataclass(frozen=True)
class Head:
    """What a completion and its pieces begin with."""

    id: str
    created: int
    """Seconds since 1970."""
    model: str


def completion(head: Head, written: str, answer: Answer) -> Plain:
    """Write a whole completion."""
    message = {"role": "assistant", **content(written, answer)}
    choice = {"index": 0, "message": message, "logprobs": logprobs(answer), "finish_reason": finish_reason(answer)}
    return {
        **_head(head, "chat.completion", [choice]),
        "system_fingerprint": answer.bundle.digest,
        "usage": usage([answer]),
        EXTRA: told(answer),
    }


def piece(head: Head, delta: Plain) -> Plain:
    """Write one piece of a stream."""
    return _head(head, "chat.completion.chunk", [{"index": 0, "delta": delta, "finish_reason": None}])


def last(head: Head, answer: Answer, *, include_usage: bool) -> list[Plain]:
    """Write the end of a stream: why it ended, then, if it is wanted, what it used."""
    choice = {"index": 0, "delta": {}, "logprobs": logprobs(answer), "finish_reason": finish_reason(answer)}
    end = {
        **_head(head, "chat.completion.chunk", [choice]),
        "system_fingerprint": answer.bundle.digest,
        EXTRA: told(answer),
    }
    counted = {**_head(head, "chat.completion.chunk", []), "usage": usage([answer])}
    return [end, counted] if include_usage else [end]


def content(written: str, answer: Answer) -> Plain:
    """Write what was said; where nobody answered, nothing, and why."""
    if answer.route != "ABSTAINED":
        return {"content": written, "refusal": None}
    sure = f", confidence {answer.confidence:.2f}" if isinstance(answer, Classification | Extraction) else ""
    return {"content": None, "refusal": f"nobody answers this one: {answer.route_reason}{sure}"}


def logprobs(answer: Answer) -> Plain | None:
    """Write how likely each token was, if that was asked for and is known."""
    if not isinstance(answer, Finish) or not answer.tokens:
        return None
    content = [
        {**_token(each.token, each.logprob), "top_logprobs": [_token(*other) for other in each.alternatives]}
        for each in answer.tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: bytes, logprob: float) -> Plain:
    """Write one; half a character is shown as none, and exact in its bytes."""
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


def finish_reason(answer: Answer) -> str:
    """Return why an answer ended, in OpenAI's words."""
    return answer.reason.lower() if isinstance(answer, Finish) else "stop"


def _head(head: Head, kind: str, choices: list[Plain]) -> Plain:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}


def embeddings(task: str, found: Sequence[Embedding], *, as_base64: bool) -> Plain:
    """Write vectors: as lists of numbers, or as 32-bit floats in base64, little-endian."""
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
        EXTRA: {"results": [told(each) for each in found]},
    }


def _packed(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def model(task: Task) -> Plain:
    """Write a task as a model. When it was made is not known here: 0."""
    known = dataclasses.asdict(task)
    del known["name"]
    known["record_schema"] = json.loads(task.record_schema) if task.record_schema else None
    return {"id": task.name, "object": "model", "created": 0, "owned_by": "edge-agent", EXTRA: known}


def event(plain: Plain) -> bytes:
    """Write one event of a stream."""
    return b"data: " + json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

"""The other paths: vectors, the list of tasks, and labels in plain JSON with all that the agent knows of them."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from edge_agent.client import AsyncClient, Classification, Embedding, Failure
from edge_agent.web.gateway import answers, asking, reading, refusals
from edge_agent.web.gateway.calls import Call
from edge_agent.web.gateway.refusals import Refused

_UINT32_MAX = 2**32 - 1
_EMBEDDING_HARMLESS = {"user": reading.text}


class Tasks:
    """See the module."""

    def __init__(self, client: AsyncClient) -> None:
        """Ask that daemon."""
        self._client = client

    async def models(self, call: Call) -> Response:
        """Answer GET /v1/models."""
        found = await self._client.tasks(timeout_seconds=call.seconds_left)
        return JSONResponse({"object": "list", "data": [answers.model(task) for task in found]})

    async def model(self, call: Call) -> Response:
        """Answer GET /v1/models/TASK."""
        return JSONResponse(
            answers.model(await self._client.task(call.path["task"], timeout_seconds=call.seconds_left))
        )

    async def embed(self, call: Call) -> Response:
        """Answer POST /v1/embeddings. A vector that cannot be had fails the request: OpenAI has no place for it."""
        asked = reading.body(call.body)
        task, texts = asked.need("model", reading.text), asked.need("input", _inputs)
        as_base64 = asked.take("encoding_format", reading.one_of("float", "base64"), "float") == "base64"
        dimensions = asked.take("dimensions", reading.whole(1, _UINT32_MAX), 0)
        asked.given(_EMBEDDING_HARMLESS)
        asked.end()
        found = await self._client.embed(task, texts, request_id=call.request_id, timeout_seconds=call.seconds_left)
        vectors = [_vector(each, place, len(found)) for place, each in enumerate(found, 1)]
        if dimensions and len(vectors[0].values) != dimensions:
            said = f"'dimensions' is {dimensions}; '{task}' makes vectors of {len(vectors[0].values)}"
            raise Refused(said, param="dimensions", remedy="Leave it out.")
        return JSONResponse(answers.embeddings(task, vectors, as_base64=as_base64))

    async def classify(self, call: Call) -> Response:
        """Answer POST /v1/tasks/TASK:classify: each text has a label or an error of its own."""
        asked = reading.body(call.body)
        texts = asked.need("texts", reading.texts)
        wish = asked.take("on_low_confidence", reading.one_of(*asking.WISHES), asking.AS_MODE)
        top_k = asked.take("top_k", reading.whole(0, _UINT32_MAX), 0)
        asked.end()
        found = await self._client.classify(
            call.path["task"],
            texts,
            on_low_confidence=wish,
            top_k=top_k,
            request_id=call.request_id,
            timeout_seconds=call.seconds_left,
        )
        return JSONResponse({"results": list(map(_result, found))})


def _inputs(value: Any) -> list[str]:
    """Read one text, or several. Token ids are those of another tokenizer."""
    if isinstance(value, str):
        return [reading.text(value)]
    try:
        return reading.texts(value)
    except ValueError as error:
        raise ValueError(f"{error}, or one; a task makes its own tokens") from None


def _vector(found: Embedding | Failure, place: int, of: int) -> Embedding:
    if isinstance(found, Embedding):
        return found
    refused = refusals.of_input(found, "input")
    refused.message = f"input {place} of {of}: {refused.message}"
    raise refused


def _result(found: Classification | Failure) -> dict[str, Any]:
    return answers.told(found) if isinstance(found, Classification) else refusals.of_input(found, "texts").plain()

"""A large model behind the chat API of OpenAI, which many servers speak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import openai

from convert.data.synthesis import ModelReply
from edge_agent.errors import EdgeAgentError, EngineNotReady, InvalidRequest

REQUEST_SECONDS_MAX = 300.0
ANSWER_TOKENS_MAX = 4096
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class ChatEndpoint:
    """Where to ask, and which model."""

    base_url: str
    key: str
    model: str

    def ask(self, messages: list[dict[str, str]], seed: int) -> ModelReply:
        """Return the model's answer.

        For a server that does not count tokens they are estimated from the characters, so that the limit holds there
        too.

        Raises:
            InvalidRequest: the server refuses the key, the model or the request.
            EngineNotReady: it cannot be reached, is busy, or failed three times.
        """
        with openai.OpenAI(
            base_url=self.base_url, api_key=self.key, timeout=REQUEST_SECONDS_MAX, max_retries=2
        ) as client:
            try:
                answer = client.chat.completions.create(
                    model=self.model,
                    messages=cast(Any, messages),
                    temperature=1.0,
                    max_tokens=ANSWER_TOKENS_MAX,
                    seed=seed,
                )
            except openai.OpenAIError as error:
                raise self._said(error) from None
        text = answer.choices[0].message.content or "" if answer.choices else ""
        characters = len(text) + sum(len(message["content"]) for message in messages)
        tokens = answer.usage.total_tokens if answer.usage else characters // _CHARACTERS_PER_TOKEN
        return ModelReply(text, tokens)

    def _said(self, error: Exception) -> EdgeAgentError:
        """Turn an error of the library into ours; its texts do not contain the key."""
        status = getattr(error, "status_code", 0)
        said = " ".join(str(error).split())[:300]
        if status in (401, 403):
            return InvalidRequest(f"{self.base_url} refused the key: {said}", remedy="Correct OPENAI_API_KEY.")
        if 400 <= status < 500 and status not in (408, 409, 429):
            remedy = "Check the model's name and OPENAI_BASE_URL, which usually ends in /v1."
            return InvalidRequest(f"{self.base_url} refused the request for {self.model}: {said}", remedy=remedy)
        remedy = "Check OPENAI_BASE_URL and the server, then run the command again; rows already written are kept."
        return EngineNotReady(f"{self.base_url} did not answer: {said}", remedy=remedy)

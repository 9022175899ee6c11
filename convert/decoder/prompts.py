"""A task's prompt by the agent's own rule, without a tokenizer."""

from __future__ import annotations

from edge_agent.engine.runtimes.llama.question_prompts import ChatTemplate, split_prompt
from edge_agent.formats.manifest import PromptTemplate


def check_chat(prompt: PromptTemplate, template: str, special_texts: dict[str, str]) -> None:
    """Render a prompt as the agent will when the bundle is installed. Raises ModelLoadFailed."""
    split_prompt(prompt, ChatTemplate(template, special_texts))

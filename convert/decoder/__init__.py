"""Decoders as the agent serves them, on checkpoints in PyTorch: here the check of their prompts, which needs no
tokenizer; in label_scores.py tokens and label scores."""

from __future__ import annotations

from edge_agent.engine.runtimes.llama.question_prompts import ChatTemplate, split_prompt
from edge_agent.formats.manifest import PromptTemplate


def check_chat(prompt: PromptTemplate, template: str, special_texts: dict[str, str]) -> None:
    """Render a prompt as the agent will when the bundle is installed. Raises ModelLoadFailed."""
    split_prompt(prompt, ChatTemplate(template, special_texts))

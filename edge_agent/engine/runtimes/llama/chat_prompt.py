"""How an input becomes tokens: the prompt text is split at the input, and the parts are tokenized one by one.

    prefix tokens                 suffix tokens
    [begin] text before the input | blanks + input | text after the input

The rule is fixed because scores are calibrated with it: each part is tokenized by itself, so the prefix of a task is
the same tokens in every request. Blanks at the end of the first part are tokenized with the input, as most vocabularies
have tokens that begin with a blank. Control tokens are recognised in the template's own parts only: in the input,
"<|im_end|>" is ten characters. A begin token is added if the vocabulary says so and the template does not write it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.manifest import PromptTemplate

INPUT = "{input}"
# Stands for the input while the chat template is rendered. Templates trim messages, so no white space at its ends.
_SENTINEL = "<<edge-agent:the-input-goes-here>>"
# What a template can raise: its own errors, and those of the Python expressions in it.
_RENDER_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class PromptParts:
    """The text around an input."""

    before: str
    blanks: str
    """Spaces that are tokenized together with the input."""
    after: str


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a model file."""

    source: str
    special_texts: dict[str, str]
    """`bos_token` and `eos_token`."""

    def render(self, system: str, user: str) -> str:
        """Return the text that asks the model for its answer. Raises ModelLoadFailed."""
        if not self.source:
            raise ModelLoadFailed("the prompt has 'chat: true', but the weights file has no chat template")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            template = environment.from_string(self.source)
            return template.render(messages=messages, add_generation_prompt=True, **self.special_texts)
        except _RENDER_ERRORS as error:
            raise ModelLoadFailed(f"the chat template of the weights file does not render: {error}") from None


def _refuse(message: str) -> None:
    raise TemplateError(message)


def split_prompt(prompt: PromptTemplate, chat: ChatTemplate) -> PromptParts:
    """Return the text before and after the input, chat template included. Raises ModelLoadFailed."""
    text, mark = prompt.template, INPUT
    if prompt.chat:
        mark = _SENTINEL
        text = chat.render(prompt.system, prompt.template.replace(INPUT, _SENTINEL))
        if text.count(mark) != 1:
            raise ModelLoadFailed(
                f"the chat template of the weights file writes the user's message {text.count(mark)} times, not once"
            )
    before, after = text.split(mark)
    bare = before.rstrip(" ")
    return PromptParts(bare, before[len(bare) :], after)

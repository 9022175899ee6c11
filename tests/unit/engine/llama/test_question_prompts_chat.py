"""Chat templates: how a prompt is split into the parts before and after the input."""

from __future__ import annotations

import pytest

from edge_agent.engine.runtimes.llama.question_prompts import ChatTemplate, PromptParts, split_prompt
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.manifest import PromptTemplate

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat(source: str, **special_texts: str) -> ChatTemplate:
    """Return a chat template."""
    return ChatTemplate(source, special_texts)


def split(source: str, system: str = "", template: str = "{input}") -> PromptParts:
    """Split a chat prompt."""
    return split_prompt(PromptTemplate(template=template, chat=True, system=system), chat(source))


def test_plain_prompt_is_split_at_the_input() -> None:
    """Blanks before the input belong to the input part; line ends belong to the prefix."""
    expected = PromptParts("Text:\n\nCustomer:", "  ", "\nIntent:")
    assert expected == split_prompt(PromptTemplate(template="Text:\n\nCustomer:  {input}\nIntent:"), chat(""))
    assert PromptParts("Q:\n", "", "") == split_prompt(PromptTemplate(template="Q:\n{input}"), chat(""))


def test_chat_template_wraps_system_and_user() -> None:
    """The text that the template writes around the user's message becomes the prefix and the rest."""
    expected = PromptParts(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay:", " ", "!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert expected == split(CHATML, "Be brief.", "Say: {input}!")


def test_template_that_trims_messages_keeps_the_input() -> None:
    """A template with `| trim` is split at the input as well."""
    assert PromptParts("<u>", "", "</u>") == split("<u>{{ messages[0].content | trim }}</u>")


def test_special_texts_reach_the_template() -> None:
    """A template can write the begin-of-text token itself."""
    template = chat("{{ bos_token }}{{ messages[0].content }}", bos_token="<s>")
    assert "<s>" == split_prompt(PromptTemplate(chat=True), template).before


def test_braces_in_the_system_message_are_text() -> None:
    """Braces in the system message are text; only the template's own {input} marks the input."""
    assert "{input} {{ 7 }}" in split(CHATML, "{input} {{ 7 }}").before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has no chat template"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for %}", "does not render"),
        ("{{ messages[9].content.nothing }}", "does not render"),
        ("{{ 1 / 0 }}", "does not render"),
        ("{{ ''.__class__.__mro__ }}", "does not render"),
        ("{{ messages.append(1) }}", "does not render"),
        ("hello", "writes the user's message 0 times"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "writes the user's message 2 times"),
    ],
)
def test_unusable_chat_template_is_refused(source: str, message: str) -> None:
    """A missing, broken or hostile chat template fails the load with a reason."""
    with pytest.raises(ModelLoadFailed, match=message):
        split(source)

"""How an input and the questions about it become tokens, and the tree of the outputs. Pure.

    prefix tokens                 suffix tokens
    [begin] text before the input | blanks + input | text after the input

The rule is fixed because scores are calibrated with it: each part is tokenized by itself, so the prefix of a task is
the same tokens in every request. Blanks at the end of the first part are tokenized with the input, as most vocabularies
have tokens that begin with a blank. Control tokens are recognised in the template's own parts only: in the input,
"<|im_end|>" is ten characters. A begin token is added if the vocabulary says so and the template does not write it.

    trunk, shared by all questions of an input        each question
    [begin] before | input | between                  question text | after, such as "\\nAnswer:" | outputs

A template has `{question}` once, behind `{input}`. The parts are tokenized one by one, as above: the
tokens of a question are the same whatever the input is. Nothing in a question's text becomes a control token.

The text of a question is its instructions, and then one of

    Answer no or yes.
    Options: refund; exchange; price
    Levels, lowest first: low; medium; high

or, with descriptions, a line "- output: description" for each. Calibrated scores depend on it to the last character,
so it never changes; another one would need another key in the manifest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge_agent.engine.protocol import AskedQuestion
from edge_agent.engine.runtimes.llama.token_probabilities import LabelTree
from edge_agent.errors import InvalidRequest, ModelLoadFailed
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
    text, marker = prompt.template, INPUT
    if prompt.chat:
        marker = _SENTINEL
        text = chat.render(prompt.system, prompt.template.replace(INPUT, _SENTINEL))
        if text.count(marker) != 1:
            raise ModelLoadFailed(
                f"the chat template of the weights file writes the user's message {text.count(marker)} times, not once"
            )
    before, after = text.split(marker)
    bare = before.rstrip(" ")
    return PromptParts(bare, before[len(bare) :], after)


QUESTION = "{question}"
QUESTIONS_MAX = 400
"""Of one call."""
OUTPUTS_MAX = 8_192
"""Options, levels, and two for each predicate: of all questions of one call."""
TOKENS_MAX = 32_768
"""Of all questions of one call, what their outputs add included."""
CACHED_MAX, CACHED_ROWS_MAX = 1_024, 4 * TOKENS_MAX
"""Questions whose tokens are cached, and their rows in all: the same questions are asked about many inputs. A row takes
a quarter of a kilobyte, and each call of a task with open questions may bring new ones."""
TOKEN_CHARACTERS_MAX = 64
"""A question with more characters for each allowed token is refused before it is tokenized."""

Tokenizer = Callable[[str, bool], list[int]]
"""Returns the tokens of a text; the flag says whether the texts of control tokens become those tokens."""


@dataclass(frozen=True)
class QuestionTokens:
    """A question in tokens."""

    name: str
    tokens: tuple[int, ...]
    """The tokens after the input, up to the outputs; at least one."""
    tree: LabelTree
    depth: int
    """The most rows of one output after these tokens."""

    @property
    def rows(self) -> int:
        """Return how many rows it takes in all."""
        return len(self.tokens) + self.tree.rows(0)


@dataclass(frozen=True)
class QuestionTemplate:
    """The parts of a prompt around a question."""

    between: str
    """Behind the input."""
    blanks: str
    """Spaces that are tokenized together with the question."""
    after: str


def question_template(parts: PromptParts, task: str) -> QuestionTemplate:
    """Split the text after the input around the question. Raises ModelLoadFailed."""
    if QUESTION in parts.before or parts.after.count(QUESTION) != 1:
        raise ModelLoadFailed(f"the prompt of task {task!r} must hold {QUESTION} once, behind {{input}}")
    between, after = parts.after.split(QUESTION)
    bare = between.rstrip(" ")
    return QuestionTemplate(bare, between[len(bare) :], after)


def question_text(question: AskedQuestion) -> str:
    """Return the text of a question for the model."""
    outputs = question.outputs
    if question.descriptions and any(question.descriptions):
        head = {"predicate": "Answers:", "choice": "Options:", "score": "Levels, lowest first:"}[question.type]
        pairs = zip(outputs, question.descriptions, strict=True)
        lines = [f"- {output}: {description}" if description else f"- {output}" for output, description in pairs]
        return "\n".join([question.instructions, head, *lines])
    if question.type == "predicate":
        return f"{question.instructions}\nAnswer no or yes."
    head = "Options:" if question.type == "choice" else "Levels, lowest first:"
    return f"{question.instructions}\n{head} {'; '.join(outputs)}"


class QuestionTokenizer:
    """Turns the questions of one bundle into tokens, and caches those asked last."""

    def __init__(self, template: QuestionTemplate, label_prefix: str, tokenize: Tokenizer, tokens_max: int) -> None:
        """Take the texts around a question and before an output, and the most tokens of a question."""
        self._blanks, self._label_prefix, self._tokenize = template.blanks, label_prefix, tokenize
        self._after = tokenize(template.after, True)
        self.tokens_max = tokens_max
        self._cache: OrderedDict[AskedQuestion, QuestionTokens] = OrderedDict()
        self._cached_rows = 0

    def read(self, questions: Sequence[AskedQuestion]) -> list[QuestionTokens]:
        """Return the questions of one call. Raises InvalidRequest if there are too many, or one is too long."""
        if not 1 <= len(questions) <= QUESTIONS_MAX:
            raise InvalidRequest(f"the call has {len(questions)} questions; 1 to {QUESTIONS_MAX} are allowed")
        outputs = sum(len(question.outputs) for question in questions)
        if outputs > OUTPUTS_MAX:
            raise InvalidRequest(f"the questions have {outputs} options and levels in all; the limit is {OUTPUTS_MAX}")
        encoded: list[QuestionTokens] = []
        rows = 0
        for question in questions:
            encoded.append(self._get_or_tokenize(question))
            rows += encoded[-1].rows
            if rows > TOKENS_MAX:  # before the others are tokenized: other callers wait meanwhile
                subject = f"the first {len(encoded)} of {len(questions)} questions"
                raise InvalidRequest(f"{subject} have {rows} tokens; the limit is {TOKENS_MAX}")
        return encoded

    def _get_or_tokenize(self, question: AskedQuestion) -> QuestionTokens:
        encoded = self._cache.get(question)
        if encoded is not None:
            self._cache.move_to_end(question)
            return encoded
        text, limit = question_text(question), self.tokens_max
        if len(text) > limit * TOKEN_CHARACTERS_MAX:
            limit_text = f"more than {TOKEN_CHARACTERS_MAX} for each of {limit} tokens"
            raise InvalidRequest(f"question {question.name!r} has {len(text)} characters, {limit_text}")
        tokens = [*self._tokenize(self._blanks + text, False), *self._after]
        paths = [tuple(self._tokenize(self._label_prefix + output, False)) for output in question.outputs]
        try:
            tree = LabelTree(question.outputs, paths)
        except ModelLoadFailed as error:
            raise InvalidRequest(f"question {question.name!r}: {error.message}") from None
        depth = max(len(path) for path in paths) - 1
        if len(tokens) + depth > limit:
            length_text = f"question {question.name!r} has {len(tokens) + depth} tokens with its longest option"
            raise InvalidRequest(f"{length_text}; the limit is {limit}")
        encoded = self._cache[question] = QuestionTokens(question.name, tuple(tokens), tree, depth)
        self._cached_rows += encoded.rows
        while len(self._cache) > CACHED_MAX or self._cached_rows > CACHED_ROWS_MAX:
            _, oldest = self._cache.popitem(last=False)
            self._cached_rows -= oldest.rows
        return encoded


class DecisionQuestion(NamedTuple):
    """A question of a job."""

    question: QuestionTokens
    temperature: float
    """Scores are divided by it."""


class BundleQuestions:
    """The questions of a bundle, and those that its callers ask."""

    def __init__(self, tokenizer: QuestionTokenizer, own: Sequence[AskedQuestion]) -> None:
        """Take the questions that the bundle defines. Raises InvalidRequest if one of them does not fit."""
        self._tokenizer, self._own = tokenizer, own
        if own:
            tokenizer.read(own)

    def decision_questions(self, questions: Sequence[AskedQuestion]) -> list[DecisionQuestion]:
        """Return the questions of a call in tokens; without any, all of the bundle's own. Raises InvalidRequest."""
        asked = questions or self._own
        return [
            DecisionQuestion(tokens, question.temperature)
            for question, tokens in zip(asked, self._tokenizer.read(asked), strict=True)
        ]

"""What one attached bundle brings to the base: prompt, labels, adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.engine.job_questions import own_questions
from edge_agent.engine.runtimes.job_results import check_input_length
from edge_agent.engine.runtimes.llama.chat_prompt import ChatTemplate, split_prompt
from edge_agent.engine.runtimes.llama.kv_cells import PromptPrefix
from edge_agent.engine.runtimes.llama.label_scoring import LabelTree
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.lora_adapters import LoraAdapter
from edge_agent.engine.runtimes.llama.question_prompts import (
    BundleQuestions,
    QuestionTemplate,
    QuestionTokenizer,
    question_template,
)
from edge_agent.engine.runtimes.llama.record_drafts import RecordDrafts
from edge_agent.engine.runtimes.llama.record_grammar import RecordGrammar
from edge_agent.errors import EmptyInput, InputTooLong, InvalidRequest, ModelLoadFailed
from edge_agent.formats.manifest import Manifest, TaskSpec

TOKEN_CHARACTERS_MAX = 64
"""A text with more characters for each allowed token is refused before it is tokenized."""


@dataclass
class LlamaBundle:
    """A task on a base, in tokens."""

    digest: str
    task: TaskSpec
    temperature: float
    """Scores are divided by it."""
    prompt: PromptPrefix
    """The prefix of every input."""
    blanks: str
    rest: list[int]
    tree: LabelTree | None
    """classify only."""
    questions: BundleQuestions | None
    """decide only."""
    context_tokens: int
    """Room for one request."""
    adapter: LoraAdapter | None = None
    grammar: RecordGrammar | None = None
    """extract only."""
    drafts: RecordDrafts = field(default_factory=RecordDrafts)
    """Likewise."""

    @property
    def group(self) -> str:
        """Return what bundles must share to be computed in one batch: the adapter."""
        return self.adapter.identity if self.adapter else ""

    def whole(self, model: LlamaModel, text: str) -> list[int]:
        """Return the tokens of the prompt for an input. Raises EmptyInput, InputTooLong."""
        limit = self.task.limits.input_tokens_max
        if not text.strip():
            raise EmptyInput("the input has no text")
        if len(text) > limit * TOKEN_CHARACTERS_MAX:
            raise InputTooLong(
                f"the input has {len(text)} characters, more than {TOKEN_CHARACTERS_MAX} for each of {limit} tokens",
                characters=len(text),
                limit=limit,
            )
        tokens = [*self.prompt.tokens, *model.tokenize(self.blanks + text, special=False), *self.rest]
        check_input_length(len(tokens), limit)
        return tokens


def read_bundle(digest: str, manifest: Manifest, model: LlamaModel, adapter: LoraAdapter | None = None) -> LlamaBundle:
    """Turn a manifest into tokens, to be computed with an adapter or without.

    Raises ModelLoadFailed if the task cannot work with this model.
    """
    task = manifest.task
    text = split_prompt(task.prompt, ChatTemplate(model.chat_template(), model.special_texts()))
    prefix = model.tokenize(text.before, special=True)
    if model.bos is not None and prefix[:1] != [model.bos]:
        prefix.insert(0, model.bos)
    template = question_template(text, task.name) if task.kind == "decide" else None
    rest = model.tokenize(template.between if template else text.after, special=True)
    limit = task.limits.input_tokens_max
    if len(prefix) + len(rest) >= limit:
        raise ModelLoadFailed(
            f"the prompt of task {task.name!r} takes {len(prefix) + len(rest)} tokens without an input; "
            f"'input_tokens_max' is {limit}"
        )
    tree = None
    if task.kind == "classify":
        paths = [tuple(model.tokenize(task.prompt.label_prefix + label, special=False)) for label in task.labels]
        tree = LabelTree(task.labels, paths)
    questions = _questions(manifest, model, template) if template else None
    prompt = PromptPrefix(tuple(prefix), adapter.identity if adapter else "", exact=task.kind != "generate")
    bundle = LlamaBundle(
        digest=digest,
        task=task,
        temperature=manifest.confidence.temperature,
        prompt=prompt,
        blanks=text.blanks,
        rest=rest,
        tree=tree,
        questions=questions,
        context_tokens=manifest.engine.context_tokens,
        adapter=adapter,
    )
    if task.kind == "extract":
        bundle.drafts.learn(prefix, 0)  # of the examples in it, if there are
    return bundle


def _questions(manifest: Manifest, model: LlamaModel, template: QuestionTemplate) -> BundleQuestions:
    """Turn the questions of a manifest into tokens. Raises ModelLoadFailed."""
    task, room = manifest.task, manifest.engine.context_tokens - manifest.task.limits.input_tokens_max

    def tokenize(text: str, special: bool) -> list[int]:
        return model.tokenize(text, special=special)

    tokenizer = QuestionTokenizer(template, task.prompt.label_prefix, tokenize, room)
    try:
        return BundleQuestions(tokenizer, own_questions(manifest))
    except InvalidRequest as error:
        raise ModelLoadFailed(f"task {task.name!r}: {error.message}") from None

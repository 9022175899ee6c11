"""What attached bundles add to the base: prompt, labels, grammar, adapter; the loaded adapters, and their memory.

Only the LOADED_MAX adapters used last stay loaded. Each loaded adapter makes every change of adapter slower, used or
not: 10 ms with one to ten, 12 with 25, 56 with 100 (llama.cpp counts all of them when it plans its graph). Loading one
again takes as long as one step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import own_questions
from edge_agent.engine.runtimes import check_input_length
from edge_agent.engine.runtimes.llama.kv_cells import PromptPrefix
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel, check_file
from edge_agent.engine.runtimes.llama.memory_estimate import adapter_bytes, record_bytes
from edge_agent.engine.runtimes.llama.question_prompts import (
    BundleQuestions,
    ChatTemplate,
    QuestionTemplate,
    QuestionTokenizer,
    question_template,
    split_prompt,
)
from edge_agent.engine.runtimes.llama.record_grammar import GuideTokens, RecordDrafts, RecordGrammar, guide_tokens
from edge_agent.engine.runtimes.llama.token_probabilities import LabelTree
from edge_agent.errors import EmptyInput, InputTooLong, InvalidRequest, ModelFailed, ModelLoadFailed
from edge_agent.formats.manifest import Manifest, TaskSpec

LOADED_MAX = 25


class LoraAdapter(NamedTuple):
    """An adapter of a bundle."""

    identity: str
    """The hash of its file."""
    path: str
    memory: int
    """What it takes while it is loaded, in bytes."""


class LoadedAdapters:
    """The loaded adapters of one model."""

    def __init__(self, model: LlamaModel, unset: Callable[[], None]) -> None:
        """Start with none. `unset` is called before one is freed: llama.cpp crashes if a context has it set."""
        self._model, self._unset = model, unset
        self._loaded: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are loaded."""
        return len(self._loaded)

    def pointer(self, adapter: LoraAdapter | None) -> Any:
        """Return the pointer of an adapter, None for none; load it if necessary.

        Raises:
            ModelFailed: it was there when its bundle was attached, but does not load now.
        """
        if adapter is None:
            return None
        try:
            self.load(adapter)
        except ModelLoadFailed as error:
            raise ModelFailed(error.message, remedy=error.remedy, adapter=Path(adapter.path).name) from None
        self._loaded.move_to_end(adapter.identity)
        return self._loaded[adapter.identity]

    def load(self, adapter: LoraAdapter) -> None:
        """Load an adapter unless it is loaded, and evict the one not used for longest. Raises ModelLoadFailed."""
        if adapter.identity in self._loaded:
            return
        while len(self._loaded) >= LOADED_MAX:
            self.free(next(iter(self._loaded)))
        self._loaded[adapter.identity] = self._model.load_adapter(adapter.path)

    def free(self, identity: str) -> None:
        """Free an adapter, if it is loaded."""
        pointer = self._loaded.pop(identity, None)
        if pointer is not None:
            self._unset()
            self._model.free_adapter(pointer)

    def close(self) -> None:
        """Free all of them."""
        for identity in list(self._loaded):
            self.free(identity)


def adapters_bytes(adapters: list[LoraAdapter]) -> int:
    """Return the most bytes that these adapters may take, of which LOADED_MAX are loaded at a time. Pure."""
    sizes = {adapter.identity: adapter.memory for adapter in adapters}
    return sum(sorted(sizes.values(), reverse=True)[:LOADED_MAX])


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

    def prompt_tokens(self, model: LlamaModel, text: str) -> list[int]:
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
    parts = split_prompt(task.prompt, ChatTemplate(model.chat_template(), model.special_texts()))
    prefix = model.tokenize(parts.before, special=True)
    if model.bos is not None and prefix[:1] != [model.bos]:
        prefix.insert(0, model.bos)
    template = question_template(parts, task.name) if task.kind == "decide" else None
    rest = model.tokenize(template.between if template else parts.after, special=True)
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
    bundle = LlamaBundle(
        digest=digest,
        task=task,
        temperature=manifest.confidence.temperature,
        prompt=PromptPrefix(tuple(prefix), adapter.identity if adapter else "", exact=task.kind != "generate"),
        blanks=parts.blanks,
        rest=rest,
        tree=tree,
        questions=questions,
        context_tokens=manifest.engine.context_tokens,
        adapter=adapter,
    )
    if task.kind == "extract":
        bundle.drafts.learn(prefix, 0)  # from the examples in the prompt, if it has any
    return bundle


class LlamaBundles(dict[str, LlamaBundle]):
    """The bundles on one base, by digest, and the memory that their adapters and grammars take."""

    def __init__(
        self,
        model: LlamaModel,
        adapters: LoadedAdapters,
        need: MemoryNeed,
        available: int,
        sequences: int,
        request_memory: Callable[[int, int, int], int],
    ) -> None:
        """Begin with none. The base needs `need` of `available` bytes, as `request_memory` granted them."""
        super().__init__()
        self._model, self._adapters, self._sequences = model, adapters, sequences
        self._need, self._available, self._request_memory = need, available, request_memory
        self._guide_tokens: GuideTokens | None = None

    def prepare(self, digest: str, manifest: Manifest, adapter_path: str | None) -> LlamaBundle:
        """Read a bundle, which is not added yet, and load its adapter. Raises MemoryShort, ModelLoadFailed."""
        adapter = None
        if adapter_path is not None:
            check_file(adapter_path)
            identity = next((each.sha256 for each in manifest.artifacts if each.role == "adapter"), adapter_path)
            adapter = LoraAdapter(identity, adapter_path, adapter_bytes(Path(adapter_path).stat().st_size))
            self._require_memory(replace(self._need, adapters=self._adapter_bytes(adapter)))
        bundle = read_bundle(digest, manifest, self._model, adapter)
        if manifest.task.record_schema is not None:
            if self._guide_tokens is None:
                guide_bytes = record_bytes(self._model.vocab_size, self._sequences)
                need = replace(self._need, process=self._need.process + guide_bytes)
                self._require_memory(replace(need, adapters=self._adapter_bytes()))
                self._need, self._guide_tokens = need, guide_tokens(self._model)
            bundle.grammar = RecordGrammar(self._guide_tokens, manifest.task.record_schema)
        if adapter is not None:
            self._adapters.load(adapter)
        return bundle

    def free_adapter(self, adapter: LoraAdapter | None) -> None:
        """Free an adapter, unless another bundle has the same."""
        if adapter and not any(bundle.adapter == adapter for bundle in self.values()):
            self._adapters.free(adapter.identity)

    def close(self) -> None:
        """Forget all of them, and the tokens that their grammars share; LoadedAdapters frees the adapters."""
        self.clear()
        self._guide_tokens = None

    def _require_memory(self, need: MemoryNeed) -> None:
        """Raise MemoryShort unless `need`, with what a bundle adds, is available."""
        self._request_memory(need.total, self._available, 0)
        need.check(self._available)

    def _adapter_bytes(self, *more: LoraAdapter) -> int:
        """Return the most bytes that the adapters of all bundles and these may take."""
        return adapters_bytes([*(bundle.adapter for bundle in self.values() if bundle.adapter), *more])


def _questions(manifest: Manifest, model: LlamaModel, template: QuestionTemplate) -> BundleQuestions:
    """Turn the questions of a manifest into tokens. Raises ModelLoadFailed."""
    task, tokens_max = manifest.task, manifest.engine.context_tokens - manifest.task.limits.input_tokens_max

    def tokenize(text: str, special: bool) -> list[int]:
        return model.tokenize(text, special=special)

    tokenizer = QuestionTokenizer(template, task.prompt.label_prefix, tokenize, tokens_max)
    try:
        return BundleQuestions(tokenizer, own_questions(manifest))
    except InvalidRequest as error:
        raise ModelLoadFailed(f"task {task.name!r}: {error.message}") from None

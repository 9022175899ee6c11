"""The tokens that may come next in a record, by its schema with llguidance, and those that probably will.

The records of one task are alike: the same keys, the same century. The tokens that mostly followed the last ORDER
tokens are computed together with the tokens that are due (a *draft*). Where the model agrees, steps are saved
(speculative decoding, Leviathan et al. 2023, with an n-gram table in place of a small model). Rows do not depend on
other rows, so the record is the same to the last bit.

Everything that can grow has a limit before llguidance sees it: formats/record_schema.py refuses too large a schema, and
`bounded_schema` adds the limits that it leaves open. In llguidance, fuel bounds the time of a step (about 10 ms) and a
count of states the memory of a record; a job that exceeds them fails. llguidance neither raises nor aborts on a bad
grammar: it enters an error state, which is checked here after every call.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.errors import ModelFailed, ModelLoadFailed
from edge_agent.formats import record_schema
from edge_agent.formats.record_schema import Schema

ORDER = 3
DRAFT_MAX = 12
"""Tokens in one draft."""
CHANCE_MIN, CHANCE_MIN_ALONE = 0.2, 0.5
"""The least chance that a whole draft is right: an additional row costs a fifth of a step. The first token needs
CHANCE_MIN_ALONE if one row would otherwise be computed alone: on processors with AMX that takes half as long as two."""
CONTEXTS_MAX = 1024
"""Of a task: 0.4 MB. The oldest is dropped first."""
_CHANCE_FIRST, _CHANCE_REPLACED, _RATE = 0.35, 0.3, 0.2
"""The chance of a token seen once; the chance below which another token replaces it; the weight of each record."""

DraftContext = tuple[int, ...]


class RecordDrafts:
    """The records of one task: the token that mostly follows each context, and how often it did."""

    def __init__(self) -> None:
        """Start with nothing learnt."""
        self._next: dict[DraftContext, tuple[int, float]] = {}

    def learn(self, tokens: Sequence[int], start: int) -> None:
        """Learn from a record: its tokens from `start` on, each with the ORDER tokens before it."""
        for index in range(max(start, ORDER), len(tokens)):
            context, token = tuple(tokens[index - ORDER : index]), tokens[index]
            expected, chance = self._next.get(context, (token, _CHANCE_FIRST))
            if context in self._next:
                chance += _RATE * ((expected == token) - chance)
            if context not in self._next and len(self._next) == CONTEXTS_MAX:
                del self._next[next(iter(self._next))]
            self._next[context] = (expected if chance > _CHANCE_REPLACED else token, chance)

    def draft_after(self, tokens: Sequence[int], tokens_max: int = DRAFT_MAX, *, alone: bool = False) -> list[int]:
        """Return what probably follows these tokens, often nothing. `alone`: one row would be computed without it."""
        context, chance = tuple(tokens[-ORDER:]), 1.0
        draft: list[int] = []  # a call of list[int] costs ten times as much, in each step
        while len(draft) < tokens_max and context in self._next:
            token, token_chance = self._next[context]
            chance *= token_chance
            if chance < (CHANCE_MIN_ALONE if alone and not draft else CHANCE_MIN):
                break
            draft.append(token)
            context = (*context[1:], token)
        return draft


STATES_MAX = 20_000
"""Of the automaton that is built for one record: half a kilobyte each."""
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,  # 20 ms
    step_lexer_fuel=50_000,  # 4 ms
    step_max_items=50_000,  # 3 ms
    max_lexer_states=STATES_MAX,
    max_grammar_size=500_000,
    verbose_errors=False,
)
ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "
# As json.dumps writes it, which is what models have seen most: fewer choices, more forced tokens.
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ITEM_SEPARATOR, "key_separator": KEY_SEPARATOR}
_DECIMALS = 0.000001
_WORD_BITS = 32
"""In a word of a mask: a token each."""
_REMEDY = "Correct 'record_schema' in task.yaml, and make the bundle again with 'edge-convert assemble'."

GuideTokens = llguidance.LLTokenizer


def guide_tokens(model: LlamaModel) -> GuideTokens:
    """Return a model's vocabulary for llguidance, which takes half a second. The model must outlive it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses a deprecated name of llama_cpp
        return lltokenizer_from_vocab(model.vocab)


def bounded_schema(node: Schema) -> dict[str, Any]:
    """Return a schema with a limit on everything, its fields in the order of a record. Pure.

    A record that fits it also fits the given schema.
    """
    if "anyOf" in node:
        return {"anyOf": [bounded_schema(branch) for branch in node["anyOf"]]}
    if "const" in node:
        return {"enum": [node["const"]]}
    if "enum" in node:
        return {key: node[key] for key in ("enum", "type") if key in node}
    return {"type": node["type"], **_BOUNDS.get(record_schema.kind_of(node), lambda _: {})(node)}


def _object(node: Schema) -> dict[str, Any]:
    properties = {name: bounded_schema(node["properties"][name]) for name in record_schema.fields(node)}
    return {"properties": properties, "required": node.get("required", []), "additionalProperties": False}


def _array(node: Schema) -> dict[str, Any]:
    items_min = node.get("minItems", 0)
    items_max = node.get("maxItems", max(items_min, record_schema.ITEMS_DEFAULT))
    return {"items": bounded_schema(node["items"]), "minItems": items_min, "maxItems": items_max}


def _string(node: Schema) -> dict[str, Any]:
    length_min = node.get("minLength", 0)
    length_max = node.get("maxLength", max(length_min, record_schema.STRING_CHARS_DEFAULT))
    bounds = {"minLength": length_min, "maxLength": length_max}
    if "format" in node:
        return bounds | {"pattern": record_schema.FORMATS[node["format"]]}
    return bounds | ({"pattern": node["pattern"]} if "pattern" in node else {})


def _integer(node: Schema) -> dict[str, Any]:
    limits = {key: node[key] for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum") if key in node}
    return {"minimum": -record_schema.NUMBER_MAX, "maximum": record_schema.NUMBER_MAX} | limits


def _number(node: Schema) -> dict[str, Any]:
    return _integer(node) | {"multipleOf": _DECIMALS}


_BOUNDS = {"object": _object, "array": _array, "string": _string, "integer": _integer, "number": _number}


class GrammarMatcher:
    """One record under way."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        """Take a matcher at its start, and the number of tokens. Raises ModelFailed."""
        self._matcher = matcher
        self._mask = np.zeros(-(-vocabulary // _WORD_BITS), np.int32)
        self._check()

    def take_forced(self) -> list[int]:
        """Advance as far as only one text is possible; return its tokens, cut as the tokenizer would cut them.

        A token at the end that could still become a longer one is not among them. Raises ModelFailed.
        """
        tokens = self._matcher.compute_ff_tokens()
        self._matcher.consume_tokens(tokens)
        self._check()
        return tokens

    def allowed_tokens(self) -> NDArray[np.intp]:
        """Return the tokens that may come next, at least one. Raises ModelFailed."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        # numpy searches booleans ten times as fast as bytes, whether two tokens are allowed or all.
        allowed = np.flatnonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little").view(np.bool_))
        if not len(allowed):
            raise ModelFailed("the record's schema allows no next token", remedy=_REMEDY)
        return allowed

    def allowed_prefix(self, tokens: list[int]) -> list[int]:
        """Return the longest beginning of these tokens that may come next."""
        return tokens[: self._matcher.validate_tokens(tokens)] if tokens else tokens

    def take(self, token: int) -> None:
        """Advance by an allowed token. Raises ModelFailed."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """True when nothing more can follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())[:300]
            raise ModelFailed(f"the record's schema cannot be followed: {reason}", remedy=_REMEDY)


class RecordGrammar:
    """The schema of a task's records in one model's tokens."""

    def __init__(self, tokens: GuideTokens, schema: Schema) -> None:
        """Raises ModelLoadFailed if there is no record that fits the schema, or it takes too much to find one."""
        self._tokens = tokens
        self._spare: GrammarMatcher | None = None
        self._text = llguidance.LLMatcher.grammar_from_json_schema(bounded_schema(schema), overrides=_STYLE)
        try:
            matcher = self.start_record()
            matcher.take_forced()
            if not matcher.complete:
                matcher.allowed_tokens()
        except ModelFailed as error:
            raise ModelLoadFailed(error.message, remedy=_REMEDY) from None
        self.prepare()

    def start_record(self) -> GrammarMatcher:
        """Start a record. Raises ModelFailed."""
        matcher, self._spare = self._spare or self._start(), None
        return matcher

    def prepare(self) -> None:
        """Make the matcher for the next record in advance. Raises ModelFailed."""
        self._spare = self._spare or self._start()

    def _start(self) -> GrammarMatcher:
        """Return a matcher made from the text, which takes a millisecond. Raises ModelFailed.

        Copies of one matcher would share its count of states, so one long record could end all later ones.
        """
        matcher = llguidance.LLMatcher(self._tokens, self._text, log_level=0, limits=_LIMITS)
        return GrammarMatcher(matcher, self._tokens.vocab_size)

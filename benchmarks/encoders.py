"""What it costs that an encoder's inputs to classify are computed one at a time: throughput alone against batches of 8.

MiniLM with 8 labels, stored in each way that `edge-convert quantize` knows, on one thread. Eight texts are computed one
by one and then together, by turns, so that what else the machine does hits both; the figure is the median of the ratios
of the pairs, alone to together, and above 1 batches would be faster. Once the texts have one length, as nothing is
padded then, and once those of a till.

Also what the gate of a bundle costs (formats/gate.py): one text of a till is computed without and with the distance to
the nearest of 150 classes in its graph and its p-value among as many held-out scores as there may be, by turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.bars import Bar, main, median
from convert.quantize import graph
from edge_agent.engine.runtimes.onnx_batch import Row
from edge_agent.engine.runtimes.onnx_session import OnnxSession
from tests import gated_onnx
from tests.bundles import minilm_bundle

PAIRS, WARM_PAIRS = 60, 5
LENGTHS = {
    "12 tokens each": (12,) * 8,
    "48 tokens each": (48,) * 8,
    "texts of a till, 3 to 24 tokens": (5, 13, 20, 3, 11, 3, 24, 7),
}
"""Of the texts, in tokens: which ones they are takes no time."""
GATE_PAIRS, GATE_TOKENS, GATE_CLASSES = 400, 12, 150


def measure() -> Iterator[Bar]:
    """Store the weights in each way, and measure."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = minilm_bundle(folder / "bundle", "classify")
        vector = gated_onnx.pooled((source / "model.onnx").read_bytes())
        for stored in graph.TYPES:
            weights = folder / f"{stored}.onnx"
            graph.quantize(source / "model.onnx", weights, stored)
            session = OnnxSession(str(weights))
            weights.write_bytes(gated_onnx.with_distance(weights.read_bytes(), *vector, GATE_CLASSES))
            yield _gate(stored, session, OnnxSession(str(weights)))
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


def _gate(stored: str, without: OnnxSession, session: OnnxSession) -> Bar:
    """Measure what a gate adds to a call, in percent of it."""
    row = _row(GATE_TOKENS, 0)
    gate, outputs = gated_onnx.large_gate(), list(session.outputs)

    def plain() -> None:
        without.run(("logits",), [row])

    def gated() -> None:
        _, score = session.run(outputs, [row])[0]
        gate.p_value(score.item())
        gate.holds_up(score.item())

    pairs = [(_seconds(plain), _seconds(gated)) for _ in range(WARM_PAIRS + GATE_PAIRS)][WARM_PAIRS:]
    more = median([second / first for first, second in pairs]) - 1
    return Bar(f"{stored}, {GATE_TOKENS} tokens: a gate adds to a call, %", 100 * more, 3.0, "lower")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(measure))

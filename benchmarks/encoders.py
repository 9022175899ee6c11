"""What it costs that an encoder's inputs to classify are computed one at a time: throughput alone against batches of 8.

MiniLM with 8 labels, stored in each way that `edge-convert quantize` knows, on one thread. Eight texts are computed one
by one and then together, by turns, so that what else the machine does hits both; the figure is the median of the ratios
of the pairs, alone to together, and above 1 batches would be faster. Once the texts have one length, as nothing is
padded then, and once those of a till.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tokenizers

from benchmarks.bars import Bar, main, median
from convert.quantize import graph
from edge_agent.engine.runtimes.onnx_batch import ROWS_MAX, Row
from edge_agent.engine.runtimes.onnx_session import OnnxSession
from tests.bundles import minilm_bundle

PAIRS, WARM_PAIRS = 60, 5
LENGTHS = (12, 48)
"""In tokens, of the texts of one length."""
TILL = (
    "refund please",
    "where is my parcel, I ordered it three weeks ago",
    "do you have the red jacket in a larger size, and what does it cost to have it sent",
    "no",
    "price of batteries that fit a radio from 1987",
    "hello",
    "I want to talk to the manager about the invoice that was paid twice last month, number 4415",
    "are you open on sunday?",
)


def measure() -> Iterator[Bar]:
    """Store the weights in each way, and measure."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = minilm_bundle(folder / "bundle", "classify")
        batches = _batches(tokenizers.Tokenizer.from_file(str(source / "tokenizer.json")))
        for stored in graph.TYPES:
            weights = folder / f"{stored}.onnx"
            graph.quantize(source / "model.onnx", weights, stored)
            session = OnnxSession(str(weights))
            for name, rows in batches.items():
                yield from _bars(f"{stored}, {name}", session, rows)


def _batches(tokenizer: tokenizers.Tokenizer) -> dict[str, list[Row]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    till = [(each.ids, each.type_ids) for each in tokenizer.encode_batch(list(TILL))]
    whole = [token for ids, _ in till for token in ids[1:-1]]
    first, last = till[0][0][0], till[0][0][-1]
    one_length = {
        f"{length} tokens each": [([first, *(whole * 2)[start : start + length - 2], last], [0] * length)
                                  for start in range(ROWS_MAX)]
        for length in LENGTHS
    }  # fmt: skip
    return {**one_length, f"texts of a till, {min(map(_length, till))} to {max(map(_length, till))} tokens": till}


def _length(row: Row) -> int:
    return len(row[0])


def _bars(name: str, session: OnnxSession, rows: Sequence[Row]) -> Iterator[Bar]:
    output = session.outputs[0]

    def alone() -> None:
        for row in rows:
            session.run(output, [row])

    def together() -> None:
        session.run(output, rows)

    pairs = [(_seconds(alone), _seconds(together)) for _ in range(WARM_PAIRS + PAIRS)][WARM_PAIRS:]
    ratios, lone = [first / second for first, second in pairs], [first for first, _ in pairs]
    yield Bar(f"{name}: alone, texts/s", len(rows) / median(lone), None, "higher")
    yield Bar(f"{name}: a batch would be faster by", median(ratios), None, "lower")


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(measure))

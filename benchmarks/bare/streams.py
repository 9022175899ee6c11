"""Streams written by llama.cpp directly: one llama_decode a step, the likeliest token of each row, and nothing else.

Started as `python -m benchmarks.bare.streams WEIGHTS THREADS CELLS STREAMS FLASH_ATTENTION`. Each line on standard
input is a JSON object, and is answered with one: `prompts` and `tokens`, with the tokens a second of streams that begin
together, each until its text ends or has that many; or `steps`, with the medians of the processor time of a step of one
row and of drawing one token by the agent's sampler behind it.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama.token_probabilities import TokenSampler

ROWS = 512
TEMPERATURE = 0.8


class Writer:
    """One model, and one context for some streams."""

    def __init__(self, weights: str, threads: int, cells: int, streams: int, flash_attention: str) -> None:
        """Load."""
        self._silence = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model: Any = llama.llama_model_load_from_file(weights.encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = cells, streams, ROWS, ROWS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = getattr(
            llama, f"LLAMA_FLASH_ATTN_TYPE_{'ENABLED' if flash_attention == 'on' else 'DISABLED'}"
        )
        params.kv_unified = True
        self._context: Any = llama.llama_init_from_model(self._model, params)
        self._memory: Any = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(ROWS, 0, 1)
        self._vocab: Any = llama.llama_model_get_vocab(self._model)
        self._size = int(llama.llama_vocab_n_tokens(self._vocab))

    def rate(self, prompts: list[str], tokens: int) -> float:
        """Return the tokens a second, from the first prompt to the last token."""
        llama.llama_memory_clear(self._memory, True)
        started, written = time.perf_counter(), 0
        last: dict[int, int] = {}
        depths: dict[int, int] = {}
        for stream, prompt in enumerate(prompts):
            read = self._tokens(prompt)
            self._decode([(stream, place, token, place == len(read) - 1) for place, token in enumerate(read)])
            last[stream], depths[stream] = int(self._logits(len(read) - 1).argmax()), len(read)
        counts = dict.fromkeys(last, 0)
        while last := {stream: token for stream, token in last.items() if not self._ends(token)}:
            for stream in last:
                counts[stream] += 1
                written += 1
            last = {stream: token for stream, token in last.items() if counts[stream] < tokens}
            if not last:
                break
            self._decode([(stream, depths[stream], token, True) for stream, token in last.items()])
            for row, stream in enumerate(last):
                depths[stream] += 1
                last[stream] = int(self._logits(row).argmax())
        return written / (time.perf_counter() - started)

    def drawing(self, steps: int) -> tuple[float, float]:
        """Return the seconds of a step of one row, and those of drawing a token behind it."""
        llama.llama_memory_clear(self._memory, True)
        sampler = TokenSampler(TEMPERATURE, 1)
        computed, drawn, token = [], [], self._tokens("A")[-1]
        for place in range(steps):
            began = time.process_time()
            self._decode([(0, place, token, True)])
            decoded = time.process_time()
            logits = self._logits(0)
            token = sampler.draw(logits, int(logits.argmax()))
            computed.append(decoded - began)
            drawn.append(time.process_time() - decoded)
        return statistics.median(computed), statistics.median(drawn)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (sequence, position, token, wanted) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = wanted
        assert llama.llama_decode(self._context, batch) == 0

    def _logits(self, row: int) -> NDArray[np.float32]:
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, row), (self._size,))

    def _ends(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        found = (llama.llama_token * (len(data) + 2))()
        count = llama.llama_tokenize(self._vocab, data, len(data), found, len(found), True, True)
        return list(found[:count])


def main() -> None:
    """Answer until the pipe is closed."""
    weights, threads, cells, streams, flash_attention = sys.argv[1:]
    writer = Writer(weights, int(threads), int(cells), int(streams), flash_attention)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: object = writer.drawing(**asked) if "steps" in asked else writer.rate(**asked)
        print(json.dumps(answer), flush=True)  # noqa: T201 - a pipe


if __name__ == "__main__":
    main()

"""Labels read off a GGUF model directly: one copy of the prompt's sequence, one decode of the text, a softmax.

Started as `python -m benchmarks.bare.labels WEIGHTS THREADS CELLS FLASH_ATTENTION`. The first line on standard input is
a JSON object: `prefix`, a text, and `labels`. Each line after it is a JSON list of texts, and is answered with the
median of the seconds that each of them took: without making tokens of it, for this is what the decode alone must cost.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as llama
import numpy as np

from benchmarks.bars import median

ROWS, PREFIX, BRANCH = 512, 0, 1


class Scorer:
    """One model, and one context with the prompt in it."""

    def __init__(self, weights: str, threads: int, cells: int, flash_attention: str) -> None:
        """Load."""
        self._silence = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model: Any = llama.llama_model_load_from_file(weights.encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = cells, 2, ROWS, ROWS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = getattr(
            llama, f"LLAMA_FLASH_ATTN_TYPE_{'ENABLED' if flash_attention == 'on' else 'DISABLED'}"
        )
        params.kv_unified = True
        self._context: Any = llama.llama_init_from_model(self._model, params)
        self._memory: Any = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(ROWS, 0, 1)
        self._vocab: Any = llama.llama_model_get_vocab(self._model)
        self._past = 0
        self._columns = np.zeros(0, np.intp)

    def prepare(self, prefix: str, labels: list[str]) -> None:
        """Compute the prompt."""
        tokens = self._tokens(prefix)
        self._decode(PREFIX, 0, tokens)
        self._past = len(tokens)
        self._columns = np.array([self._tokens(f" {label}")[0] for label in labels])

    def seconds(self, text: str) -> float:
        """Score the labels behind a text."""
        tokens = self._tokens(text)
        started = time.perf_counter()
        llama.llama_memory_seq_rm(self._memory, BRANCH, -1, -1)
        llama.llama_memory_seq_cp(self._memory, PREFIX, BRANCH, -1, -1)
        self._decode(BRANCH, self._past, tokens)
        row = llama.llama_get_logits_ith(self._context, len(tokens) - 1)
        logits = np.ctypeslib.as_array(row, (llama.llama_vocab_n_tokens(self._vocab),))[self._columns]
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        return time.perf_counter() - started

    def _decode(self, sequence: int, position: int, tokens: list[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, position + row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = row == len(tokens) - 1
        assert llama.llama_decode(self._context, batch) == 0

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        found = (llama.llama_token * (len(data) + 2))()
        count = llama.llama_tokenize(self._vocab, data, len(data), found, len(found), False, True)
        return list(found[:count])


def main() -> None:
    """Answer until the pipe is closed."""
    scorer = Scorer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    scorer.prepare(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        print(median([scorer.seconds(text) for text in json.loads(line)]), flush=True)  # noqa: T201 - a pipe


if __name__ == "__main__":
    main()

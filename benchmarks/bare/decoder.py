"""A GGUF model called directly: the shortest loop over llama_cpp's low-level API, greedy, one stream.

Started as `python -m benchmarks.bare.decoder WEIGHTS THREADS`. Each line on standard input is a JSON string, the whole
prompt; each line on standard output the tokens per second between the first and the last token.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as llama

TOKENS = 100
# As the engine makes its context for bundles with 1,024 tokens and 8 sequences.
CELLS, SEQUENCES, ROWS = 10_304, 80, 63


class Decoder:
    """One model and one context."""

    def __init__(self, weights: str, threads: int) -> None:
        """Load."""
        self._silence = llama.llama_log_callback(lambda *_: None)
        llama.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self._model: Any = llama.llama_model_load_from_file(weights.encode(), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = CELLS, SEQUENCES
        params.n_batch, params.n_ubatch = SEQUENCES, ROWS
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = True
        self._context: Any = llama.llama_init_from_model(self._model, params)
        self._sampler: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(self._sampler, llama.llama_sampler_init_greedy())

    def tokens_per_second(self, prompt: str) -> float:
        """Write TOKENS tokens, whatever they are."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        data = prompt.encode()
        tokens = (llama.llama_token * (len(data) + 2))()
        vocab = llama.llama_model_get_vocab(self._model)
        count = llama.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, True)
        for start in range(0, count, ROWS):
            chunk = tokens[start : min(start + ROWS, count)]
            llama.llama_decode(
                self._context, llama.llama_batch_get_one((llama.llama_token * len(chunk))(*chunk), len(chunk))
            )
        piece, token = ctypes.create_string_buffer(256), (llama.llama_token * 1)()
        started = 0.0
        for _ in range(TOKENS):
            token[0] = llama.llama_sampler_sample(self._sampler, self._context, -1)
            llama.llama_token_to_piece(vocab, token[0], piece, len(piece), 0, False)
            started = started or time.perf_counter()
            ended = time.perf_counter()
            llama.llama_decode(self._context, llama.llama_batch_get_one(token, 1))
        return (TOKENS - 1) / (ended - started)


if __name__ == "__main__":
    decoder = Decoder(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        print(decoder.tokens_per_second(json.loads(line)), flush=True)  # noqa: T201 - a pipe

"""A context of the pinned llama.cpp through its C API alone, so findings of a test are llama.cpp's, not ours."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama.llama_model import LlamaModel

ROWS = 256
"""The most in one batch."""
UBATCH = 63
"""The most in one micro-batch: from 64 on flash attention takes another kernel."""

Logits = NDArray[np.float32]


class Row(NamedTuple):
    """One token of a batch."""

    token: int
    position: int
    sequences: tuple[int, ...]
    wanted: bool = True
    """Keep its logits."""


class LlamaContext:
    """One context and one batch on it, with one thread."""

    def __init__(self, model: LlamaModel, **settings: Any) -> None:
        """Make one of 1,024 cells and 24 sequences in one buffer, with flash attention; `settings` say otherwise."""
        params = llama.llama_context_default_params()
        usual = {
            "n_ctx": 1024,
            "n_seq_max": 24,
            "n_batch": ROWS,
            "n_ubatch": UBATCH,
            "n_threads": 1,
            "n_threads_batch": 1,
        }
        flash = {"flash_attn_type": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED, "kv_unified": True}
        for name, value in (usual | flash | settings).items():
            setattr(params, name, value)
        self.pointer: Any = llama.llama_init_from_model(model.pointer, params)
        assert self.pointer, "llama.cpp makes no context"
        self.memory: Any = llama.llama_get_memory(self.pointer)
        self._vocabulary = model.vocab_size
        self.batch = llama.llama_batch_init(ROWS, 0, params.n_seq_max)

    def decode(self, rows: Sequence[Row]) -> int:
        """Compute a batch; return what llama_decode returns."""
        for at, row in enumerate(rows):
            self.batch.token[at], self.batch.pos[at], self.batch.logits[at] = row.token, row.position, row.wanted
            self.batch.n_seq_id[at] = len(row.sequences)
            for place, sequence in enumerate(row.sequences):
                self.batch.seq_id[at][place] = sequence
        self.batch.n_tokens = len(rows)
        return int(llama.llama_decode(self.pointer, self.batch))

    def read(self, sequence: int, tokens: Sequence[int], start: int = 0) -> Logits:
        """Compute tokens behind those that a sequence has; return the last one's logits."""
        rows = [Row(token, start + at, (sequence,), wanted=False) for at, token in enumerate(tokens)]
        assert 0 == self.decode([*rows[:-1], rows[-1]._replace(wanted=True)])
        return self.logits(len(rows) - 1)

    def logits(self, row: int) -> Logits:
        """Return a copy of one row's logits of the last batch."""
        pointer = llama.llama_get_logits_ith(self.pointer, row)
        assert pointer, f"row {row} has no logits"
        return np.ctypeslib.as_array(pointer, (self._vocabulary,)).copy()

    def range(self, sequence: int) -> tuple[int, int]:
        """Return a sequence's first and last position; (-1, -1) = it is empty."""
        ends = llama.llama_memory_seq_pos_min, llama.llama_memory_seq_pos_max
        return int(ends[0](self.memory, sequence)), int(ends[1](self.memory, sequence))

    def copy(self, source: int, target: int, first: int = -1, end: int = -1) -> None:
        """Give a sequence the cells of another, by positions [first, end)."""
        llama.llama_memory_seq_cp(self.memory, source, target, first, end)

    def drop(self, sequence: int, first: int = -1, end: int = -1) -> None:
        """Take positions [first, end) from a sequence."""
        llama.llama_memory_seq_rm(self.memory, sequence, first, end)

    def save(self, sequence: int) -> bytes:
        """Return a sequence's state."""
        size = llama.llama_state_seq_get_size_ext(self.pointer, sequence, 0)
        data = (ctypes.c_uint8 * size)()
        assert size == llama.llama_state_seq_get_data_ext(self.pointer, data, size, sequence, 0)
        return bytes(data)

    def restore(self, sequence: int, state: bytes) -> int:
        """Put a state in place of a sequence; return how many bytes were read, 0 = refused."""
        data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        return int(llama.llama_state_seq_set_data_ext(self.pointer, data, len(state), sequence, 0))

    def use(self, adapter: Any) -> None:
        """Compute with an adapter from now on; None = with the bare weights."""
        adapters = (llama.llama_adapter_lora_p_ctypes * 1)(adapter) if adapter else None
        scales = (ctypes.c_float * 1)(1.0) if adapter else None
        assert 0 == llama.llama_set_adapters_lora(self.pointer, adapters, int(bool(adapter)), scales)

    def close(self) -> None:
        """Free it."""
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.pointer)

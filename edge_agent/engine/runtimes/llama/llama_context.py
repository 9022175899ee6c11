"""The context half of the adapter over llama_cpp's C API: sequences, one batch, logits, and what ends a step early.

All sequences share one key-value buffer (kv_unified), so copying a sequence copies no data. `kv_cache.py` makes results
independent of their neighbours, and explains how.

A call of llama_decode is one micro-batch, so one that ends early, by a refusal or `abort`, leaves nothing behind.

`StepInterruption` ends a long step when one of its jobs is cancelled. A step blocks the thread that owns the context,
which is also the one that reads the mailbox. So during a step that may take long, a second thread listens, and tells
llama.cpp to stop at the next node of its graph: about a millisecond later, while the rest of the step may take a
second. Rows of other jobs in the step are computed again.

The thread sleeps in the kernel and wakes only when a message arrives during a step: on two cores each wake-up
interrupts one of the computing threads, and the others wait for that one.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes import DeviceLost
from edge_agent.engine.runtimes.llama.llama_model import ERRORS, LlamaModel
from edge_agent.engine.runtimes.llama.step_costs import BULK_ROWS, EXACT_ROWS_MAX
from edge_agent.engine.runtimes.llama.token_probabilities import TokenSampler, TreeChunk
from edge_agent.errors import ModelFailed, ModelLoadFailed

ROWS_MAX = EXACT_ROWS_MAX
"""Rows in a batch that computes a score."""
_KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0}

_OUTPUTS_STEP = 64
"""The most rows with logits is a multiple of this, because llama.cpp lays out the memory of a step by it. With 115
instead of 128, a step of 30 rows took an eighth longer (SmolLM2-135M at Q4_0, 2 threads)."""
_COMPUTE_FAILED = (-2, -3)  # of llama_decode: no memory for the graph, or a backend that failed
_ABORTED = 2
_STOP_BYTES = 8
NOT_NUMBERS = "the model's logits are not numbers (NaN or infinite)"

Logits = NDArray[np.float32]


class StepAborted(Exception):
    """A batch was ended by `abort`; no sequence has changed."""


@dataclass(frozen=True)
class ContextShape:
    """How large a context is."""

    cells: int
    """Tokens of all sequences together; one shared by several sequences counts once."""
    sequences: int
    kv_type: str
    threads: int
    rows: int = BULK_ROWS
    """The most in one batch."""
    flash: bool = True
    """Attention by llama.cpp's flash kernels; without them a score depends on its neighbours."""
    groups: int = 0
    """How many rows llama.cpp multiplies at once: see `step_costs.padded_rows`."""

    @property
    def outputs(self) -> int:
        """How many rows of a batch may have logits."""
        return -(-max(ROWS_MAX, self.sequences) // _OUTPUTS_STEP) * _OUTPUTS_STEP


class TokenRows(NamedTuple):
    """Consecutive tokens of one sequence, for one batch."""

    sequence: int
    position: int
    """Of the first token: how many tokens the sequence has."""
    tokens: Sequence[int]
    logits: int
    """How many rows have logits: the last ones."""


class BranchRows(NamedTuple):
    """Branches from the end of one sequence, for one batch; branches that begin alike share rows."""

    sequences: Sequence[int]
    """One for each branch, which already holds the tokens of that sequence."""
    position: int
    """Of the first token of every branch."""
    chunk: TreeChunk
    """Its known rows have no logits; all others have."""

    @property
    def tokens(self) -> Sequence[int]:
        """The token of each row."""
        return self.chunk.tokens


BatchPart = TokenRows | BranchRows


class LlamaContext:
    """The key-value buffer of one model and the batch that works on it."""

    def __init__(self, model: LlamaModel, shape: ContextShape) -> None:
        """Allocate. Raises ModelLoadFailed if there is no memory for it or the model does not allow it."""
        params = llama.llama_context_default_params()
        params.n_ctx = shape.cells
        # llama.cpp aborts if a batch cannot hold one row for each sequence. `decode` never fills more than shape.rows.
        params.n_batch = params.n_ubatch = rows = max(shape.rows, shape.outputs)
        params.n_seq_max = shape.sequences
        params.n_outputs_max, params.n_outputs_max_per_seq = shape.outputs, 0
        params.n_threads = params.n_threads_batch = shape.threads
        params.type_k = params.type_v = _KV_TYPES[shape.kv_type]
        flash = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if shape.flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = flash
        params.kv_unified = True
        # A layer computes where its weights are, however many rows there are: another place rounds differently.
        params.op_offload = False
        ERRORS.lines.clear()
        self._pointer: Any = llama.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise ModelLoadFailed(f"no context of {shape.cells} tokens for {model.name}: {ERRORS.last()}")
        self._on_device = model.on_device
        self._memory: Any = llama.llama_get_memory(self._pointer)
        self._row_type = ctypes.c_float * model.vocab_size
        self._views: dict[int, Logits] = {}
        self._adapter: Any = None
        self._batch = llama.llama_batch_init(rows, 0, ROWS_MAX)
        self._view_batch(rows)
        self._stream_sequences: Sequence[int] = ()
        """The sequences of the batch, where it is one token of each."""
        self._state = ctypes.create_string_buffer(0)
        # llama.cpp calls strlen on this text between the nodes of a graph, which needs neither Python nor its lock.
        self._stop = ctypes.create_string_buffer(_STOP_BYTES)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, llama.ggml_abort_callback)
        llama.llama_set_abort_callback(self._pointer, strlen, ctypes.addressof(self._stop))

    def _view_batch(self, rows: int) -> None:
        """Make numpy views of the arrays of the batch: filling them item by item through ctypes is 500 times slower."""
        as_array = np.ctypeslib.as_array
        self._token = as_array(self._batch.token, (rows,))
        self._position = as_array(self._batch.pos, (rows,))
        # For writing a few items: numpy is slow there, as its code is out of the processor's cache after a decode.
        self._single_token, self._single_position = (
            each.data.cast("B").cast("i") for each in (self._token, self._position)
        )
        self._has_logits = as_array(self._batch.logits, (rows,))
        self._sequence_counts = as_array(self._batch.n_seq_id, (rows,))
        self._sequence_counts[:] = 1
        self._row_sequences = [as_array(self._batch.seq_id[row], (ROWS_MAX,)) for row in range(rows)]

    def use_adapter(self, adapter: Any) -> None:
        """Compute with this adapter from now on; None = with the bare weights. Costs nothing if it is the same."""
        if adapter is self._adapter:
            return
        if adapter is None:
            llama.llama_set_adapters_lora(self._pointer, None, 0, None)
        else:
            adapters = (llama.llama_adapter_lora_p_ctypes * 1)(adapter)
            llama.llama_set_adapters_lora(self._pointer, adapters, 1, (ctypes.c_float * 1)(1.0))
        self._adapter = adapter

    def use_threads(self, threads: int) -> None:
        """Compute with that many threads from now on."""
        llama.llama_set_n_threads(self._pointer, threads, threads)

    def decode(self, parts: Sequence[BatchPart]) -> None:
        """Compute at most `ContextShape.rows` rows.

        Raises:
            ModelFailed: llama.cpp refused; no sequence has changed.
            StepAborted: `abort` was called meanwhile.
            DeviceLost: the device failed.
        """
        rows, self._stream_sequences = 0, ()
        for part in parts:
            rows = self._fill(rows, part) if isinstance(part, TokenRows) else self._fill_branches(rows, part)
        self._compute(rows)

    def decode_stream_tokens(self, sequences: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> None:
        """Compute one token of each sequence, with logits. Raises as `decode` does.

        If `sequences` is the same object as in the step before, its rows are not laid out again.
        """
        rows = len(tokens)
        if sequences is not self._stream_sequences:
            self._has_logits[:rows] = self._sequence_counts[:rows] = 1
            for row, sequence in enumerate(sequences):
                self._row_sequences[row][0] = sequence
            self._stream_sequences = sequences
        for row in range(rows):
            self._single_token[row] = tokens[row]
            self._single_position[row] = positions[row]
        self._compute(rows)

    def _compute(self, rows: int) -> None:
        self._batch.n_tokens = rows
        code = llama.llama_decode(self._pointer, self._batch)
        if code == 0:
            return
        if code == _ABORTED:
            raise StepAborted
        if code in _COMPUTE_FAILED and self._on_device:
            raise DeviceLost(f"llama_decode returned {code}: {ERRORS.last()}")
        raise ModelFailed(f"the model could not compute {rows} tokens: llama_decode returned {code}", code=code)

    def abort(self) -> None:
        """End the batch that another thread is computing, between two nodes of its graph; without one, the next."""
        self._stop[0] = b"x"

    def forget_abort(self) -> None:
        """Discard an `abort` that came after its batch had ended. Not thread-safe with `abort`."""
        self._stop[0] = b"\0"

    def _fill(self, start: int, part: TokenRows) -> int:
        end = start + len(part.tokens)
        if end == start + 1:  # each step of a stream: item by item is faster than four slices
            self._token[start], self._position[start] = part.tokens[0], part.position
            self._has_logits[start], self._row_sequences[start][0] = part.logits, part.sequence
            self._sequence_counts[start] = 1
            return end
        self._token[start:end] = part.tokens
        self._position[start:end] = np.arange(part.position, part.position + len(part.tokens))
        self._has_logits[start:end] = 0
        self._has_logits[end - part.logits : end] = 1
        self._sequence_counts[start:end] = 1
        for row in range(start, end):
            self._row_sequences[row][0] = part.sequence
        return end

    def _fill_branches(self, start: int, part: BranchRows) -> int:
        chunk = part.chunk
        end = start + len(chunk.tokens)
        self._token[start:end] = chunk.tokens
        self._position[start:end] = np.add(chunk.depths, part.position)
        self._has_logits[start:end] = 1
        self._has_logits[start : start + chunk.known] = 0
        for row, first, last in zip(range(start, end), chunk.first, chunk.last, strict=True):
            self._sequence_counts[row] = last - first
            self._row_sequences[row][: last - first] = part.sequences[first:last]
        return end

    def logits(self, row: int) -> Logits:
        """Return one row's logits of the last batch: a view that the next batch overwrites.

        Raises:
            ModelFailed: the logits are not numbers.
        """
        values = self.unchecked_logits(row)
        if not math.isfinite(values.max()):  # an infinite one makes NaN of every score
            raise ModelFailed(NOT_NUMBERS)
        return values

    def unchecked_logits(self, row: int) -> Logits:
        """Return the same as `logits`, without checking that they are numbers. Raises ModelFailed."""
        pointer = llama.llama_get_logits_ith(self._pointer, row)
        if not pointer:
            raise ModelFailed(f"the model gave no logits for row {row}")
        address = ctypes.addressof(pointer.contents)
        view = self._views.get(address)
        if view is None:
            # llama.cpp writes the rows to the same few addresses; making a view costs more than argmax does.
            row_array = self._row_type.from_address(address)
            view = self._views[address] = np.frombuffer(memoryview(row_array), np.float32)
        return view

    def copy(self, source: int, target: int) -> None:
        """Give an empty sequence the tokens of another."""
        llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def drop(self, sequence: int, start: int = 0, end: int = -1) -> None:
        """Empty a sequence, or remove its tokens [start, end)."""
        llama.llama_memory_seq_rm(self._memory, sequence, start, end)

    def save(self, sequence: int) -> memoryview:
        """Return a sequence's keys and values: a view that the next `save` overwrites. Raises ModelFailed."""
        size = llama.llama_state_seq_get_size(self._pointer, sequence)
        if size > len(self._state):
            self._state = ctypes.create_string_buffer(size)
        target = ctypes.cast(self._state, ctypes.POINTER(ctypes.c_uint8))
        written = llama.llama_state_seq_get_data(self._pointer, target, len(self._state), sequence)
        if not written:
            raise ModelFailed(f"the keys and values of a sequence could not be saved: {ERRORS.last()}")
        return memoryview(self._state)[:written]

    def restore(self, sequence: int, state: bytes | memoryview) -> None:
        """Fill an empty sequence with what `save` returned. Raises ModelFailed, and the sequence stays empty."""
        source: Any = ctypes.c_char_p(state) if isinstance(state, bytes) else self._state
        source = ctypes.cast(source, ctypes.POINTER(ctypes.c_uint8))
        if not llama.llama_state_seq_set_data(self._pointer, source, len(state), sequence):
            raise ModelFailed(f"the keys and values of a sequence could not be restored: {ERRORS.last()}")

    def choose(self, sampler: TokenSampler | None, row: int) -> int:
        """Choose a token by one row's logits of the last batch: by the sampler, or without one the likeliest.

        Raises:
            ModelFailed: the logits are not numbers.
        """
        values = self.unchecked_logits(row)
        best = int(values.argmax())  # the first NaN, if there is one
        if not math.isfinite(values[best]):
            raise ModelFailed(NOT_NUMBERS)
        token = best if sampler is None else sampler.draw(values, best)
        if token < 0:
            raise ModelFailed(NOT_NUMBERS)
        return token

    def close(self) -> None:
        """Free batch and buffer."""
        if self._pointer:
            llama.llama_batch_free(self._batch)
            llama.llama_free(self._pointer)
        self._pointer = None


LONE_CELLS_MAX = 256
"""Among at most this many cells, a lone row uses the same attention kernel as all others."""
PADDING_TOKEN = 0
_PROBE_TOKENS = 8


def probe_lone_rows(context: LlamaContext, cells: int, sequences: Sequence[int], vocabulary: int) -> tuple[bool, bool]:
    """Tell whether a row of these weights has the same logits alone as beside a padding row.

    The first result is for few cells, the second for more than LONE_CELLS_MAX, if the context has so many. `sequences`
    are 34 or more empty ones, and are empty afterwards.
    """
    row, padding, *others = sequences
    tokens = [number % vocabulary for number in range(_PROBE_TOKENS)]
    copies = others[: LONE_CELLS_MAX // _PROBE_TOKENS]
    same_among_few = False
    try:
        context.decode([TokenRows(row, 0, tokens, logits=0)])
        same_among_few = _is_same_beside(context, row, padding, tokens)
        if not same_among_few or cells <= LONE_CELLS_MAX + _PROBE_TOKENS + 1:
            return same_among_few, same_among_few
        state = bytes(context.save(row))
        for copy in copies:
            context.restore(copy, state)
        return True, _is_same_beside(context, row, padding, tokens)
    except ModelFailed:  # the first answer of a bundle reports it
        return same_among_few, False
    finally:
        for sequence in (row, padding, *copies):
            context.drop(sequence)


def _is_same_beside(context: LlamaContext, row: int, padding: int, tokens: list[int]) -> bool:
    """Tell whether the row after these tokens has the same logits alone and beside a padding row."""
    probe = TokenRows(row, len(tokens), tokens[-1:], logits=1)
    results: list[Logits] = []
    for padding_rows in ([], [TokenRows(padding, 0, [PADDING_TOKEN], logits=0)]):
        context.decode([probe, *padding_rows])
        results.append(context.logits(0).copy())
        context.drop(row, len(tokens))
    context.drop(padding)
    return np.array_equal(results[0], results[1])


LONG_ROWS, LONG_SECONDS = 17, 0.1
"""A step with fewer rows that takes less time ends before a listener could act."""


def is_long(rows: int, seconds: float) -> bool:
    """Tell whether a step of these rows and expected seconds should end early when a job is cancelled."""
    return rows >= LONG_ROWS or seconds >= LONG_SECONDS


class StepInterruption:
    """The listener of one runtime."""

    def __init__(
        self, mailbox: int, poll_cancellations: Callable[[Collection[str]], bool], abort: Callable[[], None]
    ) -> None:
        """Take the descriptor to wait for, `Runtime.poll_cancellations` which reads it, and what ends the step."""
        self._mailbox, self._poll_cancellations, self._abort = mailbox, poll_cancellations, abort
        self._jobs: Collection[str] = ()
        self._lock = threading.Lock()
        self._closing = os.eventfd(0)
        self._epoll = select.epoll()
        """Contains the mailbox while a step computes; `_listen` notices a change at once (epoll_wait(2))."""
        self._epoll.register(self._closing, select.EPOLLIN)
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="interruption", daemon=True)
        self._thread.start()

    def during(self, jobs: Collection[str]) -> StepInterruption:
        """Return the context manager within which a cancellation of one of these jobs calls `abort`."""
        self._jobs = jobs
        return self

    def __enter__(self) -> None:
        """Begin to listen."""
        self._epoll.register(self._mailbox, select.EPOLLIN)

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        with self._lock:  # not while the listener is reading: the mailbox has one reader at a time
            self._jobs = ()
            self._epoll.unregister(self._mailbox)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        os.eventfd_write(self._closing, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._closing)

    def _listen(self) -> None:
        while not self._closed:
            self._epoll.poll()
            with self._lock:
                if self._jobs and self._poll_cancellations(self._jobs):
                    self._abort()

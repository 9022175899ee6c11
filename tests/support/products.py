"""Multiplies weights with activations as a llama.cpp step does, by ggml's C API, and compares the rows.

    python -m tests.support.products [TYPE...]   # beside float64: steps of 1 to 64 rows, each layout of the weights

Looked at is one product of a matrix, so that what differs is the kernel and nothing else. The reference has the same
dequantized weights and the same quantized activations; what is left to differ is the order of sums, 0.000001 or so of
a number. Whatever is more is a mistake.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama import llama_backends

TYPES = {
    **{"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8},
    **{"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30},
}
"""ggml.h's numbers of the types that weights may have."""
ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 30, 63, 64)
PLAIN, REPACKED = "plain", "repacked"
_MEMORY = 2**26
_ACTIVATIONS = 7
"""Of a seed: numbers like those of a layer, most of them small, some large."""

_Q8_1, _Q8_K = 9, 15
_LAYOUTS = {
    _Q8_1: np.dtype([("scale", "<f2"), ("sum", "<f2"), ("numbers", "i1", 32)]),
    _Q8_K: np.dtype([("scale", "<f4"), ("numbers", "i1", 256), ("sums", "<i2", 16)]),
}
"""Of blocks of activations: ggml has nothing that reads them."""

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


class _Init(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Traits(ctypes.Structure):
    """ggml_type_traits_cpu of ggml-cpu.h."""

    _fields_ = (
        ("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


class _BaseTraits(ctypes.Structure):
    """ggml_type_traits of ggml.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@dataclass(frozen=True)
class Weights:
    """A matrix, packed in the format of a type."""

    type: str
    columns: int
    width: int
    packed: bytes
    values: Array
    """What they stand for: [columns, width]."""


@functools.cache
def _base() -> Any:
    library = ctypes.CDLL(str(llama_backends.LIBRARIES / "libggml-base.so.0"))
    for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in ("ggml_row_size", "ggml_quantize_chunk", "ggml_backend_buft_get_alloc_size"):
        getattr(library, name).restype = ctypes.c_size_t
    for name in ("ggml_backend_buft_alloc_buffer", "ggml_backend_buffer_get_base", "ggml_backend_buft_name"):
        getattr(library, name).restype = ctypes.c_void_p
    library.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    library.ggml_backend_reg_dev_get.restype = ctypes.c_void_p
    library.ggml_get_type_traits.restype = ctypes.POINTER(_BaseTraits)
    return library


@functools.cache
def _cpu() -> Any:
    library = ctypes.CDLL(str(llama_backends.LIBRARIES / "libggml-cpu.so.0"))
    library.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_Traits)
    library.ggml_backend_cpu_reg.restype = ctypes.c_void_p
    library.ggml_cpu_init()
    return library


def weights(kind: str, columns: int, width: int) -> Weights:
    """Return a matrix of that type, filled like one of a model."""
    random = np.random.default_rng(1)
    values = (random.standard_normal((columns, width)) * 0.05).astype(np.float32)
    packed = ctypes.create_string_buffer(columns * _base().ggml_row_size(TYPES[kind], ctypes.c_int64(width)))
    _base().ggml_quantize_chunk(
        TYPES[kind],
        values.ctypes.data_as(ctypes.c_void_p),
        packed,
        *map(ctypes.c_int64, (0, columns, width)),
        None,
    )
    return Weights(kind, columns, width, packed.raw, _read(TYPES[kind], packed.raw, values.shape))


def activations(rows: int, width: int) -> Array:
    """Return rows like those that a layer is given."""
    random = np.random.default_rng(_ACTIVATIONS)
    return (random.standard_normal((rows, width)) * random.gamma(1.0, 1.0, (1, width))).astype(np.float32)


def _read(kind: int, packed: bytes, shape: tuple[int, ...]) -> Array:
    found = np.frombuffer(packed, np.float32).reshape(shape).copy() if kind == 0 else np.empty(shape, np.float32)
    if kind:
        traits = _base().ggml_get_type_traits(kind).contents
        traits.to_float(packed, found.ctypes.data, found.size)
    return found


def exact(matrix: Weights, given: Array) -> Floats:
    """Return the products, in double precision, of a kernel's inputs: rounded weights and rounded activations."""
    kind = _cpu().ggml_get_type_traits_cpu(TYPES[matrix.type]).contents.vec_dot_type
    rounded, more = given.astype(np.float64), np.zeros((len(given), 1))
    if kind != 0:
        found = [_rounded(row, kind) for row in np.ascontiguousarray(given)]
        rounded, more = (np.array([each[part] for each in found], np.float64) for part in (0, 1))
    products: Floats = rounded @ matrix.values.astype(np.float64).T
    if kind == _Q8_1:  # each block's sum is rounded once more, and multiplied with the block's least weight
        blocks = np.frombuffer(matrix.packed, np.dtype((np.void, len(matrix.packed) * 32 // matrix.values.size)))
        heads = np.frombuffer(b"".join(bytes(block)[:4] for block in blocks), "<f2").reshape(matrix.columns, -1, 2)
        products += more @ heads[:, :, 1].astype(np.float64).T
    return products


def _rounded(row: Array, kind: int) -> tuple[Array | Floats, Floats]:
    """Return a row as it is rounded to a type; and by how much the sums that are kept of its blocks are off."""
    packed = ctypes.create_string_buffer(_base().ggml_row_size(kind, ctypes.c_int64(row.size)))
    _cpu().ggml_get_type_traits_cpu(kind).contents.from_float(row.ctypes.data, ctypes.addressof(packed), row.size)
    if kind not in _LAYOUTS:
        return _read(kind, packed.raw, row.shape), np.zeros(1)
    blocks = np.frombuffer(packed.raw, _LAYOUTS[kind])
    numbers = blocks["scale"].astype(np.float64)[:, None] * blocks["numbers"]
    off = blocks["sum"] - numbers.sum(axis=1) if kind == _Q8_1 else np.zeros(1)
    return numbers.reshape(row.shape), off


def product(matrix: Weights, given: Array, *, layout: str = PLAIN, threads: int = 1) -> Array:
    """Return what a step of these rows computes: [rows, columns]."""
    base = _base()
    context = ctypes.c_void_p(base.ggml_init(_Init(_MEMORY, None, False)))
    store = ctypes.c_void_p(base.ggml_init(_Init(2**16, None, True)))
    buffer = None
    try:
        rows, width = given.shape
        place = store if layout == REPACKED else context
        sizes = [ctypes.c_int64(each) for each in (matrix.width, matrix.columns)]
        left = ctypes.c_void_p(base.ggml_new_tensor_2d(place, TYPES[matrix.type], *sizes))
        if layout == REPACKED:
            buffer = _repacked(left, matrix.packed)
        else:
            ctypes.memmove(base.ggml_get_data(left), matrix.packed, len(matrix.packed))
        right = ctypes.c_void_p(base.ggml_new_tensor_2d(context, 0, ctypes.c_int64(width), ctypes.c_int64(rows)))
        given = np.ascontiguousarray(given, np.float32)
        ctypes.memmove(base.ggml_get_data(right), given.ctypes.data, given.nbytes)
        result = ctypes.c_void_p(base.ggml_mul_mat(context, left, right))
        graph = ctypes.c_void_p(base.ggml_new_graph(context))
        base.ggml_build_forward_expand(graph, result)
        assert 0 == _cpu().ggml_graph_compute_with_ctx(context, graph, threads)
        found = np.empty((rows, matrix.columns), np.float32)
        ctypes.memmove(found.ctypes.data, base.ggml_get_data(result), found.nbytes)
        return found
    finally:
        if buffer is not None:
            base.ggml_backend_buffer_free(buffer)
        base.ggml_free(context)
        base.ggml_free(store)


@functools.cache
def _extra() -> ctypes.c_void_p | None:
    """Return the kind of buffer for repacked weights; None = this build has none."""
    registry = ctypes.c_void_p(_cpu().ggml_backend_cpu_reg())
    device = ctypes.c_void_p(_base().ggml_backend_reg_dev_get(registry, ctypes.c_size_t(0)))
    address = _base().ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    for place in range(8):
        if not kinds[place]:
            break
        name = ctypes.string_at(_base().ggml_backend_buft_name(ctypes.c_void_p(kinds[place])))
        if name == b"CPU_REPACK":
            return ctypes.c_void_p(kinds[place])
    return None


def _repacked(tensor: ctypes.c_void_p, packed: bytes) -> ctypes.c_void_p:
    base, size = _base(), ctypes.c_size_t(len(packed))
    buffer = ctypes.c_void_p(base.ggml_backend_buft_alloc_buffer(_extra(), size))
    address = ctypes.c_void_p(base.ggml_backend_buffer_get_base(buffer))
    base.ggml_backend_tensor_alloc(buffer, tensor, address)
    base.ggml_backend_tensor_set(tensor, packed, ctypes.c_size_t(0), size)
    return buffer


def is_repacked(kind: str) -> bool:
    """Return whether llama.cpp lays weights of this type out anew, in this build for x86-64."""
    if kind == "Q2_K":
        return _extra() is not None and bool(_cpu().ggml_cpu_has_avx512())
    return _extra() is not None and bool(_cpu().ggml_cpu_has_avx2()) and kind in ("Q4_0", "Q4_K", "IQ4_NL")


def report(kinds: Sequence[str]) -> None:
    """Print, for each type, layout and number of rows, how far a row is off and whether it is as it is alone."""
    columns, width = 64, 1536
    given = activations(max(ROWS), width)
    for kind in kinds:
        matrix = weights(kind, columns, width)
        right = exact(matrix, given)
        whole = given.astype(np.float64) @ matrix.values.astype(np.float64).T
        size = float(right.std())
        for layout in (PLAIN, *([REPACKED] if is_repacked(kind) else [])):
            alone = np.array([product(matrix, given[row : row + 1], layout=layout)[0] for row in range(len(given))])
            for rows in ROWS:
                found = product(matrix, given[:rows], layout=layout)
                off, loss = (float(np.abs(found - each[:rows]).max()) / size for each in (right, whole))
                same = int((found == alone[:rows]).all(axis=1).sum())
                moved = float(np.abs(found - alone[:rows]).max()) / size
                sys.stdout.write(
                    f"{kind:7} {layout:8} {rows:3} rows: off by {off:.1e} (by {loss:.1e} of unrounded activations), "
                    f"{same} rows as alone, moved by {moved:.1e}\n"
                )


if __name__ == "__main__":
    report(sys.argv[1:] or list(TYPES))

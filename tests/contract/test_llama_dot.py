"""Products of Q4_1 and Q8_0 weights with the kernels that this agent builds into llama.cpp (decisions 0045, 0065,
0071)."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama import llama_backends
from tests.support import llama_builds
from tests.support.attention import by_row

Q4_1, Q8_0 = 3, 8
"""ggml.h's numbers of the types."""
WEIGHTS = np.dtype([("scale", "<f2"), ("least", "<f2"), ("packed", "u1", 16)])
ACTIVATIONS = np.dtype([("scale", "<f2"), ("sum", "<f2"), ("numbers", "i1", 32)])
BYTES = np.dtype([("scale", "<f2"), ("numbers", "i1", 32)])
"""A block of Q8_0, of weights and of activations."""
DOT = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_float),
    ctypes.c_size_t,
    *(ctypes.c_void_p, ctypes.c_size_t) * 2,
    ctypes.c_int,
)
ROWS = ctypes.CFUNCTYPE(
    None,
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int) * 2,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_float),
    ctypes.c_int64,
)
HEADER = Path(__file__).parents[2] / "installer" / "build" / "dot.h"
WIDE = Path(__file__).parents[1] / "support" / "avx512"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
SSE = ("-msse4.2", "-mno-avx")
AVX_FORMS = [pytest.param(form, marks=by_row) for form in ("for_avx2", "for_vnni")]
HALVES = """
#include <string.h>
static inline float half(uint16_t bits) {
    _Float16 number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}
#define GGML_CPU_FP16_TO_FP32(bits) half(bits)
"""
"""What simd-mappings.h says of half floats."""
BLOCKS = """
#include <stdint.h>
#define QK8_0 32
#define QK8_1 32
typedef uint16_t ggml_half;
typedef struct { uint16_t d; int8_t qs[32]; } block_q8_0;
typedef struct { uint16_t d, m; uint8_t qs[16]; } block_q4_1;
typedef struct { uint16_t d, s; int8_t qs[32]; } block_q8_1;
"""
"""What ggml-common.h says of them."""
TABLE = """
void (*dot)(int, float *, size_t, const void *, size_t, const void *, size_t, int) = ggml_vec_dot_q4_1_q8_1;
#ifdef __AVX2__
void (*rows)(const block_q4_1 *, int64_t, int, const block_q8_1 *, int64_t, int, int, float *, int64_t) = edge_rows;
void (*rows_q8_0)(const block_q8_0 *, int64_t, int, const block_q8_0 *, int64_t, int, int, float *, int64_t) =
    edge_rows_q8_0;
int two_columns =
#ifdef EDGE_TWO_COLUMNS
    1;
#else
    0;
#endif
int four_blocks =
#ifdef EDGE_FOUR_BLOCKS
    1;
#else
    0;
#endif
#endif
"""


class Traits(ctypes.Structure):
    """The CPU backend's traits of a type (ggml-cpu.h: ggml_type_traits_cpu)."""

    _fields_ = (("quantize", ctypes.c_void_p), ("dot", DOT), ("with_type", ctypes.c_int), ("rows", ctypes.c_int64))


def installed() -> ctypes.CDLL:
    """Load the CPU backend of the installed llama.cpp."""
    found = ctypes.CDLL(str(llama_backends.LIBRARIES / "libggml-cpu.so.0"))
    found.ggml_cpu_init()
    found.ggml_get_type_traits_cpu.restype = ctypes.POINTER(Traits)
    return found


@pytest.fixture(scope="module")
def named() -> Callable[..., None]:
    """Return the function that llama.cpp calls."""
    return installed().ggml_get_type_traits_cpu(Q4_1).contents.dot


def compiled(folder: Path, beside: str = "", processor: Sequence[str] = AVX2) -> ctypes.CDLL:
    """Compile the header for a processor; `beside` is a folder with a file that is included before llama.cpp's."""
    compiler = shutil.which("cc") or pytest.skip("no compiler is installed (sudo apt-get install gcc)")
    (folder / "ggml-cpu-impl.h").write_text("#include <immintrin.h>\n")
    (folder / "quants.h").write_text(BLOCKS)
    (folder / "simd-mappings.h").write_text(HALVES)
    (folder / "table.c").write_text(TABLE)
    made = folder / "table.so"
    include = [f"-I{beside}", "-ffp-contract=off", f"-I{folder}"] if beside else [f"-I{folder}"]
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", *processor, *include, "-include", str(HEADER)]
    subprocess.run([*command, "-o", str(made), str(folder / "table.c"), "-lm"], check=True)
    return ctypes.CDLL(str(made))


@pytest.fixture(scope="module")
def made_for_avx2(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the code that llama.cpp would use on a processor with AVX2 only."""
    return compiled(tmp_path_factory.mktemp("dot"))


@pytest.fixture(scope="module")
def made_for_vnni(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Return the code that it would use with AVX-512 VNNI, whose instructions are emulated by functions here."""
    return compiled(tmp_path_factory.mktemp("wide"), str(WIDE))


@pytest.fixture(scope="module")
def for_avx2(made_for_avx2: ctypes.CDLL) -> Callable[..., None]:
    """Return the dot product for AVX2."""
    return DOT.in_dll(made_for_avx2, "dot")


@pytest.fixture(scope="module")
def for_vnni(made_for_vnni: ctypes.CDLL) -> Callable[..., None]:
    """Return the dot product for VNNI."""
    return DOT.in_dll(made_for_vnni, "dot")


@pytest.fixture(scope="module")
def for_sse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Return the dot product that llama.cpp would use on a processor without AVX."""
    return DOT.in_dll(compiled(tmp_path_factory.mktemp("sse"), processor=SSE), "dot")


def guarded(blocks: int, kind: np.dtype[np.void]) -> NDArray[np.void]:
    """Return blocks that end at a page boundary, so that reading beyond them ends the process."""
    size = -(-blocks * kind.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, size + mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(region)) + size
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    return np.frombuffer(region, kind, blocks, size - blocks * kind.itemsize)


@pytest.mark.skipif(
    llama_builds.chosen() is not None and llama_builds.chosen().name in ("avx", "f16c"),  # type: ignore[union-attr]
    reason="with AVX and without AVX2 llama.cpp's own computes (decision 0065)",
)
def test_own_dot_product_is_built_in(named: Callable[..., None]):
    """llama.cpp calls the agent's dot product, and its own one has another name; a build that still calls its own would
    only be slower."""
    theirs = ctypes.cast(installed().edge_their_dot_q4_1_q8_1, ctypes.c_void_p).value
    assert ctypes.cast(named, ctypes.c_void_p).value not in {None, theirs}


def blocks_of(blocks: int, random: np.random.Generator) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return a row of weights and one of activations, including the largest possible products."""
    x, y = guarded(blocks, WEIGHTS), guarded(blocks, ACTIVATIONS)
    x["scale"], x["least"] = random.normal(0, 0.02, (2, blocks))
    x["packed"] = random.integers(0, 256, (blocks, 16))
    y["numbers"] = random.integers(-127, 128, (blocks, 32))
    x["packed"][1::5], y["numbers"][1::5] = 255, -128
    y["scale"] = random.normal(0, 0.02, blocks)
    y["sum"] = y["scale"] * y["numbers"].sum(1)
    return x, y


@pytest.mark.parametrize("form", ["named", "for_sse", *AVX_FORMS])
@pytest.mark.parametrize("blocks", [*range(1, 14), 18, 48, 101])
def test_dot_product_is_correct_for_any_number_of_blocks(request: pytest.FixtureRequest, form: str, blocks: int):
    """The dot product of rows with any number of blocks is right within 1e-6, and no byte beyond them is read."""
    x, y = blocks_of(blocks, np.random.default_rng(blocks))
    quants = np.concatenate([x["packed"] & 15, x["packed"] >> 4], 1).astype(np.int64)
    products = x["scale"].astype(float) * y["scale"] * (quants * y["numbers"]).sum(1)
    minima = x["least"].astype(float) * y["sum"]
    found = ctypes.c_float()
    request.getfixturevalue(form)(32 * blocks, ctypes.byref(found), 0, x.ctypes.data, 0, y.ctypes.data, 0, 1)
    expected, most = float(products.sum() + minima.sum()), float(np.abs([products, minima]).sum())
    assert found.value == pytest.approx(expected, abs=1e-6 * most)


def assert_bits_of_each_alone(
    dot: Callable[..., None], rows: Callable[..., None], x: NDArray[np.void], y: NDArray[np.void], blocks: int
) -> None:
    """Compare one to eight rows of activations at once with each alone, and require that no byte outside the result is
    written."""
    count = len(x) // blocks
    alone = np.empty((8, count), np.float32)
    for column in range(8):
        for row in range(count):
            at = alone[column, row:].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            weights, numbers = x[row * blocks :].ctypes.data, y[column * blocks :].ctypes.data
            dot(32 * blocks, at, 0, weights, 0, numbers, 0, 1)
    for columns in range(1, 9):
        first, found = y[(8 - columns) * blocks :].ctypes.data, np.full((9, count + 1), 7, np.float32)
        at = found.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        rows(x.ctypes.data, blocks, count, first, blocks, columns, blocks, at, count + 1)
        assert alone[8 - columns :].tobytes() == found[:columns, :count].tobytes()
        assert (found[columns:] == 7).all()
        assert (found[:columns, count] == 7).all()


@by_row
@pytest.mark.parametrize("form", ["made_for_avx2", "made_for_vnni"])
@pytest.mark.parametrize("blocks", [*range(1, 14), 18, 48, 101])
def test_several_q4_1_columns_equal_each_column_alone(request: pytest.FixtureRequest, form: str, blocks: int):
    """One to eight columns computed at once, for rows of any number of blocks, have the same bits as each alone, and no
    byte beyond them is read or written."""
    made: ctypes.CDLL = request.getfixturevalue(form)
    dot, rows = DOT.in_dll(made, "dot"), ROWS.in_dll(made, "rows")
    assert ctypes.c_int.in_dll(made, "four_blocks").value == (form == "made_for_vnni")
    random, count = np.random.default_rng(blocks), 3
    x, y = guarded(count * blocks, WEIGHTS), guarded(8 * blocks, ACTIVATIONS)
    for into, side in ((x, 0), (y, 1)):
        into[:] = np.concatenate([blocks_of(blocks, random)[side] for _ in range(len(into) // blocks)])
    assert_bits_of_each_alone(dot, rows, x, y, blocks)


@by_row
@pytest.mark.parametrize("form", ["made_for_avx2", "made_for_vnni"])
@pytest.mark.parametrize("blocks", [*range(1, 6), 18, 64, 512])
def test_several_q8_0_columns_equal_llama_cpp(request: pytest.FixtureRequest, form: str, blocks: int):
    """One to eight Q8_0 columns computed at once have the bits of llama.cpp's own function for one row, also with the
    smallest value, -128."""
    made: ctypes.CDLL = request.getfixturevalue(form)
    dot = installed().ggml_get_type_traits_cpu(Q8_0).contents.dot
    assert ctypes.c_int.in_dll(made, "two_columns").value == (form == "made_for_vnni")
    random, count = np.random.default_rng(blocks), 3
    x, y = guarded(count * blocks, BYTES), guarded(8 * blocks, BYTES)
    for side in (x, y):
        side["scale"] = random.normal(0, 0.02, len(side))
        side["numbers"] = random.integers(-127, 128, (len(side), 32))
    x["numbers"][::3, ::5], y["numbers"][::4, ::5] = -128, 127
    assert_bits_of_each_alone(dot, ROWS.in_dll(made, "rows_q8_0"), x, y, blocks)

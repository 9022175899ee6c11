"""The header of a GGUF file, parsed as untrusted input."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from edge_agent.engine.runtimes.llama import gguf_header
from edge_agent.engine.runtimes.llama.gguf_header import ITEMS_MAX, KEYS_MAX, LAYERS_MAX, TENSORS_MAX, GgufHeader
from edge_agent.errors import ModelLoadFailed
from tests.support import models
from tests.support.call_counting import calls_of
from tests.support.gguf_head import ARRAY, LLAMA, Q4_0, STRING, TENSORS, TYPE_F32, U32, U64, gguf, number, numbers

CALLS_MAX = 8
"""For one item of a list."""
BYTES_MAX = 16 * 2**20


def read(tmp_path: Path, data: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return gguf_header.read_header(str(path))


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ModelLoadFailed) as caught:
        read(tmp_path, data)
    prefix, _, reason = caught.value.message.partition(" does not load: ")
    assert "weights file model.gguf" == prefix
    return reason


def test_valid_header_gives_sizes(tmp_path: Path) -> None:
    """Sizes follow from the header's keys; the keys and values of a token are counted over all layers and for each
    layer. A table that is only looked up belongs to no layer and to no product."""
    assert GgufHeader(
        version=3,
        architecture="llama",
        layers=2,
        width=64,
        feed_forward=96,
        cell_elements=2 * 2 * (16 + 16),
        vocabulary=2,
        product_bytes={Q4_0: 2432},
        layer_bytes=(2304, 0),
        layer_cell_elements=(2 * (16 + 16),) * 2,
        output_bytes=128,
    ) == read(tmp_path, gguf())


def test_header_of_smollm2_is_read() -> None:
    """The header of SmolLM2-135M gives the numbers of its model card: 30 layers, 3 of 9 heads of 64 for keys and
    values, 49,152 tokens."""
    found = gguf_header.read_header(str(models.smollm2_path()))
    assert ("llama", 30, 576, 49_152) == (found.architecture, found.layers, found.width, found.vocabulary)
    assert 30 * 3 * (64 + 64) == found.cell_elements == sum(found.layer_cell_elements)
    assert sum(found.layer_bytes) + found.output_bytes == sum(found.product_bytes.values())
    assert [2_216_448] * 30 == list(found.layer_bytes)
    assert sum(found.product_bytes.values()) == pytest.approx(models.smollm2_path().stat().st_size, rel=0.03)


def test_logits_cost_follows_from_tensor_bytes(tmp_path: Path) -> None:
    """Tensors outside the layers are read only for rows with logits, so their bytes relative to the layers give the
    cost of logits: 128 to 2,304 here. Without layers the bytes themselves are returned."""
    assert 128 / 2304 == read(tmp_path, gguf()).logits_rows
    assert 128 == read(tmp_path, gguf(tensors=TENSORS[2:])).logits_rows


def test_explicit_key_and_value_lengths_take_precedence(tmp_path: Path) -> None:
    """Key and value lengths in the file replace the width divided by heads; numbers may have any integer type."""
    more = {"llama.attention.key_length": number(100), "llama.attention.value_length": number(28, U64)}
    assert 2 * 2 * 128 == read(tmp_path, gguf({**LLAMA, **more})).cell_elements


def test_per_layer_lists_are_combined(tmp_path: Path) -> None:
    """A list has one number for each layer: the heads are added up, and of the feed-forward widths the largest
    counts."""
    more = {"llama.attention.head_count_kv": numbers([1, 3]), "llama.feed_forward_length": numbers([10, 70])}
    found = read(tmp_path, gguf({**LLAMA, **more}))
    assert ((1 + 3) * 32, 70) == (found.cell_elements, found.feed_forward)


def test_model_without_attention_has_no_kv_cache(tmp_path: Path) -> None:
    """A header without head counts has no key-value cache."""
    keys = {key: value for key, value in LLAMA.items() if "head_count" not in key}
    assert 0 == read(tmp_path, gguf(keys)).cell_elements


def test_token_table_counts_as_output_if_shared(tmp_path: Path) -> None:
    """In a file without an output tensor the token table counts as the output matrix."""
    assert {TYPE_F32: 512, Q4_0: 2304} == read(tmp_path, gguf(tensors=TENSORS[:2])).product_bytes


def test_file_cut_off_in_tensor_data_has_a_valid_header(tmp_path: Path) -> None:
    """A file that is cut off within its last tensor still has a valid header; llama.cpp reports the damage when it
    loads the file."""
    assert {Q4_0: 2304 + 64} == read(tmp_path, gguf()[:-64]).product_bytes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is 0 bytes"),
        (b"PK\3\4", "it is not a GGUF file"),
        (gguf(version=1), "GGUF version 1 is not 2 or 3"),
        (gguf(version=3 << 24), "GGUF version 50331648 is not 2 or 3"),
        (gguf(counts=(TENSORS_MAX + 1, 0)), f"65537 tensors are over the limit of {TENSORS_MAX}"),
        (gguf(counts=(0, KEYS_MAX + 1)), f"65537 keys are over the limit of {KEYS_MAX}"),
        (gguf(counts=(3, KEYS_MAX)), "a text has "),
        (gguf()[:-640], "a tensor starts at byte 2816 of the data, which has 2304 bytes: the file is cut off"),
        (gguf({}), "it has no architecture"),
        (gguf({**LLAMA, "general.architecture": number(7)}), "it has no architecture"),
        (gguf({**LLAMA, "general.alignment": number(0)}), "its alignment is 0"),
        (gguf({**LLAMA, "llama.block_count": number(LAYERS_MAX + 1)}), "4097 layers are out of range"),
        (gguf({**LLAMA, "llama.block_count": number(0)}), "0 layers are out of range"),
        (gguf({**LLAMA, "llama.embedding_length": number(1 << 31)}), "llama.embedding_length is out of range"),
        (gguf({**LLAMA, "llama.embedding_length": struct.pack("<If", 6, 64)}), "llama.embedding_length is out of"),
        (gguf({"general.architecture": LLAMA["general.architecture"]}), "llama.block_count is missing"),
        (gguf({**LLAMA, "llama.attention.head_count_kv": numbers([1])}), "has 1 values for 2 layers"),
        (gguf({**LLAMA, "llama.attention.head_count_kv": numbers([1, -1])}), "head_count_kv is out of range"),
        (gguf({"x": struct.pack("<I", 13)}), "value type 13 is unknown"),
        (gguf({"x": struct.pack("<IIQ", ARRAY, ARRAY, 1)}), "value type 9 is unknown"),
        (gguf({"x": struct.pack("<IIQ", ARRAY, U32, ITEMS_MAX + 1)}), "items of an array are over the limit"),
        (gguf({"x": struct.pack("<IIQ", ARRAY, U32, ITEMS_MAX)}), "it is cut off: its head cannot be read from"),
        (gguf({"x": struct.pack("<IIQ", ARRAY, STRING, ITEMS_MAX)}), "a text has "),
        (gguf({"x": struct.pack("<IQ", STRING, 2**64 - 1)}), "a text has 18446744073709551615 bytes"),
    ],
)
def test_invalid_header_is_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    """A header that breaks the format or a limit is refused with the reason."""
    assert reason in refusal(tmp_path, data)


def test_header_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """A header that is cut off at any byte is refused."""
    whole = gguf()
    for length in range(len(whole) - 2944 - 32):
        refusal(tmp_path, whole[:length])


def test_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    """The error for a missing file has its name and the system's reason."""
    with pytest.raises(ModelLoadFailed, match=r"gone\.gguf does not load: No such file or directory"):
        gguf_header.read_header(str(tmp_path / "gone.gguf"))


def test_damaged_header_is_parsed_or_refused(tmp_path: Path) -> None:
    """500 headers with up to 4 changed bytes are each parsed or refused with `ModelLoadFailed`, and the allocated
    memory stays small."""
    draw, whole = random.Random(7), gguf()
    tracemalloc.start()
    try:
        for _ in range(500):
            data = bytearray(whole)
            for place in draw.sample(range(len(whole) - 2944), draw.randint(1, 4)):
                data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            try:
                read(tmp_path, bytes(data))
            except ModelLoadFailed as error:
                assert "model.gguf does not load: " in error.message
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()


def test_list_parsing_cost_is_linear(tmp_path: Path) -> None:
    """Parsing a list costs a bounded number of function calls for each item, so with ITEMS_MAX the work for a hostile
    file is bounded."""
    calls = []
    for count in (10_000, 20_000, 30_000):
        texts = struct.pack("<IIQ", ARRAY, STRING, count) + bytes(8 * count)
        path = tmp_path / f"{count}.gguf"
        path.write_bytes(gguf({**LLAMA, "tokenizer.ggml.tokens": texts}))
        calls.append(calls_of(lambda path=path: gguf_header.read_header(str(path))))
    assert calls[1] - calls[0] == calls[2] - calls[1] <= CALLS_MAX * 10_000

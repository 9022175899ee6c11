"""The head of a GGUF file, read as what an attacker wrote."""

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


def test_a_sound_head(tmp_path: Path) -> None:
    """Sizes follow from the keys; the keys and values of a token are counted over all layers, and for each of them.
    What is only looked up belongs to no layer and is not multiplied with."""
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


def test_the_real_model() -> None:
    """SmolLM2-135M is read as its card says: 30 layers, 3 of 9 heads of 64 for keys and values, 49,152 tokens."""
    found = gguf_header.read_header(str(models.smollm2_path()))
    assert ("llama", 30, 576, 49_152) == (found.architecture, found.layers, found.width, found.vocabulary)
    assert 30 * 3 * (64 + 64) == found.cell_elements == sum(found.layer_cell_elements)
    assert sum(found.layer_bytes) + found.output_bytes == sum(found.product_bytes.values())
    assert [2_216_448] * 30 == list(found.layer_bytes)
    assert sum(found.product_bytes.values()) == pytest.approx(models.smollm2_path().stat().st_size, rel=0.03)


def test_what_logits_cost_follows_from_bytes(tmp_path: Path) -> None:
    """What stands outside the layers is read for rows with logits alone: 128 bytes here beside 2,304; without layers
    nothing is known that it could be compared with."""
    assert 128 / 2304 == read(tmp_path, gguf()).logits_rows
    assert 128 == read(tmp_path, gguf(tensors=TENSORS[2:])).logits_rows


def test_what_is_given_counts_before_what_follows(tmp_path: Path) -> None:
    """Key and value lengths of the file replace width by heads; numbers may come as any whole type."""
    more = {"llama.attention.key_length": number(100), "llama.attention.value_length": number(28, U64)}
    assert 2 * 2 * 128 == read(tmp_path, gguf({**LLAMA, **more})).cell_elements


def test_layers_of_different_size(tmp_path: Path) -> None:
    """A list has one number for each layer: heads are added up, of the inner width the largest counts."""
    more = {"llama.attention.head_count_kv": numbers([1, 3]), "llama.feed_forward_length": numbers([10, 70])}
    found = read(tmp_path, gguf({**LLAMA, **more}))
    assert ((1 + 3) * 32, 70) == (found.cell_elements, found.feed_forward)


def test_a_model_without_attention(tmp_path: Path) -> None:
    """Where no heads are named, there is no key-value cache."""
    keys = {key: value for key, value in LLAMA.items() if "head_count" not in key}
    assert 0 == read(tmp_path, gguf(keys)).cell_elements


def test_a_table_that_is_also_the_output_is_multiplied_with(tmp_path: Path) -> None:
    """Without an output of its own the table of tokens counts."""
    assert {TYPE_F32: 512, Q4_0: 2304} == read(tmp_path, gguf(tensors=TENSORS[:2])).product_bytes


def test_what_llama_cpp_finds_is_left_to_it(tmp_path: Path) -> None:
    """A file that is cut off within its last tensor has a sound head."""
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
def test_what_is_wrong_is_said(tmp_path: Path, data: bytes, reason: str) -> None:
    """A head that breaks the format or a limit is refused with the reason."""
    assert reason in refusal(tmp_path, data)


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    """No length of a head leads to anything but a refusal."""
    whole = gguf()
    for length in range(len(whole) - 2944 - 32):
        refusal(tmp_path, whole[:length])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The reason is the system's."""
    with pytest.raises(ModelLoadFailed, match=r"gone\.gguf does not load: No such file or directory"):
        gguf_header.read_header(str(tmp_path / "gone.gguf"))


def test_spoiled_bytes_end_in_a_head_or_a_refusal(tmp_path: Path) -> None:
    """500 heads with up to 4 changed bytes: nothing else is raised, and what is allocated stays small."""
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


def test_a_list_costs_so_many_calls_for_each_item(tmp_path: Path) -> None:
    """A file that is all list costs what its items are, however many: with ITEMS_MAX that is bounded work."""
    calls = []
    for count in (10_000, 20_000, 30_000):
        texts = struct.pack("<IIQ", ARRAY, STRING, count) + bytes(8 * count)
        path = tmp_path / f"{count}.gguf"
        path.write_bytes(gguf({**LLAMA, "tokenizer.ggml.tokens": texts}))
        calls.append(calls_of(lambda path=path: gguf_header.read_header(str(path))))
    assert calls[1] - calls[0] == calls[2] - calls[1] <= CALLS_MAX * 10_000

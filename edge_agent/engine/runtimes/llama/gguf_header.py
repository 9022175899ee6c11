"""Reads the size of a model from the header of a GGUF file, before llama.cpp opens the file.

The file is untrusted: every count and length is checked against a limit and the end of the file, no size in the file
causes an allocation, and an error is ModelLoadFailed. The model itself is for llama.cpp to check. Format:
ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_agent.errors import ModelLoadFailed

MAGIC = b"GGUF"
KEYS_MAX = 65_536
TENSORS_MAX = 65_536
NAME_BYTES_MAX = 65_535
ITEMS_MAX = 1 << 22  # of an array; the largest vocabularies have a quarter of a million tokens
LAYERS_MAX = 4096
NUMBER_MAX = 1 << 31
DIMENSIONS_MAX = 4
ALIGNMENT_DEFAULT = 32

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    kind: struct.Struct("<" + code)
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_LAYER = re.compile(rb"blk\.(\d{1,4})\.")
_NEVER_REPACKED = {10, 12}
"""Q2_K and Q4_K, by ggml's numbers: if they were repacked, rows in groups of four would round differently."""
_LOOKUP_TABLE, _OUTPUT = b"token_embd.weight", b"output.weight"

_Value = int | float | bytes | list[int | float] | None


class _DamagedGguf(Exception):
    """What is wrong with the file."""


class _WeightTensor(NamedTuple):
    """A tensor by which activations are multiplied."""

    kind: int
    name: bytes
    size: int

    @property
    def layer(self) -> int:
        """The layer that it belongs to; -1 = none."""
        match = _LAYER.match(self.name)
        return int(match[1]) if match else -1


@dataclass(frozen=True)
class GgufHeader:
    """The facts from which a model's memory is computed."""

    version: int
    architecture: str
    layers: int
    width: int
    """Elements of one token's activation (n_embd)."""
    feed_forward: int
    """Elements of the widest inner activation (n_ff)."""
    cell_elements: int
    """Elements of the keys and values of one token, all layers together."""
    vocabulary: int
    product_bytes: Mapping[int, int]
    """Bytes of the tensors by which activations are multiplied, by ggml type; not of a pure lookup table."""
    layer_bytes: tuple[int, ...] = ()
    """Bytes of the weights of each layer."""
    layer_cell_elements: tuple[int, ...] = ()
    """`cell_elements` of each layer."""
    output_bytes: int = 0
    """Bytes of such tensors outside the layers."""

    @property
    def logits_rows(self) -> float:
        """The cost of the logits of a row, in rows without logits: the bytes read for them, over those of the layers.

        A compromise between memory traffic and arithmetic: a byte of Q8_0 has one weight, one of Q4_0 has two.
        """
        return self.output_bytes / max(sum(self.layer_bytes), 1)

    @property
    def may_be_repacked(self) -> bool:
        """Whether llama.cpp may repack weights for the processor, which is set for a file as a whole."""
        return not _NEVER_REPACKED & set(self.product_bytes)


def read_header(path: str) -> GgufHeader:
    """Read the header of a file. Raises ModelLoadFailed."""
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _GgufReader(data).header()
    except _DamagedGguf as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
    except ValueError:
        reason = "the file is 0 bytes"
    raise ModelLoadFailed(f"weights file {Path(path).name} does not load: {reason}")


class _GgufReader:
    """Reads the header once, front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._offset = 0

    def header(self) -> GgufHeader:
        if self._data[: len(MAGIC)] != MAGIC:
            raise _DamagedGguf("it is not a GGUF file")
        self._skip(len(MAGIC))
        version = self._number(_U32)
        if version not in (2, 3):
            raise _DamagedGguf(f"GGUF version {version} is not 2 or 3")
        tensors, keys = self._count("tensors", TENSORS_MAX), self._count("keys", KEYS_MAX)
        facts = _HeaderFacts({self._name(): self._value(self._number(_U32)) for _ in range(keys)})
        return facts.header(version, self._products(tensors, facts.number(b"general.alignment", ALIGNMENT_DEFAULT)))

    def _value(self, kind: int) -> _Value:
        """Read a value: the length of an array of texts, None for an array too long to describe layers."""
        if kind == _STRING:
            return self._bytes(self._length(self._size))
        if kind != _ARRAY:
            return self._scalar(kind)
        item_kind, count = self._number(_U32), self._count("items of an array", ITEMS_MAX)
        if item_kind == _STRING:
            for _ in range(count):
                self._skip(self._length(self._size))
            return count
        if item_kind in _SCALARS and count <= LAYERS_MAX:
            return [self._scalar(item_kind) for _ in range(count)]
        self._skip(count * self._layout(item_kind).size)
        return None

    def _scalar(self, kind: int) -> int | float:
        return self._number(self._layout(kind))

    def _layout(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise _DamagedGguf(f"value type {kind} is unknown")
        return _SCALARS[kind]

    def _products(self, count: int, alignment: int) -> list[_WeightTensor]:
        """Read the list of tensors. A tensor ends where the next one begins, so its size needs no table of types."""
        if not alignment:
            raise _DamagedGguf("its alignment is 0")
        tensors = sorted(self._tensor() for _ in range(count))
        names = {name for _, _, name in tensors}
        starts = [start for start, _, _ in tensors]
        # A file that is cut off in its last tensor is llama.cpp's to refuse.
        end = self._size - -(-self._offset // alignment) * alignment
        if starts and starts[-1] > max(end, 0):
            message = (
                f"a tensor starts at byte {starts[-1]} of the data, which has {max(end, 0)} bytes: the file is cut off"
            )
            raise _DamagedGguf(message)
        return [
            _WeightTensor(kind, name, next_start - start)
            for (start, kind, name), next_start in zip(tensors, [*starts[1:], max([end, *starts])], strict=True)
            if name != _LOOKUP_TABLE or _OUTPUT not in names
        ]

    def _tensor(self) -> tuple[int, int, bytes]:
        name = self._name()
        dimensions = self._number(_U32)
        if dimensions > DIMENSIONS_MAX:
            raise _DamagedGguf(f"a tensor has {dimensions} dimensions")
        self._skip(dimensions * _U64.size)
        kind, start = self._number(_U32), self._number(_U64)
        return start, kind, name

    def _name(self) -> bytes:
        return self._bytes(self._length(NAME_BYTES_MAX))

    def _length(self, limit: int) -> int:
        length = self._number(_U64)
        if length > limit:
            raise _DamagedGguf(f"a text has {length} bytes")
        return length

    def _count(self, what: str, limit: int) -> int:
        count = self._number(_U64)
        if count > limit:
            raise _DamagedGguf(f"{count} {what} are over the limit of {limit}")
        return count

    def _bytes(self, length: int) -> bytes:
        start = self._offset
        self._skip(length)
        return self._data[start : self._offset]

    def _number(self, layout: struct.Struct) -> int:
        start = self._offset
        self._skip(layout.size)
        value: int = layout.unpack_from(self._data, start)[0]
        return value

    def _skip(self, length: int) -> None:
        self._offset += length
        if self._offset > self._size:
            raise _DamagedGguf(f"it is cut off: its head cannot be read from {self._size} bytes")


class _HeaderFacts:
    """The keys of the file, and the numbers among them."""

    def __init__(self, values: Mapping[bytes, _Value]) -> None:
        self._values = values
        architecture = values.get(b"general.architecture")
        if not isinstance(architecture, bytes):
            raise _DamagedGguf("it has no architecture")
        self._architecture = architecture

    def header(self, version: int, products: Sequence[_WeightTensor]) -> GgufHeader:
        layers, width = self.own_number(b"block_count"), self.own_number(b"embedding_length")
        if not 0 < layers <= LAYERS_MAX:
            raise _DamagedGguf(f"{layers} layers are out of range")
        heads = self._per_layer(b"attention.head_count", layers, 0)
        kv_heads = self._per_layer(b"attention.head_count_kv", layers, heads)
        head_width = width // max(heads[0], 1)
        key, value = (self.own_number(b"attention." + each, head_width) for each in (b"key_length", b"value_length"))
        tokens = self.number(b"tokenizer.ggml.tokens", 0)
        by_kind, by_layer = Counter[int](), Counter[int]()
        for product in products:
            by_kind[product.kind] += product.size
            by_layer[product.layer] += product.size
        return GgufHeader(
            version=version,
            architecture=self._architecture[:64].decode("utf-8", "replace"),
            layers=layers,
            width=width,
            feed_forward=max(self._per_layer(b"feed_forward_length", layers, 0)),
            cell_elements=sum(kv_heads) * (key + value),
            vocabulary=tokens or self.own_number(b"vocab_size", 0),
            product_bytes=dict(by_kind),
            layer_bytes=tuple(by_layer[layer] for layer in range(layers)),
            layer_cell_elements=tuple(heads * (key + value) for heads in kv_heads),
            output_bytes=by_layer[-1],
        )

    def own_number(self, key: bytes, default: int | None = None) -> int:
        """Return a number of the architecture."""
        return self.number(self._architecture + b"." + key, default)

    def number(self, key: bytes, default: int | None) -> int:
        """Return a number, which may be missing if there is a default."""
        return _require_number(key, self._values.get(key, default))

    def _per_layer(self, key: bytes, layers: int, default: int | list[int]) -> list[int]:
        """Return a number for each layer, from a list or from one number for all."""
        full_key = self._architecture + b"." + key
        value = self._values.get(full_key, default)
        if not isinstance(value, list):
            return [_require_number(full_key, value)] * layers
        if len(value) < layers:
            raise _DamagedGguf(f"{_key_text(full_key)} has {len(value)} values for {layers} layers")
        return [_require_number(full_key, each) for each in value[:layers]]


def _require_number(key: bytes, value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < NUMBER_MAX:
        raise _DamagedGguf(f"{_key_text(key)} is {'missing' if value is None else 'out of range'}")
    return value


def _key_text(key: bytes) -> str:
    return key[:100].decode("utf-8", "replace")

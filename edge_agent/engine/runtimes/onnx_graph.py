"""Limits on an ONNX graph and its tokenizer, checked before a library opens them, and the memory that both take.

`open_tokenizer` then opens a tokenizer as it is served, here and in the conversion toolkit.

Measured on onnxruntime 1.32 with MiniLM (86 MiB, fp32): 1.44 times the file after loading and 1.63 times while it
loads, then 28 to 42 MiB for each thread that computes 512 tokens. A longer input, which has a step of its own, takes
more: attention grows with the square.

The tokenizers library takes memory by the content of a tokenizer.json, not by its size: a vocabulary of type Unigram
becomes a trie with a hash map for each byte of its tokens, 120 times the file. `check_tokenizer_file` counts in one
pass over the bytes, before the library parses them, and allocates nothing. For what a file hides from the count
(`"\\u0055nigram"`), the child has limits on memory and time.

onnxruntime folds constants while it loads: a node of 30 bytes that fills a tensor of 1e9 elements takes 4 GB. If the
size of such a node is in the file, it is checked against a limit here. If it is computed, the child's limit on memory
applies.

The file is untrusted, and read over a memory map: of its tensors only names, dimensions, and integers of at most
SHAPE_ITEMS_MAX items. Format: protocol buffers, encoding and onnx.proto of ONNX 1.x. Unknown fields are skipped, and
damaged files are left to onnxruntime to refuse.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.errors import ModelLoadFailed

PROCESS_BYTES = 80 * 2**20  # Python with numpy, onnxruntime, tokenizers and one tokenizer: 80 MiB resident
ARENA_BYTES = 16 * 2**20  # for each thread, whatever the model
ARENA_SHARE = 0.3  # and as a share of the file, because activations grow with it
ARENA_BYTES_MAX = 128 * 2**20
TOKENS_COUNTED = 512  # of one input, in the figures above
ATTENTION_BYTES = 2 * 16 * 4  # for each pair of tokens: scores and their softmax, of 16 heads, as float32
TOKENIZER_BYTES = 4 * 2**20
TOKENIZER_SHARE = 4.0  # of its file: 3.5 to 3.8 measured while it loads, with 260,000 tokens of WordPiece and BPE
UNIGRAM_TOKEN_BYTES = 120  # for each byte of the tokens: 118 measured

DRIVER_BYTES = {"cuda": 640 * 2**20}  # in the machine's memory, as others report it

FILE_BYTES_MAX = 128 << 20
"""The largest in use have a quarter of a million tokens and 34 MB."""
TOKENIZER_NESTING_MAX = 32
"""Real files have up to 8; each level is a call on the stack of the parser."""
TEXTS_MAX = 4 << 20
"""Keys and values that are strings: each token is one, and each merge one or two."""
BRACKETS_MAX = 8 << 20
"""Objects and arrays, counted at both ends."""
TEXT_BYTES_MAX = 1 << 20
"""Of one string; the longest in use is the table of a normalizer, 400 kB."""

_UNIGRAM = re.compile(rb'"type"\s*:\s*"Unigram"')
# An unterminated string extends to the end of the file: otherwise each quote in it would be tried as a beginning.
_ITEM = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_OPENING = b"[{"


def estimate_memory(weights: str, threads: int, device: str = "cpu") -> MemoryNeed:
    """Return what loading the file and computing on that many threads takes; a missing file counts as empty.

    The memory of a device is not counted, because onnxruntime does not report how much of it is free.
    """
    path = Path(weights)
    size = path.stat().st_size if path.is_file() else 0
    return MemoryNeed(
        weights=size,
        copies=size,  # onnxruntime keeps matrices as they are in the file, and again packed for this processor
        cache=0,
        compute=threads * min(ARENA_BYTES + int(ARENA_SHARE * size), ARENA_BYTES_MAX),
        process=PROCESS_BYTES + DRIVER_BYTES.get(device, 0),
    )


def tokenizer_bytes(path: str) -> int:
    """Return what the tokenizer of a file takes, without a trie for Unigram; a missing file counts as empty."""
    file = Path(path)
    return TOKENIZER_BYTES + (int(file.stat().st_size * TOKENIZER_SHARE) if file.is_file() else 0)


def long_input_bytes(tokens: int) -> int:
    """Return what attention over one input takes in addition to `estimate_memory`, which counts TOKENS_COUNTED."""
    return max(0, tokens**2 - TOKENS_COUNTED**2) * ATTENTION_BYTES


def check_tokenizer_file(path: str) -> int:
    """Return what a tokenizer will take, in bytes. Raises ModelLoadFailed if its file is missing or over a limit."""
    name = Path(path).name
    try:
        size = Path(path).stat().st_size
        if size > FILE_BYTES_MAX:
            raise _tokenizer_limit_error(name, "bytes", size, FILE_BYTES_MAX)
        if not size:
            return tokenizer_bytes(path)
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text_bytes = _string_bytes(name, data)
            is_unigram = _UNIGRAM.search(data) is not None
    except OSError as error:
        raise ModelLoadFailed(f"tokenizer {name} cannot be read: {error.strerror}") from None
    return tokenizer_bytes(path) + (text_bytes * UNIGRAM_TOKEN_BYTES if is_unigram else 0)


def _string_bytes(name: str, data: mmap.mmap) -> int:
    """Return the bytes of all strings."""
    depth = brackets = texts = text_bytes = 0
    for match in _ITEM.finditer(data):
        start, end = match.span()
        if end - start > 1:
            texts, text_bytes = texts + 1, text_bytes + end - start - 2
            if texts > TEXTS_MAX:
                raise _tokenizer_limit_error(name, "texts", texts, TEXTS_MAX)
            if end - start > TEXT_BYTES_MAX:
                raise _tokenizer_limit_error(name, "bytes in one text", end - start, TEXT_BYTES_MAX)
            continue
        brackets += 1
        if brackets > BRACKETS_MAX:
            raise _tokenizer_limit_error(name, "objects and arrays, counted at both ends,", brackets, BRACKETS_MAX)
        depth += 1 if data[start] in _OPENING else -1
        if depth > TOKENIZER_NESTING_MAX:
            raise _tokenizer_limit_error(name, "levels of nesting", depth, TOKENIZER_NESTING_MAX)
    return text_bytes


def open_tokenizer(path: str) -> tokenizers.Tokenizer:
    """Open a tokenizer.json with truncation and padding off: the task's limits apply. Raises ModelLoadFailed."""
    name = Path(path).name
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(Path(path).read_bytes())
    except OSError as error:
        raise ModelLoadFailed(f"tokenizer {name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelLoadFailed(f"tokenizer {name} is not a tokenizer.json that the tokenizers library reads") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text stays five characters and becomes no separator
    return tokenizer


def _tokenizer_limit_error(name: str, what: str, count: int, limit: int) -> ModelLoadFailed:
    return ModelLoadFailed(f"tokenizer {name} has {count} {what}; the limit is {limit}", count=count, limit=limit)


NODES_MAX = 65_536
"""Of all graphs together, with functions expanded at each call; encoders of 24 layers have some thousands."""
NESTING_MAX = 16
"""Graphs within nodes within graphs (If, Loop, Scan); exported encoders have 2 at most."""
CONSTANT_ELEMENTS_MAX = 1 << 26
"""Elements of a tensor whose shape is in the file and whose content is not: 256 MB as float32."""
SHAPE_ITEMS_MAX = 64
"""Items of a constant that may be a shape."""

_Message = memoryview
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INT32, _INT64, _FLOAT, _DOUBLE = 6, 7, 1, 11
_UNPACK: Mapping[object, str] = {_INT32: "<i", _INT64: "<q", _FLOAT: "<f", _DOUBLE: "<d"}

_SHAPED_BY_ATTRIBUTE = ("RandomNormal", "RandomUniform")


class _DamagedGraph(Exception):
    """It is no message, or it is cut short."""


@dataclass
class _KnownConstant:
    """A tensor of the file."""

    elements: int
    values: tuple[float, ...] = ()
    """Only those of a small one."""


@dataclass
class _GraphCount:
    """The nodes of the whole model."""

    name: str
    functions: Mapping[tuple[bytes, bytes], _Message] = field(default_factory=dict)
    nodes: int = 0


def check_graph(weights: str) -> None:
    """Raise ModelLoadFailed if a graph is over a limit. What cannot be read is left to onnxruntime."""
    path = Path(weights)
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # goes with the last view of it
    graphs, functions = [], {}
    with contextlib.suppress(_DamagedGraph):
        for number, value in _fields(memoryview(data)):
            if number == 7 and isinstance(value, _Message):
                graphs.append(value)
            elif number == 25 and isinstance(value, _Message):
                parts = dict(_fields(value))
                functions[_text(parts.get(10)), _text(parts.get(1))] = value
        count = _GraphCount(path.name, functions)
        for graph in graphs:
            _check_graph(graph, count, 1, {})


def _check_graph(graph: _Message, count: _GraphCount, depth: int, outer: Mapping[bytes, _KnownConstant]) -> None:
    """Check a graph and those inside it, which see the names of the graphs around them."""
    if depth > NESTING_MAX:
        raise _limit_error(count, f"graphs nested {depth} deep", depth, NESTING_MAX)
    constants, nodes = dict(outer), []
    for number, value in _fields(graph):
        if number == 5 and isinstance(value, _Message):
            tensor_name, constant = _tensor(value)
            constants[tensor_name] = constant
        elif number == 1 and isinstance(value, _Message):
            nodes.append(value)
    for node in nodes:
        _check_node(_GraphNode.read(node), count, depth, constants)


def _check_function(function: _Message, count: _GraphCount, depth: int) -> None:
    """Check the body of a function at a call: onnxruntime expands it there."""
    if depth > NESTING_MAX:
        raise _limit_error(count, f"functions nested {depth} deep", depth, NESTING_MAX)
    constants: dict[bytes, _KnownConstant] = {}
    for number, value in _fields(function):
        if number == 7 and isinstance(value, _Message):
            _check_node(_GraphNode.read(value), count, depth, constants)


@dataclass
class _GraphNode:
    kind: bytes = b""
    domain: bytes = b""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    attributes: dict[bytes, _Message] = field(default_factory=dict)

    @classmethod
    def read(cls, message: _Message) -> _GraphNode:
        node = cls()
        for number, value in _fields(message):
            if number == 1:
                node.inputs.append(_text(value))
            elif number == 2:
                node.outputs.append(_text(value))
            elif number == 4:
                node.kind = _text(value)
            elif number == 7:
                node.domain = _text(value)
            elif number == 5 and isinstance(value, _Message):
                node.attributes[_text(next((each for part, each in _fields(value) if part == 1), b""))] = value
        return node


def _check_node(node: _GraphNode, count: _GraphCount, depth: int, constants: dict[bytes, _KnownConstant]) -> None:
    count.nodes += 1
    if count.nodes > NODES_MAX:
        raise _limit_error(count, f"{count.nodes} nodes", count.nodes, NODES_MAX)
    for attribute in node.attributes.values():
        for number, value in _fields(attribute):
            if number in (6, 11) and isinstance(value, _Message):
                _check_graph(value, count, depth + 1, constants)
    if (function := count.functions.get((node.domain, node.kind))) is not None:
        _check_function(function, count, depth + 1)
    constant = _stored_constant(node) if node.kind == b"Constant" else _computed_constant(node, count, constants)
    if constant is not None and node.outputs:
        constants[node.outputs[0]] = constant


def _computed_constant(
    node: _GraphNode, count: _GraphCount, constants: Mapping[bytes, _KnownConstant]
) -> _KnownConstant | None:
    """Return the constant that a node makes from those in the file. Raises ModelLoadFailed if it is too large."""
    kind = node.kind[:40].decode("utf-8", "replace")
    if kind in _SHAPED_BY_ATTRIBUTE:
        elements = _product(_integers(node.attributes[b"shape"])) if b"shape" in node.attributes else 0.0
    else:
        elements = _SIZES[kind]([constants.get(each) for each in node.inputs]) if kind in _SIZES else 0.0
    if elements > CONSTANT_ELEMENTS_MAX:
        raise _limit_error(count, f"a node {kind} that makes {elements:.0f} elements", elements, CONSTANT_ELEMENTS_MAX)
    return _KnownConstant(int(elements)) if elements else None


_Inputs = Sequence[_KnownConstant | None]


def _values(inputs: _Inputs, index: int) -> tuple[float, ...]:
    """Return the values of an input; none if it is computed or large."""
    constant = inputs[index] if index < len(inputs) else None
    return constant.values if constant else ()


def _tile_size(inputs: _Inputs) -> float:
    repeated, repeats = inputs[0] if inputs else None, _values(inputs, 1)
    return _product([*repeats, repeated.elements if repeated else 1]) if repeats else 0.0


def _pad_size(inputs: _Inputs) -> float:
    """Each dimension becomes at least as large as its padding at both ends."""
    pads = _values(inputs, 1)
    half = len(pads) // 2
    return _product([max(1.0, begin + end) for begin, end in zip(pads[:half], pads[half:], strict=False)])


def _range_size(inputs: _Inputs) -> float:
    ends = [_values(inputs, index)[:1] for index in range(3)]
    if not all(ends):
        return 0.0
    (start,), (limit,), (delta,) = ends
    return max(0.0, (limit - start) / delta) if delta else math.inf


# The elements that an operator makes; for some, an input is the shape.
_SIZES: Mapping[str, Callable[[_Inputs], float]] = {
    "ConstantOfShape": lambda inputs: _product(_values(inputs, 0)),
    "Expand": lambda inputs: _product(_values(inputs, 1)),
    "OneHot": lambda inputs: _product(_values(inputs, 1)[:1]),
    "Pad": _pad_size,
    "Range": _range_size,
    "Resize": lambda inputs: _product(_values(inputs, 3)),
    "Tile": _tile_size,
}


_ELEMENTS_MAX = 2.0**63
"""A product of dimensions may be infinite in floating point."""


def _product(values: Sequence[float]) -> float:
    factors = [max(0.0, float(each)) for each in values]
    return math.prod(factors) if factors and all(factors) else 0.0  # infinity times zero would be no number


def _stored_constant(node: _GraphNode) -> _KnownConstant | None:
    """Return the constant that a node of type Constant holds."""
    for name, attribute in node.attributes.items():
        if name == b"value":
            tensor = next((each for number, each in _fields(attribute) if number == 5), None)
            return _tensor(tensor)[1] if isinstance(tensor, _Message) else None
        if name in (b"value_ints", b"value_int"):
            values = tuple(map(float, _integers(attribute)))
            return _KnownConstant(len(values), values)
    return None


def _integers(attribute: _Message) -> list[int]:
    """Return `i` and `ints` of an attribute."""
    return _numbers(list(_fields(attribute)), 3, 8)


def _tensor(tensor: _Message) -> tuple[bytes, _KnownConstant]:
    """Return the name of a tensor, and its size and values."""
    parts = list(_fields(tensor))
    dims = _numbers(parts, 1)
    elements = int(min(_product(dims), _ELEMENTS_MAX)) if dims else 1
    fields = dict(parts)
    name = _text(fields.get(8))
    if not 0 < elements <= SHAPE_ITEMS_MAX:
        return name, _KnownConstant(elements)
    layout, raw = _UNPACK.get(fields.get(2), ""), fields.get(9)
    values: Sequence[float] = _numbers(parts, 5, 7)
    if layout and isinstance(raw, _Message) and len(raw) == elements * struct.calcsize(layout):
        values = [each for (each,) in struct.iter_unpack(layout, raw)]
    return name, _KnownConstant(elements, tuple(map(float, values)))


def _numbers(parts: Sequence[tuple[int, int | _Message]], *numbers: int) -> list[int]:
    """Return the integers of some fields, packed or not; not many more than SHAPE_ITEMS_MAX."""
    integers: list[int] = []
    for number, value in parts:
        if number in numbers and len(integers) <= SHAPE_ITEMS_MAX:
            integers += [_to_signed(value)] if isinstance(value, int) else _unpack_integers(value)
    return integers


def _unpack_integers(data: _Message) -> list[int]:
    values: list[int] = []
    offset = 0
    while offset < len(data) and len(values) <= SHAPE_ITEMS_MAX:
        value, offset = _varint(data, offset)
        values.append(_to_signed(value))
    return values


def _fields(message: _Message) -> Iterator[tuple[int, int | _Message]]:
    """Yield number and value of each field. Raises _DamagedGraph."""
    offset, end = 0, len(message)
    while offset < end:
        key, offset = _varint(message, offset)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if kind == _BYTES:
            length, offset = _varint(message, offset)
        if length < 0 or offset + length > end:
            raise _DamagedGraph
        if kind == _BYTES:
            yield number, message[offset : offset + length]
        offset += length


def _varint(data: _Message, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(data) and shift < 70:
        byte = data[offset]
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if byte < 128:
            return value, offset
    raise _DamagedGraph


def _to_signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _text(value: object) -> bytes:
    return bytes(value[:65_536]) if isinstance(value, _Message) else b""


def _limit_error(graph: _GraphCount, what: str, count: float, limit: int) -> ModelLoadFailed:
    return ModelLoadFailed(f"{graph.name} has {what}; the limit is {limit}", count=f"{count:.0f}", limit=limit)

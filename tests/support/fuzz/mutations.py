"""Mutations of a file of each kind, by its fields: a function from a Random and a file to another file.

Each keeps the file readable up to the field that it changes, as far as it can: lengths, checksums and signatures fit.
In some cases the bytes are spoilt as well, so that the first check of a reader is reached too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from tests.support.hostile_bytes import edited, spoilt, written

Mutation = Callable[[Random, bytes], bytes]
NUMBERS = (0, 1, -1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)


def json_document(rng: Random, raw: bytes) -> bytes:
    """Spoil a JSON document: values, keys, a key that occurs twice, or bytes."""
    try:
        sound = json.loads(raw)
    except (ValueError, RecursionError):
        return spoilt(rng, raw)
    try:
        raw = written(rng, edited(rng, sound))
    except RecursionError:
        return spoilt(rng, raw)
    how = rng.randrange(8)
    if how == 0:
        return spoilt(rng, raw)
    return _doubled(rng, raw) if how == 1 else raw


def json_lines(rng: Random, raw: bytes) -> bytes:
    """Spoil one line, or repeat, remove or join lines."""
    lines = raw.split(b"\n")
    place = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0:
        lines += [lines[place]] * rng.choice((1, 2, 300))
    elif how == 1:
        del lines[place]
    else:
        lines[place] = json_document(rng, lines[place])
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"")).join(lines)


def _doubled(rng: Random, raw: bytes) -> bytes:
    """Repeat a key with another value."""
    places = [at for at, letter in enumerate(raw) if letter == ord("{")]
    if not places:
        return raw
    at = rng.choice(places) + 1
    end = raw.find(b":", at)
    key = raw[at:end] if 0 <= end - at < 100 else b'"schema"'
    return raw[:at] + key + b":" + rng.choice((b"null", b"1e3", b"true", b'"64"', b"[]")) + b"," + raw[at:]


# --- GGUF -------------------------------------------------------------------------------------------------------------

_GGUF_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_FIELDS_MAX = 4000
EDGE = 120


def gguf(rng: Random, raw: bytes) -> bytes:
    """Write other numbers over fields of the head: counts, lengths, types, values, dimensions, offsets."""
    try:
        fields = list(_gguf_fields(raw))
    except (struct.error, KeyError, OverflowError, IndexError):
        fields = []
    if not fields or rng.randrange(6) == 0:
        return spoilt(rng, raw)
    out = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        at, size = rng.choice(rng.choice((fields[:EDGE], fields[-EDGE:], fields)))  # a vocabulary has most of them
        now = int.from_bytes(raw[at : at + size], "little")
        value = rng.choice((*NUMBERS, now + 1, now - 1, now * 2, now // 2, rng.randrange(16)))
        out[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(out)


def _gguf_fields(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the numbers of the head are, and how many bytes they have."""
    at = 4
    yield from ((at, 4), (at + 4, 8), (at + 12, 8))
    tensors, keys = struct.unpack_from("<QQ", raw, at + 4)
    at += 20
    for _ in range(min(keys, _FIELDS_MAX)):
        yield at, 8
        at += 8 + struct.unpack_from("<Q", raw, at)[0]
        yield at, 4
        kind = struct.unpack_from("<I", raw, at)[0]
        yield from (found := list(_gguf_value(raw, at + 4, kind)))
        end, size = found[-1]
        at = end + size + (struct.unpack_from("<Q", raw, end)[0] if _ends_in_text(raw, at, kind, found) else 0)
    for _ in range(min(tensors, _FIELDS_MAX)):
        yield at, 8
        at += 8 + struct.unpack_from("<Q", raw, at)[0]
        dimensions = struct.unpack_from("<I", raw, at)[0]
        yield at, 4
        yield from ((at + 4 + 8 * each, 8) for each in range(min(dimensions, 8)))
        at += 4 + 8 * dimensions
        yield from ((at, 4), (at + 4, 8))
        at += 12


def _gguf_value(raw: bytes, at: int, kind: int) -> Iterator[tuple[int, int]]:
    if kind == _GGUF_STRING:
        yield at, 8
    elif kind == _GGUF_ARRAY:
        inner, count = struct.unpack_from("<IQ", raw, at)
        yield from ((at, 4), (at + 4, 8))
        at += 12
        for _ in range(min(count, _FIELDS_MAX)):
            size = 8 if inner == _GGUF_STRING else _GGUF_BYTES[inner]
            yield at, size
            at += size + (struct.unpack_from("<Q", raw, at)[0] if inner == _GGUF_STRING else 0)
    else:
        yield at, _GGUF_BYTES[kind]


def _ends_in_text(raw: bytes, at: int, kind: int, found: list[tuple[int, int]]) -> bool:
    """Return whether the last number of a value is the length of a text that follows it."""
    if kind == _GGUF_ARRAY:
        return len(found) > 2 and struct.unpack_from("<I", raw, at + 4)[0] == _GGUF_STRING
    return kind == _GGUF_STRING


# --- ONNX -------------------------------------------------------------------------------------------------------------

_DEPTH_MAX = 12
_LARGE = (0, 1, -1, 1000, 10**6, 10**9, 2**31, 2**40, 2**62)
_OPERATORS = (
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Range",
    "Loop",
    "If",
    "Scan",
    "Resize",
    "Reshape",
    "OneHot",
    "Pad",
    "?",
)


def onnx_graph(rng: Random, raw: bytes) -> bytes:
    """Change fields of a model, wherever they are, or give it a node that makes much of little."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError:
        return spoilt(rng, raw)
    for _ in range(rng.randint(1, 3)):
        if rng.randrange(5) == 0:
            _inflate(rng, model.graph)
        else:
            _change(rng, model)
    out = model.SerializeToString()
    return out if rng.randrange(8) else spoilt(rng, out)


def _inflate(rng: Random, graph: onnx.GraphProto) -> None:
    """Pass the mask, which all nodes read, through a node whose result is as large as a constant specifies."""
    shape = [rng.choice(_LARGE) for _ in range(rng.randint(1, 4))]
    graph.initializer.append(onnx.helper.make_tensor("large", onnx.TensorProto.INT64, [len(shape)], shape))
    operator = rng.choice(_OPERATORS)
    inputs = ["large"] if operator == "ConstantOfShape" else ["attention_mask", "large"]
    node = onnx.helper.make_node(operator, inputs, ["inflated"])
    graph.node.insert(rng.randrange(len(graph.node) + 1), node)
    for other in graph.node:
        for place, name in enumerate(other.input):
            if name == "attention_mask" and other is not node and rng.randrange(2):
                other.input[place] = "inflated"


def _change(rng: Random, message: Message, depth: int = 0) -> None:
    present: list[tuple[FieldDescriptor, Any]] = list(message.ListFields())
    if not present or (depth and rng.randrange(12) == 0):
        declared: Any = message.DESCRIPTOR.fields  # of the class in C or of that in Python
        _set(rng, message, rng.choice(declared))
        return
    field, value = rng.choice(present)
    if field.message_type is None or depth > _DEPTH_MAX:
        _set(rng, message, field)
    elif not field.is_repeated:
        _change(rng, value, depth + 1)
    else:
        place, how = rng.randrange(len(value)), rng.randrange(12)
        if how == 0:
            del value[place]
        elif how == 1:
            value.extend([value[place]] * rng.choice((1, 1, 2, 50)))
        elif how == 2:
            value[place].CopyFrom(value[rng.randrange(len(value))])
        else:
            _change(rng, value[place], depth + 1)


def _set(rng: Random, message: Message, field: FieldDescriptor) -> None:
    """Set a field to another value of its type, remove it, or repeat it."""
    if rng.randrange(6) == 0 or field.message_type is not None:
        message.ClearField(field.name)
        return
    now = getattr(message, field.name)
    if not field.is_repeated:
        setattr(message, field.name, _scalar(rng, field, now))
    elif len(now) and rng.randrange(4):
        place = rng.randrange(len(now))
        now[place] = _scalar(rng, field, now[place])
    else:
        now.extend([_scalar(rng, field, "" if field.type == field.TYPE_STRING else 0)] * rng.choice((1, 2, 1000)))


def _scalar(rng: Random, field: FieldDescriptor, now: Any) -> Any:
    if field.type == field.TYPE_STRING:
        other = (str(now) + "x", "", "attention_mask", "input_ids", "../../etc/passwd", "\x1b[2J\n", "x" * 5000)
        return rng.choice((*other, *_OPERATORS))
    if field.type == field.TYPE_BYTES:
        return spoilt(rng, now if isinstance(now, bytes) else b"")[:100_000]
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf"), 1e-45))
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    value = rng.choice((*NUMBERS, *_LARGE, rng.randrange(32)))
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        return value % 2**bits
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


# --- archives ---------------------------------------------------------------------------------------------------------

_BLOCK = 512
_NAMES = (
    b"../x",
    b"/etc/x",
    b"a/../../x",
    b"./manifest.json",
    b"manifest.json",
    b"",
    b"\xff",
    b"a\nb",
    b"x" * 100,
    b"a/b",
)
_TYPES = b"0\x00123456789LKxgSDMVX"
_SIZES = (b"00000000000", b"77777777777", b"-0000000001", b"\x80" + bytes(10) + b"\x01", b"\xff" * 12, b"zzzzzzzzzzz")
_PAX = (
    b"30 GNU.sparse.size=99999999999\n",
    b"22 path=../../outside\n",
    b"99999999999999999999 path=a\n",
    b"12 size=-50\n",
    b"0 x=y\n",
    b"25 size=9999999999999999\n",
)


def tar(rng: Random, raw: bytes) -> bytes:
    """Change fields of headers and write checksums that fit; repeat, move or remove members."""
    blocks = [raw[at : at + _BLOCK] for at in range(0, len(raw), _BLOCK)]
    heads = [place for place, block in enumerate(blocks) if block[257:262] == b"ustar"]
    if not heads or rng.randrange(6) == 0:
        return checksummed(spoilt(rng, raw))
    for _ in range(rng.randint(1, 2)):
        place = rng.choice(heads)
        how = rng.randrange(8)
        if how == 0:
            blocks.insert(rng.randrange(len(blocks)), blocks[place])
        elif how == 1:
            blocks[place : place + 1] = [_pax(rng, blocks[place]), rng.choice(_PAX).ljust(_BLOCK, b"\0"), blocks[place]]
        elif how == 2:
            blocks[rng.randrange(len(blocks))] = spoilt(rng, rng.choice(blocks))[:_BLOCK]
        else:
            blocks[place] = _header(rng, blocks[place])
    return checksummed(b"".join(blocks))


def _header(rng: Random, block: bytes) -> bytes:
    at, size, value = rng.choice(
        (
            (0, 100, rng.choice(_NAMES)),
            (124, 12, rng.choice(_SIZES)),
            (156, 1, bytes([rng.choice(_TYPES)])),
            (157, 100, rng.choice(_NAMES)),
            (345, 155, rng.choice(_NAMES)),
            (rng.randrange(_BLOCK), 1, rng.randbytes(1)),
        )
    )
    value = value[:size].ljust(size, b"\0")
    return (block[:at] + value + block[at + size :])[:_BLOCK]


def _pax(rng: Random, block: bytes) -> bytes:
    """Return a header like this one that says: what follows is about the next file, or about all."""
    return block[:124] + b"00000000037\0" + block[136:156] + rng.choice((b"x", b"g", b"L", b"K")) + block[157:]


def checksummed(raw: bytes) -> bytes:
    """Write the right checksums into the headers, so that they are read further."""
    out = bytearray(raw)
    for at in range(0, len(out) - _BLOCK + 1, _BLOCK):
        block = out[at : at + _BLOCK]
        if block[257:262] == b"ustar":
            out[at + 148 : at + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    return bytes(out)

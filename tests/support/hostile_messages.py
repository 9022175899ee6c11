"""Requests that no client should send, made from the message descriptors: the bytes on the wire.

    given(hostile(ClassifyRequest.DESCRIPTOR, {"task": ["intent"]}))

Each is a list of fields: known ones with a value of their type or of another, unknown ones, twice, too long, too deep.
Then it may be cut off, or bytes of it changed. `hints` are values that lead further than chance would, by field name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

Hints = Mapping[str, Sequence[str]]

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
DEPTH_MAX = 3
FIELDS_MAX = 6
TEXTS = (
    "",
    " \t\n",
    "\0",
    "a\0b",
    "\u202eevil\u200b",
    "\ufeff\uffff\U0010ffff",
    "e\u0301" * 200,
    "%s%n{0}{input}${PATH}",
    "'; DROP TABLE bundles; --",
    "../../etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "\x1b[2J\x07",
    "-1",
    "[" * 20_000,
    '{"a":' * 2_000,
    "word " * 5_000,
    "x" * 200_000,
    "漢" * 50_000,
)
NO_TEXTS = (b"\xff\xfe\xc3(", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80" * 64)
NUMBERS = (0, 1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 0.5, 1.0, 2.0, 3e38, 5e-324, float("inf"), float("-inf"), float("nan"))
_VARINTS = (
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
)


def varint(value: int) -> bytes:
    """Write a number as protobuf does."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tagged(number: int, wire: int, payload: bytes) -> bytes:
    """Write a field: its tag, for bytes their length, and the payload."""
    length = varint(len(payload)) if wire == BYTES else b""
    return varint(number << 3 | wire) + length + payload


def hostile(message: Descriptor, hints: Hints) -> st.SearchStrategy[bytes]:
    """Return requests of a type, half of them well formed; a later value of a field replaces an earlier one."""
    known = _known(message, hints, DEPTH_MAX)
    well = st.builds(_joined, _hinted(message, hints), st.lists(known, max_size=2))
    odd = st.builds(_joined, _hinted(message, hints), st.lists(known | _unknown(message), max_size=FIELDS_MAX))
    return st.one_of(well, well, odd, odd.flatmap(_spoilt))


def _joined(first: list[bytes], more: list[bytes]) -> bytes:
    return b"".join((*first, *more))


def _hinted(message: Descriptor, hints: Hints) -> st.SearchStrategy[list[bytes]]:
    """Return the fields that have hints, the last one of a oneof; sometimes none."""
    fields = {field.containing_oneof or field: field for field in message.fields if field.name in hints}
    values = [_hint(field, hints) for field in fields.values()]
    given = st.tuples(*values).map(list)
    return st.one_of(given, given, given, st.just([]))


def _hint(field: FieldDescriptor, hints: Hints) -> st.SearchStrategy[bytes]:
    return st.sampled_from(hints[field.name]).map(lambda text: tagged(field.number, BYTES, text.encode()))


def _known(message: Descriptor, hints: Hints, depth: int) -> st.SearchStrategy[bytes]:
    if not message.fields:
        return st.just(b"")
    return st.one_of([_field(field, hints, depth) for field in message.fields])


def _field(field: FieldDescriptor, hints: Hints, depth: int) -> st.SearchStrategy[bytes]:
    number = field.number
    if field.type == FieldDescriptor.TYPE_STRING:
        given = [_hint(field, hints)] if field.name in hints else []
        values = st.sampled_from(TEXTS) | st.text(max_size=40)
        return st.one_of(*given, values.map(lambda value: tagged(number, BYTES, value.encode())))
    if field.type in _VARINTS:
        return (st.sampled_from(NUMBERS) | st.integers(0, 2**64 - 1)).map(
            lambda value: tagged(number, VARINT, varint(value))
        )
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        wire, code = (FIXED64, "<d") if field.type == FieldDescriptor.TYPE_DOUBLE else (FIXED32, "<f")
        return st.sampled_from(FLOATS).map(lambda value: tagged(number, wire, struct.pack(code, value)))
    if field.message_type is not None and depth > 0:
        inner = st.lists(_known(field.message_type, hints, depth - 1), max_size=3).map(b"".join)
        return inner.map(lambda payload: tagged(number, BYTES, payload))
    return st.binary(max_size=16).map(lambda payload: tagged(number, BYTES, payload))


def _unknown(message: Descriptor) -> st.SearchStrategy[bytes]:
    """Return fields with an unknown number or wire type, invalid text, and nested messages."""
    numbers = st.sampled_from([*(field.number for field in message.fields), 99, 2**29 - 1, 0])
    return st.one_of(
        st.builds(tagged, numbers, st.just(VARINT), st.sampled_from([varint(2**64 - 1), b"\xff" * 10, b"\xff" * 11])),
        st.builds(tagged, numbers, st.just(BYTES), st.sampled_from(NO_TEXTS) | st.binary(max_size=30)),
        st.builds(tagged, numbers, st.just(FIXED64), st.just(b"\xff" * 8)),
        st.builds(tagged, numbers, st.just(FIXED32), st.just(b"\0" * 4)),
        st.builds(tagged, numbers, st.sampled_from([GROUP, GROUP_END, 6, 7]), st.just(b"")),
        st.builds(_nest, numbers, st.sampled_from([10, 99, 101, 10_000])),
        st.builds(_groups, numbers, st.sampled_from([10, 99, 101, 10_000])),
    )


def _nest(number: int, depth: int) -> bytes:
    """Messages in messages; shortened where the lengths would make it large."""
    payload = b""
    for _ in range(min(depth, 500)):
        payload = tagged(number or 1, BYTES, payload)
    return payload


def _groups(number: int, depth: int) -> bytes:
    return tagged(number or 1, GROUP, b"") * depth + tagged(number or 1, GROUP_END, b"") * depth


@st.composite
def _spoilt(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return a message that is truncated, has changed bytes, or has inserted bytes."""
    at = draw(st.integers(0, len(raw)))
    how = draw(st.sampled_from(["cut", "flip", "insert"]))
    if how == "cut":
        return raw[:at]
    if how == "flip" and at < len(raw):
        return raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
    return raw[:at] + draw(st.binary(min_size=1, max_size=8)) + raw[at:]

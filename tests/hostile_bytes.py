"""Files that nobody should believe, made from sound ones: JSON with other values in it, and bytes cut, changed, moved.

given(documents({"schema": "edge-agent/plan/v1", ...}))
given(torn(Path("model.gguf").read_bytes()))
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.corrupt import EXTREMES

EDITS_MAX = 3
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**300,
    10**4000,
    1.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\u202e\x1b[2J",
    "e\u0301",
    "x" * 70_000,
    "../../etc/passwd",
    "/dev/zero",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:60Z",
    "٢٠٢٦-01-01T00:00:00Z",
    "00" * 32,
    "ff" * 64,
    "NaN",
    "1e999",
    [],
    {},
    [[]],
    {"": None},
    {"$ref": "#"},
    {"__proto__": {}, "\0": []},
    [None] * 2000,
    dict.fromkeys(map(str, range(2000))),
)
RAW = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"NaN", b"\xed\xa0\x80")


def documents(*sound: Any) -> st.SearchStrategy[bytes]:
    """Return JSON documents that are nearly one of these; some are whole, some no JSON at all."""
    edited = st.sampled_from(sound).flatmap(edits)
    written = st.builds(_written, edited, st.booleans())
    return st.one_of(written, written, written, written.flatmap(torn))


@st.composite
def edits(draw: st.DrawFn, sound: Any) -> Any:
    """Return a document with some values replaced, removed, repeated or added."""
    plain = copy.deepcopy(sound)
    for _ in range(draw(st.integers(0, EDITS_MAX))):
        plain = _edit(draw, plain)
    return plain


@st.composite
def torn(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return bytes that were cut off, changed in places, repeated, or replaced."""
    for _ in range(draw(st.integers(0, EDITS_MAX))):
        raw = _tear(draw, raw)
    return raw


def _tear(draw: st.DrawFn, raw: bytes) -> bytes:
    # In the first bytes as often as anywhere: that is where files say what they are.
    at = draw(st.integers(0, min(len(raw), 512)) | st.integers(0, len(raw)))
    how = draw(st.sampled_from(["cut", "flip", "extreme", "insert", "repeat", "zero", "random"]))
    if how == "cut":
        return raw[:at]
    length = draw(st.integers(1, 64))
    put = {
        "flip": bytes(each ^ 1 << length % 8 for each in raw[at : at + 1]),
        "extreme": draw(st.sampled_from(EXTREMES))[: draw(st.sampled_from([1, 2, 4, 8]))],
        "insert": draw(st.sampled_from(RAW)),
        "repeat": raw[at : at + length] * 2,
        "zero": bytes(length),
        "random": draw(st.binary(min_size=1, max_size=16)),
    }[how]
    replaced = 0 if how == "insert" else length if how == "repeat" else len(put)
    return raw[:at] + put + raw[at + replaced :]


def _edit(draw: st.DrawFn, plain: Any) -> Any:
    """Change one place, found by a walk from the root."""
    if not isinstance(plain, dict | list) or not plain or draw(st.integers(0, 4)) == 0:
        return _value(draw) if draw(st.booleans()) else _another(draw, plain)
    keys: Sequence[Any] = list(plain) if isinstance(plain, dict) else range(len(plain))
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 2)):
        plain[key] = _edit(draw, plain[key])
    elif isinstance(plain, dict):
        _rearrange(draw, plain, key)
    else:
        plain += [plain[key]] * draw(st.sampled_from([1, 2, 50, 1100]))
    return plain


def _rearrange(draw: st.DrawFn, plain: dict[Any, Any], key: Any) -> None:
    how = draw(st.sampled_from(["remove", "rename", "add"]))
    if how == "add":
        plain[draw(st.sampled_from(["extra", "", "schema", "_type", "\ud800"]))] = _value(draw)
        return
    value = plain.pop(key)
    if how == "rename":
        plain[draw(st.sampled_from([f"{key}s", str(key).upper(), "", "\0", "\ud800", "__class__"]))] = value


def _value(draw: st.DrawFn) -> Any:
    return copy.deepcopy(draw(st.sampled_from(VALUES)))


def _another(draw: st.DrawFn, value: Any) -> Any:
    """Return a value of the same type, near it or far off."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return draw(st.sampled_from([value + 1, value - 1, -value, value * 10**9, hex(value)[:400]]))
    if isinstance(value, str):
        return draw(st.text(max_size=20) | st.sampled_from([value + value, value[:-1], value.upper(), value + "\n"]))
    return _value(draw)


def _written(plain: Any, ascii_only: bool) -> bytes:
    try:
        return json.dumps(plain, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    except ValueError:  # a number with more digits than Python writes
        return b'{"a": ' + b"9" * 5000 + b"}"

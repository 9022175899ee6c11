"""Invalid files made from valid ones: JSON with other values, and bytes cut, changed or moved.

given(documents({"schema": "edge-agent/plan/v1", ...}))
given(torn(Path("model.gguf").read_bytes()))
edited(Random(1), {"schema": "edge-agent/plan/v1", ...})
spoilt(Random(1), Path("model.gguf").read_bytes())

Functions of a `Random` make the cases; the strategies hand them one that Hypothesis chooses.
"""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.support.corrupt import EXTREMES

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
_RANDOM = st.randoms(use_true_random=True)
RAW = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"NaN", b"\xed\xa0\x80")


def documents(*sound: Any) -> st.SearchStrategy[bytes]:
    """Return JSON documents that nearly equal one of these; some are valid, some are not JSON."""
    return _RANDOM.map(lambda rng: document(rng, rng.choice(sound)))


def edits(sound: Any) -> st.SearchStrategy[Any]:
    """Return a document with some values replaced, removed, repeated or added."""
    return _RANDOM.map(lambda rng: edited(rng, sound))


def torn(raw: bytes) -> st.SearchStrategy[bytes]:
    """Return bytes that were cut off, changed in places, repeated, or replaced."""
    return _RANDOM.map(lambda rng: spoilt(rng, raw))


def document(rng: Random, sound: Any) -> bytes:
    """Return a JSON document that nearly equals this one; in one of four cases its bytes are damaged, too."""
    raw = written(rng, edited(rng, sound))
    return raw if rng.randrange(4) else spoilt(rng, raw)


def edited(rng: Random, sound: Any) -> Any:
    """Return a document with some values replaced, removed, repeated or added."""
    plain = copy.deepcopy(sound)
    for _ in range(rng.randint(0, EDITS_MAX)):
        plain = _edit(rng, plain)
    return plain


def spoilt(rng: Random, raw: bytes) -> bytes:
    """Return bytes that were cut off, changed in places, repeated, or replaced."""
    for _ in range(rng.randint(0, EDITS_MAX)):
        raw = _tear(rng, raw)
    return raw


def written(rng: Random, plain: Any) -> bytes:
    """Write JSON, with escapes or without."""
    try:
        return json.dumps(plain, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except ValueError:  # a number with more digits than Python writes
        return b'{"a": ' + b"9" * 5000 + b"}"


def _tear(rng: Random, raw: bytes) -> bytes:
    # In the first bytes as often as anywhere: that is where files say what they are.
    at = rng.randint(0, rng.choice((min(len(raw), 512), len(raw))))
    how = rng.choice(("cut", "flip", "extreme", "insert", "repeat", "zero", "random"))
    if how == "cut":
        return raw[:at]
    length = rng.randint(1, 64)
    put = {
        "flip": bytes(each ^ 1 << length % 8 for each in raw[at : at + 1]),
        "extreme": rng.choice(EXTREMES)[: rng.choice((1, 2, 4, 8))],
        "insert": rng.choice(RAW),
        "repeat": raw[at : at + length] * 2,
        "zero": bytes(length),
        "random": rng.randbytes(rng.randint(1, 16)),
    }[how]
    replaced = 0 if how == "insert" else length if how == "repeat" else len(put)
    return raw[:at] + put + raw[at + replaced :]


def _edit(rng: Random, plain: Any) -> Any:
    """Change one random place of the document."""
    if not isinstance(plain, dict | list) or not plain or rng.randrange(5) == 0:
        return _value(rng) if rng.random() < 0.5 else _another(rng, plain)
    keys: Sequence[Any] = list(plain) if isinstance(plain, dict) else range(len(plain))
    key = rng.choice(keys)
    if rng.randrange(3):
        plain[key] = _edit(rng, plain[key])
    elif isinstance(plain, dict):
        _rearrange(rng, plain, key)
    else:
        plain += [plain[key]] * rng.choice((1, 2, 50, 1100))
    return plain


def _rearrange(rng: Random, plain: dict[Any, Any], key: Any) -> None:
    how = rng.choice(("remove", "rename", "add"))
    if how == "add":
        plain[rng.choice(("extra", "", "schema", "_type", "\ud800"))] = _value(rng)
        return
    value = plain.pop(key)
    if how == "rename":
        plain[rng.choice((f"{key}s", str(key).upper(), "", "\0", "\ud800", "__class__"))] = value


def _value(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def _another(rng: Random, value: Any) -> Any:
    """Return a value of the same type, near it or far off."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 10**9, hex(value)[:400]))
    if isinstance(value, str):
        return rng.choice((_text(rng), value + value, value[:-1], value.upper(), value + "\n"))
    return _value(rng)


def _text(rng: Random) -> str:
    """Return up to 20 characters, of ASCII and of all planes."""
    return "".join(
        rng.choice((rng.choice(string.printable), chr(rng.randrange(0x110000)))) for _ in range(rng.randint(0, 20))
    )

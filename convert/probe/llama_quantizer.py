"""Quantizes a GGUF file with llama.cpp. A child of `probe.ask`, so that a crash does not stop the run.

Request: `source`, `target`, `ftype` (llama_ftype), `requantize`, `threads`, and `importance`, the path of a .npz with
one float32 vector for each tensor name ("blk.0.attn_q.weight"): how much each input column is used. The answer is
`facts["fallbacks"]`: [tensor, type that the mix wanted, type that it got] for each tensor whose rows do not divide.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import Any

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a crash must not wait for gdb

import llama_cpp as llama
import numpy as np

from convert import probe

_ERROR = 4  # ggml.h
# warning: blk.0.attn_k.weight - ncols 32 not divisible by 256 (required for type q4_K) -> falling back to q5_0
_FALLBACK = re.compile(r"warning: (\S+) .*required for type\s+(\S+)\) -> falling back to\s+(\S+)")


class _QuantizerLog:
    """Collects the lines about fallbacks and errors; a line can arrive in pieces."""

    def __init__(self) -> None:
        self.fallbacks: list[tuple[str, ...]] = []
        self.errors: list[str] = []
        self._line = ""
        self._callback = llama.llama_log_callback(self._collect)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _collect(self, level: int, text: bytes, _user_data: object) -> None:
        self._line += text.decode("utf-8", "replace")
        if level == _ERROR:
            self.errors.append(self._line.strip())
        if self._line.endswith("\n"):
            if match := _FALLBACK.search(self._line):
                self.fallbacks.append(match.groups())
            self._line = ""


def main(folder: str) -> None:
    """Quantize one file."""
    request = probe.read_request(folder)
    log = _QuantizerLog()
    llama.llama_backend_init()
    params = llama.llama_model_quantize_default_params()
    params.nthread = int(request["threads"])
    params.ftype = int(request["ftype"])
    params.allow_requantize = bool(request["requantize"])
    importance = _set_importance(params, request["importance"]) if request.get("importance") else None
    source, target = str(request["source"]).encode(), str(request["target"]).encode()
    code = llama.llama_model_quantize(source, target, ctypes.byref(params))
    del importance
    if code != 0:
        probe.refuse(f"llama.cpp cannot quantize the file: {log.errors[0] if log.errors else code}")
    probe.write_answer(folder, {"fallbacks": log.fallbacks}, {})


def _set_importance(params: Any, path: str) -> list[Any]:
    """Set the matrix; the returned objects must exist until llama.cpp is done."""
    with np.load(path) as file:
        vectors = {name: np.ascontiguousarray(file[name], dtype=np.float32) for name in file.files}
    entries = (llama.llama_model_imatrix_data * (len(vectors) + 1))()  # an empty one ends the list
    for entry, (name, vector) in zip(entries, vectors.items(), strict=False):
        entry.name = name.encode()
        entry.data = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = vector.size
    params.imatrix = entries
    return [entries, vectors]


if __name__ == "__main__":
    main(sys.argv[1])

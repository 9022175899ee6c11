"""Runs llama.cpp on a GGUF file: tokens, special tokens, chat template, logits. A child of `probe.ask`.

Request: `model`, and optionally
    texts       strings: tokens of each, `plain` (as a caller's text) and `written` (control tokens recognised)
    prompts     lists of tokens: `logits`, float32 [rows, vocabulary]: of the last `rows_max` tokens of each, joined;
                `rows` has their numbers; or with `pooling` "mean", "cls" or "rank" one float32 vector for each
    adapter     a LoRA adapter as GGUF
    threads     default 2
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # a crash must not wait for gdb

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from convert import probe

ROWS_MAX_DEFAULT = 16
_POOLINGS = {
    "": llama.LLAMA_POOLING_TYPE_UNSPECIFIED,
    "mean": llama.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama.LLAMA_POOLING_TYPE_CLS,
    "rank": llama.LLAMA_POOLING_TYPE_RANK,
}
_ERROR = 4  # ggml.h

Vector = NDArray[np.float32]


class _LlamaLog:
    """Collects the errors of llama.cpp."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._callback = llama.llama_log_callback(self._collect)
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _collect(self, level: int, text: bytes, _user_data: object) -> None:
        if level == _ERROR:
            self.errors.append(text.decode("utf-8", "replace").strip())

    def cause(self) -> str:
        return self.errors[0] if self.errors else "llama.cpp gave no reason"


def main(folder: str) -> None:
    """Answer one request."""
    request = probe.read_request(folder)
    log = _LlamaLog()
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.vocab_only = not request.get("prompts")
    model = llama.llama_model_load_from_file(str(request["model"]).encode(), params)
    if not model:
        probe.refuse(f"llama.cpp cannot load the file: {log.cause()}")
    vocab = llama.llama_model_get_vocab(model)
    facts = _facts(model, vocab)
    for name, special in (("plain", False), ("written", True)):
        facts[name] = [_tokens(vocab, text, special=special) for text in request.get("texts", [])]
    arrays: dict[str, NDArray[Any]] = {}
    if request.get("prompts"):
        facts["rows"], arrays["logits"] = _compute(model, request, log)
    probe.write_answer(folder, facts, arrays)


def _facts(model: Any, vocab: Any) -> dict[str, Any]:
    ids = {name: int(getattr(llama, f"llama_vocab_{name}")(vocab)) for name in ("bos", "eos", "pad", "sep", "eot")}
    outputs = int(llama.llama_model_n_cls_out(model))
    labels = [llama.llama_model_cls_label(model, index) for index in range(outputs)]
    return {
        "special_ids": ids,
        "add_bos": bool(llama.llama_vocab_get_add_bos(vocab)),
        "add_eos": bool(llama.llama_vocab_get_add_eos(vocab)),
        "vocabulary": int(llama.llama_vocab_n_tokens(vocab)),
        "chat_template": (llama.llama_model_chat_template(model, None) or b"").decode("utf-8", "replace"),
        "labels": [(label or b"").decode("utf-8", "replace") for label in labels],
    }


def _tokens(vocab: Any, text: str, *, special: bool) -> list[int]:
    data = text.encode()
    capacity = 2 * len(data) + 8
    tokens = (llama.llama_token * capacity)()
    count = llama.llama_tokenize(vocab, data, len(data), tokens, capacity, False, special)
    if count < 0:
        probe.refuse(f"llama.cpp could not tokenize {text!r}")
    return list(tokens[:count])


def _compute(model: Any, request: dict[str, Any], log: _LlamaLog) -> tuple[list[int], Vector]:
    prompts: list[list[int]] = request["prompts"]
    longest = max(map(len, prompts))
    params = llama.llama_context_default_params()
    params.n_ctx = longest + 8
    params.n_batch = params.n_ubatch = longest + 8
    # The comparison is about the file, so neither the cache nor a fast kernel may round.
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = int(request.get("threads", 2))
    pooling = str(request.get("pooling", ""))
    params.pooling_type = _POOLINGS[pooling]
    params.embeddings = bool(pooling)
    context = llama.llama_init_from_model(model, params)
    if not context:
        probe.refuse(f"llama.cpp cannot make a context of {longest} tokens: {log.cause()}")
    if request.get("adapter"):
        adapter = llama.llama_adapter_lora_init(model, str(request["adapter"]).encode())
        if not adapter:
            probe.refuse(f"llama.cpp cannot load the adapter: {log.cause()}")
        adapters = (llama.llama_adapter_lora_p_ctypes * 1)(adapter)
        llama.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
    if pooling:
        width = llama.llama_model_n_cls_out(model) if pooling == "rank" else llama.llama_model_n_embd(model)
        return [1] * len(prompts), np.stack([_pooled_vector(context, prompt, int(width)) for prompt in prompts])
    return _rows(model, context, prompts, int(request.get("rows_max", ROWS_MAX_DEFAULT)))


def _rows(model: Any, context: Any, prompts: list[list[int]], rows_max: int) -> tuple[list[int], Vector]:
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    counts = [min(rows_max, len(prompt)) for prompt in prompts]
    parts = [_logits(context, prompt, rows, vocabulary) for prompt, rows in zip(prompts, counts, strict=True)]
    return counts, np.concatenate(parts)


def _decode(context: Any, prompt: Sequence[int], rows: int) -> None:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(prompt), 0, 1)
    batch.n_tokens = len(prompt)
    for index, token in enumerate(prompt):
        batch.token[index], batch.pos[index] = token, index
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        batch.logits[index] = index >= len(prompt) - rows
    code = llama.llama_decode(context, batch)
    llama.llama_batch_free(batch)
    if code != 0:
        probe.refuse(f"llama.cpp could not compute {len(prompt)} tokens: llama_decode returned {code}")


def _logits(context: Any, prompt: Sequence[int], rows: int, vocabulary: int) -> Vector:
    _decode(context, prompt, rows)
    first = len(prompt) - rows
    pointers = [llama.llama_get_logits_ith(context, first + row) for row in range(rows)]
    return np.stack([np.ctypeslib.as_array(pointer, (vocabulary,)).copy() for pointer in pointers])


def _pooled_vector(context: Any, prompt: Sequence[int], width: int) -> Vector:
    _decode(context, prompt, len(prompt))
    pointer = llama.llama_get_embeddings_seq(context, 0)
    if not pointer:
        probe.refuse("llama.cpp gave no embedding")
    vector: Vector = np.ctypeslib.as_array(pointer, (width,)).copy()
    return vector


if __name__ == "__main__":
    main(sys.argv[1])

"""The model half of the adapter over llama_cpp's C API: weights, vocabulary, LoRA adapters.

Nothing here decides anything. Every pointer has one owner and is freed once: adapters before their model, and only when
no context has them set (llama.cpp crashes otherwise). Everything runs on the one thread that owns the model.

The struct layouts of the C API move from release to release, so only the release PIN is accepted.
"""

from __future__ import annotations

import ctypes
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp as llama

from edge_agent.engine.runtimes.llama import gguf_header, llama_backends
from edge_agent.engine.runtimes.llama.gguf_header import MAGIC, GgufHeader
from edge_agent.engine.runtimes.llama.token_probabilities import whole_text
from edge_agent.errors import ModelLoadFailed

PIN = "0.3.36"
_LOG_LEVEL_ERROR = 4  # ggml.h; the numbers in llama_cpp/_logger.py are out of date
_LOG_LEVEL_CONTINUED = 5
_PIECE_BYTES = 256
_TEXT_BYTES = 256
_TOKENS = 4096


class _ErrorLog:
    """Takes llama.cpp's log: keeps the last error lines, drops the rest."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=8)
        self._level = 0
        # llama.cpp keeps the bare function pointer: the object has to live as long as the library.
        self._callback = llama.llama_log_callback(self._take)

    def install(self) -> None:
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        self._level = self._level if level == _LOG_LEVEL_CONTINUED else level
        line = text.decode("utf-8", "replace").strip()
        if self._level == _LOG_LEVEL_ERROR and line:
            self.lines.append(line)

    def last(self) -> str:
        """Return the first line of the last failure: llama.cpp reports the cause first, then its consequences."""
        return self.lines[0] if self.lines else "llama.cpp gave no reason"


ERRORS = _ErrorLog()


class TokenText(NamedTuple):
    """A token as part of an answer."""

    piece: bytes
    """Its bytes; empty for a control token."""
    ends: bool
    """The model ends its answer with it."""
    text: str
    """The piece as text, if it is whole characters; otherwise empty."""


class LlamaModel:
    """Weights in memory, with their vocabulary and the adapters loaded for them."""

    def __init__(self, path: str, device: int | None = None, layers: int = 0, header: GgufHeader | None = None) -> None:
        """Load a GGUF file, with `layers` of its layers on the device of that pointer. `header`: if already read.

        Raises:
            ModelLoadFailed: another llama-cpp-python than PIN, or the file is missing, empty, cut off or damaged.
        """
        if llama.__version__ != PIN:
            raise ModelLoadFailed(
                f"llama-cpp-python {llama.__version__} is installed; this agent needs {PIN}",
                remedy=f"Install edge-agent again; it brings llama-cpp-python {PIN}.",
            )
        check_file(path)
        self.name = Path(path).name
        self.on_device = device is not None
        ERRORS.install()
        ERRORS.lines.clear()
        llama_backends.load()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        # Always set, even to an empty list: otherwise llama.cpp uses all devices of the machine.
        devices = (ctypes.c_void_p * 2)(device, None)
        params.devices = ctypes.addressof(devices)
        params.n_gpu_layers = layers
        # With repacked Q2_K and Q4_K weights, a row would depend on the number of rows (decision 0051).
        params.use_extra_bufts = (header or gguf_header.read_header(path)).may_be_repacked
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
        self.pointer: Any = llama.llama_model_load_from_file(path.encode(), params)
        if not self.pointer:
            raise ModelLoadFailed(f"weights file {self.name} does not load: {ERRORS.last()}")
        self.vocab: Any = llama.llama_model_get_vocab(self.pointer)
        self.vocab_size = int(llama.llama_vocab_n_tokens(self.vocab))
        self.context_tokens_max = int(llama.llama_model_n_ctx_train(self.pointer))
        bos = int(llama.llama_vocab_bos(self.vocab))
        self.bos: int | None = bos if bos >= 0 and llama.llama_vocab_get_add_bos(self.vocab) else None
        self._tokens = (llama.llama_token * _TOKENS)()
        self._piece = ctypes.create_string_buffer(_PIECE_BYTES)
        self._token_texts: dict[int, TokenText] = {}
        """By token, of those that have occurred: asking llama.cpp in every step would cost more."""

    def describe(self) -> dict[str, str]:
        """Return facts about the model, for status."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        llama.llama_model_desc(self.pointer, text, _TEXT_BYTES)
        quantization = llama.llama_ftype_name(llama.llama_model_ftype(self.pointer)) or b"unknown"
        return {
            "model": text.value.decode("utf-8", "replace"),
            "quantization": quantization.decode(),
            "parameters": str(llama.llama_model_n_params(self.pointer)),
            "weights_bytes": str(llama.llama_model_size(self.pointer)),
        }

    def chat_template(self) -> str:
        """Return the Jinja source of the file's chat template; empty if it has none."""
        source: bytes | None = llama.llama_model_chat_template(self.pointer, None)
        return (source or b"").decode("utf-8", "replace")

    def special_texts(self) -> dict[str, str]:
        """Return the texts of the begin and end tokens, as chat templates call them."""
        tokens = {"bos_token": llama.llama_vocab_bos(self.vocab), "eos_token": llama.llama_vocab_eos(self.vocab)}
        texts = {name: llama.llama_vocab_get_text(self.vocab, token) for name, token in tokens.items() if token >= 0}
        return {name: (text or b"").decode("utf-8", "replace") for name, text in texts.items()}

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of a text, with no begin or end token added.

        With `special`, the texts of control tokens become those tokens: for templates, never for a caller's text.
        """
        data = text.encode()
        # To make an array for each length would cost as much as tokenizing; only a long text gets one, freed with it.
        tokens, size = self._tokens, len(data) + 2
        if size > _TOKENS:
            tokens = (llama.llama_token * size)()
        count = llama.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, special)
        return list(tokens[:count])

    def token_text(self, token: int) -> TokenText:
        """Return a token as part of an answer."""
        known = self._token_texts.get(token)
        if known is None:
            size = llama.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
            if size < 0:
                self._piece = ctypes.create_string_buffer(-size)
                size = llama.llama_token_to_piece(self.vocab, token, self._piece, -size, 0, False)
            piece, ends = self._piece.raw[:size], bool(llama.llama_vocab_is_eog(self.vocab, token))
            known = self._token_texts[token] = TokenText(piece, ends, whole_text(piece))
        return known

    def load_adapter(self, path: str) -> Any:
        """Load a LoRA adapter. Raises ModelLoadFailed; a NULL comes as an object that is false, not as None."""
        check_file(path)
        ERRORS.lines.clear()
        adapter = llama.llama_adapter_lora_init(self.pointer, path.encode())
        if not adapter:
            raise ModelLoadFailed(f"adapter file {Path(path).name} does not load: {ERRORS.last()}")
        return adapter

    @staticmethod
    def free_adapter(adapter: Any) -> None:
        """Free an adapter that no context has set."""
        llama.llama_adapter_lora_free(adapter)

    def close(self) -> None:
        """Free the weights; all contexts and adapters must be gone."""
        if self.pointer:
            llama.llama_model_free(self.pointer)
        self.pointer = None


def check_file(path: str) -> None:
    """Raise ModelLoadFailed, naming file and reason, unless the file starts like a GGUF file."""
    name = Path(path).name
    try:
        with Path(path).open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelLoadFailed(f"model file {name} cannot be read: {error.strerror}") from None
    if not magic:
        raise ModelLoadFailed(f"model file {name} is not a model: the file is 0 bytes")
    if magic != MAGIC:
        raise ModelLoadFailed(f"model file {name} is not a GGUF file: magic {magic!r} instead of {MAGIC!r}")

"""Reads and quantizes GGUF files. Needs only the agent's own libraries, not torch.

    quantized = quantize(QuantizeRequest(Path("model.gguf"), Path("model-q4.gguf"), "Q4_0"))
    quantized.contents.bits_per_weight, quantized.fallbacks

A type is a mix: llama.cpp stores some tensors in a larger type, and falls back to another type if a row does not divide
into the type's blocks (K types need rows of 256, the others of 32). So the report counts what the file really contains.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

from convert import probe
from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, InvalidRequest, ModelLoadFailed

MAGIC = b"GGUF"
# llama.h: enum llama_ftype, of the pinned llama.cpp.
FTYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
}
_FLOATS = {"F32", "F16", "BF16", "F64"}
# Errors of gguf for a file that it cannot read.
_DAMAGE_ERRORS = (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError)

Importance = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class QuantizeRequest:
    """A file to quantize."""

    source: Path
    target: Path
    type: str
    """A key of FTYPES."""
    requantize: bool = False
    """Accept a source that is quantized already, although its lost precision cannot be restored."""
    importance: Importance = field(default_factory=dict)
    """Importance of each input column by GGUF tensor name; empty = all columns are equal."""


@dataclass(frozen=True)
class GgufContents:
    """Types and sizes of a file's tensors."""

    types: dict[str, int]
    """Number of tensors by type."""
    bits_per_weight: float
    size_bytes: int

    @property
    def quantized(self) -> bool:
        """Return whether any tensor has fewer than 16 bits per weight."""
        return bool(set(self.types) - _FLOATS)


@dataclass(frozen=True)
class TypeFallback:
    """A tensor that got another type than requested."""

    tensor: str
    requested: str
    actual: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.tensor}: {self.actual} instead of {self.requested}"


@dataclass(frozen=True)
class QuantizedFile:
    """A quantized file."""

    type: str
    contents: GgufContents
    fallbacks: tuple[TypeFallback, ...]
    """Tensors whose rows do not divide into the blocks of their type."""


def read_fields(path: Path) -> dict[str, Any]:
    """Return the metadata keys. Raises FileMissing, ModelLoadFailed."""
    return {name: each.contents() for name, each in _reader(path).fields.items()}


def chat_template(path: Path) -> tuple[str, dict[str, str]]:
    """Return the chat template, empty if there is none, and the texts of the begin and end tokens, by template name.

    Raises:
        FileMissing, ModelLoadFailed: the file does not exist, or cannot be read.
    """
    fields = _reader(path).fields
    try:
        template = str(fields["tokenizer.chat_template"].contents()) if "tokenizer.chat_template" in fields else ""
        tokens = fields.get("tokenizer.ggml.tokens")
        ids = {name: fields.get(f"tokenizer.ggml.{name}_id") for name in ("bos_token", "eos_token")}
        texts = {name: str(tokens.contents(int(each.contents()))) for name, each in ids.items() if tokens and each}
    except (*_DAMAGE_ERRORS, TypeError) as error:
        raise ModelLoadFailed(f"{path} is damaged: {error}", remedy="Copy the file again.") from None
    return template, texts


def contents(path: Path) -> GgufContents:
    """Count the real types of a file's tensors. Raises FileMissing, ModelLoadFailed."""
    tensors = _reader(path).tensors
    bits = 8 * sum(int(tensor.n_bytes) for tensor in tensors)
    weights = sum(int(tensor.n_elements) for tensor in tensors)
    types = Counter(tensor.tensor_type.name for tensor in tensors)
    return GgufContents(dict(sorted(types.items())), round(bits / max(weights, 1), 4), path.stat().st_size)


def quantize(request: QuantizeRequest) -> QuantizedFile:
    """Quantize a file; a target appears complete or not at all.

    Raises:
        FileMissing: the source does not exist.
        InvalidRequest: the source is quantized already and `requantize` is not set, or the type is unknown.
        ModelLoadFailed: the source is damaged, or llama.cpp refuses it.
        OSError: the target cannot be written.
    """
    _check_request(request)
    with atomic_files.replacing(request.target) as partial:
        partial.touch()  # raises an error with the path if it cannot be written
        importance = partial.with_name(partial.name + ".npz")
        try:
            np.savez(importance, **dict(request.importance))  # type: ignore[arg-type]  # its keyword allow_pickle is bool
            facts = probe.ask("convert.probe.llama_quantizer", _quantizer_request(request, partial, importance)).facts
        except ModelLoadFailed:
            atomic_files.require_free_space(partial)
            raise
        finally:
            importance.unlink(missing_ok=True)
    fallbacks = tuple(TypeFallback(*each) for each in facts["fallbacks"])
    return QuantizedFile(request.type, contents(request.target), fallbacks)


def _check_request(request: QuantizeRequest) -> None:
    if request.type not in FTYPES:
        raise InvalidRequest(f"unknown type {request.type!r}", remedy=f"Known types: {', '.join(FTYPES)}.")
    source_contents = contents(request.source)
    if source_contents.quantized and not request.requantize:
        types = ", ".join(f"{count} {name}" for name, count in source_contents.types.items())
        raise InvalidRequest(
            f"{request.source} is quantized already ({types}); quantizing it again loses more accuracy",
            remedy="Quantize the F16 or F32 file that it was made from, or allow it with --requantize.",
        )


def _quantizer_request(request: QuantizeRequest, target: Path, importance: Path) -> dict[str, Any]:
    return {
        "source": str(request.source),
        "target": str(target),
        "ftype": FTYPES[request.type],
        "requantize": request.requantize,
        "importance": str(importance) if request.importance else "",
        "threads": os.cpu_count() or 1,
    }


def _reader(path: Path) -> GGUFReader:
    if not path.is_file():
        raise FileMissing(f"{path} does not exist", remedy="Name a GGUF file.")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelLoadFailed(f"{path} is not a GGUF file", remedy="Name a GGUF file, or copy it again.")
    try:
        return GGUFReader(path)
    except _DAMAGE_ERRORS as error:
        raise ModelLoadFailed(f"{path} is damaged: {error}", remedy="Copy the file again.") from None

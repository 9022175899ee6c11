"""LoRA on a decoder: which layers are trained, and the cache for the frozen ones below.

The layers below the first adapted one give the same hidden states in every epoch. These are computed once and stored in
a file, as bfloat16.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch

from convert.decoder.label_scores import Tokens, pad_left
from convert.pipeline.recipe import FinetuneSection
from edge_agent.errors import InvalidRequest

DROPOUT = 0.1
HIDDEN_BYTES_MAX = 16 * 2**30
"""Limit of the file of hidden states. Rows beyond it run through the frozen layers in each epoch."""
_BATCH_ROWS = 16
_HIDDEN_BYTES = 2  # of one number in bfloat16, which unlike float16 has the range of float32


def add_adapter(model: Any, settings: FinetuneSection) -> Any:
    """Return the causal model with an untrained adapter of rank `rank`; the base is frozen.

    Raises InvalidRequest: the recipe names layers or linear layers that the model lacks.
    """
    layers = len(_layers(model))
    if settings.layers_from >= layers:
        message = f"finetune.layers_from is {settings.layers_from}, but the model has {layers} layers"
        raise InvalidRequest(message, remedy=f"Name a layer from 0 to {layers - 1}.")
    available = linear_names(model)
    unknown = sorted(set(settings.targets) - set(available))
    if unknown:
        message = f"finetune.targets: the model has no linear layer '{unknown[0]}'"
        raise InvalidRequest(message, remedy=f"It has: {', '.join(available)}.")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=DROPOUT,
        target_modules=list(settings.targets or available),
        layers_to_transform=list(range(settings.layers_from, layers)),
        layers_pattern="layers",
    )
    return peft.get_peft_model(model, config)


def linear_names(model: Any) -> list[str]:
    """Return the names of the linear layers in the model's layers, such as q_proj."""
    modules = [module for layer in _layers(model) for module in layer.named_modules()]
    return sorted({name.rpartition(".")[2] for name, each in modules if isinstance(each, torch.nn.Linear)})


def save(model: Any, folder: Path) -> int:
    """Write the adapter as PEFT does, without the local path of the base; return its size in bytes."""
    model.peft_config["default"].base_model_name_or_path = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft reads the base's configuration, to compare vocabularies
        model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a generated model card without information
    return sum(file.stat().st_size for file in folder.iterdir())


class FrozenPrefixCache:
    """A decoder split below one of its layers; caches the output of the frozen lower part."""

    def __init__(self, model: Any, first: int, folder: Path, bytes_max: int = HIDDEN_BYTES_MAX) -> None:
        """Split a model; `folder` is for the file of hidden states.

        Args:
            model: from `add_adapter`.
            first: the lowest layer of the upper half; 0 = there is no lower half.
            folder: folder of the file while this object exists; the file has no name.
            bytes_max: limit of the file.
        """
        self._model, self._first = model, first
        self._hidden = _HiddenStates(folder, bytes_max)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the file of hidden states."""
        return self._hidden.bytes_on_disk

    def logits(self, rows: Sequence[Tokens], length: int) -> torch.Tensor:
        """Return the logits of the last `length` positions, [rows, length, vocabulary]."""
        inputs = pad_left(rows, self._model.device)
        if not self._first or not all(row in self._hidden for row in rows):
            all_logits: torch.Tensor = self._model(**inputs, logits_to_keep=length, use_cache=False).logits
            return all_logits
        ids = inputs["input_ids"]
        hidden = torch.zeros((*ids.shape, self._model.config.hidden_size), device=ids.device)
        for index, row in enumerate(rows):
            hidden[index, ids.shape[1] - len(row) :] = self._hidden.read(row).to(ids.device)
        with self._keep_layers(slice(self._first, None)), self._replace_embeddings(hidden):
            upper_logits: torch.Tensor = self._model(**inputs, logits_to_keep=length, use_cache=False).logits
            return upper_logits

    def prepare(self, rows: Sequence[Tokens]) -> Iterator[int]:
        """Run the lower half over all rows that fit, and store the results; yield the number of finished rows.

        Raises OSError if the disk is full.
        """
        if not self._first:
            return
        reserved = self._hidden.reserve(sorted(set(rows), key=len), self._model.config.hidden_size)
        self._model.eval()
        for start in range(0, len(reserved), _BATCH_ROWS):
            batch = reserved[start : start + _BATCH_ROWS]
            with torch.no_grad(), self._keep_layers(slice(0, self._first)):
                hidden = _decoder(self._model)(**pad_left(batch, self._model.device), use_cache=False)[0]
            for row, states in zip(batch, hidden.cpu(), strict=True):
                self._hidden.write(row, states[len(states) - len(row) :])
            yield start + len(batch)

    @contextlib.contextmanager
    def _replace_embeddings(self, hidden: torch.Tensor) -> Iterator[None]:
        """Pass these hidden states to the lowest layer in place of the embeddings, which some models scale."""

        def replace(_layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
            return (hidden, *arguments[1:]), {key: value for key, value in keywords.items() if key != "hidden_states"}

        hook = _decoder(self._model).layers[0].register_forward_pre_hook(replace, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    @contextlib.contextmanager
    def _keep_layers(self, part: slice) -> Iterator[None]:
        """Keep only a part of the layers; the final norm belongs to the last one."""
        decoder = _decoder(self._model)
        layers, norm = decoder.layers, decoder.norm
        decoder.layers = layers[part]
        if part.stop is not None:
            decoder.norm = torch.nn.Identity()
        try:
            yield
        finally:
            decoder.layers, decoder.norm = layers, norm


class _HiddenStates:
    """The output of the frozen layers by row: a memory-mapped file of bfloat16 without a name.

    The system reclaims its pages when it needs memory. Without a name the file disappears with the process, however it
    ends.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._starts: dict[Tokens, int] = {}
        self._states: npt.NDArray[np.uint16] = np.empty((0, 0), np.uint16)

    def __contains__(self, row: Tokens) -> bool:
        return row in self._starts

    @property
    def bytes_on_disk(self) -> int:
        return self._states.nbytes

    def reserve(self, rows: Sequence[Tokens], width: int) -> list[Tokens]:
        """Create the file, and return the rows that fit: the first ones. Raises OSError."""
        tokens_max = self._bytes_max // (_HIDDEN_BYTES * width)
        tokens = 0
        for row in rows:
            if tokens + len(row) > tokens_max:
                break
            self._starts[row] = tokens
            tokens += len(row)
        if tokens:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                # Writing to a hole of a mapped file on a full disk would kill the process by a signal, so all blocks
                # are allocated.
                os.posix_fallocate(file.fileno(), 0, _HIDDEN_BYTES * width * tokens)
                self._states = np.memmap(file, np.uint16, "r+", shape=(tokens, width))
        return list(self._starts)

    def write(self, row: Tokens, states: torch.Tensor) -> None:
        start = self._starts[row]
        self._states[start : start + len(row)] = states.to(torch.bfloat16).view(torch.uint16).numpy()

    def read(self, row: Tokens) -> torch.Tensor:
        start = self._starts[row]
        return torch.from_numpy(np.array(self._states[start : start + len(row)])).view(torch.bfloat16)


def _decoder(model: Any) -> Any:
    """Return the stack of layers below the head, even of a model that PEFT wraps."""
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    return base.get_decoder()


def _layers(model: Any) -> Any:
    decoder = _decoder(model)
    if not hasattr(decoder, "layers") or not hasattr(decoder, "norm"):
        raise InvalidRequest(
            f"an adapter for {type(model).__name__} is not supported: it has no plain stack of layers",
            remedy="Start from a model of the llama, mistral, qwen, gemma, phi or smollm families.",
        )
    return decoder.layers

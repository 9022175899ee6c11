"""The LoRA adapters that are loaded: the few used last, of however many bundles there are.

Each loaded adapter makes every change of adapter slower, used or not: 10 ms with one to ten, 12 with 25, 56 with 100
(llama.cpp sums up all of them when it plans its graph). Loading one again takes as long as one step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.errors import ModelFailed, ModelLoadFailed

LOADED_MAX = 25


class LoraAdapter(NamedTuple):
    """An adapter of a bundle."""

    identity: str
    """The hash of its file."""
    path: str
    memory: int
    """What it takes while it is loaded, in bytes."""


class LoadedAdapters:
    """What is loaded of one model."""

    def __init__(self, model: LlamaModel, unset: Callable[[], None]) -> None:
        """Take the model, and what to call before one is freed: llama.cpp crashes if a context has it set."""
        self._model, self._unset = model, unset
        self._loaded: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are loaded."""
        return len(self._loaded)

    def pointer(self, adapter: LoraAdapter | None) -> Any:
        """Return an adapter to compute with, None for none; loads it if need be.

        Raises:
            ModelFailed: it was there when its bundle was attached, and does not load now.
        """
        if adapter is None:
            return None
        try:
            self.load(adapter)
        except ModelLoadFailed as error:
            raise ModelFailed(error.message, remedy=error.remedy, adapter=Path(adapter.path).name) from None
        self._loaded.move_to_end(adapter.identity)
        return self._loaded[adapter.identity]

    def load(self, adapter: LoraAdapter) -> None:
        """Load an adapter that is not loaded; the one not used for longest makes room. Raises ModelLoadFailed."""
        if adapter.identity in self._loaded:
            return
        while len(self._loaded) >= LOADED_MAX:
            self.free(next(iter(self._loaded)))
        self._loaded[adapter.identity] = self._model.load_adapter(adapter.path)

    def free(self, identity: str) -> None:
        """Free an adapter, if it is loaded."""
        pointer = self._loaded.pop(identity, None)
        if pointer is not None:
            self._unset()
            self._model.free_adapter(pointer)

    def close(self) -> None:
        """Free all of them."""
        for identity in list(self._loaded):
            self.free(identity)


def adapters_bytes(adapters: list[LoraAdapter]) -> int:
    """Return what the loaded ones of these take at most, in bytes. Pure."""
    sizes = {adapter.identity: adapter.memory for adapter in adapters}
    return sum(sorted(sizes.values(), reverse=True)[:LOADED_MAX])

"""Adapters of a llama engine with a tiny model: each is loaded once, and the least recently used is unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine.runtimes.llama.llama_bundle import LOADED_MAX, LoadedAdapters, LoraAdapter, adapters_bytes
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.errors import ModelFailed
from tests.support import tiny_gguf
from tests.support.gguf_adapter import TINY, write_adapter


class Counting(LlamaModel):
    """A model that records which adapter files it reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.read: list[str] = []

    def load_adapter(self, path: str) -> Any:
        self.read.append(Path(path).name)
        return super().load_adapter(path)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Counting]:
    model = Counting(tiny_gguf.write(tmp_path / "tiny.gguf"))
    yield model
    model.close()


def written(folder: Path, name: str) -> LoraAdapter:
    """Return an adapter whose hash is its name."""
    return LoraAdapter(name, str(write_adapter(folder / f"{name}.gguf", seed=1, model=TINY)), memory=10)


def test_shared_adapter_is_loaded_once(model: Counting, tmp_path: Path) -> None:
    """An adapter that several bundles share is loaded once, both when it is attached again and when it is used; a
    second copy would never be freed."""
    adapters, same = LoadedAdapters(model, lambda: None), written(tmp_path, "same")
    adapters.load(same)
    first = adapters.pointer(same)
    adapters.load(same)
    assert first is adapters.pointer(same)
    assert ["same.gguf"] == model.read
    adapters.close()
    assert 0 == len(adapters)


def test_least_recently_used_adapter_is_unloaded(model: Counting, tmp_path: Path) -> None:
    """The least recently used adapter is unset before it is freed, and read again when its bundle needs it; each use
    counts."""
    unset: list[int] = []
    adapters = LoadedAdapters(model, lambda: unset.append(len(adapters)))
    many = [written(tmp_path, str(i)) for i in range(LOADED_MAX + 1)]
    for adapter in many[:LOADED_MAX]:
        adapters.load(adapter)
    adapters.pointer(many[0])
    adapters.pointer(many[-1])
    assert ([LOADED_MAX - 1], LOADED_MAX) == (unset, len(adapters))
    model.read.clear()
    adapters.pointer(many[0])
    adapters.pointer(many[1])
    assert ["1.gguf"] == model.read
    adapters.close()


def test_missing_adapter_file_fails_its_job(model: Counting, tmp_path: Path) -> None:
    """If the adapter's file was deleted, the error of the job names it; a bundle without an adapter needs none."""
    adapters, gone = LoadedAdapters(model, lambda: None), written(tmp_path, "gone")
    Path(gone.path).unlink()
    with pytest.raises(ModelFailed, match=r"gone\.gguf cannot be read"):
        adapters.pointer(gone)
    assert adapters.pointer(None) is None


def test_adapter_memory_is_that_of_the_largest_loadable_ones() -> None:
    """The memory estimate counts the LOADED_MAX largest adapters, however many bundles have one; a shared adapter
    counts once."""
    many = [LoraAdapter(str(i), "", memory=i) for i in range(LOADED_MAX + 5)]
    assert sum(range(5, LOADED_MAX + 5)) == adapters_bytes([*many, *many])

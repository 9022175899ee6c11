"""The importance matrix: the mean square of each input column of a linear layer, measured in PyTorch.

For each layer it is the mean of x^2 over all inputs x, as llama.cpp's own tool collects it, and llama.cpp makes the
same file from it. It depends on the texts, so these are the task's own, in its own prompt, and never texts that are
used to measure something later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from convert.pipeline.stage import Progress
from convert.quantize.gguf_files import Importance
from edge_agent.errors import InvalidRequest

Names = Callable[[str], str | None]


def names(architecture: str, layers: int) -> Names:
    """Return the map from a layer's name in transformers to its tensor in a GGUF file. Raises InvalidRequest."""
    found = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture]
    if not found:
        remedy = "Set 'importance_matrix: false' in the recipe."
        raise InvalidRequest(f"gguf has no tensor names for the architecture {architecture!r}", remedy=remedy)
    table = gguf.get_tensor_name_map(found[0], layers)
    return lambda name: table.get_name(f"{name}.weight", try_suffixes=(".weight",))


def measure(model: Any, prompts: Sequence[Sequence[int]], named: Names, progress: Progress) -> Importance:
    """Return the mean square of each input column, [columns] by GGUF name, over all tokens of the prompts.

    The output layer is left out: it is quantized separately, or shares the embedding's weights.
    """
    found: dict[str, _ColumnMeans] = {}
    hooks = []
    for name, layer in model.named_modules():
        tensor = named(name) or ""
        if isinstance(layer, torch.nn.Linear) and tensor.startswith("blk."):
            found[tensor] = _ColumnMeans(layer.in_features)
            hooks.append(layer.register_forward_pre_hook(found[tensor].add))
    try:
        _read(model, prompts, progress)
    finally:
        for hook in hooks:
            hook.remove()
    return {tensor: columns.mean() for tensor, columns in found.items()}


class _ColumnMeans:
    """Adds up the squares of the inputs of one layer."""

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._rows = 0

    def add(self, _layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().reshape(-1, len(self._sum)).double()
        self._sum += values.square().sum(0)
        self._rows += len(values)

    def mean(self) -> NDArray[np.float32]:
        mean: NDArray[np.float32] = (self._sum / self._rows).numpy().astype(np.float32)
        return mean


def _read(model: Any, prompts: Sequence[Sequence[int]], progress: Progress) -> None:
    with torch.inference_mode():
        for count, prompt in enumerate(prompts):
            progress("measuring the importance of columns", count, len(prompts))
            model(torch.tensor([list(prompt)]))

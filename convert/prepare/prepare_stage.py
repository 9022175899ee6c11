"""The first stage: converts a source of any kind to a float checkpoint that every later stage can rely on.

Sources that would fail silently later are refused here, with a remedy: pickled weights, code in the checkpoint, weights
that were quantized before, tokenizers that are missing or that llama.cpp reads differently, damaged files, adapters for
another base.
"""

from __future__ import annotations

from convert.pipeline.stage import ADAPTER, CHECKPOINT, Report, StageJob
from convert.prepare import checkpoint_source, gguf_source, onnx_source


def run(job: StageJob) -> Report:
    """Write `checkpoint/`, and `adapter/` if the source has one.

    Raises:
        FileMissing: a file of the source is missing.
        InvalidRequest: the source is of a kind that is refused.
        ModelLoadFailed: the source is damaged, or its parts do not fit together.
    """
    recipe = job.recipe
    source, out = recipe.source, job.out / CHECKPOINT
    if recipe.takes_ready_graph:
        report = onnx_source.take(recipe.path(source.onnx), out)
    elif source.onnx:
        report = onnx_source.read_back(recipe.path(source.onnx), out)
    elif source.gguf:
        report = gguf_source.make_checkpoint(recipe.path(source.gguf), out, job.progress)
    else:
        report = checkpoint_source.take(recipe.path(source.checkpoint or source.base), out)
    if source.adapter:
        adapter, base = recipe.path(source.adapter), str(report["base"])
        report["adapter"] = checkpoint_source.take_adapter(adapter, out, job.out / ADAPTER, base)
    return report

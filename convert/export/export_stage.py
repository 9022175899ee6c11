"""From a checkpoint to the file of a runtime, at full precision: GGUF by llama.cpp's converter, ONNX by optimum.

Each module handles or refuses what its exporter gets wrong without an error; `verify` proves the result.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from convert.data.data_row import output_names
from convert.export import gguf_export, onnx_export
from convert.pipeline import stage, task_file
from convert.pipeline.stage import Report, StageJob
from convert.prepare import onnx_source
from convert.training import checkpoint_loading
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec

_SINGLE_LABEL = "single_label_classification"


def run(job: StageJob) -> Report:
    """Write `base.gguf`, and `adapter.gguf` for a separate adapter; or `model.onnx` and `tokenizer.json`.

    Raises:
        InvalidRequest: the task's runtime cannot serve the model correctly.
        ModelLoadFailed: the weights do not fill the model, or the exporter fails.
        RequirementUnmet: 'edge-convert setup' has not run.
    """
    file = task_file.find(job.recipe.path(job.recipe.task))
    task, runtime = task_file.of(file), task_file.read(file)["runtime"]
    checkpoint, adapter = stage.checkpoint(job), stage.adapter(job)
    config = checkpoint_loading.read_config(checkpoint)
    checkpoint_loading.check_positions(config, task)
    if runtime == "llama":
        checkout = job.recipe.export.llama_cpp
        converter = gguf_export.find(job.recipe.path(checkout) if checkout else None)
        request = gguf_export.GgufExport(checkpoint, adapter, merged=job.recipe.export.adapter == "merged")
        return gguf_export.export(request, converter, job.out, job.progress)
    if job.recipe.takes_ready_graph:
        return _take_ready(task, config, checkpoint, job.out)
    if runtime == "onnx":
        head = checkpoint_loading.head_of(runtime, task.kind)
        _check_labels(task, config)
        questions = task.questions_asked if task.kind == "decide" else ()
        return onnx_export.export(checkpoint, adapter, head, job.out, questions)
    message = f"{file}: a model is exported for the runtimes llama and onnx, not {runtime}"
    raise InvalidRequest(message, remedy="Correct 'runtime' in task.yaml.")


def _take_ready(task: TaskSpec, config: dict[str, Any], source: Path, out: Path) -> Report:
    """Copy a ready graph; its outputs must be the task's tags."""
    if task.kind not in ("extract", "redact"):
        message = f"a source 'onnx' is a token classifier, which does not suit a task of kind {task.kind}"
        remedy = "Set 'kind: redact' or 'kind: extract' in task.yaml, or name a checkpoint."
        raise InvalidRequest(message, remedy=remedy)
    _check_labels(task, config)
    for name in (onnx_source.MODEL, onnx_source.TOKENIZER):
        shutil.copyfile(source / name, out / name)
    return {"model": onnx_source.MODEL, "tokenizer": onnx_source.TOKENIZER, "as_is": True}


def _check_labels(task: TaskSpec, config: dict[str, Any]) -> None:
    """Raise InvalidRequest unless the model's outputs are the task's labels, in the same order, one label per text."""
    problem = config.get("problem_type") or _SINGLE_LABEL
    if task.questions_asked and problem != _SINGLE_LABEL:
        raise InvalidRequest(
            f"the model was trained for problem_type '{problem}': its outputs are not probabilities of one label per"
            " question, as the agent would serve them",
            remedy="Add 'finetune:' to the recipe, or use a checkpoint that was trained for one label per text.",
        )
    model_labels, task_labels = checkpoint_loading.labels_of(config), list(output_names(task))
    default_labels = [f"LABEL_{index}" for index in range(len(task_labels))]
    if task.kind != "embed" and model_labels not in (default_labels, task_labels):
        raise InvalidRequest(
            f"the model's outputs are {', '.join(model_labels)}; the task's labels are {', '.join(task_labels)}",
            remedy="Write the model's labels into task.yaml, in this order; or train for the task: add 'finetune:'.",
        )

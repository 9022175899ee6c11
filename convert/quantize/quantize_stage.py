"""Makes the candidates: the exported weights in several smaller forms. `candidate_selection` measures and chooses.

The type determines speed as well as size, and its name does not tell the types of all tensors: see
`convert/quantize/gguf_files.py`.

A GGUF file is quantized with an importance matrix if the recipe asks for one: the mean square of each input column of a
linear layer, measured in PyTorch. It is the mean of x^2 over all inputs x, as llama.cpp's own tool collects it, and
llama.cpp makes the same file from it. It depends on the texts, so these are texts of the task in its prompt, and never
texts that are used for measurements later.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from convert import probe
from convert.data import row_files
from convert.decoder.label_scores import task_tokens
from convert.export.gguf_export import ADAPTER, BASE
from convert.export.onnx_export import MODEL, TOKENIZER
from convert.package.bundle_assembly import CANDIDATES
from convert.pipeline import stage, task_file
from convert.pipeline.recipe import Split
from convert.pipeline.stage import Progress, Report, StageJob
from convert.prepare import onnx_source
from convert.quantize import candidate_selection, gguf_files, onnx_quantizer, ood_detector
from convert.quantize.candidate_selection import Candidate
from convert.quantize.gguf_files import Importance
from convert.quantize.ood_detector import FittedDetector
from convert.training import checkpoint_loading
from convert.verify import divergence
from convert.verify.divergence import ArtefactLoss, measure_loss
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec

GGUF_TYPES = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
"""For rows of a multiple of 256; with other rows, llama.cpp replaces the K types by other types without an error."""
GGUF_TYPES_NARROW = ("F16", "Q8_0", "Q5_1", "Q4_0")
_BLOCK = 256
NEXT_TOKEN_TEXTS_MAX, NEXT_TOKEN_ROWS = 64, 8
IMPORTANCE_ROWS_MAX = 256


def run(job: StageJob) -> Report:
    """Write `candidates/NAME/model.gguf` or `model.onnx`, and the files of `candidate_selection.choose`.

    Raises:
        InvalidRequest: the runtime does not have a type.
        ModelLoadFailed: a file cannot be quantized.
        ModelFailed: no candidate is inside the budget.
    """
    file = task_file.find(job.recipe.path(job.recipe.task))
    task, runtime = task_file.of(file), task_file.read(file)["runtime"]
    exported = job.folders["export"]
    checkpoint, adapter = stage.checkpoint(job), stage.adapter(job)
    heads = task.kind == "decide" and runtime == "onnx"
    full_precision = partial(divergence.question_log_probabilities, checkpoint, adapter, task)
    reference = full_precision if task.kind == "classify" or heads else None
    if runtime == "llama":
        candidates, importance_report = _llama_candidates(job, task, exported / BASE)
        return candidate_selection.choose(job, candidates, exported / BASE, reference) | importance_report
    if job.recipe.takes_ready_graph:
        target = _candidate_path(job, onnx_source.AS_IS, MODEL)
        details = onnx_quantizer.quantize(exported / MODEL, target, "fp32") | {"type": onnx_source.AS_IS}
        return candidate_selection.choose(job, [Candidate(onnx_source.AS_IS, target, details)], target)
    with tempfile.TemporaryDirectory(dir=job.out) as folder:
        full = Path(shutil.copyfile(exported / MODEL, Path(folder, MODEL)))
        fitted = ood_detector.fit(job, task, full, exported / TOKENIZER)
        scored = fitted is not None and fitted.put_into(full)
        candidates = _onnx_candidates(job, exported / MODEL, fitted)
        detector_report = {"detector": fitted.report() if fitted else None}
        return candidate_selection.choose(job, candidates, full, reference, scored=scored) | detector_report


def _llama_candidates(job: StageJob, task: TaskSpec, source: Path) -> tuple[list[Candidate], Report]:
    fields = gguf_files.read_fields(source)
    width = fields[f"{fields['general.architecture']}.embedding_length"]
    types = job.recipe.quantize.types or (GGUF_TYPES if width % _BLOCK == 0 else GGUF_TYPES_NARROW)
    _check_types(types, set(gguf_files.FTYPES), "llama")
    has_matrix = job.recipe.quantize.importance_matrix
    importance, importance_report = _importance(job, task, fields) if has_matrix else ({}, {})
    next_tokens = NextTokens(job, task)
    candidates = []
    for count, name in enumerate(types):
        job.progress(f"quantizing to {name}", count, len(types))
        target = _candidate_path(job, name, "model.gguf")
        quantized = gguf_files.quantize(gguf_files.QuantizeRequest(source, target, name, importance=importance))
        details = {
            "type": name,
            "bits_per_weight": quantized.contents.bits_per_weight,
            "fallback_tensors": len(quantized.fallbacks),
            "tensor_types": quantized.contents.types,
            "fallbacks": [str(each) for each in quantized.fallbacks],
            "next_token": next_tokens.loss(target).report(),
        }
        candidates.append(Candidate(name, target, details))
    return candidates, importance_report


class NextTokens:
    """The next-token distributions of the exported file, on texts of the calibration split in the task's prompt.

    The exported file represents the model at full precision, as `verify` has proved.
    """

    def __init__(self, job: StageJob, task: TaskSpec) -> None:
        """Compute the distributions of the exported file."""
        prompts = _prompts(job, task, "calibration", NEXT_TOKEN_TEXTS_MAX)
        self._request: dict[str, Any] = {"prompts": prompts, "rows_max": NEXT_TOKEN_ROWS}
        adapter = job.folders["export"] / ADAPTER
        if adapter.is_file():
            self._request["adapter"] = str(adapter)
        self._expected = self._logits(job.folders["export"] / BASE)

    def loss(self, weights: Path) -> ArtefactLoss:
        """Return the divergence of a candidate from the exported file."""
        return measure_loss(self._expected, self._logits(weights))

    def _logits(self, weights: Path) -> NDArray[np.float32]:
        return probe.ask("convert.probe.llama_probe", {"model": str(weights), **self._request}).arrays["logits"]


def _prompts(job: StageJob, task: TaskSpec, split: Split, rows_max: int) -> list[list[int]]:
    """Return the first texts of a split that a site accepts, in the task's prompt, as tokens."""
    tokenizer = checkpoint_loading.open_tokenizer(stage.checkpoint(job))
    tokens = task_tokens(task, tokenizer)
    texts = [row.text for row in row_files.rows(job.recipe, split)[:rows_max]]
    return [list(tokens.prompt(text)) for text in divergence.accepted_texts(tokenizer, task, texts)]


def _importance(job: StageJob, task: TaskSpec, fields: dict[str, Any]) -> tuple[gguf_files.Importance, Report]:
    """Return the importance matrix on the recipe's texts, in the task's own prompt."""
    prompts = _prompts(job, task, "importance", IMPORTANCE_ROWS_MAX)
    model = checkpoint_loading.open_model(stage.checkpoint(job), stage.adapter(job), "causal")
    architecture, layers = fields["general.architecture"], model.config.get_text_config().num_hidden_layers
    matrix = measure_importance(model, prompts, tensor_names(architecture, layers), job.progress)
    return matrix, {"importance": {"rows": len(prompts), "tokens": sum(map(len, prompts)), "tensors": len(matrix)}}


def _onnx_candidates(job: StageJob, source: Path, fitted: FittedDetector | None) -> list[Candidate]:
    types = job.recipe.quantize.types or onnx_quantizer.TYPES
    _check_types(types, set(onnx_quantizer.TYPES), "onnx")
    candidates = []
    for count, name in enumerate(types):
        job.progress(f"quantizing to {name}", count, len(types))
        target = _candidate_path(job, name, "model.onnx")
        details = onnx_quantizer.quantize(source, target, name)
        scored = fitted is not None and fitted.put_into(target)
        candidates.append(Candidate(name, target, details | {"ood_score": scored}))
    return candidates


def _candidate_path(job: StageJob, name: str, file: str) -> Path:
    folder = job.out / CANDIDATES / name
    folder.mkdir(parents=True)
    return folder / file


def _check_types(types: tuple[str, ...], known: set[str], runtime: str) -> None:
    unknown = [name for name in types if name not in known]
    if unknown:
        message = f"quantize.types: {', '.join(unknown)} is not a type for runtime {runtime}"
        raise InvalidRequest(message, remedy=f"Known: {', '.join(sorted(known))}.")


TensorNames = Callable[[str], str | None]


def tensor_names(architecture: str, layers: int) -> TensorNames:
    """Return the map from a layer's name in transformers to its tensor in a GGUF file. Raises InvalidRequest."""
    architectures = [key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture]
    if not architectures:
        remedy = "Set 'importance_matrix: false' in the recipe."
        raise InvalidRequest(f"gguf has no tensor names for the architecture {architecture!r}", remedy=remedy)
    table = gguf.get_tensor_name_map(architectures[0], layers)
    return lambda name: table.get_name(f"{name}.weight", try_suffixes=(".weight",))


def measure_importance(
    model: Any, prompts: Sequence[Sequence[int]], tensor_name_of: TensorNames, progress: Progress
) -> Importance:
    """Return the mean square of each input column, [columns] by GGUF name, over all tokens of the prompts.

    The output layer is left out: it is quantized separately, or shares the embedding's weights.
    """
    columns: dict[str, _ColumnMeans] = {}
    hooks = []
    for name, layer in model.named_modules():
        tensor = tensor_name_of(name) or ""
        if isinstance(layer, torch.nn.Linear) and tensor.startswith("blk."):
            columns[tensor] = _ColumnMeans(layer.in_features)
            hooks.append(layer.register_forward_pre_hook(columns[tensor].add))
    try:
        with torch.inference_mode():
            for count, prompt in enumerate(prompts):
                progress("measuring the importance of columns", count, len(prompts))
                model(torch.tensor([list(prompt)]))
    finally:
        for hook in hooks:
            hook.remove()
    return {tensor: column_means.mean() for tensor, column_means in columns.items()}


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

"""What a task looks like to clients of the protocol: its tensors, its configuration, its statistics. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from edge_agent.formats.manifest import Manifest, Threshold
from edge_agent.formats.plan import Mode
from edge_agent.metrics.counting import Counts, Histogram
from edge_agent.server.open_inference import asking, tensors
from edge_agent.server.open_inference.wire import pb
from edge_agent.store.state_database import InstalledBundle

EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
_INT64_MAX = 2**63 - 1
VERSIONS_MAX = 256
"""Whose numbers are remembered; each request asks for one twice."""


@functools.lru_cache(VERSIONS_MAX)
def number_of(version: str) -> int:
    """Return a semantic version as a whole number, which is all that Triton's clients know: 1.2.3 is 1002003."""
    major, minor, patch = map(int, version.partition("-")[0].split("."))
    return min(max(major * 1_000_000 + minor * 1_000 + patch, 1), _INT64_MAX)


def metadata(bundle: InstalledBundle) -> Any:
    """Describe the tensors of a task."""
    manifest = bundle.manifest
    kind, labels = manifest.task.kind, len(manifest.task.labels)
    message = pb.ModelMetadataResponse(
        name=manifest.task.name, versions=[str(number_of(manifest.version))], platform=_platform(manifest)
    )
    message.inputs.add(name=asking.INPUT, datatype="BYTES", shape=[tensors.ANY, 1] if kind in tensors.BATCHED else [1])
    for name, output in tensors.outputs_of(manifest).items():
        message.outputs.add(name=name, datatype=output.datatype, shape=tensors.shape(output, kind, labels))
    return message


def configuration(bundle: InstalledBundle, mode: Mode) -> Any:
    """Describe a task as perf_analyzer and Triton's clients want it: shapes without the batch."""
    manifest = bundle.manifest
    task = manifest.task
    batched = task.kind in tensors.BATCHED
    config = pb.ModelConfig(
        name=task.name,
        platform=_platform(manifest),
        backend=manifest.runtime,
        max_batch_size=task.limits.inputs_max if batched else 0,
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=not batched),
    )
    config.input.add(name=asking.INPUT, data_type="TYPE_STRING", dims=[1])
    for name, output in tensors.outputs_of(manifest).items():
        config.output.add(
            name=name, data_type=_TYPES[output.datatype], dims=[tensors.width_of(output, len(task.labels))]
        )
    for name, value in _said(bundle, mode).items():
        config.parameters[name].string_value = value
    return config


def _said(bundle: InstalledBundle, mode: Mode) -> Mapping[str, str]:
    manifest = bundle.manifest
    said = {"kind": manifest.task.kind, "version": manifest.version, "digest": bundle.digest, "mode": mode}
    if manifest.task.kind == "classify":
        said["labels"] = json.dumps(manifest.task.labels, ensure_ascii=False)
    if isinstance(manifest.confidence, Threshold):
        said["threshold"] = str(manifest.confidence.confidence_min)
    return said | {"gate": manifest.gate_name}


def statistics(bundle: InstalledBundle, counts: Counts) -> Any:
    """Say what was answered of a task since the daemon started, by whatever API and whatever version."""
    task = bundle.manifest.task.name
    message = pb.ModelStatistics(name=task, version=str(number_of(bundle.manifest.version)))
    stats = message.inference_stats
    stats.fail.count = sum(number for lost, number in list(counts.errors.items()) if lost.task == task)
    if of := counts.tasks.get(task):
        message.inference_count = message.execution_count = sum(of.answers.values())
        _copy(stats.success, of.total)
        _copy(stats.queue, of.queue)
        _copy(stats.compute_infer, of.compute)
        stats.compute_input.count = stats.compute_output.count = stats.compute_infer.count
    return message


def _copy(message: Any, histogram: Histogram) -> None:
    message.count, message.ns = sum(histogram.counts), int(histogram.total * 1e9)


def _platform(manifest: Manifest) -> str:
    return f"edge_agent_{manifest.runtime}"

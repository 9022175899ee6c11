"""The messages of the Open Inference Protocol, tasks described as its tensors, and answers encoded into them.

Every library of the protocol has its own `inference.*` and registers it in protobuf's one default pool, which refuses a
second one of that name: a process that loads two of them fails with "duplicate symbol". So there is no generated code
here. scripts/proto writes the descriptors to wire.binpb, and the classes are made from them in a pool of their own.

Contents are always raw, because tritonclient reads numbers in no other form: little-endian, row by row, with the length
before each text.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from edge_agent.formats.calibration_and_gate import Threshold
from edge_agent.server import messages
from edge_agent.server.open_inference import oip_requests

if TYPE_CHECKING:
    from edge_agent.formats.manifest import Manifest, TaskSpec
    from edge_agent.formats.plan import Mode
    from edge_agent.metrics.metric_catalogue import AnswerCounts, Histogram
    from edge_agent.store.state_database import InstalledBundle


_SERIALIZED = Path(__file__).with_name("wire.binpb").read_bytes()
[_FILE] = descriptor_pb2.FileDescriptorSet.FromString(_SERIALIZED).file
_POOL = DescriptorPool()
_POOL.AddSerializedFile(_FILE.SerializeToString())
SERVICE: ServiceDescriptor = _POOL.FindServiceByName("inference.GRPCInferenceService")
pb: Any = SimpleNamespace(
    **{
        name.removeprefix("inference."): cls
        for name, cls in message_factory.GetMessageClassesForFiles([_FILE.name], _POOL).items()
    }
)
"""The message classes, by name. They are made at run time, so mypy does not know them."""


def handlers(servicer: object) -> dict[str, Any]:
    """Return the handlers of a servicer's methods, by name."""
    by_name = {}
    for method in SERVICE.methods:
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        request, response = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
        by_name[method.name] = make(getattr(servicer, method.name), request.FromString, response.SerializeToString)
    return by_name


def pool_with(*files: FileDescriptor) -> DescriptorPool:
    """Return a pool with this protocol and copies of other files, for reflection, which shows only one pool."""
    pool = DescriptorPool()
    for serialized in dict.fromkeys([_FILE.SerializeToString(), *_with_imports(files)]):
        pool.AddSerializedFile(serialized)
    return pool


def _with_imports(files: tuple[FileDescriptor, ...]) -> Iterator[bytes]:
    """Yield the files that each file imports, and then the file."""
    for file in files:
        yield from _with_imports(tuple(file.dependencies))
        yield file.serialized_pb


Datatype = Literal["BYTES", "FP32", "BOOL"]
Results = Sequence[Any]
"""The results of one request: Classifications, Extractions or Embeddings, or one GeneratedText."""
ANY, EACH_LABEL = -1, -2
FRAMES_MAX = 256
_PACK_FLOAT = struct.Struct("<f").pack
_ROUTES = {number: name.upper() for name, number in messages.ROUTES.items()}
_FINISHES = {number: name for name, number in messages.FINISHES.items()}


class GeneratedText(NamedTuple):
    """A piece of a generation, or all of it; before its end `provenance` is None and `finish` 0."""

    text: str
    provenance: Any = None
    finish: int = 0


class OutputTensor(NamedTuple):
    """One output of a kind of task."""

    datatype: Datatype
    write: Callable[[Results, Sequence[str]], bytes]
    """Encodes it from the results and the task's labels."""
    width: int = 1
    """How many elements belong to one input; EACH_LABEL = one for each label, ANY = as many as there are."""


def encode_strings(values: Iterable[str]) -> bytes:
    """Encode texts, each after its length."""
    encoded = [value.encode() for value in values]
    return b"".join([len(each).to_bytes(4, "little") + each for each in encoded])


def encode_floats(values: Sequence[float]) -> bytes:
    """Encode numbers as float32."""
    return _PACK_FLOAT(values[0]) if len(values) == 1 else struct.pack(f"<{len(values)}f", *values)


def _text_output(read: Callable[[Any], str]) -> OutputTensor:
    return OutputTensor("BYTES", lambda results, _: encode_strings([read(result) for result in results]))


def _number_output(read: Callable[[Any], float]) -> OutputTensor:
    return OutputTensor("FP32", lambda results, _: encode_floats([read(result) for result in results]))


def _confidence(result: Any) -> float:
    return float(result.confidence.value) if result.HasField("confidence") else math.nan


def _p_value(result: Any) -> float:
    return float(result.provenance.p_value) if result.provenance.HasField("p_value") else math.nan


def _scores(results: Results, labels: Sequence[str]) -> bytes:
    """Encode a row for each result, in the order of the labels; without a local answer it is NaN."""
    rows: list[float] = []
    for result in results:
        scores = {pair.label: pair.score for pair in result.scores}
        rows += [scores.get(label, math.nan) for label in labels]
    return encode_floats(rows)


def _entities(result: Any) -> str:
    names = ("label", "text", "start", "end", "score")
    return json.dumps([{name: getattr(each, name) for name in names} for each in result.entities], ensure_ascii=False)


def _fields(result: Any) -> str:
    return json.dumps({field.name: field.confidence for field in result.fields}, ensure_ascii=False)


def _vectors(results: Results, _: Sequence[str]) -> bytes:
    return b"".join([encode_floats(result.values) for result in results])


_PROVENANCE = {
    "route": _text_output(lambda result: _ROUTES[result.provenance.route]),
    "degraded": _text_output(lambda result: ",".join(result.provenance.degraded)),
    "prediction_id": _text_output(attrgetter("provenance.prediction_id")),
}
_GATE = {"p_value": _number_output(_p_value)}
_GRADED = {
    "confidence": _number_output(_confidence),
    "below_threshold": OutputTensor("BOOL", lambda results, _: bytes(r.confidence.below_threshold for r in results)),
}
OUTPUTS: Mapping[str, Mapping[str, OutputTensor]] = {
    "classify": {
        "label": _text_output(attrgetter("label")),
        **_GRADED,
        "scores": OutputTensor("FP32", _scores, EACH_LABEL),
        "label_mass": _number_output(attrgetter("label_mass")),
        **_PROVENANCE,
        **_GATE,
    },
    "extract": {
        "record": _text_output(attrgetter("json")),
        **_GRADED,
        "entities": _text_output(_entities),
        "fields": _text_output(_fields),
        **_PROVENANCE,
        **_GATE,
    },
    "embed": {"embedding": OutputTensor("FP32", _vectors, ANY), **_PROVENANCE, **_GATE},
    "generate": {
        "text": _text_output(attrgetter("text")),
        "finish_reason": _text_output(lambda result: _FINISHES.get(result.finish, "")),
        **_PROVENANCE,
    },
}
"""By the kind of the task, in the order in which they are sent."""
_UNGATED = {kind: {name: each[name] for name in each if name not in _GATE} for kind, each in OUTPUTS.items()}
BATCHED = frozenset({"classify", "extract", "embed"})
"""Kinds whose tensors have a first dimension that counts the inputs."""
EACH_PIECE = ("text",)
"""Outputs of a generation that come before its end."""


def outputs_of(manifest: Manifest) -> Mapping[str, OutputTensor]:
    """Return the outputs of a bundle: without a gate no p-value, as not every client can represent NaN."""
    return (OUTPUTS if manifest.confidence.gate else _UNGATED)[manifest.task.kind]


def tensor_shape(output: OutputTensor, kind: str, labels: int, batch: int = ANY) -> list[int]:
    """Return the shape of an output for that many labels and inputs; a batch of ANY = any number of inputs."""
    width = width_of(output, labels)
    return [batch, width] if kind in BATCHED else [width]


def width_of(output: OutputTensor, labels: int) -> int:
    """Return how many elements belong to one input of a task with that many labels."""
    return labels if output.width == EACH_LABEL else output.width


def outputs_response(task: TaskSpec, names: Sequence[str], results: Results) -> Any:
    """Return a ModelInferResponse that has only outputs."""
    known, labels = OUTPUTS[task.kind], task.labels
    raw = [known[name].write(results, labels) for name in names]
    elements = len(results[0].values) if task.kind == "embed" else ANY
    response = pb.ModelInferResponse()
    response.CopyFrom(_frame(task.kind, tuple(names), len(labels), len(results), elements))
    response.raw_output_contents.extend(raw)
    return response


@functools.lru_cache(FRAMES_MAX)
def _frame(kind: str, names: tuple[str, ...], labels: int, batch: int, elements: int) -> Any:
    """Return a response without contents; cached, because building it costs more than filling it."""
    frame = pb.ModelInferResponse()
    for name in names:
        output = OUTPUTS[kind][name]
        dimensions = tensor_shape(output, kind, labels, batch)
        if dimensions[-1] == ANY:
            dimensions[-1] = elements
        frame.outputs.add(name=name, datatype=output.datatype, shape=dimensions)
    return frame


EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
_INT64_MAX = 2**63 - 1
VERSIONS_MAX = 256
"""Cached version numbers; each request needs one twice."""


@functools.lru_cache(VERSIONS_MAX)
def version_number(version: str) -> int:
    """Return a semantic version as a whole number, the only form that Triton's clients know: 1.2.3 is 1002003."""
    major, minor, patch = map(int, version.partition("-")[0].split("."))
    return min(max(major * 1_000_000 + minor * 1_000 + patch, 1), _INT64_MAX)


def model_metadata(bundle: InstalledBundle) -> Any:
    """Describe the tensors of a task."""
    manifest = bundle.manifest
    kind, labels = manifest.task.kind, len(manifest.task.labels)
    message = pb.ModelMetadataResponse(
        name=manifest.task.name, versions=[str(version_number(manifest.version))], platform=_platform(manifest)
    )
    message.inputs.add(name=oip_requests.INPUT, datatype="BYTES", shape=[ANY, 1] if kind in BATCHED else [1])
    for name, output in outputs_of(manifest).items():
        message.outputs.add(name=name, datatype=output.datatype, shape=tensor_shape(output, kind, labels))
    return message


def model_configuration(bundle: InstalledBundle, mode: Mode) -> Any:
    """Describe a task for perf_analyzer and Triton's clients: shapes without the batch."""
    manifest = bundle.manifest
    task = manifest.task
    batched = task.kind in BATCHED
    config = pb.ModelConfig(
        name=task.name,
        platform=_platform(manifest),
        backend=manifest.runtime,
        max_batch_size=task.limits.inputs_max if batched else 0,
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=not batched),
    )
    config.input.add(name=oip_requests.INPUT, data_type="TYPE_STRING", dims=[1])
    for name, output in outputs_of(manifest).items():
        config.output.add(name=name, data_type=_TYPES[output.datatype], dims=[width_of(output, len(task.labels))])
    parameters = {"kind": task.kind, "version": manifest.version, "digest": bundle.digest, "mode": mode}
    parameters["gate"] = manifest.gate_name
    if task.kind == "classify":
        parameters["labels"] = json.dumps(task.labels, ensure_ascii=False)
    if isinstance(manifest.confidence, Threshold):
        parameters["threshold"] = str(manifest.confidence.confidence_min)
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def model_statistics(bundle: InstalledBundle, counts: AnswerCounts) -> Any:
    """Return the counts of a task since the daemon started, of all APIs and versions."""
    task = bundle.manifest.task.name
    message = pb.ModelStatistics(name=task, version=str(version_number(bundle.manifest.version)))
    stats = message.inference_stats
    stats.fail.count = sum(number for failure, number in list(counts.errors.items()) if failure.task == task)
    if task_counts := counts.tasks.get(task):
        message.inference_count = message.execution_count = sum(task_counts.answers.values())
        _fill_duration(stats.success, task_counts.total)
        _fill_duration(stats.queue, task_counts.queue)
        _fill_duration(stats.compute_infer, task_counts.compute)
        stats.compute_input.count = stats.compute_output.count = stats.compute_infer.count
    return message


def _fill_duration(message: Any, histogram: Histogram) -> None:
    message.count, message.ns = sum(histogram.counts), int(histogram.total * 1e9)


def _platform(manifest: Manifest) -> str:
    return f"edge_agent_{manifest.runtime}"

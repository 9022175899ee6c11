"""Messages of the Open Inference Protocol: their descriptor pool, their field numbers, answers as tensors and tasks as
models."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from edge_agent.metrics.metric_catalogue import AnswerCounts
from edge_agent.server.open_inference import oip_requests, oip_tensors
from edge_agent.server.open_inference.oip_tensors import SERVICE, GeneratedText, pb, pool_with
from edge_agent.server.roles import METHODS
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import admin_pb2, inference_pb2, task_pb2
from tests.support.bundles import digest_of, echo_bundle, manifest_of

CORE = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}
NUMBERS = {
    "InferParameter": "bool_param=1 int64_param=2 string_param=3 double_param=4 uint64_param=5",
    "InferTensorContents": "bool_contents=1 int_contents=2 int64_contents=3 uint_contents=4 uint64_contents=5 "
    "fp32_contents=6 fp64_contents=7 bytes_contents=8",
    "ModelInferRequest": "model_name=1 model_version=2 id=3 parameters=4 inputs=5 outputs=6 raw_input_contents=7",
    "ModelInferRequest.InferInputTensor": "name=1 datatype=2 shape=3 parameters=4 contents=5",
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 parameters=2",
    "ModelInferResponse": "model_name=1 model_version=2 id=3 parameters=4 outputs=5 raw_output_contents=6",
    "ModelInferResponse.InferOutputTensor": "name=1 datatype=2 shape=3 parameters=4 contents=5",
    "ModelMetadataResponse": "name=1 versions=2 platform=3 inputs=4 outputs=5",
    "ModelStreamInferResponse": "error_message=1 infer_response=2",
}


def test_messages_are_not_in_the_default_pool() -> None:
    """protobuf's default pool does not have the messages, so another library's messages of the same names can be
    loaded."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


def test_another_inference_proto_can_be_loaded_in_the_same_process() -> None:
    """Another library's messages can be loaded before or after ours without a "duplicate symbol" error."""
    foreign = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='grpc_service.proto', package='inference', syntax='proto3')\n"
        "file.message_type.add(name='ServerLiveRequest')\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    ours = "import edge_agent.server.open_inference.oip_tensors\n"
    for script in (ours + foreign, foreign + ours):
        subprocess.run([sys.executable, "-c", script], check=True)


def test_reflection_serves_both_apis() -> None:
    """One pool contains this protocol and edge_agent.v1 with its imports."""
    pool = pool_with(admin_pb2.DESCRIPTOR)
    assert SERVICE.full_name == pool.FindServiceByName(SERVICE.full_name).full_name
    assert "edge_agent.v1.AdminService" == pool.FindServiceByName("edge_agent.v1.AdminService").full_name


@pytest.mark.parametrize(("name", "numbers"), NUMBERS.items())
def test_field_numbers_are_those_of_the_protocol(name: str, numbers: str) -> None:
    """The field numbers match the ones that every client has built in."""
    cls = pb
    for part in name.split("."):
        cls = getattr(cls, part)
    assert numbers == " ".join(f"{field.name}={field.number}" for field in cls.DESCRIPTOR.fields)


def test_service_has_the_calls_of_the_protocol_and_of_tools() -> None:
    """The service has the six calls of the protocol and three that tools use, of which one streams; each is in the
    table of roles."""
    methods = {method.name: method for method in SERVICE.methods}
    assert CORE | {"ModelStreamInfer", "ModelConfig", "ModelStatistics"} == set(methods)
    assert ["ModelStreamInfer"] == [name for name, method in methods.items() if method.client_streaming]
    assert {f"/{SERVICE.full_name}/{name}" for name in methods} <= METHODS.keys()


def test_raw_contents_are_bytes() -> None:
    """The raw contents of request and response are of type bytes."""
    fields = (pb.ModelInferRequest.DESCRIPTOR.fields[-1], pb.ModelInferResponse.DESCRIPTOR.fields[-1])
    assert [FieldDescriptor.TYPE_BYTES] * 2 == [field.type for field in fields]


LABELS = ("refund", "price", "other")
PROVENANCE = task_pb2.Provenance(prediction_id="p-1", route=task_pb2.ROUTE_LOCAL, degraded=["A", "B"])


def written(folder: Path, kind: str, *results: Any, names: tuple[str, ...] = ()) -> dict[str, tuple[str, Any, bytes]]:
    """Convert results to tensors; return type, shape and bytes of each output by name."""
    task = manifest_of(echo_bundle(folder / kind, kind=kind, labels=LABELS if kind == "classify" else None)).task
    response = oip_tensors.outputs_response(task, names or list(oip_tensors.OUTPUTS[kind]), results)
    raws = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: (output.datatype, list(output.shape), raw) for output, raw in raws}


def classification(label: str, **scores: float) -> Any:
    return inference_pb2.Classification(
        label=label,
        confidence=task_pb2.Confidence(value=max(scores.values()), below_threshold=not label),
        scores=[inference_pb2.LabelScore(label=name, score=score) for name, score in scores.items()],
        label_mass=0.5,
        provenance=PROVENANCE,
    )


def test_classification_tensors(tmp_path: Path) -> None:
    """Each input has a row; scores are in the order of the labels, whatever the order of the answer."""
    both = (classification("price", price=0.75, refund=0.25, other=0.0), classification("", other=0.5, price=0.25))
    found = written(tmp_path, "classify", *both)
    assert ("BYTES", [2, 1], oip_tensors.encode_strings(["price", ""])) == found["label"]
    assert ("FP32", [2, 1], struct.pack("<2f", 0.75, 0.5)) == found["confidence"]
    assert ("BOOL", [2, 1], b"\0\1") == found["below_threshold"]
    assert ("FP32", [2, 1], struct.pack("<2f", 0.5, 0.5)) == found["label_mass"]
    assert ("BYTES", [2, 1], oip_tensors.encode_strings(["LOCAL"] * 2)) == found["route"]
    assert ("BYTES", [2, 1], oip_tensors.encode_strings(["A,B"] * 2)) == found["degraded"]
    assert ("BYTES", [2, 1], oip_tensors.encode_strings(["p-1"] * 2)) == found["prediction_id"]
    datatype, shape, raw = found["scores"]
    assert ("FP32", [2, 3]) == (datatype, shape)
    first, second = struct.unpack("<3f", raw[:12]), struct.unpack("<3f", raw[12:])
    assert (0.25, 0.75, 0.0) == first
    assert math.isnan(second[0])
    assert (0.25, 0.5) == second[1:]


def test_missing_local_answer_is_nan(tmp_path: Path) -> None:
    """Without a local answer, as in mode bootstrap, confidence and scores are NaN instead of 0."""
    said = inference_pb2.Classification(label="price", provenance=PROVENANCE)
    found = written(tmp_path, "classify", said)
    assert all(math.isnan(value) for value in struct.unpack("<4f", found["confidence"][2] + found["scores"][2]))
    assert ("BOOL", [1, 1], b"\0") == found["below_threshold"]


def test_extraction_tensors_are_json(tmp_path: Path) -> None:
    """Record, entities and field confidences of an extraction are JSON strings."""
    entity = inference_pb2.Entity(label="number", text="12", start=2, end=4, score=1.0)
    field = inference_pb2.Field(name="number", confidence=0.5)
    said = inference_pb2.Extraction(json='{"ü": 1}', entities=[entity], fields=[field], provenance=PROVENANCE)
    found = written(tmp_path, "extract", said)
    assert ["record", "confidence", "below_threshold", "entities", "fields"] == list(found)[:5]
    [record] = oip_requests.split_raw_strings(found["record"][2], 1)
    [entities] = oip_requests.split_raw_strings(found["entities"][2], 1)
    [fields] = oip_requests.split_raw_strings(found["fields"][2], 1)
    assert {"ü": 1} == json.loads(record)
    assert [{"label": "number", "text": "12", "start": 2, "end": 4, "score": 1.0}] == json.loads(entities)
    assert {"number": 0.5} == json.loads(fields)


def test_embeddings_are_a_matrix(tmp_path: Path) -> None:
    """Embeddings are one matrix with a row for each input; requested outputs are in the requested order."""
    rows = [inference_pb2.Embedding(values=values, provenance=PROVENANCE) for values in ([1.0, 2.0], [3.0, 4.0])]
    found = written(tmp_path, "embed", *rows)
    assert ("FP32", [2, 2], struct.pack("<4f", 1, 2, 3, 4)) == found["embedding"]
    last = written(tmp_path, "embed", *rows, names=("prediction_id", "embedding"))
    assert (["prediction_id", "embedding"], found["embedding"]) == (list(last), last["embedding"])


def test_generated_text_has_no_batch_dimension(tmp_path: Path) -> None:
    """A piece of text is one output; the end of a generation has all outputs."""
    piece = written(tmp_path, "generate", GeneratedText("so"), names=oip_tensors.EACH_PIECE)
    assert {"text": ("BYTES", [1], oip_tensors.encode_strings(["so"]))} == piece
    end = written(tmp_path, "generate", GeneratedText("", PROVENANCE, inference_pb2.FINISH_REASON_LENGTH))
    assert ("BYTES", [1], oip_tensors.encode_strings(["length"])) == end["finish_reason"]
    assert ["text", "finish_reason", "route", "degraded", "prediction_id"] == list(end)


def test_every_route_has_a_name(tmp_path: Path) -> None:
    """Each route of the API has a name in the tensor."""
    for route in set(task_pb2.Route.values()) - {task_pb2.ROUTE_UNSPECIFIED}:
        said = inference_pb2.Embedding(provenance=task_pb2.Provenance(route=route))
        [name] = oip_requests.split_raw_strings(written(tmp_path, "embed", said)["route"][2], 1)
        assert f"ROUTE_{name.decode()}" == task_pb2.Route.Name(route)


@pytest.mark.parametrize(
    ("version", "number"),
    [("1.2.3", 1002003), ("0.1.0", 1000), ("0.0.0", 1), ("2.0.0-rc.1", 2000000), ("9" * 30 + ".0.0", 2**63 - 1)],
)
def test_bundle_version_becomes_a_whole_number(version: str, number: int) -> None:
    """A bundle version becomes a readable whole number above 0 of at most 63 bits."""
    assert number == oip_tensors.version_number(version)


def installed(folder: Path, **more: Any) -> InstalledBundle:
    echo_bundle(folder, **more)
    return InstalledBundle(digest_of(folder), b"", manifest_of(folder), False, 0.0)


def test_metadata_and_configuration_name_the_same_tensors(tmp_path: Path) -> None:
    """Model metadata and configuration name the same tensors; only the metadata has the batch dimension in its
    shapes."""
    bundle = installed(tmp_path / "b", name="intent", labels=LABELS, version="1.2.0")
    described, config = oip_tensors.model_metadata(bundle), oip_tensors.model_configuration(bundle, "hybrid")
    assert ("intent", ["1002000"], "edge_agent_echo") == (described.name, list(described.versions), described.platform)
    assert ["label", "confidence", "below_threshold", "scores"] == [output.name for output in described.outputs][:4]
    assert [[-1, 1]] == [list(each.shape) for each in described.inputs]
    assert [-1, 3] == list(described.outputs[3].shape)
    assert [output.name for output in described.outputs] == [output.name for output in config.output]
    assert ([1], [3]) == (list(config.input[0].dims), list(config.output[3].dims))
    assert (64, False) == (config.max_batch_size, config.model_transaction_policy.decoupled)
    said = {name: value.string_value for name, value in config.parameters.items()}
    assert list(LABELS) == json.loads(said.pop("labels"))
    assert {"kind": "classify", "version": "1.2.0", "digest": bundle.digest, "mode": "hybrid", "gate": "none"} == said


@pytest.mark.parametrize("kind", ["classify", "extract", "embed", "generate"])
def test_only_a_gated_bundle_has_a_p_value_output(tmp_path: Path, kind: str) -> None:
    """A bundle without a gate has no p-value output, which perf_analyzer could not write as NaN; a gated bundle has it
    last."""
    outputs = [each.name for each in oip_tensors.model_metadata(installed(tmp_path / "b", kind=kind)).outputs]
    assert "p_value" not in outputs
    gate = {"score": "label_mass", "held_up_max": 0.5, "scores": [0.5]}
    if kind == "classify":
        gated = installed(tmp_path / "c", confidence={"gate": gate})
        assert [*outputs, "p_value"] == [each.name for each in oip_tensors.model_metadata(gated).outputs]


def test_generation_is_decoupled_without_a_batch(tmp_path: Path) -> None:
    """A generation returns several responses for one text, so its model is decoupled with a batch size of 0."""
    bundle = installed(tmp_path / "b", kind="generate")
    config = oip_tensors.model_configuration(bundle, "local")
    assert (0, True) == (config.max_batch_size, config.model_transaction_policy.decoupled)
    assert [1] == list(oip_tensors.model_metadata(bundle).inputs[0].shape)


def test_statistics_are_the_counts_of_the_daemon(tmp_path: Path) -> None:
    """Model statistics are taken from the daemon's counters."""
    bundle, counts = installed(tmp_path / "b", name="intent"), AnswerCounts()
    assert 0 == oip_tensors.model_statistics(bundle, counts).inference_count
    of = counts.of("intent")
    of.answers["local"] += 2
    for histogram, seconds in ((of.total, 0.5), (of.queue, 0.125), (of.compute, 0.25)):
        histogram.observe(seconds)
    counts.count_unanswered("intent", "INPUT_EMPTY")
    counts.count_unanswered("other", "INPUT_EMPTY")
    found = oip_tensors.model_statistics(bundle, counts)
    stats = found.inference_stats
    assert (2, 2) == (found.inference_count, found.execution_count)
    assert (1, 500_000_000) == (stats.success.count, stats.success.ns)
    assert (125_000_000, 250_000_000) == (stats.queue.ns, stats.compute_infer.ns)
    assert (1, 1) == (stats.fail.count, stats.compute_input.count)

"""The messages of the protocol: their pool, and the numbers that clients rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from edge_agent.server.open_inference.oip_wire import SERVICE, pb, pool_with
from edge_agent.server.roles import METHODS
from edge_agent.v1 import admin_pb2

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


def test_nobody_else_sees_the_messages() -> None:
    """protobuf's default pool does not know them, so another library's of the same names can be loaded beside them."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


def test_another_inference_proto_can_be_loaded_in_the_same_process() -> None:
    """In either order: what otherwise ends in "duplicate symbol" does not."""
    foreign = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='grpc_service.proto', package='inference', syntax='proto3')\n"
        "file.message_type.add(name='ServerLiveRequest')\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    ours = "import edge_agent.server.open_inference.oip_wire\n"
    for script in (ours + foreign, foreign + ours):
        subprocess.run([sys.executable, "-c", script], check=True)


def test_reflection_has_them_beside_our_own() -> None:
    """One pool shows both, with everything that our own import."""
    pool = pool_with(admin_pb2.DESCRIPTOR)
    assert SERVICE.full_name == pool.FindServiceByName(SERVICE.full_name).full_name
    assert "edge_agent.v1.AdminService" == pool.FindServiceByName("edge_agent.v1.AdminService").full_name


@pytest.mark.parametrize(("name", "numbers"), NUMBERS.items())
def test_numbers_are_those_of_the_protocol(name: str, numbers: str) -> None:
    """Every client has them built in."""
    cls = pb
    for part in name.split("."):
        cls = getattr(cls, part)
    assert numbers == " ".join(f"{field.name}={field.number}" for field in cls.DESCRIPTOR.fields)


def test_the_service_has_the_six_calls_and_what_tools_need() -> None:
    """One of them streams both ways; each stands in the table of roles."""
    methods = {method.name: method for method in SERVICE.methods}
    assert CORE | {"ModelStreamInfer", "ModelConfig", "ModelStatistics"} == set(methods)
    assert ["ModelStreamInfer"] == [name for name, method in methods.items() if method.client_streaming]
    assert {f"/{SERVICE.full_name}/{name}" for name in methods} <= METHODS.keys()


def test_raw_contents_are_bytes() -> None:
    """They hold any tensor."""
    fields = (pb.ModelInferRequest.DESCRIPTOR.fields[-1], pb.ModelInferResponse.DESCRIPTOR.fields[-1])
    assert [FieldDescriptor.TYPE_BYTES] * 2 == [field.type for field in fields]

"""The messages of the Open Inference Protocol, in a pool of descriptors of their own.

Every library of the protocol brings its own `inference.*` and registers it in protobuf's one default pool, which
refuses a second of the name: whoever loads two in one process fails with "duplicate symbol". So there is no generated
code here. scripts/proto writes the descriptors to wire.binpb, and the classes are made from them, seen by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

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
"""The classes, by name. Their types are made at run time: mypy knows none of them."""


def handlers(servicer: object) -> dict[str, Any]:
    """Return the handlers of a servicer's methods, by name."""
    return {method.name: _handler(servicer, method) for method in SERVICE.methods}


def _handler(servicer: object, method: Any) -> Any:
    make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
    asked, answer = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
    return make(getattr(servicer, method.name), asked.FromString, answer.SerializeToString)


def pool_with(*files: FileDescriptor) -> DescriptorPool:
    """Return a pool with this protocol and copies of other files: for reflection, which shows what is in one pool."""
    pool = DescriptorPool()
    for serialized in dict.fromkeys([_FILE.SerializeToString(), *_whole(files)]):
        pool.AddSerializedFile(serialized)
    return pool


def _whole(files: tuple[FileDescriptor, ...]) -> Iterator[bytes]:
    """Yield files, before each of them those that it imports."""
    for file in files:
        yield from _whole(tuple(file.dependencies))
        yield file.serialized_pb

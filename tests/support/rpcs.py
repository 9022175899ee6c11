"""All calls of the daemon, from the descriptors, so these tests include each new call."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import edge_agent.v1
from edge_agent.server.open_inference import oip_tensors


def _files() -> Iterator[FileDescriptor]:
    for module in pkgutil.iter_modules(edge_agent.v1.__path__):
        # What the uplink serves to the daemon is no call of the daemon.
        if module.name.endswith("_pb2") and module.name != "escalation_pb2":
            yield importlib.import_module(f"edge_agent.v1.{module.name}").DESCRIPTOR
    yield health_pb2.DESCRIPTOR
    yield reflection_pb2.DESCRIPTOR


METHODS: tuple[MethodDescriptor, ...] = (
    *(method for file in _files() for service in file.services_by_name.values() for method in service.methods),
    *oip_tensors.SERVICE.methods,
)


def path_of(method: MethodDescriptor) -> str:
    """Return a method as HTTP/2 names it."""
    return f"/{method.containing_service.full_name}/{method.name}"

"""The listeners: one gRPC server for each role, since the socket is the role (gRPC gives no peer user id).

inference.sock   0660   InferenceService, health
review.sock      0660   FeedbackService, health
admin.sock       0600   AdminService, InferenceService, health, reflection
tcp_address      -      InferenceService, health; plain, hence only with `insecure: true`
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent.config import Config, ServiceConfig
from edge_agent.errors import ConfigInvalid, SiteError, SocketInUse
from edge_agent.service import guard
from edge_agent.service.admin import AdminServicer
from edge_agent.service.admission import RESERVED_CALLS
from edge_agent.service.feedback import FeedbackServicer
from edge_agent.service.inference import InferenceServicer, Rooms
from edge_agent.service.watch import HealthServicer
from edge_agent.v1 import admin_pb2, admin_pb2_grpc, feedback_pb2_grpc, inference_pb2, inference_pb2_grpc

PING_INTERVAL_MS_MIN = 10_000  # gRPC's own 300 s kills clients that keep a till's connection alive
METADATA_BYTES_MAX = 16 * 1024
HEALTH_OVERALL = ""
WATCHES_MAX = RESERVED_CALLS // 2  # the rest is for checks and the operator


class Edge:
    """The servers of one daemon."""

    def __init__(self, config: Config, rooms: Rooms, admin: AdminServicer, feedback: FeedbackServicer) -> None:
        """Prepare; `start` binds and serves."""
        self._config = config
        self._health = HealthServicer(WATCHES_MAX)
        self._known: set[str] = set()
        self._devices = _server(config.service)
        self._reviewers = _server(config.service)
        self._operator = _server(config.service)
        service = config.service
        for server, priority in (
            (self._devices, service.devices_priority),
            (self._operator, service.operator_priority),
        ):
            inference = InferenceServicer(rooms, service, priority)
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, guard.WellFormed(server))
            health_pb2_grpc.add_HealthServicer_to_server(self._health, guard.WellFormed(server))
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, guard.WellFormed(self._reviewers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, guard.WellFormed(self._reviewers))
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, guard.WellFormed(self._operator))
        names = [
            inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
            admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, self._operator)

    async def start(self) -> None:
        """Bind every address and serve.

        Raises:
            SocketInUse: another process listens there.
            SiteError: the run directory cannot be used.
            ConfigInvalid: the socket's group does not exist.
        """
        service, run_dir = self._config.service, self._config.run_dir
        try:
            run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise SiteError(
                f"run_dir {run_dir} cannot be made: {error.strerror}", remedy="Choose another --run-dir."
            ) from None
        _bind_unix(self._devices, self._config.inference_socket, 0o660, _group(service, "inference_group"))
        _bind_unix(self._reviewers, self._config.review_socket, 0o660, _group(service, "review_group"))
        _bind_unix(self._operator, self._config.admin_socket, 0o600, None)
        if service.tcp_address:
            _bind_tcp(self._devices, service.tcp_address)
        await self._devices.start()
        await self._reviewers.start()
        await self._operator.start()

    async def report(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Tell health what is ready: "" is the daemon, every other name a task."""
        for name in self._known - set(ready):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        self._known = set(ready)
        for name, is_ready in {HEALTH_OVERALL: True, **ready}.items():
            good = serving and is_ready
            status = health_pb2.HealthCheckResponse.SERVING if good else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(name, status)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let running ones finish for that long, end the rest, remove the sockets."""
        await self._health.enter_graceful_shutdown()
        await self._devices.stop(grace_seconds)
        await self._reviewers.stop(min(grace_seconds, 1.0))
        await self._operator.stop(min(grace_seconds, 1.0))
        for path in (self._config.inference_socket, self._config.review_socket, self._config.admin_socket):
            path.unlink(missing_ok=True)


def _server(config: ServiceConfig) -> grpc.aio.Server:
    options: Iterable[tuple[str, int]] = [
        ("grpc.so_reuseport", 0),  # on by default: a second daemon would silently share the port
        ("grpc.max_receive_message_length", config.message_bytes_max),
        ("grpc.max_send_message_length", config.message_bytes_max),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    return grpc.aio.server(options=list(options), maximum_concurrent_rpcs=config.calls_max + RESERVED_CALLS)


def _group(config: ServiceConfig, key: str) -> int | None:
    name = getattr(config, key)
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise ConfigInvalid(
            f"service.{key}: there is no group {name!r}", remedy=f"'groupadd {name}', or choose another."
        ) from None


def _bind_unix(server: grpc.aio.Server, path: Path, mode: int, group: int | None) -> None:
    """Bind a socket file that nobody can reach before its mode is right.

    gRPC removes whatever stands at the path, even the socket of a living daemon: so a living one is looked for first.
    """
    _refuse_living(path)
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise SocketInUse(f"cannot listen on {path}") from None
    finally:
        os.umask(mask)
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


def _refuse_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return
            raise SocketInUse(f"cannot use {path}: {error.strerror or 'it does not answer'}") from None
    raise SocketInUse(f"another process listens on {path}", path=path)


def _bind_tcp(server: grpc.aio.Server, address: str) -> None:
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise SocketInUse(
            f"cannot listen on {address}: it is in use, or not an address of this machine", address=address
        )

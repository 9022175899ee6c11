"""The listeners: one gRPC server for each socket, since the socket is the role, and one for TCP.

inference.sock   0660   InferenceService, GRPCInferenceService (the Open Inference Protocol), health
review.sock      0660   FeedbackService, health
admin.sock       0600   AdminService, both of inference.sock, health, reflection
tcp_address      TLS    all of them; the client's certificate says which it may call
                 plain  both of inference.sock, health; only with `insecure: true`

Each call passes `gate.py` first, which authorizes it by the table in `roles.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from edge_agent.config import AccessConfig, Config, Role, ServiceConfig
from edge_agent.errors import ConfigInvalid, SiteError, SocketInUse
from edge_agent.server import callers, roles
from edge_agent.server.admin_service import AdminServicer
from edge_agent.server.admission_control import RateLimiter
from edge_agent.server.audit import AuditLog
from edge_agent.server.callers import AccountTable, CallerIdentifier
from edge_agent.server.detached_calls import ChangeRunner, DeduplicationLimits, RequestDeduplicator
from edge_agent.server.feedback import FeedbackServicer
from edge_agent.server.health import HealthServicer, HealthState
from edge_agent.server.inference import InferenceDependencies, InferenceServicer
from edge_agent.server.interceptor import REFUSAL_SECONDS, ServerInterceptor
from edge_agent.server.open_inference import oip_wire
from edge_agent.server.open_inference.oip_servicer import OpenInferenceServicer, StreamLimiter
from edge_agent.v1 import admin_pb2, admin_pb2_grpc, feedback_pb2, feedback_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from edge_agent.server.tls import TlsFiles

PING_INTERVAL_MS_MIN = 10_000  # gRPC's own 300 s kills clients that keep a till's connection alive
METADATA_BYTES_MAX = 16 * 1024
HANDSHAKE_MS_MAX = 10_000  # gRPC's own 120 s lets who says nothing hold a connection for long
SILENCE_MS_MAX = 60_000
"""After that long without a byte a TCP client is asked whether it is there."""
ANSWER_MS_MAX = 20_000
"""How long it has to say so."""
AGE_GRACE_MS = 600_000
"""How long the calls of a connection go on that has reached its age."""
OPERATION_SECONDS = 1.0
"""What calls of operators and reviewers are given to end by a stop."""
_INT32_MAX = 2**31 - 1
Options = tuple[tuple[str, int], ...]
LISTED = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    oip_wire.SERVICE.full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)
"""What reflection lists of admin.sock."""
FEEDBACK = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name


class GrpcServers:
    """The servers of one daemon."""

    def __init__(
        self, config: Config, rooms: InferenceDependencies, admin: AdminServicer, feedback: FeedbackServicer
    ) -> None:
        """Prepare; `start` binds and serves.

        Raises:
            CertificateUnusable: the TLS files cannot be used.
        """
        self._config = config
        self._health = HealthState()
        self._audit = AuditLog(config.state_dir, config.access.audit_bytes_max)
        self._changes = ChangeRunner(self._audit)
        self._rates = RateLimiter(config.access.client_calls_per_second_max, config.access.client_calls_burst_max)
        service, self._dialogues = config.service, StreamLimiter(config.access.client_streams_max)
        limits = DeduplicationLimits(service.request_ids_max, service.request_id_seconds, service.request_ids_bytes_max)
        self._remembered = RequestDeduplicator(limits)
        devices, operator = (
            _Inference(InferenceServicer(rooms, service, priority, self._remembered), rooms, self._dialogues)
            for priority in (service.devices_priority, service.operator_priority)
        )
        self._devices = self._socket("inference.sock", roles.INFER)
        devices.add_to(self._devices.gate)
        self._reviewers = self._socket("review.sock", roles.FEEDBACK)
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, self._reviewers.gate)
        self._operator = self._socket("admin.sock", roles.OPERATOR)
        operator.add_to(self._operator.gate)
        _add_operation(self._operator.gate, admin, LISTED)
        self.tls, identify = _over_tls(config.access)
        """None where TCP is off or plain."""
        self._network = self._listener(identify, _over_network(config))
        devices.add_to(self._network.gate)
        if self.tls:
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, self._network.gate)
            _add_operation(self._network.gate, admin, (FEEDBACK, *LISTED))

    def _socket(self, name: str, given: frozenset[Role]) -> _Listener:
        """Return the listener of a Unix socket, which gives its callers those roles."""
        accounts = AccountTable(self._config.access.socket_clients_max)
        return self._listener(callers.socket_caller_identifier(name, given, accounts))

    def _listener(self, identify: CallerIdentifier, options: Options = ()) -> _Listener:
        """Return a listener with the health service."""
        server = grpc.aio.server(options=[*_everywhere(self._config), *options])
        gate = ServerInterceptor(server, identify, self._rates, self._audit, self._changes)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self._health), gate)
        return _Listener(server, gate)

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
        _bind_unix(self._devices.server, self._config.inference_socket, 0o660, _group(service, "inference_group"))
        _bind_unix(self._reviewers.server, self._config.review_socket, 0o660, _group(service, "review_group"))
        _bind_unix(self._operator.server, self._config.admin_socket, 0o600, None)
        if service.tcp_address:
            _bind_tcp(self._network.server, service.tcp_address, self.tls.credentials() if self.tls else None)
        for listener in (self._devices, self._network, self._reviewers, self._operator):
            await listener.server.start()

    @property
    def denied(self) -> Mapping[str, int]:
        """Calls that were denied, by reason."""
        return self._audit.denied

    def warnings(self) -> list[str]:
        """Say what an operator should know of the ways in."""
        return [*self._of_tcp(), *([f"Audit log: {self._audit.problem}."] if self._audit.problem else [])]

    def _of_tcp(self) -> list[str]:
        service = self._config.service
        if service.tcp_address and service.insecure:
            said = f"{service.tcp_address} is open: without certificates, anyone who reaches it may use the models."
            return [f"{said} 'edge-agent certs init' makes them."]
        return self.tls.warnings() if self.tls else []

    async def report(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Tell health what is ready: "" is the daemon, every other name a task."""
        self._health.tell(ready, serving=serving)

    async def drain(self, seconds: float) -> None:
        """Let the calls of devices end for that long, and refuse the rest; new ones are refused by admission."""
        self._health.end()
        self._dialogues.close()
        await asyncio.gather(*(each.gate.running.drain(seconds) for each in (self._devices, self._network)))

    async def stop(self) -> bool:
        """Close the listeners and remove the sockets; to be called after `drain`, when no more calls come.

        Tell whether the disk took the whole of the audit log.
        """
        await asyncio.gather(*(each.server.stop(REFUSAL_SECONDS) for each in (self._devices, self._network)))
        await self._remembered.stop()
        operation = self._reviewers, self._operator
        await asyncio.gather(*(each.gate.running.drain(OPERATION_SECONDS) for each in operation))
        await asyncio.gather(*(each.server.stop(REFUSAL_SECONDS) for each in operation))
        await self._changes.stop()
        closed = await self._audit.close()
        for path in (self._config.inference_socket, self._config.review_socket, self._config.admin_socket):
            path.unlink(missing_ok=True)
        return closed


class _Listener(NamedTuple):
    """A server, and what its calls pass."""

    server: grpc.aio.Server
    gate: ServerInterceptor


class _Inference:
    """What answers the callers of one priority: by our own API, and by the Open Inference Protocol."""

    def __init__(self, own: InferenceServicer, rooms: InferenceDependencies, dialogues: StreamLimiter) -> None:
        self._own = own
        self._open = OpenInferenceServicer(rooms, own, dialogues)

    def add_to(self, gate: ServerInterceptor) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._own, gate)
        gate.add_registered_method_handlers(oip_wire.SERVICE.full_name, oip_wire.handlers(self._open))


def _add_operation(gate: ServerInterceptor, admin: AdminServicer, listed: tuple[str, ...]) -> None:
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, gate)
    shown = oip_wire.pool_with(
        *(each.DESCRIPTOR for each in (inference_pb2, feedback_pb2, admin_pb2, health_pb2, reflection_pb2))
    )
    reflecting = reflection_aio.ReflectionServicer(listed, pool=shown)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, gate)


def _everywhere(config: Config) -> Options:
    """Return the options of every server.

    `maximum_concurrent_rpcs` is not set: no burst is to reach a limit of gRPC's, which refuses without a reason, before
    the daemon has refused it with one. What is in progress is bounded by connections and the calls on each.
    """
    service, access = config.service, config.access
    pending_max = min(access.connections_max * access.connection_calls_max, _INT32_MAX)
    return (
        ("grpc.so_reuseport", 0),  # on by default: a second daemon would silently share the port
        ("grpc.max_receive_message_length", service.message_bytes_max),
        ("grpc.max_send_message_length", service.message_bytes_max),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),  # between the two gRPC would leave it to chance
        ("grpc.max_concurrent_streams", access.connection_calls_max),
        ("grpc.max_allowed_incoming_connections", access.connections_max),
        ("grpc.server.max_pending_requests", pending_max),  # beyond 1000, its default, streams are reset
        ("grpc.server.max_pending_requests_hard_limit", pending_max),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.keepalive_permit_without_calls", 1),
    )


def _over_tls(access: AccessConfig) -> tuple[TlsFiles | None, CallerIdentifier]:
    """Return the certificates of TCP and who is told apart by theirs. Raises CertificateUnusable."""
    if not access.certificate_file:
        return None, callers.identify_by_address
    # Only a daemon that has certificates loads the library that reads them.
    from edge_agent.server.tls import CertificateIdentifier, TlsFiles  # noqa: PLC0415

    return TlsFiles(access), CertificateIdentifier(access.roles)


def _over_network(config: Config) -> Options:
    """Return the options of TCP: a peer may vanish without a word, or be let in no more."""
    return (
        ("grpc.keepalive_time_ms", SILENCE_MS_MAX),
        ("grpc.keepalive_timeout_ms", ANSWER_MS_MAX),
        ("grpc.max_connection_age_ms", int(config.access.connection_seconds_max * 1000)),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_MS),
    )


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


def _bind_tcp(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise SocketInUse(
            f"cannot listen on {address}: it is in use, or not an address of this machine", address=address
        )

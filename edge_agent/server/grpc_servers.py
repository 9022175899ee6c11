"""The listeners: one gRPC server for each socket, since the socket is the role, and one for TCP.

inference.sock   0660   InferenceService, GRPCInferenceService (the Open Inference Protocol), health
review.sock      0660   FeedbackService, health
admin.sock       0600   AdminService, both of inference.sock, health, reflection; 0660 with `admin_group`
tcp_address      TLS    all of them; the client's certificate determines which it may call
                 plain  both of inference.sock, health; only with `insecure: true`

Each call passes `interceptor.py` first, which authorizes it by the table in `roles.py`.

The health servicer of gRPC's library is not used: in it, a watcher that does not read delays the reporter of a change,
and one that leaves loses the changes for all others. Here a change is recorded without waiting. A watch lasts as long
as its caller wants, so each listener has its own limit on watches, and each client a share of it: a client that uses
its whole share leaves places to others, and takes none from another listener.
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
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_reflection.v1alpha import _async as reflection_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from edge_agent.config import AccessConfig, Config, Role, ServiceConfig
from edge_agent.config.sections import join_host_port, split_host_port
from edge_agent.errors import ConfigInvalid, Draining, SiteError, SocketInUse
from edge_agent.refusal_log import RefusalLog
from edge_agent.server import roles
from edge_agent.server.audit_log import AuditLog
from edge_agent.server.client_call_limits import AdmissionControl, RateLimiter
from edge_agent.server.detached_calls import ChangeRunner
from edge_agent.server.inference import InferenceDependencies, InferenceServicer
from edge_agent.server.interceptor import REFUSAL_SECONDS, CallContext, ServerInterceptor
from edge_agent.server.open_inference import oip_tensors
from edge_agent.server.open_inference.oip_servicer import OpenInferenceServicer, StreamLimiter
from edge_agent.server.request_deduplication import DeduplicationLimits, RequestDeduplicator
from edge_agent.server.roles import AccountTable, CallerIdentifier
from edge_agent.v1 import admin_pb2, admin_pb2_grpc, feedback_pb2, feedback_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from edge_agent.server.tls import TlsFiles


WATCHES_MAX = 32
"""Of one client of a listener; a third more is reserved for others."""
RETRY_SECONDS = 10.0
OVERALL = ""
"""The name of the daemon among those of tasks."""
Status = int
"""One of HealthCheckResponse.ServingStatus."""


class HealthState:
    """Which tasks are ready, for all listeners. One event loop owns it."""

    def __init__(self) -> None:
        """Begin with a daemon that serves no task yet."""
        self._statuses: dict[str, Status] = {OVERALL: pb.HealthCheckResponse.SERVING}
        self.changed = asyncio.Event()
        """Set at the next change; each change has its own."""
        self.ending = False
        """The daemon stops: watches end after they have reported it."""

    def status_of(self, service: str) -> Status | None:
        """Return the status of a task or the daemon; None = the name is unknown."""
        return self._statuses.get(service)

    def update(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Set which tasks exist and which are ready; without `serving` neither a task nor the daemon is."""
        if not self.ending:
            good, bad = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
            states = {OVERALL: True, **ready}
            self._replace_statuses({name: good if serving and is_ready else bad for name, is_ready in states.items()})

    def end(self) -> None:
        """Set everything to NOT_SERVING, and let the watches end."""
        self.ending = True
        self._replace_statuses(dict.fromkeys(self._statuses, pb.HealthCheckResponse.NOT_SERVING))

    def _replace_statuses(self, statuses: dict[str, Status]) -> None:
        self._statuses = statuses
        previous, self.changed = self.changed, asyncio.Event()
        previous.set()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the library has no types
    """Reports to the callers of one listener."""

    def __init__(self, health: HealthState) -> None:
        """Report that state."""
        self._health = health
        self._watch_slots = AdmissionControl(WATCHES_MAX, noun="health watches")

    async def Check(self, request: pb.HealthCheckRequest, context: CallContext) -> pb.HealthCheckResponse:
        """Return the state now."""
        status = self._health.status_of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: CallContext) -> None:
        """Write the state now and at every change, until the caller leaves or the daemon stops."""
        health, last_status = self._health, None
        with self._watch_slots.call(roles.current_caller.get().account):
            while True:
                changed, ending = health.changed, health.ending
                status = health.status_of(request.service)
                if status is None:
                    status = pb.HealthCheckResponse.SERVICE_UNKNOWN
                if status != last_status:
                    await context.write(pb.HealthCheckResponse(status=status))
                    last_status = status
                if ending:
                    raise Draining("the daemon is stopping", retry_seconds=RETRY_SECONDS)
                await changed.wait()


PING_INTERVAL_MS_MIN = 10_000  # gRPC's own 300 s kills clients that keep a till's connection alive
METADATA_BYTES_MAX = 16 * 1024
HANDSHAKE_MS_MAX = 10_000  # gRPC's own 120 s lets a silent client hold a connection for long
SILENCE_MS_MAX = 60_000
"""A TCP client that sends no byte for this long gets a keepalive ping."""
ANSWER_MS_MAX = 20_000
"""The time limit of its answer to the ping."""
AGE_GRACE_MS = 600_000
"""For running calls of a connection that has reached its maximum age."""
OPERATION_SECONDS = 1.0
"""For calls of operators and reviewers to end at a stop."""
_INT32_MAX = 2**31 - 1
Options = tuple[tuple[str, int], ...]
LISTED_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    oip_tensors.SERVICE.full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)
"""The services of admin.sock that reflection lists."""
FEEDBACK = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"].full_name


class GrpcServers:
    """The gRPC servers of one daemon, one for each listener."""

    def __init__(self, config: Config) -> None:
        """Make the listeners; `add_services` adds their services, `start` binds them.

        Raises:
            CertificateUnusable: the TLS files cannot be used.
        """
        service, access = config.service, config.access
        self._config, self._health = config, HealthState()
        self._audit = AuditLog(config.state_dir, access.audit_bytes_max)
        self._changes = ChangeRunner(self._audit)
        self.refusals = RefusalLog()
        """Of all listeners."""
        self._rates = RateLimiter(access.client_calls_per_second_max, access.client_calls_burst_max)
        self._streams = StreamLimiter(access.client_streams_max)
        self._deduplicator = RequestDeduplicator(
            DeduplicationLimits(service.request_ids_max, service.request_id_seconds, service.request_ids_bytes_max)
        )
        self._devices = self._socket_listener("inference.sock", roles.INFER)
        self._reviewers = self._socket_listener("review.sock", roles.FEEDBACK)
        self._operator = self._socket_listener("admin.sock", roles.OPERATOR)
        self._tls, identify = _tls_identity(access)
        network_options = (  # a peer of TCP can vanish, or lose its access
            ("grpc.keepalive_time_ms", SILENCE_MS_MAX),
            ("grpc.keepalive_timeout_ms", ANSWER_MS_MAX),
            ("grpc.max_connection_age_ms", int(access.connection_seconds_max * 1000)),
            ("grpc.max_connection_age_grace_ms", AGE_GRACE_MS),
        )
        self._network = self._listener(identify, network_options)

    def add_services(
        self,
        inference: InferenceDependencies,
        admin: admin_pb2_grpc.AdminServiceServicer,
        feedback: feedback_pb2_grpc.FeedbackServiceServicer,
    ) -> None:
        """Add to each listener the services of its role; see the module."""
        service = self._config.service
        for_devices, for_operator = (
            InferenceServicer(inference, service, priority, self._deduplicator)
            for priority in (service.devices_priority, service.operator_priority)
        )
        for listener, servicer in (
            (self._devices, for_devices),
            (self._network, for_devices),
            (self._operator, for_operator),
        ):
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, listener)
            oip = OpenInferenceServicer(inference, servicer, self._streams)
            listener.add_registered_method_handlers(oip_tensors.SERVICE.full_name, oip_tensors.handlers(oip))
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, self._reviewers)
        _add_admin(self._operator, admin, LISTED_SERVICES)
        if self._tls:
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback, self._network)
            _add_admin(self._network, admin, (FEEDBACK, *LISTED_SERVICES))

    def _socket_listener(self, name: str, granted: frozenset[Role]) -> ServerInterceptor:
        """Return the listener of a Unix socket whose callers have the roles `granted`."""
        accounts = AccountTable(self._config.access.socket_clients_max)
        return self._listener(roles.socket_caller_identifier(name, granted, accounts))

    def _listener(self, identify: CallerIdentifier, options: Options = ()) -> ServerInterceptor:
        """Return a listener with the health service."""
        server = grpc.aio.server(options=[*_common_options(self._config), *options])
        listener = ServerInterceptor(server, identify, self._rates, self._audit, self._changes, self.refusals)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self._health), listener)
        return listener

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
        _bind_unix(self._devices.server, self._config.inference_socket, 0o660, _group_id(service, "inference_group"))
        _bind_unix(self._reviewers.server, self._config.review_socket, 0o660, _group_id(service, "review_group"))
        admin_mode = 0o660 if service.admin_group else 0o600
        _bind_unix(self._operator.server, self._config.admin_socket, admin_mode, _group_id(service, "admin_group"))
        if service.tcp_address:
            _bind_tcp(self._network.server, service.tcp_address, self._tls.credentials() if self._tls else None)
        for listener in (self._devices, self._network, self._reviewers, self._operator):
            await listener.server.start()

    @property
    def denied(self) -> Mapping[str, int]:
        """Calls that were denied, by reason."""
        return self._audit.denied

    @property
    def audit_problem(self) -> str:
        """Why the audit log cannot be written; empty = it can."""
        return self._audit.problem

    def tcp_warnings(self) -> list[str]:
        """Return what an operator should know about TCP, a sentence each."""
        service = self._config.service
        if service.tcp_address and service.insecure:
            message = f"{service.tcp_address} is open: without certificates, anyone who reaches it may use the models."
            return [f"{message} 'sudo edge-agent certs init' makes them."]
        return self._tls.warnings() if self._tls else []

    async def report(self, ready: dict[str, bool], *, serving: bool) -> None:
        """Set what health reports: whether each name, a task or service, is ready."""
        self._health.update(ready, serving=serving)

    async def drain(self, seconds: float) -> None:
        """Give running calls of devices `seconds` to end, and refuse the rest; admission control refuses new ones."""
        self._health.end()
        self._streams.close()
        await asyncio.gather(*(each.running.drain(seconds) for each in (self._devices, self._network)))

    async def stop(self) -> bool:
        """Close the listeners and remove the sockets; call it after `drain`, when no more calls come.

        Tell whether the disk took the whole audit log.
        """
        await asyncio.gather(*(each.server.stop(REFUSAL_SECONDS) for each in (self._devices, self._network)))
        await self._deduplicator.stop()
        staff_listeners = self._reviewers, self._operator
        await asyncio.gather(*(each.running.drain(OPERATION_SECONDS) for each in staff_listeners))
        await asyncio.gather(*(each.server.stop(REFUSAL_SECONDS) for each in staff_listeners))
        await self._changes.stop()
        self.refusals.close()
        closed = await self._audit.close()
        for path in (self._config.inference_socket, self._config.review_socket, self._config.admin_socket):
            path.unlink(missing_ok=True)
        return closed


def _add_admin(
    listener: ServerInterceptor, admin: admin_pb2_grpc.AdminServiceServicer, listed: tuple[str, ...]
) -> None:
    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, listener)
    pool = oip_tensors.pool_with(
        *(each.DESCRIPTOR for each in (inference_pb2, feedback_pb2, admin_pb2, pb, reflection_pb2))
    )
    reflection_servicer = reflection_aio.ReflectionServicer(listed, pool=pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection_servicer, listener)


def _common_options(config: Config) -> Options:
    """Return the options of every server.

    `maximum_concurrent_rpcs` is not set, because gRPC refuses without a reason: the daemon refuses a burst first, with
    one. Connections, and the calls on each, bound what is in progress.
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
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.keepalive_permit_without_calls", 1),
    )


def _tls_identity(access: AccessConfig) -> tuple[TlsFiles | None, CallerIdentifier]:
    """Return the TLS files of TCP, if it has them, and what identifies its callers. Raises CertificateUnusable."""
    if not access.certificate_file:
        return None, roles.identify_by_address
    # Only a daemon with certificates loads the library that reads them.
    from edge_agent.server.tls import CertificateIdentifier, TlsFiles  # noqa: PLC0415

    return TlsFiles(access), CertificateIdentifier(access.roles)


def _group_id(config: ServiceConfig, key: str) -> int | None:
    name = getattr(config, key)
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        raise ConfigInvalid(
            f"service.{key}: there is no group {name!r}", remedy=f"'groupadd {name}', or choose another."
        ) from None


def _bind_unix(server: grpc.aio.Server, path: Path, mode: int, group: int | None) -> None:
    """Bind a socket file that no process can open before its mode is set.

    gRPC removes whatever is at the path, even the socket of a running daemon. So this checks for a running one first.
    """
    _require_unused(path)
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


def _require_unused(path: Path) -> None:
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
    normalized = join_host_port(*split_host_port(address))  # gRPC takes ::1:9443 for an address without a port
    try:
        port = server.add_secure_port(normalized, credentials) if credentials else server.add_insecure_port(normalized)
    except RuntimeError:
        port = 0
    if not port:
        raise SocketInUse(
            f"cannot listen on {address}: it is in use, or not an address of this machine", address=address
        )

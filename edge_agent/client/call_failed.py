"""CallFailed, the only exception of the client, and its translation from a failed gRPC call; the TLS files of a client.

The daemon reports an error in google.rpc.ErrorInfo (domain "edge-agent"), and the time of a retry in RetryInfo. Without
an ErrorInfo the error is not the daemon's: nothing listens, this user has no permission, the TLS handshake failed, the
connection broke, the message was too large for gRPC, more calls came than the daemon could refuse, or the client's own
deadline passed.

gRPC reports a failed connection as one sentence for developers. Parts of it distinguish the causes: a wrong name, no
network, a machine that is off, a closed port, a firewall, a certificate. When the server closes the connection ("Socket
closed"), the client does not learn whether its certificate was missing, foreign or out of date; the remedy names what
to check.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

if TYPE_CHECKING:
    from google.rpc import status_pb2


_SHOW_CERTIFICATE = "'edge-agent certs show FILE' shows the contents of a certificate."
_NETWORK_REMEDY = "Is the cable in, or the wireless network joined? 'ip -brief address' shows this machine's addresses."
_FILES_UNUSABLE = (
    "the certificate, key or 'ca' file cannot be used: one is not PEM, or the key belongs to another certificate",
    f"Check the three files. {_SHOW_CERTIFICATE}",
)
# Words of gRPC and BoringSSL, their meaning, and the remedy. The first match counts.
_HANDSHAKES = (
    (
        "certificate has expired",
        "the server's certificate has expired, or this machine's clock is wrong",
        "Compare 'date' here with the time. If it is right, run 'sudo edge-agent certs server --renew' over there.",
    ),
    (
        "certificate is not yet valid",
        "the server's certificate is not valid yet, so this machine's clock or the one that issued it is wrong",
        "Compare 'date' here and on the server's machine with the time, and set the clock that is wrong.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate was not issued by the authority in the 'ca' file",
        "Take the ca.crt of the site that the server belongs to.",
    ),
    (
        "Hostname Verification",
        "the server's certificate is for other names than that of the address",
        "Use a name that is in it, or have it issued with this name ('sudo edge-agent certs server --name …').",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "something answers there, but without TLS",
        "Leave the certificate out if that daemon is meant to be open ('insecure: true'); otherwise check the address.",
    ),
    ("Invalid credentials", *_FILES_UNUSABLE),
    ("Failed to create security handshaker", *_FILES_UNUSABLE),
)
_REFUSED_CLIENT = (
    "the server ended the handshake: it does not accept this client's certificate",
    "Is it issued by the server's client authority, in date, and for clients? Is the server's clock right?"
    f" {_SHOW_CERTIFICATE}",
)
_NO_TLS = (
    "something answers there and hangs up: it requires a certificate, or is not an edge-agent",
    "Have a certificate issued for this client ('sudo edge-agent certs issue'), and name it with '--remote'.",
)


_NEW_CERTIFICATE = f"Have a new one issued ('sudo edge-agent certs issue'). {_SHOW_CERTIFICATE}"


@dataclass(frozen=True)
class ConnectionFault:
    """One cause of a failed connection over the network."""

    cause: str
    """Stable code for programs."""
    words: tuple[str, ...]
    """Phrases of gRPC, any of which identifies the cause."""
    meaning: str
    """The end of "no daemon answers at HOST:PORT: "."""
    remedy: str


# The first match counts.
_FAULTS = (
    ConnectionFault(
        "name_unknown",
        ("Domain name not found", "Name or service not known", "ENOTFOUND", "NXDOMAIN"),
        "the name {host} does not exist",
        "Check the spelling of the address. Where no name server has this machine, use its IP address.",
    ),
    ConnectionFault(
        "name_server_silent",
        ("hostname lookup error", "errors resolving", "DNS resolution failed", "DNS query"),
        "the name {host} cannot be looked up, because no name server answers",
        f"{_NETWORK_REMEDY} On a network without a name server, use the IP address of the daemon's machine.",
    ),
    ConnectionFault(
        "no_network",
        ("Network is unreachable", "Network unreachable", "Network is down"),
        "this machine has no network that leads to {host}",
        _NETWORK_REMEDY,
    ),
    ConnectionFault(
        "no_route",
        ("No route to host", "Host is unreachable", "Host is down"),
        "no machine answers for {host} on the network",
        "Is that machine switched on and connected? Is the address right? 'ping {host}' asks from here.",
    ),
    ConnectionFault(
        "refused",
        ("Connection refused",),
        "that machine answers, but no program listens on port {port}",
        "Is edge-agent running there, and does its agent.yaml set service.tcp_address to this port? "
        "'edge-agent doctor' there checks both.",
    ),
    ConnectionFault(
        "other_program",
        ("Received http2 header with status", "http1.x server", "HTTP/1", "Failed parsing HTTP/2"),
        "another program answers there",
        "Check host and port of the address: {port} is not the port of an edge-agent.",
    ),
    ConnectionFault(
        "silent",
        ("before receiving SETTINGS",),
        "something accepted the connection and then said nothing",
        "Is {port} the port of an edge-agent? If it is, that daemon hangs: 'edge-agent doctor' there shows it.",
    ),
    ConnectionFault(
        "timed_out",
        ("timed out", "handshaker shutdown"),
        "it did not answer in time",
        "Is that machine switched on, and the address right ('ping {host}')? A firewall in between may drop the "
        "connection, and so may the unit on that machine: 'sudo edge-agent drop-ins' there lets its networks in.",
    ),
)
_OTHER = ConnectionFault(
    "other", (), "", "Is edge-agent running there, and does its agent.yaml set service.tcp_address?"
)


def explain_connection(details: str, target: str) -> ConnectionFault:
    """Return the fault of a connection to "host:port", with the address in its texts; unknown = an empty `meaning`."""
    host, _, port = target.rpartition(":")
    fault = next((each for each in _FAULTS if any(words in details for words in each.words)), _OTHER)
    host = host.removeprefix("dns:").lstrip("/").strip("[]")
    meaning, remedy = (text.format(host=host, port=port) for text in (fault.meaning, fault.remedy))
    return replace(fault, meaning=meaning, remedy=remedy)


def explain_handshake(details: str, *, with_tls: bool, doubt: str = "") -> tuple[str, str] | None:
    """Return the meaning and the remedy of gRPC's `details`; None when they are not about TLS.

    `doubt` is a known fault of the client's own certificate, as in `Tls`.
    """
    closed = "Socket closed" in details or "Connection reset" in details
    if not with_tls:
        return _NO_TLS if closed else None
    for words, meaning, remedy in _HANDSHAKES:
        if words in details:
            return meaning, remedy
    if closed:
        return (f"{_REFUSED_CLIENT[0]}, which {doubt}", _NEW_CERTIFICATE) if doubt else _REFUSED_CLIENT
    return None


DOMAIN = "edge-agent"
UNREACHABLE = "UNREACHABLE"
DEADLINE_EXPIRED = "DEADLINE_EXPIRED"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
QUEUE_FULL = "QUEUE_FULL"
_TOO_LARGE = re.compile(r"message larger than max(?: \((\d+) vs\. (\d+)\))?")
_TOO_MANY = "Concurrent RPC limit exceeded"  # in grpc/_cython and grpc/_server.py
_REFUSED = (
    "RST_STREAM with error code 7"  # REFUSED_STREAM: too many streams on the connection, even for gRPC's own retry
)
_OTHER_PROGRAM = "Received http2 header with status"
_RESET = ("", "CANCELLED")  # gRPC's details if a stopping server reset a call before a handler got it
_RETRY_SECONDS = 1.0  # as in the daemon's own refusals
_RETRY_INFO = " after the delay in RetryInfo"

TLS_FAILED = "TLS_FAILED"
_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True)
class Tls:
    """Files in PEM: the authority of the server's certificate, and the identity of this client."""

    ca: str | os.PathLike[str]
    """The authority that issued the server's certificate."""
    certificate: str | os.PathLike[str]
    """This client's certificate, which holds its roles."""
    key: str | os.PathLike[str]
    """Its private key."""
    server_name: str = ""
    """The name in the server's certificate, if it differs from the address."""
    doubt: str = ""
    """A known fault of this client's certificate, as the end of "…, which "; shown if the server refuses it."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError."""
        ca, key, certificate = (Path(path).read_bytes() for path in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> list[tuple[str, str]]:
        """Return the further options of a channel."""
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


class CallFailed(Exception):
    """A call failed."""

    def __init__(self, code: str, reason: str, message: str, *, remedy: str = "", metadata: dict[str, str]) -> None:
        """Keep the parts; `retry_after_seconds` is set when the daemon names a delay."""
        super().__init__(message)
        self.code = code
        """gRPC's name, e.g. "NOT_FOUND"."""
        self.reason = reason
        """Stable UPPER_SNAKE reason; docs/errors.md lists them. UNREACHABLE when no daemon answered."""
        self.message = message
        self.remedy = remedy
        """What the reader can do next; may be empty."""
        self.metadata = metadata
        """The variable parts of the message, by name."""
        self.retry_after_seconds: float | None = None
        self.request_id = ""
        """The request's id; empty = it had none."""
        self.tries = 1
        """Number of tries."""
        self.seconds = 0.0
        """Time of all tries and pauses together."""
        self.answered_before = False
        """Whether the daemon has answered this client before, even with an error, and so accepts its certificate."""
        self.is_answer = False
        """Whether the daemon reported this error."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle every part: a process pool would wait for ever if it could not unpickle a worker's exception."""
        make = functools.partial(CallFailed, remedy=self.remedy, metadata=self.metadata)
        return make, (self.code, self.reason, self.message), vars(self)

    def give_up(self, why: str) -> None:
        """Add to the message the number and time of the tries, and why there are no more."""
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        self.message = f"{self.message}; given up after {tries} in {self.seconds:.1f} s: {why}"

    def __str__(self) -> str:
        """Return reason, message and remedy, for a log or a traceback."""
        text = f"{self.reason}: {self.message}"
        return f"{text}; what to do: {self.remedy}" if self.remedy else text


def remedy_with_delay(remedy: str, seconds: float | None) -> str:
    """Return a remedy with the delay of gRPC's RetryInfo in seconds, or without it if it is None."""
    return remedy.replace(_RETRY_INFO, "" if seconds is None else f" in {seconds:g} s")


def call_failed(
    error: grpc.RpcError, target: str, timeout_seconds: float, tls: Tls | None = None, *, reached: bool = False
) -> CallFailed:
    """Translate a failed call, sync or aio; `reached` = this daemon has answered this client before."""
    from google.rpc import error_details_pb2, status_pb2  # noqa: PLC0415
    from grpc_status import rpc_status  # noqa: PLC0415

    call = cast(grpc.Call, error)
    try:
        status = rpc_status.from_call(call) or status_pb2.Status()
    except ValueError:  # The trailer contradicts the call's own status: trust the call.
        status = status_pb2.Status()
    info = _detail(status, error_details_pb2.ErrorInfo)
    if info is None or info.domain != DOMAIN:
        return _error_without_info(call, target, timeout_seconds, tls, reached=reached)
    metadata = dict(info.metadata)
    retry = _detail(status, error_details_pb2.RetryInfo)
    seconds = None if retry is None else retry.retry_delay.ToTimedelta().total_seconds()
    remedy = remedy_with_delay(metadata.pop("remedy", ""), seconds)
    failed = CallFailed(call.code().name, info.reason, call.details() or "", remedy=remedy, metadata=metadata)
    failed.retry_after_seconds = seconds
    failed.is_answer = True
    return failed


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None


def _error_without_info(
    call: grpc.Call, target: str, timeout_seconds: float, tls: Tls | None, *, reached: bool
) -> CallFailed:
    code, details = call.code(), call.details() or ""
    if _REFUSED in details:
        return _overload_error(target)
    if code is grpc.StatusCode.UNAVAILABLE:
        return _handshake_error(target, details, tls) or _unreachable_error(target, details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if match := _TOO_LARGE.search(details):
            return _size_error(match)
        if _TOO_MANY in details:
            return _overload_error(target)
    if code is grpc.StatusCode.CANCELLED and details in _RESET:  # this client's own cancellations have other details
        return _reset_error(target)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _deadline_error(target, timeout_seconds, reached=reached)
    if _OTHER_PROGRAM in details:
        return _unreachable_error(target, details)
    return _error_with_code(target, code, details)


_OTHER_SOCKET = (
    "Use the socket of the call's role: inference.sock answers, review.sock takes corrections, admin.sock shows and "
    "changes the site. If it is that one, update edge-agent there."
)


def _error_with_code(target: str, code: grpc.StatusCode, details: str) -> CallFailed:
    message, remedy = details or f"{target} answered {code.name}", ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"{target} does not serve this call: it is the socket of another role, or that edge-agent is older"
        remedy = _OTHER_SOCKET
    return CallFailed(code.name, code.name, message, remedy=remedy, metadata={"target": target})


_UNIT_SOCKETS = "/run/edge-agent/"
"""Where the daemon's unit makes its sockets (RuntimeDirectory=)."""


def _handshake_error(target: str, details: str, tls: Tls | None) -> CallFailed | None:
    doubt = tls.doubt if tls else ""
    explanation = None if is_local(target) else explain_handshake(details, with_tls=tls is not None, doubt=doubt)
    if explanation is None:
        return None
    meaning, remedy = explanation
    metadata = {"target": target, "details": details}
    return CallFailed("UNAVAILABLE", TLS_FAILED, f"{target}: {meaning}", remedy=remedy, metadata=metadata)


def _unreachable_error(target: str, details: str) -> CallFailed:
    message, metadata = f"no daemon answers at {target}", {"target": target, "details": details}
    path = target.removeprefix("unix:")
    if not is_local(target):
        fault = explain_connection(details, target)
        metadata["cause"], remedy = fault.cause, fault.remedy
        message += f": {fault.meaning}" if fault.meaning else ""
    elif _is_forbidden(path):
        message = f"this user may not use {path}"
        remedy = _admission_remedy(path)
    else:
        remedy = start_remedy(path)
    return CallFailed("UNAVAILABLE", UNREACHABLE, message, remedy=remedy, metadata=metadata)


def start_remedy(socket_path: str, root: Path = Path("/")) -> str:
    """Return how to start the daemon of a local socket: with systemd if its unit is installed, else by hand."""
    units = [root / folder / "edge-agent.service" for folder in ("etc/systemd/system", "usr/lib/systemd/system")]
    has_unit = (root / "run/systemd/system").is_dir() and any(unit.exists() for unit in units)
    if has_unit and socket_path.startswith(_UNIT_SOCKETS):
        instruction = "'sudo systemctl start edge-agent' starts it, and 'sudo edge-agent doctor' checks why it ended"
    else:
        instruction = "'edge-agent serve' starts it; its log has the reason why it ended"
    return f"Is edge-agent running? {instruction}."


def _deadline_error(target: str, timeout_seconds: float, *, reached: bool) -> CallFailed:
    """A daemon that has answered before is slow; one on another machine that never has may be unreachable."""
    message, remedy = f"no answer from {target} within {timeout_seconds:g} s", "Allow more time, or send less at once."
    metadata = {"target": target, "timeout_seconds": f"{timeout_seconds:g}"}
    if not reached and not is_local(target):
        message = f"{message}, and none before"
        remedy = f"{explain_connection('timed out', target).remedy} If the daemon is only slow, allow more time."
    return CallFailed("DEADLINE_EXCEEDED", DEADLINE_EXPIRED, message, remedy=remedy, metadata=metadata)


def is_local(target: str) -> bool:
    """Tell whether an address is a socket of this machine."""
    return target.startswith(("unix:", "unix-abstract:"))


def _reset_error(target: str) -> CallFailed:
    """A stopping server resets the calls that have reached it but none of its handlers."""
    message = f"{target} ended the call before it began: the daemon is stopping"
    remedy = "Connect again when it is back."
    return CallFailed("UNAVAILABLE", UNREACHABLE, message, remedy=remedy, metadata={"target": target})


def _is_forbidden(path: str) -> bool:
    """Tell whether this user may not use or see the socket, which gRPC does not report."""
    try:
        os.stat(path)  # noqa: PTH116 a path is not worth an object here
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK, effective_ids=True)


def _admission_remedy(path: str) -> str:
    """Return how this user can get permission to use a socket."""
    # Not every system that runs clients has these modules.
    import grp  # noqa: PLC0415
    import pwd  # noqa: PLC0415

    only_sudo = "Use 'sudo': only root and the daemon's user may use this socket."
    try:
        status = os.stat(path)  # noqa: PTH116 a path is not worth an object here
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.geteuid()).pw_name
    except (OSError, KeyError):
        return only_sudo
    if not status.st_mode & stat.S_IWGRP:
        return only_sudo
    if user in group.gr_mem:
        return f"Log in again: {user} became a member of {group.gr_name} after this session began. Or use 'sudo'."
    return f"Use 'sudo', or run 'sudo usermod -aG {group.gr_name} {user}' and log in again."


def _size_error(match: re.Match[str]) -> CallFailed:
    size, limit = match.groups()
    numbers = {"size": size, "limit": limit} if size else {}
    message = f"the message has {size} bytes; the limit is {limit}" if size else "the message is over the size limit"
    remedy = (
        "Send fewer or shorter texts at once, ask for fewer scores ('top_k'), or raise 'message_bytes_max' under"
        " 'service' in agent.yaml."
    )
    return CallFailed("RESOURCE_EXHAUSTED", MESSAGE_TOO_LARGE, message, remedy=remedy, metadata=numbers)


def _overload_error(target: str) -> CallFailed:
    """A burst hit gRPC's own limit before the daemon could refuse calls; for the caller it is the same refusal."""
    message, remedy = f"more calls came at once than {target} accepts", f"Try again in {_RETRY_SECONDS:g} s."
    failed = CallFailed("RESOURCE_EXHAUSTED", QUEUE_FULL, message, remedy=remedy, metadata={"target": target})
    failed.retry_after_seconds = _RETRY_SECONDS
    return failed

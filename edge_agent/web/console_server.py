"""`edge-agent serve web`: the process that listens, with TLS where it is configured, and its token file.

The ASGI application has the routes of the pages and of the gateway under /v1, signing in, and error pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import ssl
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.client import CallFailed
from edge_agent.config import Role, WebConfig, sections
from edge_agent.errors import CertificateUnusable, SocketInUse, WebTokenUnusable
from edge_agent.formats.certificates import check_key_matches, parse_certificates
from edge_agent.refusal_log import HANDSHAKE, RefusalLog, handshake_cause
from edge_agent.supervision import (
    Component,
    DeathPolicy,
    RunWrapper,
    Supervisor,
    notify_systemd,
    ping_watchdog,
    run_unwrapped,
    watchdog_seconds,
)
from edge_agent.web import overview_page, redaction_page, review_page
from edge_agent.web.daemon_access import DaemonConnections, DaemonEndpoint
from edge_agent.web.gateway import endpoints
from edge_agent.web.rendering import guard_settings_of, read_form, render_page
from edge_agent.web.request_guard import HTTP, GuardSettings, RequestGuard, SessionSigner, allowed_hosts, client_name

_TOKEN_BYTES = 32
_TOKEN_CHARS_MIN = 32
_TOKEN_FILE_BYTES_MAX = 1024


def read_or_create_token(path: Path) -> str:
    """Return the token, which the first call creates. Raises WebTokenUnusable."""
    with contextlib.suppress(FileNotFoundError):
        return read_token(path)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_token(path, token)
    except FileExistsError:  # another console created it first
        return read_token(path)
    except OSError as error:
        raise WebTokenUnusable(f"cannot write {path}: {error.strerror}", path=path) from None
    return token


def read_token(path: Path) -> str:
    """Return the existing token. Raises WebTokenUnusable, FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WebTokenUnusable(f"cannot read {path}: {error.strerror}", path=path) from None
    with os.fdopen(fd, encoding="ascii", errors="replace") as file:
        file_status = os.fstat(fd)
        if not stat.S_ISREG(file_status.st_mode) or file_status.st_mode & 0o077:
            raise WebTokenUnusable(f"other users may read {path}, or it is not a regular file", path=path)
        token = file.read(_TOKEN_FILE_BYTES_MAX).strip()
    if len(token) < _TOKEN_CHARS_MIN or not (token.isascii() and token.isprintable()):
        raise WebTokenUnusable(f"{path} does not hold a token", path=path)
    return token


def _write_token(path: Path, token: str) -> None:
    """Write the file completely, then link it. In another user's folder root gives it to that user."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
            if os.geteuid() == 0:
                folder = path.parent.stat()
                os.fchown(fd, folder.st_uid, folder.st_gid)
        os.link(partial, path)
    finally:
        os.unlink(partial)  # noqa: PTH108 - beside os.link


STOP_SECONDS_MAX = 5
EXIT_FAILED = 1
"""systemd starts the console again (Restart=on-failure)."""


@dataclass(frozen=True)
class ConsoleSettings:
    """The settings of a console."""

    config: WebConfig
    endpoints: Mapping[Role, DaemonEndpoint]
    """Endpoints of the daemon, by role."""
    roles_by_certificate: Mapping[str, tuple[Role, ...]]
    """Roles by certificate name, in addition to those in the certificates."""
    token_path: Path


def serve_console(settings: ConsoleSettings, announce: Callable[[str], None], wrap: RunWrapper = run_unwrapped) -> int:
    """Serve until SIGTERM or Ctrl-C, and return the exit code. `announce` gets the address once the console listens.

    `wrap` wraps each component of the supervisor.

    Raises:
        WebTokenUnusable, CertificateUnusable, SocketInUse: it cannot start.
    """
    config = settings.config
    refusals = RefusalLog()
    tls = ReloadingTls(config, refusals) if config.has_tls else None
    secret = read_or_create_token(settings.token_path)
    guard = GuardSettings(
        hosts=allowed_hosts(config.address, config.names),
        signer=SessionSigner(secret),
        roles_by_certificate=settings.roles_by_certificate if tls else None,
        body_bytes_max=config.body_bytes_max,
        request_seconds_max=config.request_seconds_max,
        refusals=refusals,
        certificate_hosts=(lambda: allowed_hosts(config.address, tls.names)) if tls else frozenset,
    )
    with contextlib.closing(open_listener(config.address)) as sock:
        announce(_address(config, secret))
        return EXIT_FAILED if asyncio.run(_serve(settings, guard, tls, sock, wrap)) else 0


async def _serve(
    settings: ConsoleSettings, guard: GuardSettings, tls: ReloadingTls | None, sock: socket.socket, wrap: RunWrapper
) -> str:
    """Serve; return the background component whose failure ended it, or an empty string."""
    async with DaemonConnections(settings.endpoints) as daemon:
        server = uvicorn.Server(_server_config(settings.config, application(daemon, guard, settings.config), tls))

        def stop_serving() -> None:
            server.should_exit = True

        supervisor = Supervisor(stop_serving, wrap=wrap)
        if watchdog_seconds():
            why = "systemd kills a console without its ping; an orderly exit is better"
            supervisor.add(Component("watchdog", lambda: ping_watchdog(lambda _: True), DeathPolicy.STOP, why))
        why = "refusals are logged without it; only the summaries wait"
        supervisor.add(Component("refusals", guard.refusals.run, DeathPolicy.RESTART, why))
        supervisor.start()
        notify_systemd("READY=1")
        try:
            await server.serve(sockets=[sock])
        finally:
            await supervisor.stop()
            guard.refusals.close()
        notify_systemd("STOPPING=1")
        return supervisor.failed_component


def sign_in_link(config: WebConfig, token_path: Path) -> str:
    """Return the link that signs a browser in. Raises WebTokenUnusable."""
    return _address(config, read_or_create_token(token_path))


def _address(config: WebConfig, secret: str) -> str:
    """Return the address for a browser; with certificates it needs no token."""
    address = display_address(config.address, secure=config.has_tls)
    return f"{address}/" if config.has_tls else f"{address}/login?token={secret}"


def _server_config(config: WebConfig, app: ASGIApp, tls: ReloadingTls | None) -> uvicorn.Config:
    server_config = uvicorn.Config(
        app,
        # Like `ssl`, uvicorn takes a class.
        http=type("TimedHttp", (TimedHttpProtocol,), {"silent_seconds_max": config.silent_seconds_max}),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connections_max + 1,  # the connection that is refused counts too
        timeout_keep_alive=_NEVER_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
        h11_max_incomplete_event_size=16 * 1024,
    )
    server_config.load()
    server_config.ssl = tls.context if tls else None
    return server_config


_BACKLOG = 128
_NEVER_SECONDS = 365 * 86_400
"""Effectively disables uvicorn's own time limit, which would cut off a response that is still being read."""


def open_listener(address: str) -> socket.socket:
    """Listen on host:port. Raises SocketInUse."""
    host, port = sections.split_host_port(address)
    with contextlib.ExitStack() as stack:
        try:
            # The IPv4 address of a name that has both: earlier consoles listened on it alone.
            address_info = min(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP))
            # With the protocol named, asyncio turns off Nagle's algorithm, which delayed each answer by 40 ms.
            listener = stack.enter_context(socket.socket(*address_info[:3]))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address_info[4])
            listener.listen(_BACKLOG)
        except OSError as error:
            remedy = "Stop the program that listens there, or choose another 'address' under 'web' in agent.yaml."
            raise SocketInUse(f"cannot listen on {address}: {error.strerror}", remedy=remedy, address=address) from None
        stack.pop_all()
    listener.setblocking(False)
    return listener


class ReloadingTls:
    """TLS whose next connection uses certificates that changed on disk."""

    def __init__(self, config: WebConfig, refusals: RefusalLog) -> None:
        """Read the three files; failed handshakes are recorded. Raises CertificateUnusable."""
        # `ssl` takes a class.
        self._connection = type("RecordedTls", (RecordingTlsConnection,), {"refusals": refusals})
        self._files = [Path(name) for name in (config.certificate_file, config.key_file, config.client_ca_file)]
        self.names: tuple[str, ...] = ()
        """The names in the certificate that is in use."""
        self._loaded_times = self._modification_times()
        self._latest = self._load()
        self.context = self._latest
        self.context.sni_callback = self._reload

    def _reload(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Load changed files; the old certificate stays in use while they are invalid."""
        with contextlib.suppress(CertificateUnusable, OSError):
            times = self._modification_times()
            if times != self._loaded_times:
                self._latest = self._load()
                self._loaded_times = times
        connection.context = self._latest

    def _modification_times(self) -> list[int]:
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in self._files]

    def _load(self) -> ssl.SSLContext:
        certificate, key, ca = self._files
        try:
            check_key_matches(certificate.read_bytes(), key.read_bytes(), str(certificate))
            parse_certificates(ca.read_bytes(), str(ca))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            context.sslobject_class = self._connection
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(ca)
            self.names = parse_certificates(certificate.read_bytes(), str(certificate))[0].names
        except OSError as error:
            message = f"cannot use the console's certificate: {error.strerror or error}"
            remedy = "Check the three files under 'web' in agent.yaml; 'edge-agent certs show FILE' prints one."
            raise CertificateUnusable(message, remedy=remedy) from None
        return context


class RecordingTlsConnection(ssl.SSLObject):
    """One TLS connection; the log of refusals learns why its handshake failed, but not the address of its client."""

    refusals: RefusalLog

    def do_handshake(self) -> None:
        """Take the next step. Raises SSLError."""
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            self.refusals.record(HANDSHAKE, "", handshake_cause(str(error).encode()))
            raise


class TimedHttpProtocol(H11Protocol):
    """HTTP/1.1 that passes the client's certificate on, and closes a connection without a complete request in time.

    A client that still reads its response is not silent: the timer restarts if its machine has acknowledged more bytes.
    """

    silent_seconds_max: float
    _timer: asyncio.TimerHandle | None = None
    _bytes_at_start = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        """Read the client's certificate, and start the timer for the first request."""
        super().connection_made(transport)
        ssl_object = transport.get_extra_info("ssl_object")
        der = ssl_object.getpeercert(binary_form=True) if ssl_object else None
        if der:
            pem = ssl.DER_cert_to_PEM_cert(der).encode()
            self.app_state = {**self.app_state, "certificate": parse_certificates(pem, "a client's certificate")[0]}
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the timer when a request is complete."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Start the timer for the next request."""
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers: uvicorn's own would hold a connection that was reset."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_timer()

    def _update_timer(self) -> None:
        """Run the timer while no request is in progress; the guard bounds requests."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._timer is None:
            self._bytes_at_start = self._acknowledged_bytes()
            self._timer = self.loop.call_later(self.silent_seconds_max, self._end_silence)

    def _end_silence(self) -> None:
        self._timer = None
        if self._acknowledged_bytes() > self._bytes_at_start:
            self._update_timer()
        else:
            self.transport.abort()

    def _acknowledged_bytes(self) -> int:
        """Return how many bytes the client's machine acknowledged; the kernel is asked, since TLS hides it."""
        try:
            tcp_info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
        except OSError:
            return 0
        return _BYTES_ACKED.unpack_from(tcp_info, _BYTES_ACKED_AT)[0] if len(tcp_info) == 128 else 0  # since Linux 4.1

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_BYTES_ACKED, _BYTES_ACKED_AT = struct.Struct("=Q"), 120
"""tcpi_bytes_acked in the tcp_info of linux/tcp.h."""


def display_address(address: str, *, secure: bool) -> str:
    """Return the URL for a browser; an address of all networks becomes this machine's host name."""
    host, port = sections.split_host_port(address)
    display_host = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared with
    return f"{'https' if secure else 'http'}://{sections.join_host_port(display_host, port)}"


STATIC = Path(__file__).parent / "static"


def application(daemon: DaemonConnections, settings: GuardSettings, config: WebConfig) -> ASGIApp:
    """Build the application, inside the running event loop. The gateway needs a console that may infer."""
    calls_max = min(endpoints.CALLS_MAX, max(1, config.connections_max // 2))
    routes = [
        Route("/healthz", show_liveness),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/login", sign_in, methods=["GET", "POST"]),
        Route("/logout", sign_out, methods=["POST"]),
        *overview_page.ROUTES,
        *review_page.ROUTES,
        *redaction_page.ROUTES,
        *(endpoints.routes(daemon.devices, settings.refusals, calls_max) if daemon.devices else ()),
    ]
    app = Starlette(routes=routes, exception_handlers={CallFailed: show_daemon_failure, HTTPException: show_http_error})
    app.state.daemon, app.state.guard, app.state.session_seconds_max = daemon, settings, config.session_seconds_max
    return RequestGuard(app, settings)


async def show_liveness(_: Request) -> Response:
    """Answer that this process runs; the state of the daemon is not checked."""
    return PlainTextResponse("ok\n")


async def sign_in(request: Request) -> Response:
    """Start a session for a browser that sends the token, by the printed link or by the form."""
    token = request.query_params.get("token", "")
    if request.method == "POST":
        token = (await read_form(request)).get("token", "").strip()
    settings = guard_settings_of(request)
    if settings.roles_by_certificate is not None:
        return render_page(request, "login.html", {"wrong": False, "certified": True}, 401)
    if not token:
        return render_page(request, "login.html", {"wrong": False, "certified": False})
    if not settings.signer.is_token(token):
        settings.refusals.record(HTTP, client_name(request.scope), "TOKEN_WRONG")
        return render_page(request, "login.html", {"wrong": True, "certified": False}, 401)
    # The redirect keeps the token out of the address bar, the history and the Referer header.
    response = RedirectResponse("/", 303)
    seconds = request.app.state.session_seconds_max
    response.set_cookie(
        settings.signer.cookie_name,
        settings.signer.sign_session(time.time() + seconds, secrets.token_urlsafe(12)),
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    response = Response(status_code=204, headers={"hx-redirect": "/login"})
    response.delete_cookie(guard_settings_of(request).signer.cookie_name, httponly=True, samesite="strict")
    return response


async def show_daemon_failure(request: Request, error: Exception) -> Response:
    """Explain why a call to the daemon failed: as text for a part of a page, otherwise as a page."""
    assert isinstance(error, CallFailed), "it is registered for these"
    status = 503 if error.code == "UNAVAILABLE" else 422
    if request.headers.get("hx-request"):
        message = f"{error.message[:1].upper()}{error.message[1:]}"
        return PlainTextResponse(f"{message}. {error.remedy}".strip(), status)
    context = {"headline": "The daemon refused this request", "message": error.message, "remedy": error.remedy}
    return render_page(request, "error.html", context, status)


async def show_http_error(request: Request, error: Exception) -> Response:
    """Report that a page does not exist, or why its form is refused: as text for a part of a page."""
    assert isinstance(error, HTTPException), "it is registered for these"
    message, status = str(error.detail), error.status_code
    if request.headers.get("hx-request"):
        return PlainTextResponse(f"{message[:1].upper()}{message[1:]}.", status)
    headline = "Page not found" if status == 404 else "This request was refused"
    context = {"headline": headline, "message": message, "remedy": "Open the overview for all pages."}
    return render_page(request, "error.html", context, status)

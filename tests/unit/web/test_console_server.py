"""The console's token file, its listener, and its answers to unknown pages and refused forms."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import stat
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from edge_agent.config import WebConfig, load
from edge_agent.config.optional_sections import token_path
from edge_agent.errors import ConfigInvalid, SocketInUse, WebTokenUnusable
from edge_agent.refusal_log import RefusalLog
from edge_agent.web import console_server
from edge_agent.web.console_server import application, display_address, open_listener
from edge_agent.web.daemon_access import DaemonConnections, DaemonEndpoint
from edge_agent.web.request_guard import PAGE_KEY, GuardSettings, SessionSigner, allowed_hosts
from tests.support.asgi import HOST, ask
from tests.support.eventually import eventually, given_up
from tests.support.fake_daemon import FakeDaemon
from tests.support.free_ports import free_port
from tests.support.tls_site import TlsSite

CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


def test_token_is_created_once(tmp_path):
    """The first start creates the token file with mode 0600; later starts read it."""
    path = tmp_path / "new" / "folder" / "web-token"
    made = console_server.read_or_create_token(path)
    assert (made, made, True) == (console_server.read_or_create_token(path), path.read_text().strip(), len(made) >= 43)
    assert (0o600, 0o700) == tuple(stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent))
    assert [path] == list(path.parent.iterdir())
    assert made != console_server.read_or_create_token(tmp_path / "another")


@pytest.mark.parametrize("content", ["", "short", "x" * 31, "ä" * 40, "x" * 20 + "\n" + "y" * 20])
def test_file_without_a_token_is_refused(tmp_path, content):
    """A token that could be guessed, or is not a line of text, is refused."""
    path = tmp_path / "web-token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(WebTokenUnusable, match="does not hold a token"):
        console_server.read_token(path)


def test_token_that_other_users_may_read_is_refused(tmp_path):
    """A token file that others may read, a link and a pipe are refused by name without waiting."""
    path = tmp_path / "web-token"
    console_server.read_or_create_token(path)
    path.chmod(0o640)
    with pytest.raises(WebTokenUnusable, match="other users may read"):
        console_server.read_or_create_token(path)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe"):
        with pytest.raises(WebTokenUnusable, match=name):
            console_server.read_or_create_token(tmp_path / name)
    with pytest.raises(WebTokenUnusable, match="Not a directory"):
        console_server.read_or_create_token(path / "below" / "a-file")


def test_default_token_path_is_in_the_state_directory_of_the_user():
    """Without a name in agent.yaml the token is in the state directory of whoever starts the console."""
    assert "/var/lib/x/token" == str(token_path(WebConfig(token_file="/var/lib/x/token"), {}))
    assert "/home/a/.st/edge-agent/web-token" == str(token_path(WebConfig(), {"XDG_STATE_HOME": "/home/a/.st"}))
    assert str(token_path(WebConfig(), {})).endswith("/.local/state/edge-agent/web-token")


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ({"address": "0.0.0.0:8390"}, "which others than this machine may reach"),
        ({"address": "shop.example:8390"}, "which others than this machine may reach"),
        ({"address": "8390"}, "is not an address"),
        ({"certificate_file": "a.crt"}, "needs web.key_file and web.client_ca_file"),
        ({**CERTIFICATES, "key_file": ""}, "needs web.key_file as well"),
        ({"roles": ["look"]}, "web.roles.0"),
        ({"adress": "127.0.0.1:1"}, "address"),
    ],
)
def test_unprotected_network_listener_is_refused(tmp_path, web, said):
    """A listener beyond this machine requires certificates, with all three files set."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    with pytest.raises(ConfigInvalid) as refused:
        load(path, environ={})
    assert said in f"{refused.value.message} {refused.value.remedy}"


@pytest.mark.parametrize("web", [{}, {"address": "[::1]:1"}, CERTIFICATES, {**CERTIFICATES, "address": "0.0.0.0:1"}])
def test_loopback_or_certificates_are_accepted(tmp_path, web):
    """Loopback, or all three files, is all that it takes."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"web: {web}\n")
    assert load(path, environ={}).web.has_tls == ("key_file" in web)


def test_port_in_use_is_named():
    """A second console on one address fails with a remedy that names the setting."""
    address = f"127.0.0.1:{free_port()}"
    with open_listener(address), pytest.raises(SocketInUse, match=f"cannot listen on {address}") as refused:
        open_listener(address)
    assert "'address' under 'web'" in refused.value.remedy


def test_name_with_only_an_ipv6_address_is_accepted(tmp_path):
    """A host name that has only an IPv6 address can be listened on; a name without any address is an error."""
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 till-3.shop\n")
    program = (
        "from edge_agent.web.console_server import open_listener\n"
        "with open_listener('till-3.shop:0') as listening:\n    print(listening.getsockname()[0])"
    )
    script = f'mount --bind {hosts} /etc/hosts || exit 77; exec {sys.executable} -c "$0"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, program], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs the right to mount")
    assert (0, "::1\n") == (done.returncode, done.stdout), done.stderr
    with pytest.raises(SocketInUse, match=r"cannot listen on nowhere\.invalid:1: "):
        open_listener("nowhere.invalid:1")


def test_shown_url_can_be_opened():
    """A listener on all networks is shown by the machine's name, an IPv6 address in brackets."""
    assert "http://127.0.0.1:1" == display_address("127.0.0.1:1", secure=False)
    assert "https://[::1]:1" == display_address("[::1]:1", secure=True)
    assert f"https://{os.uname().nodename}:1" == display_address("0.0.0.0:1", secure=True)


SIGNER = SessionSigner("t" * 43)


@pytest.fixture
async def console() -> AsyncIterator[Any]:
    """Create the application of a console that uses no role of the daemon."""
    async with DaemonConnections({}) as daemon:
        yield application(daemon, GuardSettings(allowed_hosts(HOST, ()), SIGNER, None, 100_000, 5.0), WebConfig())


def signed_in(**more: str) -> dict[str, str]:
    session = SIGNER.sign_session(time.time() + 60, "nonce")
    return {"cookie": f"{SIGNER.cookie_name}={session}", PAGE_KEY: SIGNER.page_key(session), **more}


async def test_form_with_too_many_fields_is_refused(console):
    """The refusal needs no sign-in and leaves no traceback in the log."""
    answered = await ask(console, "/login", "POST", body=b"&".join([b"token=x"] * 25))
    assert (422, True) == (answered.status, "The form has more than 20 fields." in answered.text)
    assert "Page not found" not in answered.text


async def test_refused_form_shows_its_message_in_the_page(console):
    """A request for a part of a page gets the message instead of a whole error page."""
    answered = await ask(console, "/redaction", "POST", signed_in(**{"hx-request": "true"}), b"text=+")
    assert (422, "The text is empty.") == (answered.status, answered.text)


@pytest.mark.parametrize("field", ["text", "label"])
async def test_empty_correction_names_the_key_to_reject(console, field):
    """A reviewer who empties the correction is told which key rejects the answer."""
    headers = signed_in(**{"hx-request": "true"})
    headers["cookie"] += "; edge_agent_reviewer=anna"
    answered = await ask(console, "/review/judge", "POST", headers, f"prediction_id=p&answer=refund&{field}=".encode())
    said = "the right answer is empty; press '!' to reject the answer without a correction"
    assert (422, said) == (answered.status, answered.text)


@pytest.mark.parametrize("path", ["/tasks/pos", "/redaction/audit", "/charts"])
async def test_page_of_an_unused_role_names_the_role(console, path):
    """A page whose role is not among `roles` says so and does not fail."""
    answered = await ask(console, path, headers=signed_in())
    assert "oes not use the role admin" in answered.text
    assert answered.status in (200, 422)


async def test_error_page_has_no_link_to_another_site(console):
    """A path //NAME, which a browser would treat as a host, becomes /NAME in links."""
    answered = await ask(console, "//evil.example/x", headers=signed_in())
    assert (404, False, True) == (
        answered.status, 'href="//' in answered.text, 'href="/evil.example/x"' in answered.text
    )  # fmt: skip


@contextlib.asynccontextmanager
async def listening(config: WebConfig, app: Any) -> AsyncIterator[tuple[uvicorn.Server, tuple[str, int]]]:
    """Serve an application as the console does; yields the server and its address."""
    tls = console_server.ReloadingTls(config, RefusalLog()) if config.certificate_file else None
    server = uvicorn.Server(console_server._server_config(config, app, tls))
    with open_listener(config.address) as sock:
        serving = asyncio.create_task(server.serve([sock]))
        await eventually(lambda: server.started)
        try:
            yield server, sock.getsockname()
        finally:
            server.should_exit = True
            await serving


async def test_programs_use_at_most_half_of_the_connections():
    """The other half is reserved for people."""
    config = WebConfig(address="127.0.0.1:0", connections_max=6)
    with FakeDaemon("127.0.0.1:0") as daemon:
        async with DaemonConnections({"infer": DaemonEndpoint(daemon.targets[0])}) as connections:
            app = application(connections, GuardSettings(frozenset({HOST}), SIGNER, None, 100_000, 5.0), config)
            async with listening(config, app) as (_, (host, port)):
                headers = {"host": HOST, "authorization": f"Bearer {'t' * 43}"}
                async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", headers=headers, timeout=60) as client:
                    asked = {"model": "stuck", "input": "x"}
                    calls = [asyncio.create_task(client.post("/v1/embeddings", json=asked)) for _ in range(3)]
                    await eventually(lambda: len(daemon.inference.requests) == 3)
                    assert "3 calls are in progress here, which is the limit" in (await client.get("/v1/models")).text
                    assert 200 == (await client.get("/healthz")).status_code
                    await asyncio.gather(*map(given_up, calls))


SILENT_SECONDS = 1.0
SIZE = 24 * 2**20


async def _large(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


@contextlib.asynccontextmanager
async def large_answer(tls: TlsSite | None) -> AsyncIterator[tuple[uvicorn.Server, asyncio.StreamReader]]:
    """Request SIZE bytes from a server that closes silent connections; yields the server and a reader."""
    files, context = {}, None
    if tls:
        files = {"certificate_file": str(tls.certificate), "key_file": str(tls.key), "client_ca_file": str(tls.ca)}
        mine = tls.client("anna", "admin")
        context = ssl.create_default_context(cafile=tls.ca)
        context.load_cert_chain(str(mine.certificate), str(mine.key))
    config = WebConfig(address="127.0.0.1:0", silent_seconds_max=SILENT_SECONDS, **files)
    async with listening(config, _large) as (server, address):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            client.connect(address)
            reader, writer = await asyncio.open_connection(
                sock=client, ssl=context, server_hostname="localhost" if tls else None, limit=64 * 1024
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually(lambda: server.server_state.total_requests == 1)
            yield server, reader
            writer.transport.abort()


@pytest.fixture(params=["http", "https"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> TlsSite | None:
    return TlsSite(tmp_path / "tls") if request.param == "https" else None


@pytest.mark.slow
async def test_slowly_read_response_is_complete(tls: TlsSite | None):
    """The timeout for silent connections ends no response whose client still reads."""
    taken, loop = 0, asyncio.get_running_loop()
    async with large_answer(tls) as (_, reader):
        begun = loop.time()
        while taken < SIZE:
            await eventually(lambda: loop.time() - begun > 3 * SILENT_SECONDS * taken / SIZE)  # noqa: B023 - awaited here
            piece = await reader.read(2**17)
            assert piece, f"the connection ended after {taken} of {SIZE} bytes"
            taken += len(piece)


@pytest.mark.slow
async def test_client_that_reads_nothing_is_disconnected(tls: TlsSite | None):
    """Its response is dropped, and its connection no longer counts."""
    async with large_answer(tls) as (server, _):
        await eventually(lambda: not server.server_state.connections)


async def test_reset_connection_leaves_no_timer():
    """No timer keeps a connection that the client reset, also after its last response was read."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with listening(WebConfig(address="127.0.0.1:0"), app) as (server, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"204" in await reader.readline()
        [held] = map(weakref.ref, server.server_state.connections)
        await eventually(lambda: not server.server_state.tasks)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: not server.server_state.connections)
        await eventually(lambda: gc.collect() >= 0 and held() is None)

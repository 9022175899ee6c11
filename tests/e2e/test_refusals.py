"""Refused calls in the journal and the metrics: caller, reason and count, without texts."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_agent.client import AdminClient, CallFailed, Client, Tls
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.gateway_site import gateway_site
from tests.support.scraped import scrape
from tests.support.tls_site import TlsSite
from tests.support.web_console import RunningConsole

SECRET = "what nobody may read"
CALLS = 20
CALL_SECONDS_MAX = 60.0


def events(log: Path, *names: str) -> list[dict[str, Any]]:
    """Return the events of a log with these names."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] in names]


def refused(client: Client, task: str) -> str:
    """Return the reason of a refused call."""
    with pytest.raises(CallFailed) as failed:
        client.classify(task, [SECRET])
    return failed.value.reason


@pytest.mark.slow
def test_refused_calls_are_logged_and_counted(tmp_path: Path) -> None:
    """The first refused call of a client is logged at once and repeated ones as a summary at the stop; the metrics
    count each. The log has no texts."""
    site, port = TlsSite(tmp_path / "tls"), free_port()
    settings = {**site.settings(), "metrics": {"address": f"127.0.0.1:{port}"}}
    with RunningDaemon(tmp_path / "daemon", **settings) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", ("refund", "price")))
        till = site.client("till-3", "infer")
        with daemon.client() as local, Client(site.address, till) as client, AdminClient(site.address, till) as admin:
            assert {"TASK_UNKNOWN"} == {refused(local, SECRET) for _ in range(CALLS)}
            assert {"INPUT_EMPTY"} == {_empty(client)}
            with pytest.raises(CallFailed, match="needs admin"):
                admin.status()
        figures = scrape(port)
        assert CALLS == figures.value("refused_total", surface="grpc", reason="TASK_UNKNOWN")
        assert 1 == figures.value("refused_total", surface="grpc", reason="ROLE_MISSING")
    found = [
        (each["event"], each["client"], each.get("call"), each["reason"], each.get("times_more"))
        for each in events(daemon.log, "call_refused", "refusals_repeated")
    ]
    assert [
        ("call_refused", "inference.sock", "Classify", "TASK_UNKNOWN", None),
        ("call_refused", "tls till-3", "Classify", "INPUT_EMPTY", None),
        ("call_refused", "tls till-3", "GetStatus", "ROLE_MISSING", None),
        ("refusals_repeated", "inference.sock", None, "TASK_UNKNOWN", CALLS - 1),
    ] == found
    assert SECRET not in daemon.log.read_text()


def _empty(client: Client) -> str:
    with pytest.raises(CallFailed) as failed:
        client.classify("intent", [""])
    return failed.value.reason


@pytest.mark.slow
def test_rejected_certificates_are_logged_and_counted(tmp_path: Path) -> None:
    """Failed TLS handshakes are logged and counted by cause, because gRPC does not report the address of a rejected
    client. The daemon keeps answering."""
    site, port = TlsSite(tmp_path / "tls"), free_port()
    strangers: dict[str, Tls | None] = {
        "not TLS": None,
        "client certificate of another authority": site.client("foreign", "infer", issuer=site.foreign),
        "expired client certificate": site.client("late", "infer", at=0),
    }
    settings = {**site.settings(), "metrics": {"address": f"127.0.0.1:{port}"}}
    with RunningDaemon(tmp_path / "daemon", **settings) as daemon:
        for tls in strangers.values():
            with Client(site.address, tls) as client, pytest.raises(CallFailed, match=r"handshake|certificate|TLS"):
                client.serving()
        without = grpc.ssl_channel_credentials(site.ca.read_bytes())
        with grpc.secure_channel(site.address, without) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=CALL_SECONDS_MAX)
        causes = {*strangers, "no client certificate"}
        eventually_sync(lambda: causes <= {each["reason"] for each in events(daemon.log, "handshake_failed")})
        counted = {each["reason"] for each in scrape(port).labels("refused_total") if each["surface"] == "handshake"}
        assert causes <= counted
        with Client(site.address, site.client("till", "infer")) as client:
            assert client.serving()
    assert len(events(daemon.log, "handshake_failed")) <= len(counted)
    assert "ssl_transport_security" not in daemon.log.read_text()


@pytest.mark.slow
def test_console_logs_refused_requests(tmp_path: Path) -> None:
    """The console logs a request without a token, a wrong token and an unknown task with the client's address, without
    texts."""
    with gateway_site(tmp_path, echo_bundle(tmp_path / "a", "intent", "classify", ("refund", "price"))) as site:
        console = site.console
        bearer = {"authorization": f"Bearer {site.token}", "content-type": "application/json"}
        path = "/v1/tasks/elsewhere:classify"
        assert 401 == console.ask("POST", path, body=_classify(), headers={"content-type": "application/json"}).status
        assert 404 == console.ask("POST", path, body=_classify(), headers=bearer).status
        assert 401 == console.get("/login?token=wrong").status
        assert 303 == console.get("/").status
    found = [(each["surface"], each["client"], each["reason"]) for each in events(console.log, "call_refused")]
    assert [("http", "http 127.0.0.1", reason) for reason in ("TOKEN_MISSING", "TASK_UNKNOWN", "TOKEN_WRONG")] == found
    assert SECRET not in console.log.read_text()


def _classify() -> str:
    return json.dumps({"texts": [SECRET]})


@pytest.mark.slow
def test_console_logs_rejected_certificates(tmp_path: Path) -> None:
    """The console logs failed handshakes with a missing, a foreign and an expired client certificate."""
    site = TlsSite(tmp_path / "tls")
    files = {"certificate_file": str(site.certificate), "key_file": str(site.key), "client_ca_file": str(site.ca)}
    strangers = {
        "no client certificate": None,
        "client certificate of another authority": site.client("foreign", "admin", issuer=site.foreign),
        "expired client certificate": site.client("late", "admin", at=0),
    }
    with RunningDaemon(tmp_path / "daemon") as daemon, RunningConsole(daemon, **files) as console:
        for tls in strangers.values():
            console.context = ssl.create_default_context(cafile=str(site.ca))
            if tls:
                console.context.load_cert_chain(tls.certificate, tls.key)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                console.get("/")
        eventually_sync(lambda: set(strangers) <= {each["reason"] for each in events(console.log, "handshake_failed")})

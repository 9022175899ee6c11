"""Access to a daemon over TCP with certificates: the TLS handshake, roles, and changed TLS files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from edge_agent.client import AdminClient, CallFailed, Client, ReviewClient, Tls
from edge_agent.server.roles import METHODS
from edge_agent.v1 import admin_pb2, admin_pb2_grpc
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.tls_site import TlsSite

LABELS = ("refund", "price")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def daemon(site: TlsSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with one task; its tests leave its state unchanged."""
    folder = tmp_path_factory.mktemp("daemon")
    with RunningDaemon(folder, **site.settings()) as running:
        running.install(echo_bundle(folder / "a", "intent", "classify", LABELS))
        yield running


def refusal(call: Callable[[], object]) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        call()
    return caught.value


def code_of(site: TlsSite, tls: Tls, method: str) -> grpc.StatusCode:
    """Call a method with an empty message; return the status code."""
    credentials = tls.channel_credentials()
    with grpc.secure_channel(site.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            # As a stream all calls look the same: the error comes with the first message.
            next(channel.stream_stream(method)(iter([b""]), timeout=5), None)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("role", ["infer", "feedback", "admin"])
def test_role_permits_only_its_methods(daemon: RunningDaemon, site: TlsSite, role: str) -> None:
    """Every method of every service returns PERMISSION_DENIED to a caller without its role, and never to a caller with
    it (Drain and Watch are not called)."""
    tls = site.client(f"only-{role}", role)
    others = {method: code_of(site, tls, method) for method in METHODS if role not in METHODS[method]}
    assert {grpc.StatusCode.PERMISSION_DENIED} == set(others.values()), others
    # Drain is not called with success: the daemon goes on.
    own = {method for method in METHODS if role in METHODS[method] and not method.endswith(("/Drain", "/Watch"))}
    assert grpc.StatusCode.PERMISSION_DENIED not in {code_of(site, tls, method) for method in own}


def test_certificate_can_have_several_roles(daemon: RunningDaemon, site: TlsSite) -> None:
    """A certificate with the roles infer, admin and feedback works with the clients of all three."""
    tls = site.client("boss", "infer", "admin", "feedback")
    with Client(site.address, tls) as client, AdminClient(site.address, tls) as admin:
        assert client.serving()
        assert "refund" == client.classify("intent", ["refund"])[0].label
        assert ["intent"] == [task.name for task in admin.status().tasks]
    with ReviewClient(site.address, tls) as reviewer:
        assert "PREDICTION_UNKNOWN" == refusal(lambda: reviewer.accept("p", reviewer="x")).reason


def test_reflection_over_tcp_lists_every_service(daemon: RunningDaemon, site: TlsSite) -> None:
    """Reflection over TCP lists all services, FeedbackService included, and describes their messages."""
    credentials = site.client("explorer", "admin").channel_credentials()
    with grpc.secure_channel(site.address, credentials) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"edge_agent.v1.FeedbackService", "edge_agent.v1.AdminService"} <= set(database.get_services())
        assert "edge_agent/v1/feedback.proto" == database.FindFileContainingSymbol("edge_agent.v1.FeedbackService").name


def test_certificate_without_role_is_denied(daemon: RunningDaemon, site: TlsSite) -> None:
    """The daemon denies every call with a certificate that has no role; the message names the client and the missing
    role."""
    with Client(site.address, site.client("nobody")) as client:
        failed = refusal(lambda: client.classify("intent", ["refund"]))
        assert ("PERMISSION_DENIED", "ROLE_MISSING") == (failed.code, failed.reason)
        assert "tls nobody has no role; Classify needs infer" == failed.message
        assert "ROLE_MISSING" == refusal(client.serving).reason


def strangers(site: TlsSite) -> dict[str, Tls | None]:
    server = Tls(site.ca, site.certificate, site.key)
    return {
        "none": None,
        "foreign": site.client("foreign", "admin", issuer=site.foreign),
        "expired": site.client("expired", "admin", at=0),
        "the server's own": server,
    }


@pytest.mark.parametrize("kind", ["none", "foreign", "expired", "the server's own"])
def test_invalid_client_certificate_fails_tls_handshake(daemon: RunningDaemon, site: TlsSite, kind: str) -> None:
    """The TLS handshake fails for a client without a certificate or with one that is foreign, expired or not for
    clients; the error has a remedy."""
    with Client(site.address, strangers(site)[kind]) as client:
        failed = refusal(lambda: client.classify("intent", ["refund"]))
    assert ("UNAVAILABLE", "TLS_FAILED") == (failed.code, failed.reason)
    assert "certificate" in failed.message
    assert failed.remedy


def test_client_refuses_server_of_other_authority_or_name(daemon: RunningDaemon, site: TlsSite, tmp_path: Path) -> None:
    """A client refuses a server whose certificate is from another authority or for other names."""
    tls = site.client("till-1", "infer")
    (tmp_path / "other.crt").write_bytes(site.foreign.certificate)
    with Client(site.address, Tls(tmp_path / "other.crt", tls.certificate, tls.key)) as client:
        assert "not issued by the authority" in refusal(client.serving).message
    with Client(site.address, Tls(tls.ca, tls.certificate, tls.key, "other.example")) as client:
        assert "for other names" in refusal(client.serving).message
    with Client(site.address, Tls(tls.ca, tls.certificate, tls.key, "127.0.0.1")) as client:
        assert client.serving()


def test_key_of_another_certificate_is_reported(daemon: RunningDaemon, site: TlsSite) -> None:
    """A client whose key belongs to another certificate fails with TLS_FAILED and names the key as the cause, not a
    missing daemon."""
    one, other = site.client("till-1", "infer"), site.client("till-2", "infer")
    with Client(site.address, Tls(one.ca, one.certificate, other.key)) as client:
        failed = refusal(client.serving)
    assert ("UNAVAILABLE", "TLS_FAILED") == (failed.code, failed.reason)
    assert "the key belongs to another certificate" in failed.message


def test_call_on_wrong_socket_names_right_socket(daemon: RunningDaemon) -> None:
    """A review call on inference.sock fails with UNIMPLEMENTED; the error names the socket that serves the call. gRPC's
    own message is only "Method not found!"."""
    with ReviewClient(f"unix:{daemon.run_dir}/inference.sock") as client:
        failed = refusal(lambda: client.prediction("p-1"))
    assert ("UNIMPLEMENTED", "UNIMPLEMENTED") == (failed.code, failed.reason)
    assert f"unix:{daemon.run_dir}/inference.sock does not serve this call" in failed.message
    assert "review.sock takes corrections" in failed.remedy


def test_changed_tls_files_are_loaded_without_restart(tmp_path: Path) -> None:
    """The daemon uses a renewed server certificate and a new client authority for the next connection. It ignores an
    incomplete pair, and status reports it."""
    site = TlsSite(tmp_path / "tls")
    tls = site.client("boss", "admin", "infer")

    def gets_in() -> None:
        with Client(site.address, tls) as client:
            assert client.serving()

    with RunningDaemon(tmp_path / "daemon", **site.settings()) as daemon, AdminClient(site.address, tls) as standing:
        gets_in()
        new = site.server()
        site.key.write_bytes(new.key)
        gets_in()
        warnings = standing.status().warnings
        assert any("the key does not belong to" in warning for warning in warnings), warnings
        site.certificate.write_bytes(new.certificate)
        gets_in()
        assert [] == [warning for warning in standing.status().warnings if "TLS" in warning]
        assert "tls_files_changed" in daemon.log.read_text()
        _change_the_authority(site, tls, standing)


def _change_the_authority(site: TlsSite, old: Tls, standing: AdminClient) -> None:
    """Replace the client authority: clients of the new one are admitted, others are refused, and open connections
    stay."""
    stranger = site.client("newcomer", "infer", issuer=site.foreign)
    with Client(site.address, stranger) as client:
        assert "TLS_FAILED" == refusal(client.serving).reason
    (site.folder / "clients.crt").write_bytes(site.foreign.certificate)
    (site.folder / "clients.crt").replace(site.ca)
    trusting = Tls(site.folder / "server-ca.crt", stranger.certificate, stranger.key)
    Path(trusting.ca).write_bytes(site.authority.certificate)
    with Client(site.address, trusting) as client:
        assert client.serving()
    with Client(site.address, Tls(trusting.ca, old.certificate, old.key)) as client:
        assert "TLS_FAILED" == refusal(client.serving).reason
    assert standing.status().serving


@pytest.mark.slow
def test_untrusted_client_is_disconnected_at_connection_age(tmp_path: Path) -> None:
    """A client whose authority is no longer trusted is disconnected when its connection reaches the maximum age."""
    site = TlsSite(tmp_path / "tls")
    with (
        RunningDaemon(tmp_path / "daemon", **site.settings(connection_seconds_max=1)),
        Client(site.address, site.client("till-1", "infer")) as client,
    ):
        assert client.serving()
        site.ca.write_bytes(site.foreign.certificate)
        eventually_sync(lambda: not _gets_in(client), 10)


def _gets_in(client: Client) -> bool:
    try:
        return client.serving()
    except CallFailed as failed:
        assert "TLS_FAILED" == failed.reason
        return False


@pytest.mark.slow
def test_audit_log_records_admin_calls_and_denials(site: TlsSite, tmp_path: Path) -> None:
    """The audit log has one line for each admin call with caller and outcome, over sockets and certificates; repeated
    denials are counted, and inference inputs do not appear."""
    secret = "what nobody may read"
    own = TlsSite(tmp_path / "tls")
    with RunningDaemon(tmp_path / "daemon", **own.settings()) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        till = own.client("till-3", "infer")
        with Client(own.address, till) as client, AdminClient(own.address, till) as denied:
            client.classify("intent", [secret])
            for _ in range(20):
                assert "ROLE_MISSING" == refusal(denied.status).reason
        with AdminClient(own.address, own.client("boss", "admin")) as boss:
            assert "BUNDLE_UNKNOWN" == refusal(lambda: boss.activate("intent", "9.9.9")).reason
    text = (daemon.state_dir / "audit.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [
        ("admin.sock", "InstallBundle", "OK", None),
        ("tls till-3", "GetStatus", "ROLE_MISSING", None),
        ("tls boss", "ActivateBundle", "BUNDLE_UNKNOWN", None),
        ("tls till-3", "GetStatus", "ROLE_MISSING", 19),
    ] == [(line["who"], line["call"], line["outcome"], line.get("times_more")) for line in found]
    assert secret not in text


@pytest.mark.slow
def test_audit_log_records_outcome_of_cancelled_install(tmp_path: Path) -> None:
    """The audit log records OK or CANCELLED for an install whose caller left, depending on whether the bundle was
    installed. A refused install has the reason as its outcome."""
    broken = echo_bundle(tmp_path / "broken", "broken", "classify", LABELS)
    (broken / "manifest.json").unlink()
    whole = echo_bundle(tmp_path / "a", "intent", "classify", LABELS)
    with RunningDaemon(tmp_path / "daemon") as daemon:
        with grpc.insecure_channel(daemon.admin_target) as channel:
            stub = admin_pb2_grpc.AdminServiceStub(channel)
            # Echo's child starts in the meantime: the log says when the bundle is verified, and nobody answers yet.
            call = stub.InstallBundle.future(admin_pb2.InstallBundleRequest(path=str(whole)))
            eventually_sync(lambda: "bundle_verified" in daemon.log.read_text())
            call.cancel()
            with pytest.raises(grpc.RpcError):
                stub.InstallBundle(admin_pb2.InstallBundleRequest(path=str(broken)))
        audit = daemon.state_dir / "audit.jsonl"
        eventually_sync(lambda: audit.exists() and 2 == len(audit.read_text().splitlines()))
        outcomes = {line["path"]: line["outcome"] for line in map(json.loads, audit.read_text().splitlines())}
        with daemon.client() as client:
            made = [task.name for task in client.tasks()]
    assert (outcomes[str(whole)], made) in (("OK", ["intent"]), ("CANCELLED", []))
    assert outcomes[str(broken)] not in ("OK", "CANCELLED")

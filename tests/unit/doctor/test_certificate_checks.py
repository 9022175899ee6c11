"""`doctor` about certificates, also with real ones."""

import time
from pathlib import Path

import pytest

from edge_agent import certificate_authority
from edge_agent.config import AccessConfig
from edge_agent.doctor.all_checks import run_checks
from edge_agent.doctor.certificate_checks import CertificateFacts
from edge_agent.doctor.certificate_checks import judge_certificates as judged
from edge_agent.doctor.findings import Finding
from tests.support.doctor_cases import DAY, file, place, told

NAMES = ("server.crt", "server.key", "ca.crt")


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("ok", CertificateFacts("server", file("/tls/server.crt"), expires_in=90 * DAY)),
        ("warning", CertificateFacts("server", file("/tls/server.crt"), expires_in=10 * DAY)),
        ("fault", CertificateFacts("server", file("/tls/server.crt"), expires_in=-DAY)),
        ("fault", CertificateFacts("server", file("/tls/server.crt"), starts_in=DAY, expires_in=90 * DAY)),
        ("fault", CertificateFacts("server", file("/tls/server.crt", kind=""))),
        ("fault", CertificateFacts("server", file("/tls/server.crt"), "it holds no certificate in PEM")),
        ("fault", CertificateFacts("server", file("/tls/server.crt"), denied_user="edge-agent")),
        (
            "fault",
            CertificateFacts(
                "key", file("/tls/server.key"), denied_user="edge-agent", closed_folder=file("/tls", 0o750)
            ),
        ),
        ("fault", CertificateFacts("key", file("/tls/server.key", 0o644))),
        ("ok", CertificateFacts("key", file("/tls/server.key", 0o640))),
    ],
)
def test_certificate_files_are_judged(verdict, facts):
    """A certificate or key that is missing, unreadable, open to all, not valid yet or expired is a fault; one that
    expires soon is a warning."""
    assert (verdict, verdict != "ok") == told(list(judged((facts,))), "certificate")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("/srv/tls", "sudo chmod a+x /srv/tls"),
        (
            "/etc/ssl/private",
            "sudo install -D --backup -o edge-agent -m 600 -t /etc/edge-agent/tls /etc/ssl/private/server.key; ",
        ),
        ("/root", "sudo install -D --backup -o edge-agent -m 600 -t /etc/edge-agent/tls /root/server.key; "),
    ],
)
def test_private_folder_of_a_key_is_not_opened(folder: str, command: str):
    """For a key in /etc/ssl/private or a home, the remedy copies the file instead of opening the folder to all
    users."""
    closed = CertificateFacts(
        "key", file(f"{folder}/server.key"), denied_user="edge-agent", closed_folder=file(folder, 0o710)
    )
    [finding] = judged((closed,))
    after = "sudoedit /etc/edge-agent/agent.yaml" if command.endswith("; ") else ""
    assert command + after == finding.command


def made(tmp_path: Path, days: int = 365) -> AccessConfig:
    """Issue a server certificate that is valid for this number of days, and return its configuration."""
    authority = certificate_authority.make_authority("shop", time.time())
    server = certificate_authority.issue_server_certificate(authority, ["shop.example"], time.time() - DAY, days + 1)
    for name, pem in zip(NAMES, (server.certificate, server.key, authority.certificate), strict=True):
        (tmp_path / name).write_bytes(pem)
        (tmp_path / name).chmod(0o600)
    paths = [str(tmp_path / name) for name in NAMES]
    return AccessConfig(certificate_file=paths[0], key_file=paths[1], client_ca_file=paths[2])


def found(tmp_path: Path, access: AccessConfig) -> dict[str, Finding]:
    """Return the finding of each file."""
    return {each.about: each for each in run_checks(place(tmp_path, access=access)) if each.check == "certificate"}


def verdicts(tmp_path: Path, access: AccessConfig) -> tuple[str, ...]:
    seen = found(tmp_path, access)
    return tuple(seen[what].verdict for what in ("server", "key", "clients"))


def test_real_certificates_are_ok(tmp_path):
    """The server's certificate and key and the clients' authority are ok; without TCP they are not checked."""
    assert ("ok", "ok", "ok") == verdicts(tmp_path, made(tmp_path))
    assert {} == found(tmp_path, AccessConfig())


@pytest.mark.parametrize(("verdict", "days"), [("warning", 10), ("fault", -1)])
def test_expiring_certificate_has_a_renewal_command(tmp_path, verdict, days):
    """A certificate that expires soon is a warning and an expired one a fault; the command renews it in its folder."""
    seen = found(tmp_path, made(tmp_path, days))["server"]
    assert (verdict, True) == (seen.verdict, f"certs server --renew --dir {tmp_path}" in seen.command)


def judged_authority(*, own: bool) -> Finding:
    """Return the finding for an authority that expires soon."""
    [finding] = judged((CertificateFacts("clients", file("/tls/ca.crt"), expires_in=10 * DAY, has_authority=own),))
    return finding


def test_authority_is_not_renewed_by_certs_server():
    """For an authority of this site that expires soon, the remedy is the runbook's steps; for another one it is the
    central team."""
    own, foreign = judged_authority(own=True), judged_authority(own=False)
    assert ("warning", "edge-agent help certificate") == (own.verdict, own.command)
    assert "Make a new authority" in own.remedy
    assert ("warning", "sudo edge-agent certs show /tls/ca.crt") == (foreign.verdict, foreign.command)
    assert "central team" in foreign.remedy


def test_missing_authority_is_copied_back_from_a_client(tmp_path):
    """A missing authority is copied back from a client's ca.crt; 'certs init' is not proposed, because it would refuse
    or make another authority."""
    access = made(tmp_path)
    (tmp_path / "ca.crt").unlink()
    seen = found(tmp_path, access)["clients"]
    assert ("fault", True) == (seen.verdict, "each client has it as ca.crt" in seen.remedy)
    assert "certs init" not in seen.command


@pytest.mark.parametrize(("verdict", "current"), [("ok", True), ("fault", False)])
def test_expired_authority_with_a_successor_is_ok(tmp_path, verdict, current):
    """An expired authority is ok if the file also has a valid one, with which clients still connect; otherwise it is a
    fault."""
    access = made(tmp_path)
    old = certificate_authority.make_authority("old", time.time() - 3651 * DAY).certificate
    file_of_clients = tmp_path / "ca.crt"
    file_of_clients.write_bytes(old + (file_of_clients.read_bytes() if current else b""))
    assert verdict == found(tmp_path, access)["clients"].verdict


def test_key_of_another_certificate_is_a_fault(tmp_path):
    """A key that does not belong to the certificate, as after half a renewal, is a fault."""
    access = made(tmp_path)
    certificate = (tmp_path / "server.crt").read_bytes()
    made(tmp_path)
    (tmp_path / "server.crt").write_bytes(certificate)
    assert ("ok", "fault", "ok") == verdicts(tmp_path, access)


def test_missing_or_invalid_certificate_files_are_faults(tmp_path):
    """A missing authority, an HTML page in place of a certificate, and a key that every user may read are faults."""
    access = made(tmp_path)
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "server.crt").write_text("<html>")
    (tmp_path / "server.key").chmod(0o644)
    assert ("fault", "fault", "fault") == verdicts(tmp_path, access)
    assert "holds no certificate in PEM" in found(tmp_path, access)["server"].seen


def test_missing_certificate_does_not_fault_its_key(tmp_path):
    """A missing certificate is a fault whose command asks for the names, and its key stays ok."""
    access = made(tmp_path)
    (tmp_path / "server.crt").unlink()
    seen = found(tmp_path, access)
    assert ("fault", "ok") == (seen["server"].verdict, seen["key"].verdict)
    assert f"sudo edge-agent certs server --renew --dir {tmp_path} --name NAME" == seen["server"].command

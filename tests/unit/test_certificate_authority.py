"""A site's certificate authority: its certificates have the requested content, and nothing is overwritten."""

from __future__ import annotations

import base64
import contextlib
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import certificate_authority
from edge_agent.certificate_authority import CertificateKeyPair
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificates import check_key_matches, parse_certificates
from tests.support.tls_site import DAY

NOW = time.time()
ROOT = certificate_authority.make_authority("Shop", NOW)


def test_authority_certificate_may_issue_for_ten_years() -> None:
    """It may issue others, for ten years."""
    (made,) = parse_certificates(ROOT.certificate, "it")
    assert ("Shop", True) == (made.name, made.is_authority)
    assert certificate_authority.AUTHORITY_DAYS == round((made.expires_at - NOW) / DAY)
    check_key_matches(ROOT.certificate, ROOT.key, "it")


def test_server_certificate_has_its_names() -> None:
    """It has host names and addresses of both families, may issue nothing, and starts a day early for clocks that are
    behind."""
    named = ["shop.example", "10.0.0.5", "fd00::5"]
    (made,) = parse_certificates(certificate_authority.issue_server_certificate(ROOT, named, NOW, 10).certificate, "it")
    assert ({*named}, "shop.example", False) == ({*made.names}, made.name, made.is_authority)
    assert (-1, 10) == (round((made.starts_at - NOW) / DAY), round((made.expires_at - NOW) / DAY))


def test_client_certificate_has_its_name_and_roles() -> None:
    """The name is the subject and the roles are URIs."""
    (made,) = parse_certificates(
        certificate_authority.issue_client_certificate(ROOT, "till-3", ["infer", "admin"], NOW).certificate, "it"
    )
    assert ("till-3", ("edge-agent://role/infer", "edge-agent://role/admin")) == (made.name, made.uris)


@pytest.mark.parametrize("name", ["", "a b", "shop_.example", "-x", "x" * 64, "x/y", "*.shop", "1.2.3.4.5 "])
def test_invalid_server_name_is_refused(name: str) -> None:
    """Neither a host name nor an address."""
    with pytest.raises(CertificateUnusable, match="neither a host name nor an IP address"):
        certificate_authority.issue_server_certificate(ROOT, ["shop.example", name], NOW)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x" * 65, "till 3", "é", "x\n"])
def test_client_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    """A client's name is also the name of its folder."""
    with pytest.raises(CertificateUnusable, match="cannot be the name of a client"):
        certificate_authority.issue_client_certificate(ROOT, name, ["infer"], NOW)


def test_key_files_have_mode_0600(tmp_path: Path) -> None:
    """0600, while the certificate may be read by anyone."""
    certificate_authority.write_pair(ROOT, tmp_path / "c", tmp_path / "k")
    assert [0o644, 0o600] == [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("c", "k")]
    assert certificate_authority.load_authority(tmp_path / "c", tmp_path / "k", NOW) == ROOT


@pytest.mark.parametrize("there", ["c", "k"])
def test_nothing_is_overwritten_unless_it_is_renewed(tmp_path: Path, there: str) -> None:
    """If either file of a pair exists, neither is written without `replace`."""
    (tmp_path / there).symlink_to("nowhere")
    with pytest.raises(CertificateUnusable, match=f"already there: {tmp_path / there}"):
        certificate_authority.write_pair(ROOT, tmp_path / "c", tmp_path / "k")
    assert [there] == [path.name for path in tmp_path.iterdir()]
    certificate_authority.write_pair(ROOT, tmp_path / "c", tmp_path / "k", replace=True)
    assert certificate_authority.load_authority(tmp_path / "c", tmp_path / "k", NOW) == ROOT


def test_missing_authority_is_named(tmp_path: Path) -> None:
    """The remedy is the command that makes one."""
    with pytest.raises(CertificateUnusable) as caught:
        certificate_authority.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key", NOW)
    assert str(tmp_path / "ca.crt") in caught.value.message
    assert "certs init" in caught.value.remedy


def test_a_key_of_another_certificate_is_refused() -> None:
    """An encrypted key and a file without a key are refused too."""
    other = certificate_authority.issue_client_certificate(ROOT, "x", [], NOW)
    secret = serialization.BestAvailableEncryption(b"secret")
    encrypted = serialization.load_pem_private_key(ROOT.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret
    )
    with pytest.raises(CertificateUnusable, match="the key does not belong to it"):
        check_key_matches(ROOT.certificate, other.key, "it")
    with pytest.raises(CertificateUnusable, match="not a private key in PEM"):
        check_key_matches(ROOT.certificate, ROOT.certificate, "it")
    with pytest.raises(CertificateUnusable, match="encrypted"):
        check_key_matches(ROOT.certificate, encrypted, "it")


@given(raw=st.binary(max_size=400) | st.sampled_from([ROOT.certificate[:-40], ROOT.certificate[60:], ROOT.key]))
def test_invalid_certificate_file_is_named(raw: bytes) -> None:
    """Any bytes give certificates or an error with the file's name."""
    try:
        found = parse_certificates(raw, "ca.crt")
    except CertificateUnusable as error:
        assert "ca.crt" in error.message
    else:
        assert found


def test_malformed_key_is_named() -> None:
    """A key of a wrong length gets a message where OpenSSL's own says nothing."""
    der = bytes.fromhex("302e020100300506032b656f04220420" + "11" * 32)
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(der) + b"\n-----END PRIVATE KEY-----\n"
    with pytest.raises(CertificateUnusable, match="is not a private key in PEM"):
        check_key_matches(ROOT.certificate, pem, "the server's certificate")


def _foreign_authority(
    folder: Path, key: PrivateKeyTypes, algorithm: hashes.HashAlgorithm | None, identifier: bytes | None = None
) -> None:
    """Write an authority that another program made, with a key of its kind, and a key identifier if there is one."""
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company")]), datetime.fromtimestamp(NOW, UTC)
    public: Any = key.public_key()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=9))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    signer: Any = key
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem = builder.sign(signer, algorithm).public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(pem)
    (folder / "ca.key").write_bytes(key.private_bytes(*form))


def test_a_site_may_bring_an_authority_with_an_rsa_key(tmp_path: Path) -> None:
    """What it issues is signed by that key."""
    _foreign_authority(tmp_path, rsa.generate_private_key(65537, 2048), hashes.SHA256())
    root = certificate_authority.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key", NOW)
    made = certificate_authority.issue_client_certificate(root, "till-3", ["infer"], NOW)
    above = x509.load_pem_x509_certificate(root.certificate)
    x509.load_pem_x509_certificate(made.certificate).verify_directly_issued_by(above)


def _handshake(folder: Path, root: CertificateKeyPair, *, strict: bool = False) -> str:
    """Make a TLS connection in memory between a server and a client of `root`; return the client's name."""
    server = certificate_authority.issue_server_certificate(root, ["shop.example"], NOW)
    client = certificate_authority.issue_client_certificate(root, "till-3", ["infer"], NOW)
    (folder / "root.crt").write_bytes(root.certificate)
    contexts = {}
    for purpose, pair in ((ssl.Purpose.SERVER_AUTH, client), (ssl.Purpose.CLIENT_AUTH, server)):
        certificate_authority.write_pair(pair, folder / f"{purpose.name}.crt", folder / f"{purpose.name}.key")
        contexts[purpose] = context = ssl.create_default_context(purpose, cafile=folder / "root.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT if strict else 0
        context.load_cert_chain(folder / f"{purpose.name}.crt", folder / f"{purpose.name}.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = contexts[ssl.Purpose.SERVER_AUTH].wrap_bio(down, up, server_hostname="shop.example")
    called = contexts[ssl.Purpose.CLIENT_AUTH].wrap_bio(up, down, server_side=True)
    for side in (caller, called, caller, called):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return dict(part[0] for part in called.getpeercert()["subject"])["commonName"]


def test_strict_clients_accept_what_the_authority_issues(tmp_path: Path) -> None:
    """Python 3.13 and later verify all that RFC 5280 requires of a chain."""
    assert "till-3" == _handshake(tmp_path, ROOT, strict=True)


@pytest.mark.parametrize("identifier", [None, b"\x07" * 20, b"\x07" * 32], ids=["none", "20 bytes", "32 bytes"])
def test_tls_libraries_find_the_authority_whatever_identifies_its_key(tmp_path: Path, identifier: bytes | None) -> None:
    """A handshake works although the authority's key identifier is not SHA-1 of its key, or is absent."""
    _foreign_authority(tmp_path, ec.generate_private_key(ec.SECP256R1()), hashes.SHA256(), identifier)
    root = certificate_authority.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key", NOW)
    assert "till-3" == _handshake(tmp_path, root)


def test_certificate_that_cannot_issue_is_refused(tmp_path: Path) -> None:
    """An Ed25519 key, which some TLS libraries do not support, and a server certificate are refused."""
    _foreign_authority(tmp_path, ed25519.Ed25519PrivateKey.generate(), None)
    with pytest.raises(CertificateUnusable, match="neither an RSA nor an elliptic-curve key"):
        certificate_authority.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key", NOW)
    made = certificate_authority.issue_server_certificate(ROOT, ["shop.example"], NOW)
    certificate_authority.write_pair(made, tmp_path / "c", tmp_path / "k")
    with pytest.raises(CertificateUnusable, match="may issue none"):
        certificate_authority.load_authority(tmp_path / "c", tmp_path / "k", NOW)


@pytest.mark.parametrize("days", [-3651, 3])
def test_an_authority_that_is_not_valid_issues_nothing(tmp_path: Path, days: int) -> None:
    """An authority that has expired or is not valid yet issues nothing; the error has both dates and suggests to check
    the clock."""
    made = certificate_authority.make_authority("Shop", NOW + days * DAY)
    certificate_authority.write_pair(made, tmp_path / "ca.crt", tmp_path / "ca.key")
    with pytest.raises(CertificateUnusable, match=r"is valid from .* to .*, and here it is .*: its certifi") as caught:
        certificate_authority.load_authority(tmp_path / "ca.crt", tmp_path / "ca.key", NOW)
    assert "Set the clock" in caught.value.remedy


def test_no_certificate_outlives_its_authority() -> None:
    """The printed last day is one on which the certificate is still accepted."""
    old = certificate_authority.make_authority("Shop", NOW - 3600 * DAY)
    (above,) = parse_certificates(old.certificate, "it")
    (made,) = parse_certificates(
        certificate_authority.issue_server_certificate(old, ["shop.example"], NOW).certificate, "it"
    )
    assert (above.expires_at, 50) == (made.expires_at, round((made.expires_at - NOW) / DAY))

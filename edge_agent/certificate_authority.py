"""A small certificate authority, for sites that have none: it issues certificates to the server and to clients.

Keys are ECDSA P-256, which every TLS library accepts; BoringSSL, under gRPC, does not accept Ed25519 by default. One
authority issues both kinds; the extended key usage tells them apart, so a client's certificate cannot pass for the
server's. Files are never overwritten, except by an explicit renewal.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.durable.atomic_files import read_small, write_durably
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificates import ROLE_URI, check_key_matches, parse_certificates

AUTHORITY_DAYS = 3650
SERVER_DAYS = 730
CLIENT_DAYS = 365
_SIGNING_KEYS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)
"""Keys of the authority; a site may bring its own."""
BACKDATED = timedelta(days=1)
"""Start of validity before the time of issue: other machines' clocks may be behind."""
_NOT_VALID_REMEDY = (
    "Set the clock if it is wrong ('date'). An authority that has ended is replaced: 'sudo edge-agent certs init"
    " --new-authority --dir DIR'; the server and every client then need new certificates."
)
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE
)
_CLIENT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class CertificateKeyPair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, at: float) -> CertificateKeyPair:
    """Make an authority with this common name, valid from `at` seconds since 1970."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = _builder(subject, key, at, AUTHORITY_DAYS).issuer_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue_server_certificate(
    issuer: CertificateKeyPair, names: Sequence[str], at: float, days: int = SERVER_DAYS
) -> CertificateKeyPair:
    """Issue a certificate for a server that clients reach by these host names and addresses.

    Raises:
        CertificateUnusable: a name is neither a host name nor an IP address.
    """
    alternative_names = [_server_name(name) for name in names]
    return _issue(issuer, names[0], alternative_names, ExtendedKeyUsageOID.SERVER_AUTH, at, days)


def issue_client_certificate(
    issuer: CertificateKeyPair, name: str, roles: Sequence[str], at: float, days: int = CLIENT_DAYS
) -> CertificateKeyPair:
    """Issue a certificate for a client with these roles.

    Raises:
        CertificateUnusable: the name is not valid for a client.
    """
    if not _CLIENT_NAME.fullmatch(name):
        raise CertificateUnusable(
            f"{name!r} cannot be the name of a client",
            remedy="Take up to 64 letters, digits, '.', '-' and '_', as in till-3; it names the files, too.",
        )
    uris = [x509.UniformResourceIdentifier(f"{ROLE_URI}{role}") for role in roles]
    return _issue(issuer, name, uris, ExtendedKeyUsageOID.CLIENT_AUTH, at, days)


def load_authority(certificate: Path, key: Path, at: float) -> CertificateKeyPair:
    """Read an authority from its files; `at` is the time of issue in seconds since 1970.

    Raises:
        CertificateUnusable: a file cannot be read, the key belongs to another certificate, or the certificate is not an
            authority's, is not valid at that time, or has a key of another type.
        InvalidRequest: a file is too large.
    """
    try:
        pair = CertificateKeyPair(read_small(certificate), read_small(key))
    except OSError as error:
        remedy = _unreadable_remedy(error, certificate, key)
        raise CertificateUnusable(f"cannot read {error.filename}: {error.strerror}", remedy=remedy) from None
    check_key_matches(pair.certificate, pair.key, str(certificate))
    contents = parse_certificates(pair.certificate, str(certificate))[0]
    if not contents.is_authority:
        message = f"{certificate} is the certificate of a server or a client, which may issue none"
        raise CertificateUnusable(message, remedy="Name the folder of the authority with '--dir DIR'.")
    if not contents.starts_at <= at < contents.expires_at:
        times = (contents.starts_at, contents.expires_at, at)
        first, last, today = (f"{datetime.fromtimestamp(each, UTC):%Y-%m-%d}" for each in times)
        message = f"{certificate} is valid from {first} to {last}, and here it is {today}: its certificates would be"
        raise CertificateUnusable(f"{message} refused", remedy=_NOT_VALID_REMEDY)
    if not isinstance(load_pem_private_key(pair.key, password=None), _SIGNING_KEYS):
        message = f"{key} is neither an RSA nor an elliptic-curve key (ECDSA), which all TLS libraries accept"
        raise CertificateUnusable(
            message, remedy="Use an authority with such a key, or make one: 'edge-agent certs init'."
        )
    return pair


def _unreadable_remedy(error: OSError, certificate: Path, key: Path) -> str:
    if isinstance(error, PermissionError):
        return "Run the command with sudo."
    if str(error.filename) == str(key):
        return (
            f"The authority is {certificate}; its key is kept elsewhere, such as on a USB drive. Name it with"
            " '--ca-key FILE'. A second authority would not be accepted by the clients."
        )
    return "'sudo edge-agent certs init' makes an authority; '--dir DIR' names the folder of one that exists."


def write_pair(pair: CertificateKeyPair, certificate: Path, key: Path, *, replace: bool = False) -> None:
    """Write both files, the key (mode 0600) first, so that a certificate never exists without its key.

    Raises:
        CertificateUnusable: a file exists, and `replace` is not set.
        DiskFull, StateDirUnwritable, StoreDamaged: the disk failed.
    """
    existing = [path for path in (certificate, key) if os.path.lexists(path)]
    if existing and not replace:
        raise CertificateUnusable(
            f"already there: {', '.join(map(str, existing))}",
            remedy="Nothing was written. Take another name or --dir, or renew it with --renew.",
        )
    owner = key.stat() if key.exists() else None
    write_durably(key, pair.key, 0o600)
    if owner and os.geteuid() == 0:
        os.chown(key, owner.st_uid, owner.st_gid)
    write_durably(certificate, pair.certificate, 0o644)


def _issue(
    issuer: CertificateKeyPair,
    common_name: str,
    alternative_names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    at: float,
    days: int,
) -> CertificateKeyPair:
    authority = x509.load_pem_x509_certificate(issuer.certificate)
    signer = load_pem_private_key(issuer.key, password=None)
    assert isinstance(signer, _SIGNING_KEYS), "`load_authority` accepts, and this module makes, no others"
    key = ec.generate_private_key(ec.SECP256R1())
    # A certificate must not outlive its authority: it would be refused before its own end.
    end_max = authority.not_valid_after_utc if at < authority.not_valid_after_utc.timestamp() else None
    builder = _builder(_subject(common_name), key, at, days, end_max).issuer_name(authority.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
    builder = builder.add_extension(_authority_identifier(authority), critical=False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, at: float, days: int, end_max: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(at, UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(end, end_max) if end_max else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the key identifier from the authority's own certificate, by which TLS libraries look for the issuer.

    It is copied, because not every program computes it as SHA-1 of the key.
    """
    try:
        key_identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey), "the key is one of `_SIGNING_KEYS`"
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier.value)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _server_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(name):
        raise CertificateUnusable(
            f"{name!r} is neither a host name nor an IP address",
            remedy="Give the host names or addresses that clients use: --name shop.example --name 10.0.0.5.",
        )
    return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> CertificateKeyPair:
    return CertificateKeyPair(
        certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )

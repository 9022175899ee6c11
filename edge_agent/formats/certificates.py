"""X.509 certificates in PEM: names and times of a certificate, and whether a key belongs to it. Pure."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.errors import CertificateUnusable

if TYPE_CHECKING:
    from cryptography import x509

ROLE_URI = "edge-agent://role/"
"""The prefix of a role among the alternative names of a client's certificate."""


@dataclass(frozen=True)
class Certificate:
    """The fields of a certificate that the agent uses. Times are seconds since 1970."""

    name: str
    """The common name of its subject; without one, its first alternative name that is not a role."""
    names: tuple[str, ...]
    """Its alternative names: URIs, DNS names, e-mail and IP addresses."""
    uris: tuple[str, ...]
    """Those of them that are URIs."""
    is_authority: bool
    """It may issue others."""
    starts_at: float
    expires_at: float
    fingerprint: str
    """sha256 of its DER bytes, in hexadecimal."""


_ENCRYPTED_REMEDY = "Remove the passphrase ('openssl pkey'): when the daemon starts, nobody is there to type it."


def parse_certificates(pem: bytes, what: str) -> list[Certificate]:
    """Read every certificate of a file; `what` names the file in the error.

    Raises:
        CertificateUnusable: the file has none, or one that cannot be read.
    """
    return [_describe(certificate, what) for certificate in _load(pem, what)]


def check_key_matches(chain: bytes, key: bytes, what: str) -> None:
    """Raise CertificateUnusable unless the private key belongs to the first certificate of the chain."""
    # Imported late, because a daemon without TLS loads this module, but does not need the library.
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    def spki(key: object) -> bytes:
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return key.public_bytes(*form)  # type: ignore[attr-defined,no-any-return] # of every kind

    public = _load(chain, what)[0].public_key()
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except TypeError:
        raise CertificateUnusable(f"the key of {what} is encrypted", remedy=_ENCRYPTED_REMEDY) from None
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise CertificateUnusable(f"the key of {what} is not a private key in PEM") from None
    if spki(public) != spki(private.public_key()):
        raise CertificateUnusable(f"the key does not belong to {what}")


def _load(pem: bytes, what: str) -> list[x509.Certificate]:
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateUnusable(f"{what} holds no certificate in PEM") from None


def _describe(certificate: x509.Certificate, what: str) -> Certificate:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    uris: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    is_authority = False
    try:
        common = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        with contextlib.suppress(x509.ExtensionNotFound):
            alternative_names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = tuple(alternative_names.get_values_for_type(x509.UniformResourceIdentifier))
            addresses = map(str, alternative_names.get_values_for_type(x509.IPAddress))
            mails = alternative_names.get_values_for_type(x509.RFC822Name)
            others = (*alternative_names.get_values_for_type(x509.DNSName), *mails, *addresses)
        with contextlib.suppress(x509.ExtensionNotFound):
            is_authority = bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateUnusable(f"{what} holds a certificate with names that cannot be read") from None
    display_names = [name for name in (*common, *uris, *others) if name and not name.startswith(ROLE_URI)]
    return Certificate(
        name=display_names[0] if display_names else "",
        names=(*uris, *others),
        uris=uris,
        is_authority=is_authority,
        starts_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
        fingerprint=hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
    )

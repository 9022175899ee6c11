"""X.509 certificates in PEM: reading what one says of its holder, and whether a key belongs to it. Pure."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificate_fields import ROLE_URI, Certificate


def parse_certificates(pem: bytes, what: str) -> list[Certificate]:
    """Read every certificate of a file; `what` names it in the error.

    Raises:
        CertificateUnusable: there is none in it, or one that cannot be read.
    """
    return [_described(each, what) for each in _loaded(pem, what)]


def check_key_matches(chain: bytes, key: bytes, what: str) -> None:
    """Raise CertificateUnusable unless the private key belongs to the first certificate of the chain."""
    public = _loaded(chain, what)[0].public_key()
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise CertificateUnusable(f"the key of {what} is encrypted", remedy=_TAKE_IT_OFF) from None
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise CertificateUnusable(f"the key of {what} is no private key in PEM") from None
    if _spki(public) != _spki(private.public_key()):
        raise CertificateUnusable(f"the key does not belong to {what}")


_TAKE_IT_OFF = "Take the passphrase off ('openssl pkey'): the daemon starts with nobody there to type it."


def _loaded(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateUnusable(f"{what} holds no certificate in PEM") from None


def _spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return] # of every kind


def _described(loaded: x509.Certificate, what: str) -> Certificate:
    try:
        common = [str(each.value) for each in loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        uris, others = _alternative_names(loaded)
        is_authority = _is_authority(loaded)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateUnusable(f"{what} holds a certificate with names that cannot be read") from None
    named = [name for name in (*common, *uris, *others) if name and not name.startswith(ROLE_URI)]
    der = loaded.public_bytes(Encoding.DER)
    return Certificate(
        name=named[0] if named else "",
        names=(*uris, *others),
        uris=uris,
        is_authority=is_authority,
        starts_at=loaded.not_valid_before_utc.timestamp(),
        expires_at=loaded.not_valid_after_utc.timestamp(),
        fingerprint=hashlib.sha256(der).hexdigest(),
    )


def _alternative_names(loaded: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    others = (*found.get_values_for_type(x509.DNSName), *found.get_values_for_type(x509.RFC822Name), *addresses)
    return tuple(found.get_values_for_type(x509.UniformResourceIdentifier)), others


def _is_authority(loaded: x509.Certificate) -> bool:
    try:
        return bool(loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False

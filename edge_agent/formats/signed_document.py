"""JSON documents that site and central team exchange: how they are read, and how they are signed.

A signed document is one JSON object: `{"body": {...}, "key": "...", "signature": "..."}`. The signature is Ed25519
(RFC 8032) over the canonical bytes of `body`: JSON with sorted keys, no white space, UTF-8. A body holds text, whole
numbers, booleans, lists and objects, no floats, so that every program writes the same bytes. The body's own `schema` is
signed with it, so one kind of document cannot pass for another. `key` and `signature` are lower-case hexadecimal; `key`
is the public key that signed, which a reader compares with those that it trusts.

Unknown keys are ignored, because a newer site may send more; the signature covers them, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_agent.errors import DocumentInvalid, SignatureInvalid
from edge_agent.formats import strict_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")

SiteId = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
SequenceNumber = Annotated[int, Field(ge=1, le=9_999_999_999)]


def _check_calendar(at: str) -> str:
    datetime.fromisoformat(at)  # ValueError: no such day, or no such minute
    return at


# RFC 3339 in UTC. What `format_timestamp` wrote sorts as text; with and without a fraction of a second it does not.
At = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z$"),
    AfterValidator(_check_calendar),
]


class ExchangedModel(BaseModel):
    """A document that site and central team exchange: frozen; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


Body = TypeVar("Body", bound=ExchangedModel)


@dataclass(frozen=True)
class SignedDocument(Generic[Body]):
    """A document whose signature fits `key`, the public key in hexadecimal, and the sha256 of the file's bytes."""

    body: Body
    key: str
    sha256: str


def format_timestamp(seconds: float) -> str:
    """Format seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def parse_timestamp(at: str) -> float:
    """Return the seconds since 1970 of an RFC 3339 time."""
    return datetime.fromisoformat(at).timestamp()


def public_key_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key, in lower-case hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def sign(body: ExchangedModel, key: Ed25519PrivateKey) -> bytes:
    """Return a signed document."""
    plain = body.model_dump(mode="json", by_alias=True)
    document = {"body": plain, "key": public_key_hex(key), "signature": key.sign(canonical(plain)).hex()}
    return (json.dumps(document, sort_keys=True, ensure_ascii=False) + "\n").encode()


def verify(raw: bytes, model: type[Body], what: str, keys: Collection[str] | None) -> SignedDocument[Body]:
    """Read a signed document and check its signature; `what` names it in errors, such as its file name.

    `keys` are the public keys that may sign, in hexadecimal. None takes any key and leaves it to the caller to decide
    about `SignedDocument.key`.

    Raises:
        DocumentInvalid: too large, not JSON, or a rule of the model is broken.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    plain = _object(raw, what)
    body, key, signature = plain.get("body"), str(plain.get("key")), str(plain.get("signature"))
    if not isinstance(body, dict) or not _KEY.fullmatch(key) or not _SIGNATURE.fullmatch(signature):
        raise DocumentInvalid(f"{what} is not a signed document: it needs 'body', 'key' and 'signature'")
    if keys is not None and key not in keys:
        raise SignatureInvalid(f"{what} is signed by {key[:16]}…, which is not one of the keys trusted here", key=key)
    # Imported late: most programs that load this module verify no signature.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), canonical(body))
    except (InvalidSignature, ValueError):  # ValueError: half of a surrogate pair, which has no bytes
        raise SignatureInvalid(
            f"{what} was changed after it was signed, or has an invalid signature", key=key
        ) from None
    return SignedDocument(validate(body, model, what), key, hashlib.sha256(raw).hexdigest())


def validate(plain: dict[str, Any], model: type[Body], what: str) -> Body:
    """Check a decoded body against a model.

    Raises:
        DocumentInvalid: a rule is broken; the message names the field.
    """
    try:
        return strict_json.validate(model, plain)
    except ValueError as error:
        raise DocumentInvalid(f"{what}: {strict_json.first_problem(error)}") from None


def _object(raw: bytes, what: str) -> dict[str, Any]:
    if len(raw) > DOCUMENT_BYTES_MAX:
        raise DocumentInvalid(f"{what} has {len(raw)} bytes; the limit is {DOCUMENT_BYTES_MAX}")
    try:
        plain = strict_json.decode(raw, fractions=False)
    except ValueError as error:
        raise DocumentInvalid(f"{what} is not valid JSON: {error}") from None
    if not isinstance(plain, dict):
        raise DocumentInvalid(f"{what} must hold a JSON object")
    return plain


def canonical(body: dict[str, Any]) -> bytes:
    """Return the bytes of a body that are signed. Raises ValueError for half a character, or too deep nesting."""
    try:
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError(strict_json.TOO_DEEP) from None

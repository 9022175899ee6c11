"""The enrolment file of a site, and `enrolment.json`, the machine's record of its enrolment.

    {"body": {"schema": "edge-agent/kit/v1", "site": "shop-12", …}, "sha256": "…"}

`sha256` is that of the canonical bytes of `body` (signed_document.py). It detects damage, not manipulation, because one
can change both. Its first 20 digits are the file's *code*, which the central team and the site show for people to
compare (docs/enrolment.md).

The file holds secrets. `enrolment.json`, the record of what an enrolment wrote, holds none.

A sealed enrolment file is the same file in the age format under a passphrase; the age command opens it. Without the
passphrase it can be neither read nor changed.

The file is untrusted: it may come on a USB drive or by mail. Unknown keys are refused, not ignored, because they may
restrict the site.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import pyrage
from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator

from edge_agent.errors import DocumentInvalid, EnrolmentFileInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Sha256, TaskName
from edge_agent.formats.plan import Channel
from edge_agent.formats.signed_document import At, ExchangedModel, SiteId, canonical
from edge_agent.formats.strict_json import StrictModel

SCHEMA = "edge-agent/kit/v1"
ENROLMENT_FILE_BYTES_MAX = 2 * 1024 * 1024
SUFFIX = ".kit"
SCRYPT_WORK_MAX = 21
"""Of a sealed file, as a power of two: 2**21 rounds take 2 GB. The age format lets a file request far more. `seal` uses
what takes its machine about a second: 20 on a processor of 2026."""
CODE_DIGITS = 20
"""80 bits: it is infeasible to make another enrolment file, or key, with the same digits."""
_AGE_HEADER = b"age-encryption.org/"
_SCRYPT_STANZA = re.compile(rb"^-> scrypt[^\n]*?([^ \n]*)$", re.MULTILINE)
_HEAD_BYTES_MAX = 64 * 1024
_PEM_CHARACTERS_MAX = 64 * 1024
_UPDATE_REMEDY = "Update edge-agent on this machine, or have the enrolment file made by an edge-convert of its version."
_COPY_REMEDY = (
    "Copy the enrolment file again. If the error persists, have the central team make a new one: 'edge-convert "
    "enrolment-file'."
)


def _check_age_key(key: str) -> str:
    try:
        pyrage.x25519.Recipient.from_str(key)
    except pyrage.RecipientError:
        raise ValueError("no age public key (age1…)") from None
    return key


Recipient = Annotated[str, Field(max_length=100), AfterValidator(_check_age_key)]
Ed25519Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, Field(max_length=1000, pattern=r"^[!-~]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
# Text, and the line breaks of a key in PEM: no control characters, which a file of names and values could misread.
Value = Annotated[str, Field(max_length=16 * 1024, pattern=r"^[ -~\n]*$")]
Pem = Annotated[str, Field(max_length=_PEM_CHARACTERS_MAX, pattern=r"^(-----BEGIN [A-Z0-9 ]+-----\n[ -~\n]*)?$")]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
"""Of money, as text: the canonical form has no fractions."""
_ZERO = "0"
Key = Annotated[str, Field(max_length=4096, pattern=r"^[!-~]*$")]
NamedValues = Annotated[dict[Name, Value], Field(max_length=50)]


class StoreLocation(StrictModel):
    """An object store or a folder, and its credential."""

    url: Url = ""
    """Empty = there is none."""
    options: NamedValues = Field(default={})
    """Nothing secret."""
    credential: NamedValues = Field(default={}, repr=False)
    """Secret: names and values of obstore's options."""


class EnrolmentTls(StrictModel):
    """The certificate of the site's TCP listener, and the authorities that it trusts. All of it, or nothing."""

    certificate: Pem = ""
    key: Pem = Field(default="", repr=False)
    """Secret."""
    clients: Pem = ""
    """Authorities that sign the certificates of clients."""
    address: Url = ""
    """The address of the listener, such as 0.0.0.0:9443; empty = that in agent.yaml."""

    @model_validator(mode="after")
    def _check_complete(self) -> EnrolmentTls:
        present = [bool(self.certificate), bool(self.key), bool(self.clients)]
        if len({*present, present[0] or bool(self.address)}) > 1:
            raise ValueError("certificate, key and clients go together, and 'address' needs them")
        return self


class LargeModelAccess(StrictModel):
    """A large model that the site may ask, its credential, and the limits on its cost."""

    url: Annotated[str, Field(max_length=1000, pattern=r"^https?://[!-~]+$")]
    """Base URL of an API like OpenAI's."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Its name at the server."""
    key: Key = Field(default="", repr=False)
    """Secret; empty = the server needs none."""
    tasks: tuple[TaskName, ...] = Field(default=(), max_length=1000)
    """Tasks whose inputs may go there, redacted; none by default."""
    input_token_price: Amount = _ZERO
    """Price of a million tokens of questions, in the fleet's currency."""
    output_token_price: Amount = _ZERO
    """Likewise of answers."""
    day_cost_max: Amount = _ZERO
    """Cap for a day; 0 = none."""
    month_cost_max: Amount = _ZERO
    """Cap for a month; 0 = none."""
    thinking_tokens_max: Annotated[int, Field(ge=1, le=131_072)] | None = None
    """Tokens that a reasoning model may use before its answer. None = none; the field is then left out of the file, so
    that older sites accept it, too."""
    parameters: dict[str, JsonValue] | None = None
    """More members of each request; None likewise."""


class EnrolmentFile(StrictModel):
    """Everything that a machine needs to become a site."""

    schema_: Literal["edge-agent/kit/v1"] = Field(default="edge-agent/kit/v1", alias="schema")
    site: SiteId
    issued_at: At
    """By the central team's clock; of two enrolment files of one site the later one counts."""
    expires_at: At
    """From then on no machine can be enrolled with it. Enrolled machines are not affected."""
    channel: Channel = "stable"
    root: str = Field(default="", max_length=700_000)
    """The fleet's root of trust, root.json as published; empty = no updates, only 'install'."""
    recipients: tuple[Recipient, ...] = Field(min_length=1, max_length=20)
    """age keys of the central team, each of which opens the site's sealed examples."""
    receipt_keys: tuple[Ed25519Hex, ...] = Field(min_length=1, max_length=20)
    """Keys whose receipts let the site delete examples."""
    examples: StoreLocation = StoreLocation()
    """Where sealed examples go."""
    updates: StoreLocation = StoreLocation()
    """Where signed updates come from."""
    tls: EnrolmentTls = EnrolmentTls()
    escalation: LargeModelAccess | None = None
    """None = no large model; the field is then left out of the file, so that older sites accept it, too."""


def encode(enrolment: EnrolmentFile) -> bytes:
    """Encode an enrolment file."""
    body = enrolment.model_dump(mode="json", by_alias=True, exclude_none=True)
    sha256 = hashlib.sha256(canonical(body)).hexdigest()
    return json.dumps({"body": body, "sha256": sha256}, ensure_ascii=False, indent=1).encode() + b"\n"


def seal(raw: bytes, passphrase: str) -> bytes:
    """Encrypt an enrolment file with a passphrase."""
    return bytes(pyrage.passphrase.encrypt(raw, passphrase))


def is_sealed(raw: bytes) -> bool:
    """Tell whether an enrolment file is encrypted."""
    return raw.startswith(_AGE_HEADER)


def unseal(raw: bytes, passphrase: str) -> bytes:
    """Open a sealed enrolment file. Raises EnrolmentFileInvalid, also if it requests too many rounds of scrypt."""
    _check_size(raw)
    for work_factor in _SCRYPT_STANZA.findall(raw, 0, _HEAD_BYTES_MAX):
        if not work_factor.isdigit() or len(work_factor) > 2 or int(work_factor) > SCRYPT_WORK_MAX:
            rounds = f"2 to the power {ascii(work_factor[:20].decode(errors='replace'))[1:-1]} rounds of scrypt"
            raise EnrolmentFileInvalid(
                f"the enrolment file requests {rounds}; the limit is {SCRYPT_WORK_MAX}", remedy=_COPY_REMEDY
            )
    try:
        return bytes(pyrage.passphrase.decrypt(raw, passphrase))
    except (pyrage.DecryptError, ValueError, OSError):
        message = "the enrolment file does not open: the passphrase is wrong, or the file was damaged or changed"
        raise EnrolmentFileInvalid(message, remedy=f"Ask the central team for the passphrase. {_COPY_REMEDY}") from None


def parse(raw: bytes) -> tuple[EnrolmentFile, str]:
    """Read an enrolment file; return it and its sha256.

    Raises:
        EnrolmentFileInvalid: too large, cut off, damaged, or a rule is broken.
    """
    _check_size(raw)
    try:
        plain = strict_json.decode(raw)  # with fractions, which 'parameters' of a large model may hold
    except ValueError as error:
        message = f"the file is not an enrolment file, or was cut off: {error}"
        raise EnrolmentFileInvalid(message, remedy=_COPY_REMEDY) from None
    if not isinstance(plain, dict) or not isinstance(plain.get("body"), dict):
        raise EnrolmentFileInvalid(
            "the file is not an enrolment file: it needs 'body' and 'sha256'", remedy=_COPY_REMEDY
        )
    sha256 = _verified_sha256(plain)
    schema = str(plain["body"].get("schema"))[:100]
    if schema != SCHEMA:
        message = f"the enrolment file has the schema {schema!r}; this edge-agent supports {SCHEMA!r}"
        raise EnrolmentFileInvalid(message, remedy=_UPDATE_REMEDY)
    try:
        return strict_json.validate(EnrolmentFile, plain["body"]), sha256
    except ValueError as error:
        newer = isinstance(error, ValidationError) and error.errors()[0]["type"] == "extra_forbidden"
        message = f"the enrolment file: {strict_json.first_problem(error)}"
        raise EnrolmentFileInvalid(message, remedy=_UPDATE_REMEDY if newer else _COPY_REMEDY) from None


def verification_code(sha256_or_key: str) -> str:
    """Return the code of an enrolment file's sha256, or of a public key, for people: 20 digits in groups of four."""
    digits = sha256_or_key[:CODE_DIGITS]
    return "-".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def normalize_code(typed_code: str) -> str:
    """Return the digits of a code that was typed in any case, with hyphens, colons or spaces."""
    return re.sub(r"[\s:-]", "", typed_code).lower()


def matches_code(typed_code: str, sha256_or_key: str) -> bool:
    """Tell whether the typed code is that of an enrolment file or key; it may have more of the digits."""
    digits = normalize_code(typed_code)
    return len(digits) >= CODE_DIGITS and sha256_or_key.startswith(digits)


def _check_size(raw: bytes) -> None:
    if len(raw) > ENROLMENT_FILE_BYTES_MAX:
        raise EnrolmentFileInvalid(
            f"the file has more than {ENROLMENT_FILE_BYTES_MAX} bytes, so it is not an enrolment file",
            remedy=_COPY_REMEDY,
        )


def _verified_sha256(plain: dict[str, Any]) -> str:
    try:
        actual = hashlib.sha256(canonical(plain["body"])).hexdigest()
    except ValueError:  # half of a surrogate pair, which has no bytes
        actual = ""
    if not actual or plain.get("sha256") != actual:
        raise EnrolmentFileInvalid(
            "the enrolment file was damaged or changed: its content does not match its sha256", remedy=_COPY_REMEDY
        )
    return actual


RECORD_FILE_NAME = "enrolment.json"
ENROLMENT_BYTES_MAX = 256 * 1024
Secrecy = Literal["none", "encrypted", "plain"]
"""How the uplink's credentials are stored on the disk."""


class SiteEnrolment(ExchangedModel):
    """`enrolment.json`: the record of an enrolment."""

    schema_: Literal["edge-agent/enrolment/v1"] = Field(default="edge-agent/enrolment/v1", alias="schema")
    site: SiteId
    kit_sha256: Sha256
    issued_at: At
    expires_at: At
    enrolled_at: At
    """By this machine's clock."""
    secrecy: Secrecy
    files: dict[Annotated[str, Field(max_length=1000)], Sha256] = Field(max_length=100)
    """By path: the written files, which a purge removes together with this one."""


def encode_record(enrolment: SiteEnrolment) -> bytes:
    """Write the file."""
    return enrolment.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse_record(raw: bytes) -> SiteEnrolment:
    """Read the file. Raises DocumentInvalid."""
    try:
        return strict_json.validate(SiteEnrolment, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{RECORD_FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None

"""The enrolment file of a site, and `enrolment.json`, by which a box knows which one made it a site.

    {"body": {"schema": "edge-agent/kit/v1", "site": "shop-12", …}, "sha256": "…"}

`sha256` is of the canonical bytes of `body` (signed_document.py). It finds damage, not malice: who changes the one can
change the other. Its first 20 digits are the file's *code*, which the central team and the site show, for people to
compare (docs/enrolment.md).

It holds secrets. `enrolment.json`, the record of what an enrolment wrote, holds none.

A sealed enrolment file is the same file in the age format under a passphrase; the age command opens it. Whoever does
not know the passphrase can neither read nor change it.

Everything in it is read as hostile: it may be carried on a USB drive, or come by mail. Keys that this version does not
know are refused, not ignored: they may say how the site is to be closed.
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
"""Of a sealed file: 2 to that power rounds, which take 2 GB. The age format itself lets a file ask for far more. What
`seal` makes takes its machine about a second: 20 on a processor of 2026."""
CODE_DIGITS = 20
"""80 bits: nobody makes another enrolment file, or key, with the same ones."""
_AGE = b"age-encryption.org/"
_SCRYPT = re.compile(rb"^-> scrypt[^\n]*?([^ \n]*)$", re.MULTILINE)
_HEAD_BYTES_MAX = 64 * 1024
_PEM_CHARACTERS_MAX = 64 * 1024
_NEWER = "Update edge-agent on this machine, or have the enrolment file made by an edge-convert of its version."
_ANEW = (
    "Copy the enrolment file again. If the error persists, have the central team make a new one: 'edge-convert "
    "enrolment-file'."
)


def _age_key(written: str) -> str:
    try:
        pyrage.x25519.Recipient.from_str(written)
    except pyrage.RecipientError:
        raise ValueError("no age public key (age1…)") from None
    return written


Recipient = Annotated[str, Field(max_length=100), AfterValidator(_age_key)]
Ed25519Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Url = Annotated[str, Field(max_length=1000, pattern=r"^[!-~]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$")]
# Text, and the line breaks of a key in PEM: nothing that a file of names and values could mistake for its own.
Value = Annotated[str, Field(max_length=16 * 1024, pattern=r"^[ -~\n]*$")]
Pem = Annotated[str, Field(max_length=_PEM_CHARACTERS_MAX, pattern=r"^(-----BEGIN [A-Z0-9 ]+-----\n[ -~\n]*)?$")]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?$")]
"""Of money, as text: the canonical form has no fractions."""
_NOTHING = "0"
Key = Annotated[str, Field(max_length=4096, pattern=r"^[!-~]*$")]
NamedValues = Annotated[dict[Name, Value], Field(max_length=50)]


class StoreLocation(StrictModel):
    """An object store or a folder, and what opens it."""

    url: Url = ""
    """Empty = there is none."""
    options: NamedValues = Field(default={})
    """Nothing secret."""
    credential: NamedValues = Field(default={}, repr=False)
    """Secret: names and values as obstore has them."""


class EnrolmentTls(StrictModel):
    """What the site's TCP listener shows, and whom it trusts. All of it, or nothing."""

    certificate: Pem = ""
    key: Pem = Field(default="", repr=False)
    """Secret."""
    clients: Pem = ""
    """Authorities that sign the certificates of clients."""
    address: Url = ""
    """Where it listens, such as 0.0.0.0:9443; empty = as agent.yaml says."""

    @model_validator(mode="after")
    def _whole(self) -> EnrolmentTls:
        given = [bool(self.certificate), bool(self.key), bool(self.clients)]
        if len({*given, given[0] or bool(self.address)}) > 1:
            raise ValueError("certificate, key and clients go together, and 'address' needs them")
        return self


class LargeModelAccess(StrictModel):
    """A large model that the site may ask, what it may cost there, and what opens it."""

    url: Annotated[str, Field(max_length=1000, pattern=r"^https?://[!-~]+$")]
    """Base URL of an API like OpenAI's."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Its name there."""
    key: Key = Field(default="", repr=False)
    """Secret; empty = the server needs none."""
    tasks: tuple[TaskName, ...] = Field(default=(), max_length=1000)
    """Whose inputs may go there, redacted; none by default."""
    input_token_price: Amount = _NOTHING
    """Of a million tokens of questions, in the fleet's currency."""
    output_token_price: Amount = _NOTHING
    """Likewise of answers."""
    day_cost_max: Amount = _NOTHING
    """Cap for a day; 0 = none."""
    month_cost_max: Amount = _NOTHING
    """Cap for a month; 0 = none."""
    thinking_tokens_max: Annotated[int, Field(ge=1, le=131_072)] | None = None
    """What a reasoning model can use before its answer. None = nothing; the file then leaves the field out, so that
    sites that do not know it take it too."""
    parameters: dict[str, JsonValue] | None = None
    """Further members of each request; None likewise."""


class EnrolmentFile(StrictModel):
    """All that a box needs to become a site."""

    schema_: Literal["edge-agent/kit/v1"] = Field(default="edge-agent/kit/v1", alias="schema")
    site: SiteId
    issued_at: At
    """By the central team's clock; of two enrolment files of one site the later one counts."""
    expires_at: At
    """When a box may no longer be enrolled with it. What was enrolled goes on."""
    channel: Channel = "stable"
    root: str = Field(default="", max_length=700_000)
    """The fleet's root of trust, root.json as it was published; empty = no updates but by 'install'."""
    recipients: tuple[Recipient, ...] = Field(min_length=1, max_length=20)
    """age keys of the central team: each opens what the site seals."""
    receipt_keys: tuple[Ed25519Hex, ...] = Field(min_length=1, max_length=20)
    """Whose receipts let the site delete."""
    examples: StoreLocation = StoreLocation()
    """Where sealed examples go."""
    updates: StoreLocation = StoreLocation()
    """Where signed updates come from."""
    tls: EnrolmentTls = EnrolmentTls()
    escalation: LargeModelAccess | None = None
    """None = the site has no large model. The file then leaves the field out: sites that do not know it take it too."""


def encode(enrolment: EnrolmentFile) -> bytes:
    """Write an enrolment file."""
    body = enrolment.model_dump(mode="json", by_alias=True, exclude_none=True)
    sha256 = hashlib.sha256(canonical(body)).hexdigest()
    return json.dumps({"body": body, "sha256": sha256}, ensure_ascii=False, indent=1).encode() + b"\n"


def seal(raw: bytes, passphrase: str) -> bytes:
    """Put an enrolment file under a passphrase."""
    return bytes(pyrage.passphrase.encrypt(raw, passphrase))


def is_sealed(raw: bytes) -> bool:
    """Tell whether an enrolment file is under a passphrase."""
    return raw.startswith(_AGE)


def unseal(raw: bytes, passphrase: str) -> bytes:
    """Open a sealed enrolment file. Raises EnrolmentFileInvalid, also before the work where that is too much."""
    _check_size(raw)
    for asked in _SCRYPT.findall(raw, 0, _HEAD_BYTES_MAX):
        if not asked.isdigit() or len(asked) > 2 or int(asked) > SCRYPT_WORK_MAX:
            rounds = f"2 to the power {ascii(asked[:20].decode(errors='replace'))[1:-1]} rounds of scrypt"
            raise EnrolmentFileInvalid(
                f"the enrolment file requests {rounds}; the limit is {SCRYPT_WORK_MAX}", remedy=_ANEW
            )
    try:
        return bytes(pyrage.passphrase.decrypt(raw, passphrase))
    except (pyrage.DecryptError, ValueError, OSError):
        said = "the enrolment file does not open: the passphrase is another one, or the file was damaged or changed"
        raise EnrolmentFileInvalid(said, remedy=f"Ask the central team for the passphrase. {_ANEW}") from None


def parse(raw: bytes) -> tuple[EnrolmentFile, str]:
    """Read an enrolment file; return it and its sha256.

    Raises:
        EnrolmentFileInvalid: too large, cut off, damaged, or a rule is broken.
    """
    _check_size(raw)
    try:
        plain = strict_json.decode(raw)  # with fractions, which 'parameters' of a large model may hold
    except ValueError as error:
        said = f"the file is not an enrolment file, or was cut off: {error}"
        raise EnrolmentFileInvalid(said, remedy=_ANEW) from None
    if not isinstance(plain, dict) or not isinstance(plain.get("body"), dict):
        raise EnrolmentFileInvalid("the file is not an enrolment file: it needs 'body' and 'sha256'", remedy=_ANEW)
    sha256 = _sha256(plain)
    _check_schema(plain["body"])
    return _enrolment(plain["body"]), sha256


def verification_code(sha256_or_key: str) -> str:
    """Return what people compare of an enrolment file's sha256, or of a public key: 20 digits in groups of four."""
    normalize_code = sha256_or_key[:CODE_DIGITS]
    return "-".join(normalize_code[start : start + 4] for start in range(0, len(normalize_code), 4))


def normalize_code(code_as_typed: str) -> str:
    """Return the digits of a code as somebody typed it: with any case, hyphens and spaces."""
    return re.sub(r"[\s:-]", "", code_as_typed).lower()


def matches_code(typed: str, sha256_or_key: str) -> bool:
    """Tell whether somebody typed the code of an enrolment file or key, or more of its digits."""
    given = normalize_code(typed)
    return len(given) >= CODE_DIGITS and sha256_or_key.startswith(given)


def _check_size(raw: bytes) -> None:
    if len(raw) > ENROLMENT_FILE_BYTES_MAX:
        raise EnrolmentFileInvalid(
            f"the file has more than {ENROLMENT_FILE_BYTES_MAX} bytes, so it is not an enrolment file", remedy=_ANEW
        )


def _check_schema(body: dict[str, Any]) -> None:
    schema = str(body.get("schema"))[:100]
    if schema != SCHEMA:
        said = f"the enrolment file has the schema {schema!r}; this edge-agent supports {SCHEMA!r}"
        raise EnrolmentFileInvalid(said, remedy=_NEWER)


def _sha256(plain: dict[str, Any]) -> str:
    try:
        found = hashlib.sha256(canonical(plain["body"])).hexdigest()
    except ValueError:  # half of a surrogate pair, which has no bytes
        found = ""
    if not found or plain.get("sha256") != found:
        raise EnrolmentFileInvalid(
            "the enrolment file was damaged or changed: its content does not match its sha256", remedy=_ANEW
        )
    return found


def _enrolment(body: dict[str, Any]) -> EnrolmentFile:
    try:
        return strict_json.validate(EnrolmentFile, body)
    except ValueError as error:
        newer = isinstance(error, ValidationError) and error.errors()[0]["type"] == "extra_forbidden"
        said = f"the enrolment file: {strict_json.first_problem(error)}"
        raise EnrolmentFileInvalid(said, remedy=_NEWER if newer else _ANEW) from None


RECORD_FILE_NAME = "enrolment.json"
ENROLMENT_BYTES_MAX = 256 * 1024
Secrecy = Literal["none", "encrypted", "plain"]
"""How the uplink's credentials lie on the disk."""


class SiteEnrolment(ExchangedModel):
    """What is remembered."""

    schema_: Literal["edge-agent/enrolment/v1"] = Field(default="edge-agent/enrolment/v1", alias="schema")
    site: SiteId
    kit_sha256: Sha256
    issued_at: At
    expires_at: At
    enrolled_at: At
    """By this machine's clock."""
    secrecy: Secrecy
    files: dict[Annotated[str, Field(max_length=1000)], Sha256] = Field(max_length=100)
    """By path: what a purge removes, with this file."""


def encode_record(enrolment: SiteEnrolment) -> bytes:
    """Write the file."""
    return enrolment.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def parse_record(raw: bytes) -> SiteEnrolment:
    """Read the file. Raises DocumentInvalid."""
    try:
        return strict_json.validate(SiteEnrolment, strict_json.decode(raw))
    except ValueError as error:
        raise DocumentInvalid(f"{RECORD_FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None

"""Damaged enrolment files and certificates: hostile_files.py for files that contain secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from edge_agent import certificate_authority
from edge_agent.formats import enrolment_file
from edge_agent.formats.certificates import check_key_matches, parse_certificates
from edge_agent.formats.signed_document import canonical
from tests.support.enrolment_files import a_enrolment
from tests.support.hostile_bytes import documents, edits, torn
from tests.support.hostile_files import Format


def formats(_: Path) -> Iterator[Format]:
    """Yield the formats."""
    sound = json.loads(enrolment_file.encode(a_enrolment()))
    resealed = edits(sound["body"]).map(with_its_sha256)
    yield Format("kit", documents(sound) | resealed, enrolment_file.parse, 6)
    pair = certificate_authority.issue_client_certificate(
        certificate_authority.make_authority("site", time.time()), "till", ("infer",), time.time(), 30
    )
    yield Format("certificate", _pems(pair.certificate), lambda raw: parse_certificates(raw, "a certificate"), 6)
    yield Format(
        "private key", _pems(pair.key), lambda raw: check_key_matches(pair.certificate, raw, "a certificate"), 2
    )


def with_its_sha256(body: Any) -> bytes:
    """Give a changed enrolment file the sha256 of its new content, if it has one."""
    try:
        sha256 = hashlib.sha256(canonical(body)).hexdigest()
        return json.dumps({"body": body, "sha256": sha256}).encode()
    except (ValueError, TypeError, AttributeError):
        return b'{"body": {"schema": ' + b"9" * 5000 + b"}}"


def _pems(sound: bytes) -> st.SearchStrategy[bytes]:
    """Return the text spoilt, and the bytes that it stands for."""
    first, *lines, last = sound.strip().splitlines()
    der = base64.b64decode(b"".join(lines))

    def written(raw: bytes) -> bytes:
        return b"\n".join((first, base64.b64encode(raw), last, b""))

    return torn(sound) | torn(der).map(written) | torn(der).map(written)

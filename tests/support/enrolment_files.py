"""Enrolment files for tests: a valid one, and ones that break a rule but have a matching sha256.

raw = kit.encode(a_kit(site="shop-13"))
raw = resealed(site="Shop 12")
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from edge_agent.formats.enrolment_file import EnrolmentFile
from edge_agent.formats.signed_document import canonical, format_timestamp, public_key_hex
from tests.support.examples import CENTRAL_KEY, NOW, RECIPIENT

SITE = "shop-12"
DAY = 86_400
CREDENTIAL = {"access_key_id": "AKIA12", "secret_access_key": "s3cr3t"}


LARGE_MODEL = {
    "url": "https://models.example/v1",
    "model": "large-1",
    "key": "sk-s3cr3t",
    "tasks": ["pos-intent"],
    "input_token_price": "0.15",
    "day_cost_max": "2",
}


def a_enrolment(**changes: Any) -> EnrolmentFile:
    """Return the enrolment file of shop-12, made at NOW for 30 days."""
    plain = {
        "site": SITE,
        "issued_at": format_timestamp(NOW),
        "expires_at": format_timestamp(NOW + 30 * DAY),
        "recipients": [RECIPIENT],
        "receipt_keys": [public_key_hex(CENTRAL_KEY)],
        "examples": {"url": "s3://fleet/examples", "options": {"region": "eu-1"}, "credential": CREDENTIAL},
        "updates": {"url": "s3://fleet/updates"},
    }
    return EnrolmentFile.model_validate({**plain, **changes})


def resealed(**changes: Any) -> bytes:
    """Return an enrolment file with changed fields and a matching sha256, as an attacker would make it."""
    body = {**a_enrolment().model_dump(mode="json", by_alias=True), **changes}
    return json.dumps({"body": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}).encode()

"""From an answer and its correction at the site through an uplink to the central team, and the receipt back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.errors import EdgeAgentError, ExchangeError, SignatureInvalid
from tests.support.delivery_path import DeliveryPath

SEED = 7
ROUNDS = 12
FORGER = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


@pytest.fixture
def way(tmp_path: Path) -> DeliveryPath:
    """An empty site, uplink, store and central team."""
    return DeliveryPath(tmp_path)


def test_site_deletes_segments_after_receipt(way: DeliveryPath):
    """Corrections are sealed, uploaded and collected; the site deletes its segments only after it has read the
    receipt."""
    way.answer(3)
    sealed = way.site.files()
    way.once()
    assert sealed == way.site.files()
    assert way.collect().clean
    assert way.expected() == way.corrections()
    way.once()
    assert 1 <= way.site.worker.read_receipts()
    assert [] == way.site.files()
    way.answer(2)
    way.once()
    way.collect()
    assert way.expected() == way.corrections()


def spoil(way: DeliveryPath, rng: random.Random) -> None:
    """Do one of the things that a hostile uplink can do."""
    arrived = sorted((way.upstream / "site=site-1").glob("segments/*"))
    kind = rng.choice(["delete", "truncate", "flip", "forge", "garbage", "delete status"])
    if kind == "forge":
        way.site.write_receipts(FORGER)
    elif kind == "garbage":
        (way.receipts / "receipts.json").write_bytes(rng.randbytes(200))
    elif kind == "delete status":
        (way.upstream / "site=site-1" / "status.json").unlink(missing_ok=True)
    elif arrived:
        path = rng.choice(arrived)
        content = bytearray(path.read_bytes())
        if kind == "flip" and content:
            content[rng.randrange(len(content))] ^= 1
        path.write_bytes(content[: len(content) // 2] if kind == "truncate" else content)
        if kind == "delete":
            path.unlink()


def forget_notes(way: DeliveryPath) -> None:
    """Reset the state of the uplink, so that it checks every object again and replaces damaged ones."""
    (way.notes / "uploaded.jsonl").unlink(missing_ok=True)
    (way.receipts / "receipts.json").unlink(missing_ok=True)


@pytest.mark.slow
def test_hostile_uplink_loses_no_correction(way: DeliveryPath):
    """A hostile uplink deletes, truncates, changes and forges objects: the site keeps its segments until the receipt is
    signed, and all corrections arrive exactly once."""
    rng = random.Random(SEED)
    for _ in range(ROUNDS):
        way.answer(2)
        try:
            way.once()
        except EdgeAgentError:
            forget_notes(way)
        spoil(way, rng)
        way.collect()
        try:
            way.site.worker.read_receipts()
        except ExchangeError:
            forget_notes(way)
    for _ in range(3):
        for path in (way.upstream / "site=site-1").glob("segments/*"):
            path.unlink()
        forget_notes(way)
        way.once()
        way.collect()
        way.once()
        way.site.worker.read_receipts()
        way.site.worker.seal_all()
    assert way.expected() == way.corrections()
    assert [] == way.site.files()


def test_forged_receipts_delete_nothing(way: DeliveryPath):
    """Receipts that were changed or signed by another key are refused, even for existing manifests, and the site
    deletes nothing."""
    way.answer(3)
    before = way.site.files()
    way.site.receipt(1)
    raw = (way.receipts / "receipts.json").read_bytes()
    (way.receipts / "receipts.json").write_bytes(raw.replace(b'"last": 1', b'"last": 2'))
    with pytest.raises(SignatureInvalid):
        way.site.worker.read_receipts()
    way.site.write_receipts(FORGER)
    with pytest.raises(SignatureInvalid):
        way.site.worker.read_receipts()
    assert before == way.site.files()

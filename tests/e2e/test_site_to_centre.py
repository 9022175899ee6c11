"""From an answer and its correction on the site, through an uplink, to the centre, and the receipt back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.config import UplinkConfig
from edge_agent.errors import EdgeAgentError, ExchangeError, SignatureInvalid
from edge_agent.uplink.exchange import Exchange
from edge_agent.uplink.mirror import Mirror, Places
from edge_agent.uplink.notes import Notes
from edge_agent.uplink.upstream import open_upstream
from tests.segments import Centre
from tests.site_cases import ASite, answered, judgement

SEED = 7
ROUNDS = 12
FORGER = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


class Way:
    """A site, its uplink to a folder, and the centre that collects from there."""

    def __init__(self, root: Path) -> None:
        self.upstream = root / "upstream"
        self.upstream.mkdir()
        self.site, self.centre = ASite(root / "site"), Centre(root)
        self.given = 0

    def answer(self, count: int) -> None:
        """Answer, have each answer corrected, and seal."""
        for number in range(self.given + 1, self.given + count + 1):
            self.site.keep(answered(number))
            self.site.judge(judgement(number))
        self.given += count
        self.site.house.seal_all()

    def carry(self) -> None:
        """Run the real uplink once; what is in its way it says, and goes as far as it can."""
        config = UplinkConfig(url=str(self.upstream))
        upstream = open_upstream(config)
        assert upstream
        where = self.site.config
        with Notes(where.uplink_notes, upstream.name) as notes:
            exchange = Exchange(where.site.id, where.outbox, where.receipts)
            asyncio.run(Mirror(config, exchange, Places(upstream), notes).once())

    def corrections(self) -> list[str]:
        """Return the corrected predictions that the centre has, duplicates too."""
        rows = self.centre.query("SELECT prediction_id FROM examples WHERE truth = 'price' ORDER BY 1")
        return [str(row[0]) for row in rows]

    def expected(self) -> list[str]:
        """Return the predictions whose correction was acknowledged."""
        return sorted(f"p-{number}" for number in range(1, self.given + 1))


@pytest.fixture
def way(tmp_path: Path) -> Way:
    """Return a way with nothing on it yet."""
    return Way(tmp_path)


def test_a_correction_reaches_the_centre_and_leaves_the_site(way: Way):
    """Sealed, sent, collected, receipted: then, and not before, the site deletes its segments."""
    way.answer(3)
    sealed = way.site.files()
    way.carry()
    assert sealed == way.site.files()
    assert way.centre.collect(way.upstream).clean
    assert way.expected() == way.corrections()
    way.carry()
    assert 1 <= way.site.house.read_receipts()
    assert [] == way.site.files()
    way.answer(2)
    way.carry()
    way.centre.collect(way.upstream)
    assert way.expected() == way.corrections()


def spoil(way: Way, rng: random.Random) -> None:
    """Do one of the things that a hostile uplink can do."""
    arrived = sorted((way.upstream / "site=site-1").glob("segments/*"))
    kind = rng.choice(["delete", "truncate", "flip", "forge", "garbage", "delete status"])
    if kind == "forge":
        way.site.write_receipts(FORGER)
    elif kind == "garbage":
        (way.site.config.receipts / "receipts.json").write_bytes(rng.randbytes(200))
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


def forget_notes(way: Way) -> None:
    """Let an honest uplink follow, which looks at everything anew and clears away what spoilt objects there are."""
    (way.site.config.uplink_notes / "uploaded.jsonl").unlink(missing_ok=True)
    (way.site.config.receipts / "receipts.json").unlink(missing_ok=True)


def test_a_hostile_uplink_loses_nothing(way: Way):
    """It deletes, truncates, flips and forges: the site keeps all until the centre has signed, then all arrive once."""
    rng = random.Random(SEED)
    for _ in range(ROUNDS):
        way.answer(2)
        try:
            way.carry()
        except EdgeAgentError:
            forget_notes(way)
        spoil(way, rng)
        way.centre.collect(way.upstream)
        try:
            way.site.house.read_receipts()
        except ExchangeError:
            forget_notes(way)
    for _ in range(3):
        for path in (way.upstream / "site=site-1").glob("segments/*"):
            path.unlink()
        forget_notes(way)
        way.carry()
        way.centre.collect(way.upstream)
        way.carry()
        way.site.house.read_receipts()
        way.site.house.seal_all()
    assert way.expected() == way.corrections()
    assert [] == way.site.files()


def test_forged_receipts_delete_nothing(way: Way):
    """Even ones that name the very manifests: they are not signed by the centre."""
    way.answer(3)
    before = way.site.files()
    way.site.receipt(1)
    raw = (way.site.config.receipts / "receipts.json").read_bytes()
    (way.site.config.receipts / "receipts.json").write_bytes(raw.replace(b'"last": 1', b'"last": 2'))
    with pytest.raises(SignatureInvalid):
        way.site.house.read_receipts()
    way.site.write_receipts(FORGER)
    with pytest.raises(SignatureInvalid):
        way.site.house.read_receipts()
    assert before == way.site.files()

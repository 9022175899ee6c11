"""A site that deletes only what receipts name, behind an uplink that damages files: no record may be lost.

world = HostileWorld(root, seed=1)
for _ in range(5): world.round()
world.end()
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect.collection import CollectReport
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import segment
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.examples import CENTRAL_KEY, NOW, feedback, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

FORGER = Ed25519PrivateKey.from_private_bytes(b"f" * 32)


class HostileWorld:
    """One site's outbox, the bucket that the uplink fills, the central team. The seed decides all that is random."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.site = SealingSite(root / "outbox")
        self.outbox = self.site.folder / "segments"
        self.bucket = SealingSite(root / "bucket").folder / "segments"
        self.central = CentralTeam(root)
        self.sent: dict[str, list[Record]] = {}
        self.faults: Counter[str] = Counter()
        self.numbers = 0

    def round(self) -> CollectReport:
        """Seal records, let the uplink upload and damage them, collect, and let the site process the receipts."""
        self._seal()
        self._carry()
        fault = self.rng.choice(
            [self._flip, self._cut, self._delete, self._swap, self._invent, self._forge, self._none]
        )
        fault()
        self.faults[fault.__name__.removeprefix("_")] += 1
        report = self.central.collect(self.bucket.parents[1])
        self._believe()
        return report

    def end(self) -> CollectReport:
        """Upload everything that the site still has without damage, and collect."""
        self._carry()
        self.central.collect(self.bucket.parents[1])
        self._believe()
        self._carry()
        return self.central.collect(self.bucket.parents[1])

    def lost(self) -> set[str]:
        """Return the corrections that were sealed and are not in the examples."""
        rows = self.central.query("SELECT prediction_id FROM examples WHERE truth IS NOT NULL")
        return {f"p-{number}" for number in range(1, self.numbers + 1)} - {name for (name,) in rows}

    def doubled(self) -> int:
        """Return the number of duplicate rows."""
        [(rows,)] = self.central.query("SELECT count(*) - count(DISTINCT prediction_id) FROM examples")
        return int(rows)

    # --- the site -----------------------------------------------------------------------------------------------------

    def _seal(self, reseals: tuple[int, ...] = (), records: list[Record] | None = None) -> None:
        if records is None:
            records = []
            for _ in range(self.rng.randint(1, 3)):
                self.numbers += 1
                records += [prediction(self.numbers), feedback(self.numbers)]
        name = self.site.seal(records, reseals=reseals)
        self.sent[name] = records

    def _believe(self) -> None:
        """Delete segments that genuine receipts name by our manifest; seal again those that they report as damaged."""
        try:
            raw = (self.bucket.parent / segment.RECEIPTS_FILE_NAME).read_bytes()
            body = segment.verify_receipts(raw, [public_key_hex(CENTRAL_KEY)]).body
        except (OSError, EdgeAgentError):
            return
        mine = {self._sha(name): name for name in self.sent if (self.outbox / f"{name}.json").is_file()}
        for epoch in body.epochs:
            for each in epoch.received:
                if each.manifest_sha256 in mine:
                    self._delete_up_to(epoch.epoch, each.first, each.last)
            for told in epoch.refused:
                name = segment.name_of(epoch.epoch, told.sequence)
                if self.sent.get(name):
                    self._seal((told.sequence,), self.sent.pop(name))

    def _delete_up_to(self, epoch: str, first: int, last: int) -> None:
        for number in range(first, last + 1):
            name = segment.name_of(epoch, number)
            (self.outbox / f"{name}.age").unlink(missing_ok=True)
            self.sent.pop(name, None)

    def _sha(self, name: str) -> str:
        return hashlib.sha256((self.outbox / f"{name}.json").read_bytes()).hexdigest()

    # --- the uplink ---------------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        """Upload everything that the site still has, over whatever is there."""
        for path in sorted(self.outbox.glob("*.age")):
            shutil.copyfile(path, self.bucket / path.name)
            shutil.copyfile(path.with_suffix(".json"), self.bucket / f"{path.stem}.json")

    def _any(self) -> Path:
        return self.rng.choice(sorted(path for path in self.bucket.iterdir() if path.is_file()))

    def _none(self) -> None:
        """Upload without damage."""

    def _flip(self) -> None:
        path = self._any()
        content = bytearray(path.read_bytes())
        if content:
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(content)

    def _cut(self) -> None:
        path = self._any()
        path.write_bytes(path.read_bytes()[: self.rng.randrange(path.stat().st_size + 1)])

    def _delete(self) -> None:
        self._any().unlink()

    def _swap(self) -> None:
        one, other = self._any(), self._any()
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)

    def _invent(self) -> None:
        """Lay down segments and receipts of the uplink's own making."""
        stranger = SealingSite(self.bucket.parents[1], key=FORGER)
        stranger.sequence = self.site.sequence + 5
        stranger.seal([prediction(10_000), feedback(10_000)])

    def _forge(self) -> None:
        """Forge receipts of the central team for everything."""
        last = segment.name_of(self.site.epoch, self.site.sequence)
        received = [{"first": 1, "last": self.site.sequence, "manifest_sha256": self._sha(last)}]
        body = segment.Receipts.model_validate(
            {
                "site": "site-1",
                "at": format_timestamp(NOW),
                "epochs": [{"epoch": self.site.epoch, "received": received}],
            }
        )
        (self.bucket.parent / segment.RECEIPTS_FILE_NAME).write_bytes(sign(body, FORGER))
        self._believe()

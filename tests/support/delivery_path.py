"""The whole way of a correction: a site, its uplink, a store, and the central team that collects from there.

way = DeliveryPath(tmp_path)
way.answer(3); way.once(); way.collect()
assert way.expected() == way.corrections()
"""

from __future__ import annotations

import random
import shutil
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.collect.collection import CollectReport
from convert.collect.receipts import NOT_ARRIVED
from convert.collect.sources import SegmentSource, open_source
from tests.support.segments import CentralTeam
from tests.support.site_cases import SiteCase, answered, judgement
from tests.support.uplink_cases import UplinkCase


@dataclass(frozen=True)
class Outcome:
    """Missing, duplicate and unexplained records of the central team at the end."""

    lost: int = 0
    doubled: int = 0
    unnamed: int = 0


class DeliveryPath(UplinkCase):
    """An uplink whose outbox is a real site's. Without a URL it goes to a folder."""

    def __init__(self, folder: Path, url: str = "", options: dict[str, str] | None = None, **settings: Any) -> None:
        self.upstream = folder / "upstream"
        self.upstream.mkdir(parents=True)
        self.options = options or {}
        super().__init__(folder, url or str(self.upstream), self.options, **settings)
        self.central = CentralTeam(folder)
        self.given = 0
        self.site = self._open()

    def answer(self, count: int, characters: int = 0) -> None:
        """Answer, have each answer corrected, and seal all in one segment; texts of letters are hard to compress."""
        for number in range(self.given + 1, self.given + count + 1):
            letters = "".join(random.Random(number).choices(string.ascii_letters, k=characters))
            self.site.keep(answered(number, text=f"refund number {number} {letters}"))
            self.site.judge(judgement(number))
        self.given += count
        self.site.worker.seal_all()

    def reinstall(self) -> None:
        """Replace the machine by a new one with the same site id and no state."""
        self.site.worker.close()
        for path in (self.site.config.state_dir, self.outbox, self.receipts, self.notes):
            shutil.rmtree(path)
        self.site = self._open()

    def source(self) -> SegmentSource:
        """Return the store as the central team opens it."""
        return open_source(self.config.url, self.options)

    def collect(self) -> CollectReport:
        """Run collect once."""
        return self.central.collect(self.source())

    def settle(self) -> Outcome:
        """Upload the rest, collect, return the receipts, and count; then the site has no segments."""
        self.once()
        report = self.collect()
        self.once()
        self.site.worker.read_receipts()
        came = self.corrections()
        lost = set(self.expected()) - set(came)
        unnamed = sum(gap.why == NOT_ARRIVED for gap in report.gaps) + len(report.breaks)
        return Outcome(len(lost) + len(self.site.files()), len(came) - len(set(came)), unnamed)

    def corrections(self) -> list[str]:
        """Return the corrected predictions that the central team has, duplicates too."""
        rows = self.central.query("SELECT prediction_id FROM examples WHERE truth = 'price' ORDER BY 1")
        return [str(row[0]) for row in rows]

    def expected(self) -> list[str]:
        """Return the predictions whose correction was acknowledged."""
        return sorted(f"p-{number}" for number in range(1, self.given + 1))

    def _open(self) -> SiteCase:
        exchange = {"outbox_dir": str(self.outbox), "receipts_dir": str(self.receipts)}
        return SiteCase(self.folder / "site", site=exchange)

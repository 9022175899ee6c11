"""A site at work, to be killed or failed at any system call: what the crash tests and the benchmark of faults share.

with SegmentSites(tmp_path) as field:
    folder = field.fresh()
    done = field.work(folder, *killed_at("fsync", 3))
    acknowledged(done.stdout)
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.examples import IDENTITY
from tests.support.forking_script import ForkingScript
from tests.support.site_cases import SiteCase, answered, judgement
from tests.support.strace import Point, points

WORK = """
import sys
from pathlib import Path
from edge_agent.errors import EdgeAgentError
from tests.support.site_cases import SiteCase, answered, judgement, manifest

def told(house_failed=False):
    site = SiteCase(Path(sys.argv[1]), site={"recipients": [sys.argv[2]]})
    site.keep(*(answered(n) for n in range(10, 20)))
    for n in (3, 10, 11):
        site.judge(judgement(n))
        print(f"acknowledged {n}", flush=True)
    site.worker.seal_all()
    site.worker.read_receipts()
    site.keep(answered(20), answered(21, later="deferred"), answered(22, later="audit"))
    site.judge(judgement(12))
    print("acknowledged 12", flush=True)
    for said in ("price", "refund"):
        asked = site.worker.next_question(("pos-intent",))
        if not asked:
            continue
        print(f"asked {asked.prediction_id}", flush=True)
        with site.worker.spool.transaction():
            site.worker.store_teacher_label(asked, said, "oracle-1", manifest())
        print(f"opined {asked.prediction_id}", flush=True)
    site.worker.seal_all()
    site.clock.running += 100_000
    site.worker.do_housekeeping()
    site.worker.close()

try:
    told()
except EdgeAgentError as error:
    print("refused", error.reason)
    sys.exit(3)
except OSError:  # standard output is a file that can fail, too
    sys.exit(4)
"""
RECIPIENT = str(IDENTITY.to_public())


class SegmentSites:
    """A site with one sealed segment and its receipt, copied for each point, and what the central team has of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        site = SiteCase(root / "ready")
        site.keep(*(answered(n) for n in range(5)))
        site.judge(judgement(1))
        site.worker.seal_all()
        self.epoch = site.worker.spool.incarnation
        self.central = {record.record_id: record for record in site.segments()[1]}
        site.receipt(1)
        site.worker.close()
        self.working = ForkingScript("import tests.support.site_cases", WORK, root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.working.close()

    def fresh(self) -> Path:
        """Return a new copy of the site's directory."""
        shutil.rmtree(self.root / "site", ignore_errors=True)
        return shutil.copytree(self.root / "ready", self.root / "site")

    def work(self, folder: Path, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Work on a copy in a process of its own."""
        return self.working.run([str(folder), RECIPIENT], *tracer)

    def points(self) -> list[Point]:
        """Count the calls of an undisturbed run."""
        folder = self.fresh()
        return points(lambda *tracer: self.work(folder, *tracer), self.root / "log")


def visible(folder: Path) -> dict[str, str]:
    """Return the segments that an uplink could have taken: those with a manifest, with the digests of both files."""
    found = {}
    for path in (folder / "state" / "outbox" / "segments").glob("*.json"):
        sealed = path.with_suffix(".age")
        found[path.stem] = hashlib.sha256(path.read_bytes() + sealed.read_bytes()).hexdigest()
    return found


def acknowledged(output: str) -> set[str]:
    """Return the records that the work said are on the disk; a line that was cut does not count."""
    said = {f"feedback:f-{number}" for number in re.findall(r"^acknowledged (\d+)$", output, re.MULTILINE)}
    return said | {f"opinion:{name}" for name in re.findall(r"^opined (\S+)$", output, re.MULTILINE)}


def asked(output: str) -> set[str]:
    """Return the predictions about which the work asked the large model."""
    return set(re.findall(r"^asked (\S+)$", output, re.MULTILINE))

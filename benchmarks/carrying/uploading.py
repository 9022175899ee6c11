"""Faults of uploads: real uplinks of real sites are cut, answered badly, killed, doubled, or find no bucket.

After each fault the way heals; in the end the central team has every correction once, and the site, by its receipts,
none.
"""

from __future__ import annotations

import random
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.carrying.tally import Tally
from convert.collect.sources import FolderSource, SegmentSource
from tests.support.answering_server import WAYS, AnsweringServer
from tests.support.delivery_path import DeliveryPath
from tests.support.forking_script import ForkingScript
from tests.support.object_stores import EmptyBucket, s3
from tests.support.strace import WRITING, Point, failed_at, killed_at, points
from tests.support.toxic_proxy import ConnectionCut, SilentServer, SlowLink, ToxicProxy
from tests.support.uplink_cases import UplinkCase
from tests.support.uplink_faults import failure

SEED = 5
CUTS, PAIRS = 200, 10
CHARACTERS = 20_000
IMPORTS = """
import sys
from pathlib import Path
import structlog
from edge_agent.errors import EdgeAgentError
from tests.support.uplink_cases import UplinkCase
"""
ONCE = f"""{IMPORTS}
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))  # its writes are not the subject
try:
    UplinkCase(Path(sys.argv[1]), sys.argv[2]).once()
except EdgeAgentError:
    sys.exit(3)
"""


def measure(root: Path, count: int, tally: Tally) -> None:
    """Inject each kind; `count` system calls of each kind of sweep."""
    kills(root / "kills", count, tally)
    with s3() as served:
        with ToxicProxy(urllib.parse.urlsplit(served.options["endpoint"]).port or 0) as proxy:
            cuts(root / "cuts", served, proxy, tally)
            slow(root / "slow", served, proxy, tally)
        pairs(root / "pairs", served, tally)
        no_bucket(root / "no-bucket", served, tally)
    no_folder(root / "no-folder", tally)
    for kind in ("s3", "http"):
        answers(root / f"answers-{kind}", kind, tally)


def kills(root: Path, count: int, tally: Tally) -> None:
    """Kill the uplink, or fail its disks, at a seeded choice of system calls; those count that it ended by."""
    way, rng = DeliveryPath(root), random.Random(SEED)  # noqa: S311 - which fault comes next is no secret
    with ForkingScript(IMPORTS, ONCE, root) as working:

        def once(*tracer: str) -> int:
            way.answer(1)
            return working.run([str(way.folder), way.config.url], *tracer).returncode

        way.answer(1)
        every = points(lambda *tracer: working.run([str(way.folder), way.config.url], *tracer), root / "log")
        writes = [point for point in every if point[0] in WRITING]

        def swept(wanted: list[Point], tracer: Callable[[Point], list[str]]) -> int:
            hit = 0
            for point in rng.sample(wanted, min(count, len(wanted))):
                hit += once(*tracer(point)) != 0
                assert failure(way) is None
            return hit

        tally.add(
            "kill -9 in uploads", swept(every, lambda point: killed_at(*point)), wanted=min(count, len(every)) // 2
        )
        for error in ("EIO", "ENOSPC"):
            hit = swept(writes, lambda point: failed_at(*point, error))  # noqa: B023 - called within the loop
            tally.add(f"{error} in uploads", hit, wanted=min(count, len(writes)) // 4)
    tally.found("uploads killed", way.settle())


def cuts(root: Path, served: EmptyBucket, proxy: ToxicProxy, tally: Tally) -> None:
    """Cut uploads after random bytes, half of them with a reset."""
    way, rng, injected = _through(proxy, served, root), random.Random(SEED), 0  # noqa: S311
    for _ in range(CUTS):
        way.answer(1, CHARACTERS)
        proxy.passed, proxy.toxic = 0, ConnectionCut(rng.randrange(CHARACTERS), reset=rng.random() < 1 / 2)
        injected += failure(way) is not None
        proxy.toxic = None
        assert failure(way) is None
    tally.add("upload cut after a random byte", injected, way.settle(), wanted=CUTS)


def slow(root: Path, served: EmptyBucket, proxy: ToxicProxy, tally: Tally) -> None:
    """Let the way become too slow, and swallow everything."""
    way, injected = _through(proxy, served, root), 0
    way.config = way.config.model_copy(update={"request_seconds_max": 0.5, "bytes_per_second_min": 10_000_000})
    for toxic in (SlowLink(100), SilentServer()):
        way.answer(1, CHARACTERS)
        proxy.toxic = toxic
        injected += failure(way) is not None
        proxy.toxic = None
        way.config = way.config.model_copy(update={"request_seconds_max": 20.0})
        assert failure(way) is None
        way.config = way.config.model_copy(update={"request_seconds_max": 0.5})
    way.config = way.config.model_copy(update={"request_seconds_max": 20.0})
    tally.add("way too slow, or without answers", injected, way.settle(), wanted=2)


def pairs(root: Path, served: EmptyBucket, tally: Tally) -> None:
    """Let two uplinks with notes of their own bring up one outbox at once."""
    way = DeliveryPath(root, _place(served, root), served.options)
    other = UplinkCase(root, way.config.url, served.options)
    other.notes = root / "notes-of-the-other"
    for _ in range(PAIRS):
        for _ in range(5):
            way.answer(1, CHARACTERS)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(failure, (way, other)))
    tally.add("two uplinks at once", PAIRS, way.settle(), wanted=PAIRS)


def no_bucket(root: Path, served: EmptyBucket, tally: Tally) -> None:
    """Send to a bucket that somebody makes later."""
    way = DeliveryPath(root, "s3://later/examples", served.options)
    way.answer(2)
    failed = failure(way) is not None
    urllib.request.urlopen(urllib.request.Request(f"{served.options['endpoint']}/later", method="PUT")).close()  # noqa: S310
    tally.add("missing bucket", failed, way.settle(), wanted=1)


def no_folder(root: Path, tally: Tally) -> None:
    """Send to the mount point of a share that is mounted later."""
    way = DeliveryPath(root)
    shutil.rmtree(way.upstream)
    way.answer(2)
    failed = failure(way) is not None
    way.upstream.mkdir()
    tally.add("missing folder", failed, way.settle(), wanted=1)


def answers(root: Path, kind: str, tally: Tally) -> None:
    """Make a store behind S3 or HTTP give every bad answer, and store half of the uploads."""
    with AnsweringServer() as server:
        way = _ScriptedTransfer(root, server, kind)
        failed = 0
        for bad in WAYS:
            way.answer(1, CHARACTERS)
            server.answer(bad)
            failed += failure(way) is not None
            server.answer(bad, lambda _, path: path.endswith(".age"))
            failed += failure(way) is not None
            server.answer("well")
            assert failure(way) is None, bad
        tally.add(f"endpoint that answers badly ({kind})", failed, way.settle(), wanted=2 * len(WAYS))


class _ScriptedTransfer(DeliveryPath):
    """A transfer through a server with scripted answers; the central team reads the server's files as a folder."""

    def __init__(self, root: Path, server: AnsweringServer, kind: str) -> None:
        keys = {"access_key_id": "AKID", "secret_access_key": "SECRET", "region": "us-east-1"}
        options = {"endpoint": server.address, **keys} if kind == "s3" else {"authorization": "Bearer SECRET"}
        url = "s3://fleet" if kind == "s3" else f"{server.address}/fleet"
        super().__init__(root, url, {"allow_http": "true", **options}, request_seconds_max=0.5)
        self._server, self._kind = server, kind

    def source(self) -> SegmentSource:
        """Lay what the server keeps into a folder; receipts that are written there go back to it."""
        for path, content in self._server.objects.items():
            target = self.upstream / urllib.parse.unquote(path).removeprefix("/fleet/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return _ReceiptFolder(self.upstream, self._server, self._kind)


class _ReceiptFolder(FolderSource):
    """A folder whose receipts go to a server, too."""

    def __init__(self, root: Path, server: AnsweringServer, kind: str) -> None:
        super().__init__(root)
        self._server, self._kind = server, kind

    def write(self, path: str, content: bytes) -> None:
        """Put."""
        self._server.objects[f"/fleet/{urllib.parse.quote(path) if self._kind == 's3' else path}"] = content


def _through(proxy: ToxicProxy, served: EmptyBucket, root: Path) -> DeliveryPath:
    options = {**served.options, "endpoint": f"http://127.0.0.1:{proxy.port}"}
    return DeliveryPath(root, _place(served, root), options, request_seconds_max=20)


def _place(served: EmptyBucket, root: Path) -> str:
    return f"{served.url}/{root.name}"

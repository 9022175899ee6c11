"""Traffic of an update: only changed chunks, little if nothing changed, at most one chunk again after a kill."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import structlog

from benchmarks.bars import Bar, main
from edge_agent.formats import manifest
from tests.support import bundles
from tests.support.answering_server import AnsweringServer
from tests.support.eventually import eventually_sync
from tests.support.fleet_cases import CentralTeam
from tests.support.toxic_proxy import ToxicProxy
from tests.support.update_cases import UpdateCase, idle, rubbish, sha256
from tests.support.uplink_cases import Clock

WEIGHTS_BYTES, ADAPTER_BYTES, OTHER_BUNDLES = 12 * 2**20, 2 * 2**20, 40
CHUNK_BYTES = 2**18
KILLS = 6
CONFIDENCE: dict[str, object] = {"policy": "threshold", "temperature": 1.1, "target_risk": 0.05, "delta": 0.05}
CONFIDENCE |= {"n": 500, "bound": 0.04, "coverage": 0.9}
ONCE = """
import sys
from pathlib import Path
from tests.support.update_cases import UpdateCase
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
UpdateCase(Path(sys.argv[1]), "s3://fleet", options, chunk_bytes=int(sys.argv[2])).once()
"""


def measure() -> list[Bar]:
    """Publish with the real publisher, mirror over a socket as S3, and count what passes there."""
    with tempfile.TemporaryDirectory() as path:
        return [*_transfers(Path(path)), *_resumed(Path(path) / "resumed")]


class CountedRepository:
    """A repository behind a socket whose bytes are counted, and a site that mirrors it."""

    def __init__(self, server: AnsweringServer, proxy: ToxicProxy, folder: Path) -> None:
        """Make the central team; nothing is published yet."""
        self.server, self.proxy = server, proxy
        self.central = CentralTeam(folder / "central")
        self.case = UpdateCase(folder, "s3://fleet", options_of(proxy), chunk_bytes=2**20)
        self.case.clock = Clock()
        self.folder = folder

    def bundle(self, version: str, adapter: bytes, threshold: float) -> str:
        """Publish a version of the task with a plan for it; return its digest."""
        made = self.folder / version
        like = bundles.manifest_of(bundles.echo_bundle(self.folder / f"like-{version}", version=version))
        plain = json.loads(manifest.encode(like)) | {"confidence": {**CONFIDENCE, "threshold": threshold}}
        files = {"weights": ("weights.bin", rubbish(WEIGHTS_BYTES)), "adapter": ("adapter.bin", adapter)}
        digest = self.central.publish(bundles.write(made, plain, {}, files))
        self.central.plan(self.central.offering(digest))
        lay(self.central, self.server)
        return digest

    def others(self) -> None:
        """Publish what else a fleet has."""
        for number in range(OTHER_BUNDLES):
            self.central.publish(bundles.echo_bundle(self.folder / f"other-{number}", name=f"task-{number}"))

    async def install(self, digest: str, have: set[str]) -> None:
        """Fetch as the daemon asks: the manifest, then the files of it that the store does not have."""
        raw = self.server.objects[f"/fleet/blobs/{digest}"]
        mirror, notes = self.case.opened()
        clock = self.case.clock
        with notes:
            for wanted in (
                [(digest, len(raw))],
                [(each.sha256, each.size_bytes) for each in manifest.parse(raw).artifacts],
            ):
                self.case.want_sizes([each for each in wanted if each[0] not in have], root_version=1)
                assert clock
                clock.advance(6)
                await idle(mirror)
        missing = {each for each, _ in wanted if each not in have} - {
            path.name for path in self.case.incoming.rglob("*")
        }
        assert not missing

    async def look(self) -> tuple[int, int]:
        """Look twice, and return requests and bytes of the second time."""
        mirror, notes = self.case.opened()
        clock = self.case.clock
        assert clock
        with notes:
            await idle(mirror)
            self.restart()
            clock.advance(301)
            await idle(mirror)
        return len(self.server.requests), self.moved()

    def restart(self) -> None:
        """Count from here on."""
        self.server.answer("well")
        self.proxy.passed = self.proxy.answered = 0

    def moved(self) -> int:
        """Return the bytes that have passed, headers included, both ways."""
        return self.proxy.passed + self.proxy.answered


def _transfers(folder: Path) -> list[Bar]:
    with AnsweringServer() as server, ToxicProxy(port_of(server)) as proxy:
        wire = CountedRepository(server, proxy, folder)
        wire.others()
        first = rubbish(ADAPTER_BYTES, 1)
        asyncio.run(wire.install(wire.bundle("1.0.0", first, 0.5), set()))
        have = {sha256(rubbish(WEIGHTS_BYTES)), sha256(first)}
        second = wire.bundle("1.1.0", rubbish(ADAPTER_BYTES, 2), 0.5)
        wire.restart()
        asyncio.run(wire.install(second, have))
        of_adapter = wire.moved()
        third = wire.bundle("1.1.1", first, 0.6)
        wire.restart()
        asyncio.run(wire.install(third, have))
        of_threshold = wire.moved()
        requests, bytes_moved = asyncio.run(wire.look())
    return [
        Bar("adapter-only update, bytes moved", of_adapter, 1.05 * ADAPTER_BYTES + 50_000, "lower"),
        Bar("threshold-only update, bytes moved", of_threshold, 50_000, "lower"),
        Bar("refresh with nothing new, requests", requests, 2, "lower"),
        Bar("refresh with nothing new, bytes moved", bytes_moved, 3000, "lower"),
    ]


def _resumed(folder: Path) -> list[Bar]:
    """Kill a download at several places, each in its own try; count the kills, and the worst that came again."""
    blob, worst, killed = rubbish(24 * CHUNK_BYTES + 1000), 0.0, 0
    for number in range(KILLS):
        with AnsweringServer() as server, ToxicProxy(port_of(server)) as proxy:
            case = UpdateCase(folder / str(number), "s3://fleet", options_of(proxy))
            case.want(blob)
            path, central = f"/fleet/blobs/{sha256(blob)}", CentralTeam(folder / str(number) / "central")
            lay(central, server)
            server.objects[path] = blob
            sent = functools.partial(server.sent_of, path)
            killed += _killed_once(case, proxy, sent, CHUNK_BYTES * (2 + 3 * number) + 1)
            worst = max(worst, (sent() - len(blob)) / CHUNK_BYTES)
            assert blob == case.arrived()[f"blobs/{sha256(blob)}"]
    return [
        Bar("downloads killed on their way", killed, KILLS, "higher"),
        Bar("fetched again after a kill, in chunks", worst, 1, "lower"),
    ]


def _killed_once(case: UpdateCase, proxy: ToxicProxy, sent: Callable[[], int], after_bytes: int) -> bool:
    """Kill a download after that many bytes, and finish it in another process; return whether the first still ran."""
    command = [sys.executable, "-c", ONCE, str(case.folder), str(CHUNK_BYTES)]
    command += [part for pair in options_of(proxy).items() for part in pair]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:  # noqa: S603 - ours
        eventually_sync(lambda: sent() >= after_bytes, 60)
        running.kill()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    return running.returncode == -signal.SIGKILL


def lay(central: CentralTeam, server: AnsweringServer) -> None:
    """Copy the published files to the server."""
    files = {path.relative_to(central.folder): path for path in central.folder.rglob("*") if path.is_file()}
    server.objects.update({f"/fleet/{key}": path.read_bytes() for key, path in files.items()})


def options_of(proxy: ToxicProxy) -> dict[str, str]:
    """Return what an uplink needs to go through it as to S3."""
    keys = {"access_key_id": "AKIDEXAMPLEEXAMPLE00", "secret_access_key": "0" * 40, "region": "eu-central-1"}
    return {"endpoint": f"http://127.0.0.1:{proxy.port}", "allow_http": "true", **keys}


def port_of(server: AnsweringServer) -> int:
    """Return the port of the server."""
    return urllib.parse.urlsplit(server.address).port or 0


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(measure))

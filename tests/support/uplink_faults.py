"""Faults between an uplink and its upstream, for tests and for scripts/bench."""

from __future__ import annotations

import random
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from tests.support.answering_server import AnsweringServer
from tests.support.object_stores import EmptyBucket
from tests.support.toxic_proxy import ConnectionCut, ToxicProxy
from tests.support.uplink_cases import UplinkCase

SEED = 5
SEGMENT_BYTES = 20_000


def through(proxy: ToxicProxy, served: EmptyBucket, folder: Path, seconds: float = 20) -> UplinkCase:
    """Return an uplink that goes through the proxy to a place of its own in the bucket."""
    folder.mkdir(exist_ok=True)
    options = {**served.options, "endpoint": f"http://127.0.0.1:{proxy.port}"}
    return UplinkCase(folder, f"s3://fleet/{folder.name}", options, request_seconds_max=seconds)


def failure(case: UplinkCase) -> EdgeAgentError | None:
    """Run the uplink once; return its error."""
    try:
        case.once()
    except EdgeAgentError as error:
        return error
    return None


def whole(case: UplinkCase) -> set[str]:
    """Return the keys of the objects that arrived with all their bytes."""
    return {key for key, content in case.uploaded().items() if case.outbox_files()[key] == content}


def cut_uploads(count: int, proxy: ToxicProxy, served: EmptyBucket, folder: Path) -> dict[str, int]:
    """Cut uploads after random bytes, half of them with a reset; return the counts of the outcomes."""
    rng, counts = random.Random(SEED), {"injected": 0, "failed": 0, "lost": 0, "believed_wrongly": 0}
    for number in range(count):
        # Its name is that of its place in the bucket, which other tests share.
        case = through(proxy, served, folder / f"{folder.name}-{number}")
        case.seal(2, SEGMENT_BYTES)
        proxy.passed, proxy.toxic = 0, ConnectionCut(rng.randrange(2 * SEGMENT_BYTES), reset=rng.random() < 0.5)
        counts["failed"] += failure(case) is not None
        proxy.toxic = None
        counts["believed_wrongly"] += not case.noted_keys() <= whole(case)
        assert failure(case) is None
        counts["lost"] += case.uploaded() != case.outbox_files()
        counts["injected"] += 1
    return counts


def uplink_of(server: AnsweringServer, folder: Path, kind: str) -> UplinkCase:
    """Return an uplink to a server with scripted answers."""
    if kind == "s3":
        keys = {"access_key_id": "AKID", "secret_access_key": "SECRET-OF-THE-SITE", "region": "us-east-1"}
        options = {"endpoint": server.address, "allow_http": "true", **keys}
        return UplinkCase(folder, "s3://fleet", options, request_seconds_max=0.5)
    options = {"allow_http": "true", "authorization": "Bearer SECRET-OF-THE-SITE"}
    return UplinkCase(folder, f"{server.address}/fleet", options, request_seconds_max=0.5)

"""What an upload loses when the way is cut, the store answers badly, or two uplinks work at once: nothing."""

from __future__ import annotations

import logging
import sys
import tempfile
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from benchmarks.bars import Bar, main
from tests.answering_server import WAYS, AnsweringServer
from tests.object_stores import s3
from tests.toxic_proxy import ToxicProxy
from tests.uplink_cases import UplinkCase
from tests.uplink_faults import SEGMENT_BYTES, cut_uploads, failure, uplink_of, whole

CUTS, PAIRS = 200, 10


def measure() -> list[Bar]:
    """Inject each kind, let the way heal, and count what is not at the store or was taken for sent."""
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        counts = [cuts(root / "cuts"), answers(root / "answers"), pairs(root / "pairs")]
    total = {name: sum(each[name] for each in counts) for name in ("injected", "lost", "believed_wrongly")}
    return [
        Bar("faults injected into uploads", total["injected"], CUTS + 2 * len(WAYS) + PAIRS, "higher"),
        Bar("segments lost after uploads that failed", total["lost"], 0, "lower"),
        Bar("segments noted as sent that were not", total["believed_wrongly"], 0, "lower"),
    ]


def cuts(folder: Path) -> dict[str, int]:
    """Cut uploads to S3 after random bytes."""
    folder.mkdir()
    with s3() as served, ToxicProxy(urllib.parse.urlsplit(served.options["endpoint"]).port or 0) as proxy:
        return cut_uploads(CUTS, proxy, served, folder)


def answers(folder: Path) -> dict[str, int]:
    """Let a store that is spoken to as S3 and as HTTP answer in every bad way."""
    counts = {"injected": 0, "lost": 0, "believed_wrongly": 0}
    for kind in ("s3", "http"):
        for way in WAYS:
            (folder / f"{kind}-{way}").mkdir(parents=True)
            with AnsweringServer() as server:
                case = uplink_of(server, folder / f"{kind}-{way}", kind)
                case.seal(2)
                server.answer(way)
                failure(case)
                counts["believed_wrongly"] += case.noted()
                server.answer("well")
                server.objects.clear()
                failed = failure(case) is not None
                sealed = {key: each for key, each in case.outbox_files().items() if "segments" in key}
                arrived = {urllib.parse.unquote(path).partition("site=")[2] for path in server.objects}
                counts["lost"] += failed or not {key.removeprefix("site=") for key in sealed} <= arrived
                counts["injected"] += 1
    return counts


def pairs(folder: Path) -> dict[str, int]:
    """Let two uplinks with notes of their own bring up one outbox at once."""
    counts = {"injected": 0, "lost": 0, "believed_wrongly": 0}
    with s3() as served:
        for number in range(PAIRS):
            (folder / str(number)).mkdir(parents=True)
            url = f"s3://fleet/pair-{number}"
            case = UplinkCase(folder / str(number), url, served.options)
            other = UplinkCase(folder / str(number), url, {})
            other.config, other.notes = case.config, folder / str(number) / "notes-of-the-other"
            case.seal(10, SEGMENT_BYTES)
            with ThreadPoolExecutor(2) as threads:
                failed = list(threads.map(failure, (case, other)))
            counts["believed_wrongly"] += not (case.noted_keys() | other.noted_keys()) <= whole(case)
            counts["lost"] += any(failure(each) for each in (case, other) if any(failed))
            counts["lost"] += case.uploaded() != case.outbox_files()
            counts["injected"] += 1
    return counts


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(measure))

"""A thousand calls while the link to the large model fails and recovers every second: no answer is late.

Both daemons are real, and the large model is a scripted oracle behind a proxy. Down is in turn: connections that are
reset, questions that arrive and whose answers are lost, and a hole that takes everything and says nothing. Every text
is another one, so that what the oracle was asked twice is found.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.bars import Bar
from edge_agent.client import CallFailed, Classification
from tests.support.bundles import echo_bundle
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.large_model import LargeModel
from tests.support.toxic_proxy import ConnectionCut, CutAnswer, SilentServer, ToxicProxy

CALLS, CALLERS = 1000, 4
DEADLINE_SECONDS = 1.0
PERIOD_SECONDS = 1.0
PACE_SECONDS = 0.2
"""Between two calls of one caller: the calls last as long as some fifty turns of the link."""


def measure(calls: int = CALLS) -> list[Bar]:
    """Make the calls."""
    with (
        tempfile.TemporaryDirectory() as path,
        LargeModel(lambda _: "hours") as oracle,
        ToxicProxy(oracle.port) as proxy,
        EscalatingSite(Path(path), oracle, url=f"http://127.0.0.1:{proxy.port}/v1") as site,
    ):
        site.admin.install(echo_bundle(Path(path) / "pos", TASK))
        site.start_uplink()
        with _FlappingLink(proxy) as link, ThreadPoolExecutor(CALLERS) as callers:
            told = [each for part in callers.map(_call, [site] * CALLERS, _shares(calls)) for each in part]
        asked = _asked(oracle)
    routes = Counter(told)
    said = f"{dict(routes)}; the oracle got {sum(asked.values())} questions"
    print(f"routing: flapping: {said}", file=sys.stderr)  # noqa: T201 - a benchmark's output
    return [
        Bar("flapping: calls", len(told), calls, "higher"),
        Bar("flapping: turns of the link", link.turns, calls / 25, "higher"),
        Bar("flapping: answered by the large model", routes["UPSTREAM"], calls / 20, "higher"),
        Bar("flapping: answered here", routes["LOCAL"], calls / 20, "higher"),
        Bar("flapping: missed deadlines", routes["LATE"], 0, "lower"),
        Bar("flapping: other failures", sum(routes.values()) - sum(map(routes.get, _KNOWN, [0] * 3)), 0, "lower"),
        Bar("flapping: questions sent twice", sum(count > 1 for count in asked.values()), 0, "lower"),
    ]


_KNOWN = ("UPSTREAM", "LOCAL", "LATE")


class _FlappingLink:
    """Turns the link down and up, until the block is left."""

    def __init__(self, proxy: ToxicProxy) -> None:
        self._proxy, self.turns = proxy, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _FlappingLink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        ways = (ConnectionCut(0, reset=True), CutAnswer(0, reset=True), SilentServer())
        while not self._over.wait(PERIOD_SECONDS):
            down = self.turns % 2 == 0
            self._proxy.toxic = ways[self.turns // 2 % len(ways)] if down else None
            self.turns += 1
        self._proxy.toxic = None


def _shares(calls: int) -> list[range]:
    return [range(start, calls, CALLERS) for start in range(CALLERS)]


def _call(site: EscalatingSite, numbers: Sequence[int]) -> list[str]:
    """Make the calls of one caller; return for each the model that answered, LATE, or the reason of the failure."""
    told = []
    pace = threading.Event()
    with site.serve.client() as client:
        for number in numbers:
            began = time.monotonic()
            try:
                (answer,) = client.classify(TASK, [f"hmm no. {number}!"], timeout_seconds=DEADLINE_SECONDS)
                route = answer.route if isinstance(answer, Classification) else answer.reason
            except CallFailed as error:
                route = "LATE" if error.reason == "DEADLINE_EXPIRED" else error.reason
            took = time.monotonic() - began
            told.append("LATE" if took > DEADLINE_SECONDS else route)
            pace.wait(max(0.0, PACE_SECONDS - took))
    return told


def _asked(oracle: LargeModel) -> Counter[str]:
    """Count the oracle's questions by text; a question repeated after a bad answer counts separately."""
    bodies = [json.loads(request.rpartition("\n")[2]) for request in oracle.received if request.startswith("POST")]
    return Counter(json.dumps(body["messages"]) for body in bodies)

"""The console in a headless Chromium, with a spool as full as sites have them: when a page first shows something.

Every answer in the spool was asked of the daemon, and got there the way all do. A load begins with nothing in the
browser's cache; what is measured is from the start of the navigation, the server's own time included.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.bars import Bar, median
from edge_agent.client import Client
from tests.support.bundles import echo_bundle
from tests.support.chromium import Chromium, Tab
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.web_console import RunningConsole

PREDICTIONS = 100_000
LOADS = 9
PAINT_SECONDS_MAX = 1.0
BATCH, UNWRITTEN_MAX = 1000, 3000
"""What is asked about at once, and what may wait to be written before more is asked."""
FILL_SECONDS_MAX = 600.0
PAGES = {"overview": "/", "review queue": "/review"}
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


def measure(predictions: int = PREDICTIONS) -> list[Bar]:
    """Fill the spool, then open each page a few times."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        examples = {"collect": {"pos-intent": "local"}, "spool_bytes_max": 2**30}
        with RunningDaemon(folder / "site", examples=examples, engine={"queue_requests_max": BATCH}) as daemon:
            daemon.install(echo_bundle(folder / "pos", task={"limits": {"inputs_max": 1024}}))
            _fill(daemon, predictions)
            with RunningConsole(daemon) as console, Chromium(folder) as browser:
                return _painted(console, browser.tab())


def _fill(daemon: RunningDaemon, predictions: int) -> None:
    """Send that many inputs, no faster than the daemon stores the answers."""
    with daemon.client() as client:
        for first in range(0, predictions, BATCH):
            _ask(client, range(first, min(first + BATCH, predictions)))
            _wait(daemon, first + BATCH - UNWRITTEN_MAX)
    _wait(daemon, predictions)


def _wait(daemon: RunningDaemon, least: int) -> None:
    eventually_sync(lambda: _kept(daemon) >= least, FILL_SECONDS_MAX)


def _ask(client: Client, numbers: range) -> None:
    texts = [f"Customer {number} wants the money back for a kettle that broke after a week" for number in numbers]
    client.classify("pos-intent", texts, timeout_seconds=FILL_SECONDS_MAX)


def _kept(daemon: RunningDaemon) -> int:
    with daemon.admin() as admin:
        examples = admin.status().examples
    return sum(examples.retained.values()) if examples else 0


def _painted(console: RunningConsole, tab: Tab) -> list[Bar]:
    tab.look(width=1280, height=900)
    tab.go(console.link)
    tab.ask("Network.setCacheDisabled", cacheDisabled=True)
    tab.ask("Network.setCookie", url=console.url, name="edge_agent_reviewer", value="bench", httpOnly=True)
    bars = []
    for name, path in PAGES.items():
        took = [_load(tab, f"{console.url}{path}") for _ in range(LOADS)]
        bars.append(Bar(f"console with {PREDICTIONS} kept: {name}, s", median(took), PAINT_SECONDS_MAX, "lower"))
    return bars


def _load(tab: Tab, url: str) -> float:
    tab.go("about:blank")
    tab.go(url)
    tab.until(f"({_PAINTED}) > 0")
    return float(tab.value(_PAINTED)) / 1000

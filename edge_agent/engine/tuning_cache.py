"""Remembers which settings suit this machine, as children have measured them: by weights, threads and cache type.

What they were measured for beside that (processor, build of the library) is for the child to compare: it measures again
when that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.engine.protocol import TUNING_DETAILS, LoadRequest

ENTRIES_MAX = 64
"""The ones that were measured longest ago are forgotten beyond."""

TuningSettings = dict[str, dict[str, str]]


class TuningCache:
    """See the module. Hands every change to `keep`, which must not fail."""

    def __init__(self, known: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Start with what was kept before."""
        self._known: TuningSettings = {key: dict(settings) for key, settings in (known or {}).items()}
        self.on_change: Callable[[TuningSettings], None] = lambda _: None

    def lookup(self, load: LoadRequest) -> dict[str, str]:
        """Return the settings for an engine that is about to load; empty = none were measured."""
        return self._known.get(_key(load), {})

    def remember(self, load: LoadRequest, details: Mapping[str, str]) -> None:
        """Take the settings of an engine that has just measured them."""
        if details.get("tuned") != "measured":
            return
        settings = {name: details[name] for name in TUNING_DETAILS if name in details}
        key = _key(load)
        if self._known.get(key) == settings:
            return
        self._known.pop(key, None)
        self._known[key] = settings
        for oldest in list(self._known)[:-ENTRIES_MAX]:
            del self._known[oldest]
        self.on_change(self._known)


def _key(load: LoadRequest) -> str:
    """Name what is known to the daemon: a blob's name is the hash of what is in it."""
    return f"{Path(load.weights).name} {load.kv_type} {load.threads}"

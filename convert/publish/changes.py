"""What new metadata change, in words: for whoever is asked to sign them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from convert.publish.layout import ONLINE, PLAN, ROOT, TARGETS, TIMESTAMP
from convert.publish.reading import bundles_of
from convert.report.made import size

Name = Callable[[str], str]
"""Returns what people call a key id."""


def of_targets(old: Targets, new: Targets, name: Name) -> Iterator[str]:
    """Yield a line for each bundle and each plan key that comes or goes."""
    before, after = bundles_of(old), bundles_of(new)
    for digest in before.keys() - after.keys():
        yield f"- bundle {before[digest].name}: revoked"
    for digest in after.keys() - before.keys():
        yield f"+ bundle {after[digest].name}, {size(after[digest].size_bytes)}"
    yield from _keys(PLAN, old.get_delegated_role(PLAN), new.get_delegated_role(PLAN), name)


def of_root(old: Root, new: Root, name: Name) -> Iterator[str]:
    """Yield a line for each key that comes or goes, and each threshold that changes."""
    for role, called in ((ROOT, ROOT), (TARGETS, TARGETS), (TIMESTAMP, ONLINE)):
        yield from _keys(called, old.get_delegated_role(role), new.get_delegated_role(role), name)


def described(old: Mapping[str, Metadata[Any]], new: Mapping[str, Metadata[Any]], name: Name) -> list[str]:
    """Return what new metadata, by role, change of the old ones."""
    how: dict[str, Any] = {ROOT: of_root, TARGETS: of_targets}
    lines = []
    for role, metadata in new.items():
        signed, before = metadata.signed, old[role].signed
        lines.append(f"{role}, version {before.version} → {signed.version}, holds until {signed.expires:%Y-%m-%d}")
        changes = list(how[role](before, signed, name)) if role in how else []
        lines += [f"  {line}" for line in changes] or ["  nothing but the time until which it holds"]
    return lines


def _keys(called: str, old: Any, new: Any, name: Name) -> Iterator[str]:
    for keyid in old.keyids:
        if keyid not in new.keyids:
            yield f"- key {name(keyid)} of {called} ({keyid[:12]})"
    for keyid in new.keyids:
        if keyid not in old.keyids:
            yield f"+ key {name(keyid)} of {called} ({keyid[:12]})"
    if old.threshold != new.threshold or len(old.keyids) != len(new.keyids):
        yield f"* {called}: {new.threshold} of {len(new.keyids)} must sign; it was {old.threshold} of {len(old.keyids)}"

"""What new metadata change, in words: for whoever is asked to sign them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from convert.publish.layout import ONLINE, PLAN, ROOT, TARGETS, TIMESTAMP
from convert.publish.reading import BundleTarget, bundles_of, newest
from convert.report.text import headline
from edge_agent.formatting import format_bytes

Name = Callable[[str], str]
"""Returns what people call a key id."""


def of_targets(old: Targets, new: Targets, name: Name) -> Iterator[str]:
    """Yield a line for each bundle and each plan key that comes or goes."""
    before, after = bundles_of(old), bundles_of(new)
    for digest in before.keys() - after.keys():
        yield f"- bundle {before[digest].name}: revoked"
    for digest in after.keys() - before.keys():
        yield f"+ bundle {after[digest].name}, {format_bytes(after[digest].size_bytes)}"
        yield from _quality(after[digest], newest(before, after[digest].task))
    yield from _keys(PLAN, old.get_delegated_role(PLAN), new.get_delegated_role(PLAN), name)


def _quality(new: BundleTarget, old: BundleTarget | None) -> Iterator[str]:
    yield from (f"    {said}" for said in headline(new.quality))
    if old is not None and old.quality:
        yield f"    before, {old.name}, on its own test rows:"
        yield from (f"      {said}" for said in headline(old.quality))


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
    for sign, keyids in (("-", set(old.keyids) - set(new.keyids)), ("+", set(new.keyids) - set(old.keyids))):
        yield from (f"{sign} key {name(keyid)} of {called} ({keyid[:12]})" for keyid in sorted(keyids))
    before, after = ((of.threshold, len(of.keyids)) for of in (old, new))
    if before != after:
        yield f"* {called}: {after[0]} of {after[1]} must sign; it was {before[0]} of {before[1]}"

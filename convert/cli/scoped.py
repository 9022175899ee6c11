"""Options that say which collected examples count, and what is printed of bundles and clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from convert.pipeline import execution
from convert.report.made import plural

_DAY = ["%Y-%m-%d"]
_SHOWN_MAX = 5

Version = Annotated[
    str,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Only answers of this bundle: a version, the beginning of its digest, or 'all' to mix them.",
    ),
]
Sites = Annotated[
    list[str] | None, typer.Option("--site", metavar="NAME", help="Only this site. Repeat it for several.")
]
Since = Annotated[
    datetime | None, typer.Option(metavar="YYYY-MM-DD", formats=_DAY, help="Only answers of this day and later, UTC.")
]
Until = Annotated[
    datetime | None, typer.Option(metavar="YYYY-MM-DD", formats=_DAY, help="Only answers of this day and before, UTC.")
]


def scope_of(version: str, sites: list[str] | None, since: datetime | None, until: datetime | None) -> Any:
    """Return the scope that those options mean."""
    scope = execution.load("convert.dataset.scope")  # needs the extra, which other commands do without
    days = (each.date() if each else None for each in (since, until))
    return scope.ExampleScope(version, tuple(sites or ()), *days)


def clocks(scoped: Any) -> Iterator[str]:
    """Say which sites have a wrong clock, and what that changes."""
    for each in scoped.clocks[:_SHOWN_MAX]:
        yield (
            f"the clock of {each.site} is wrong: {plural(each.examples, 'example')} up to {plural(each.days, 'day')}"
            " newer than the time when they were taken in. They count as the oldest, and stand in no --since or --until"
        )
    if len(scoped.clocks) > _SHOWN_MAX:
        yield f"the clocks of {len(scoped.clocks) - _SHOWN_MAX} more sites are wrong as well; --json names them"


def counted(bundles: Sequence[Any]) -> str:
    """Name bundles with their number of examples; a digest only where a version has several."""
    versions = Counter(bundle.version for bundle in bundles)
    return ", ".join(
        f"{each.version}{f' {each.digest[:12]}' if versions[each.version] > 1 else ''} ({each.examples})"
        for each in bundles
    )

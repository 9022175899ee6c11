"""The order of versions by https://semver.org. Pure."""

from __future__ import annotations


def precedence(version: str) -> tuple[tuple[int, ...], tuple[tuple[bool, int, str], ...]]:
    """Return a sort key for versions: 1.10.0 after 1.9.0, and 1.0.0-rc.1 before 1.0.0.

    A text that is not a version comes first: signed metadata of an old repository can lack the version.
    """
    core, _, prerelease = version.partition("-")
    numbers = tuple(int(number) if number.isdecimal() else 0 for number in core.split("."))
    if not prerelease:
        return (*numbers, 1), ()
    identifiers = tuple(
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in prerelease.split(".")
    )
    return (*numbers, 0), identifiers

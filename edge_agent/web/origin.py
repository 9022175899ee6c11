"""Where a request comes from: is it meant for this console, and does one of its own pages make it? Pure.

A page elsewhere can send requests here (cross-site request forgery) or make its own name lead here (DNS rebinding). The
first is told by `Origin` and by the page's key, the second by `Host`.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.config import addresses

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def hosts(address: str, names: Iterable[str]) -> frozenset[str]:
    """Return what `Host` may say, for an address that is listened on and the names, or name:port, that lead to it."""
    host, port = addresses.split_host_port(address)
    elsewhere = frozenset(name.lower() for name in names if name.count(":") == 1)
    known = [_bracketed(name.lower()) for name in names if name.count(":") != 1]
    known += [*_LOOPBACK] if addresses.is_loopback(host) or host in _ANY else []
    known += [] if host in _ANY else [_bracketed(host.lower())]
    usual = frozenset(known) if port in (80, 443) else frozenset()
    return elsewhere | usual | frozenset(f"{name}:{port}" for name in known)


def is_ours(origin: str, host: str, *, secure: bool) -> bool:
    """Tell whether the page that makes a request is one of this console's; without `Origin` no browser made it."""
    return not origin or origin == f"{'https' if secure else 'http'}://{host}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

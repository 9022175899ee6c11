"""Addresses as people write them: host:port, an IPv6 host in brackets; a store that is a folder."""

from __future__ import annotations

import ipaddress
from pathlib import Path


def split_host_port(address: str) -> tuple[str, int]:
    """Return host and port. Raises ValueError, with a sentence."""
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address: it needs a host and a port, e.g. 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether nobody outside this machine reaches it; of names, only localhost is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def store_folder(url: str) -> Path | None:
    """Return the folder that a store's URL names; None = it names none, or a store that is not a folder."""
    scheme, colon, rest = url.partition("://")
    if not url or (colon and scheme != "file"):
        return None
    return Path(rest if colon else url)

"""A network namespace in which every packet is counted that a process sends of its own accord, and a place outside.

with CountedNetwork(port=9443) as network:
    subprocess.run([*network.inside, "curl", "http://192.0.2.9"])
    assert network.attempts() > 0

Answers to what came in for the port are not counted, nor is what the kernel sends without a process. A route leads out
of the namespace, so that an attempt is a packet and not an error. Needs root, iproute2 and nftables.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from types import TracebackType
from typing import Self

INSIDE, OUTSIDE = "10.213.0.2", "10.213.0.1"
RULES = """
table inet egress {{
  counter attempts {{ }}
  chain output {{
    type filter hook output priority 0; policy accept;
    tcp sport {port} ct direction reply accept
    meta skuid 0-4294967294 counter name attempts
  }}
}}
"""


def why_not() -> str:
    """Say why there can be no such namespace here; empty = there can."""
    missing = [package for command, package in (("ip", "iproute2"), ("nft", "nftables")) if not shutil.which(command)]
    if missing:
        return f"these are missing: {', '.join(missing)} (sudo apt-get install {' '.join(missing)})"
    return "" if os.geteuid() == 0 else "only root may make network namespaces"


class CountedNetwork:
    """See the module; `port` is that of the one listener inside."""

    def __init__(self, port: int) -> None:
        """Name what is to be made."""
        self._port = port
        token = secrets.token_hex(3)
        self._names = {"inside": f"ea-in-{token}", "outside": f"ea-out-{token}"}
        self.inside, self.outside = (["ip", "netns", "exec", name] for name in self._names.values())
        """Put in front of a command, to run it there."""
        self.address = f"{INSIDE}:{port}"

    def __enter__(self) -> Self:
        """Make both namespaces and the wire between them."""
        inside, outside = self._names.values()
        for name in (inside, outside):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", inside, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", outside)
        for name, address in ((inside, INSIDE), (outside, OUTSIDE)):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            _run("ip", "-n", name, "link", "set", "wire", "up")
        _run("ip", "-n", inside, "route", "add", "default", "via", OUTSIDE)
        _run("ip", "-n", inside, "-6", "route", "add", "default", "dev", "wire")
        _run(*self.inside, "nft", "-f", "-", given=RULES.format(port=self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them."""
        for name in self._names.values():
            _run("ip", "netns", "del", name)

    def attempts(self) -> int:
        """Return the packets that processes have sent which were no answers."""
        said = _run(*self.inside, "nft", "-j", "list", "counter", "inet", "egress", "attempts")
        [packets] = [each["counter"]["packets"] for each in json.loads(said)["nftables"] if "counter" in each]
        return int(packets)


def _run(*command: str, given: str = "") -> str:
    return subprocess.run(command, input=given, check=True, capture_output=True, text=True, timeout=30).stdout

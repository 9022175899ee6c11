"""A network namespace that counts every packet that a process initiates, and a second namespace outside it.

with CountedNetwork(port=9443) as network:
    subprocess.run([*network.inside, "curl", "http://192.0.2.9"])
    assert network.attempts() > 0

Answers to what came in for the port are not counted, nor is what the kernel sends without a process. A route leads out
of the namespace, so that an attempt is a packet and not an error. Needs root, iproute2 and nftables.

What may be sent is counted apart, and everything on the wire can be read:

    with network.outside_here():
        listener = socket.create_server((OUTSIDE, 80))
    network.allow(80)
    with network.tapped() as tap:
        …; tap.text()
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

INSIDE, OUTSIDE = "10.213.0.2", "10.213.0.1"
RULES = """
table inet egress {{
  counter attempts {{ }}
  counter allowed {{ }}
  chain output {{
    type filter hook output priority 0; policy accept;
    tcp sport {port} ct direction reply accept
    meta skuid 0-4294967294 counter name attempts
  }}
}}
"""


ALLOWING = "insert rule inet egress output ip daddr {OUTSIDE} tcp dport {port} counter name allowed accept"
CLONE_NEWNET = 0x40000000
ALL_PROTOCOLS = 3
FRAME_BYTES_MAX = 1 << 17


def why_not() -> str:
    """Return why such a namespace cannot be created here; empty = it can."""
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

    def allow(self, port: int) -> None:
        """Count packets to that port outside separately."""
        _run(*self.inside, "nft", "-f", "-", given=ALLOWING.format(OUTSIDE=OUTSIDE, port=port))

    @contextlib.contextmanager
    def outside_here(self) -> Iterator[None]:
        """Within the block, make this thread open its sockets in the outer namespace; they stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/self/ns/net").open("rb") as home, _namespace(self._names["outside"]).open("rb") as there:
            _enter(libc, there.fileno())
            try:
                yield
            finally:
                _enter(libc, home.fileno())

    @contextlib.contextmanager
    def tapped(self) -> Iterator[Tap]:
        """Read everything that comes out of the namespace."""
        with self.outside_here():
            tap = Tap()
        with tap:
            yield tap

    def attempts(self) -> int:
        """Return the number of packets that processes sent and that are not answers."""
        return self._counted("attempts")

    def allowed(self) -> int:
        """Return the number of packets that processes sent to the allowed port."""
        return self._counted("allowed")

    def _counted(self, counter: str) -> int:
        said = _run(*self.inside, "nft", "-j", "list", "counter", "inet", "egress", counter)
        [packets] = [each["counter"]["packets"] for each in json.loads(said)["nftables"] if "counter" in each]
        return int(packets)


class Tap:
    """Captures all bytes on the wire; made by CountedNetwork."""

    def __init__(self) -> None:
        """Listen to the wire of the namespace that this thread is in."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        self._socket.bind(("wire", 0))
        self._socket.settimeout(0.05)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._flows: dict[bytes, dict[int, bytes]] = {}

    def text(self) -> bytes:
        """Return the content of the TCP connections so far, each in its order."""
        flows = [dict(flow) for flow in list(self._flows.values())]
        return b"\n".join(b"".join(payload for _, payload in sorted(flow.items())) for flow in flows)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._take(self._socket.recv(FRAME_BYTES_MAX)[14:])

    def _take(self, packet: bytes) -> None:
        """Store the content of an IPv4 TCP packet."""
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return
        segment = packet[4 * (packet[0] & 15) : int.from_bytes(packet[2:4], "big") or len(packet)]
        payload, number = segment[4 * (segment[12] >> 4) :], int.from_bytes(segment[4:8], "big")
        flow = self._flows.setdefault(packet[12:20] + segment[:4], {})
        flow[number] = max(payload, flow.get(number, b""), key=len)  # a packet may come twice, and longer


def _namespace(name: str) -> Path:
    return Path("/run/netns") / name


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _run(*command: str, given: str = "") -> str:
    return subprocess.run(command, input=given, check=True, capture_output=True, text=True, timeout=30).stdout

"""The metrics page as Prometheus reads it: Prometheus's parser, and raw requests that no scraper sends."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
WAIT_SECONDS_MAX = 60.0


class Scraped(dict[tuple[str, Labels], float]):
    """Samples by name and labels."""

    def value(self, name: str, **labels: str) -> float:
        """Return the sample with exactly these labels; the name stands without its prefix."""
        return self[f"edge_agent_{name}", frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of every sample of that name."""
        return [dict(labels) for found, labels in self if found == f"edge_agent_{name}"]


def parse(page: str) -> Scraped:
    """Read a page as Prometheus does."""
    families = text_string_to_metric_families(page)
    return Scraped(
        {(sample.name, frozenset(sample.labels.items())): sample.value for each in families for sample in each.samples}
    )


def kinds(page: str) -> Mapping[str, str]:
    """Return the kind of each metric, under the name that the parser has for it."""
    return {family.name: family.type for family in text_string_to_metric_families(page)}


def fetch(port: int) -> str:
    """Return the page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS_MAX) as answer:
        return str(answer.read().decode())


def scrape(port: int) -> Scraped:
    """Fetch and read the page."""
    return parse(fetch(port))


def say(port: int, request: bytes) -> bytes:
    """Send bytes and return all of the response, until the other end closes or resets the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS_MAX) as sock:
        answer = b""
        try:
            sock.sendall(request)
            while piece := sock.recv(65536):
                answer += piece
        except ConnectionError:
            pass
        return answer

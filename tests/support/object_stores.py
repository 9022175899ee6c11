"""Object stores for tests, served by this machine: S3 by moto, Azure's blobs by Azurite where npm has brought it,
Google's by a small server of our own, since there is none to install.

with s3() as served:
    source = open_source(served.url, served.options)
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.azure_container import create_container
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.google_store import GoogleStore

BUCKET = "fleet"
# Azurite's own, the same for everybody.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


_containers = itertools.count(1)


@dataclass(frozen=True)
class EmptyBucket:
    """A bucket that exists and is empty."""

    url: str
    options: dict[str, str]


def azurite() -> str | None:
    """Return the command, if it is installed: npm install --global azurite."""
    return shutil.which("azurite-blob")


@contextmanager
def s3() -> Iterator[EmptyBucket]:
    """Serve S3."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - half a second; each worker imports this file

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        # moto keeps what it has for the whole process, whichever server it came through.
        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{path}", method=method)).close()
        keys = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}
        yield EmptyBucket(f"s3://{BUCKET}/examples", {"endpoint": endpoint, "allow_http": "true", **keys})
    finally:
        server.stop()


@contextmanager
def google() -> Iterator[EmptyBucket]:
    """Serve Google's XML API."""
    with GoogleStore(BUCKET) as server:
        yield EmptyBucket(f"gs://{BUCKET}/examples", {"service_account_key": server.account, "allow_http": "true"})


@contextmanager
def azure() -> Iterator[EmptyBucket]:
    """Serve Azure's blobs."""
    with azurite_server() as endpoint:
        yield azure_container(endpoint)


@contextmanager
def azurite_server() -> Iterator[str]:
    """Start Azurite; yield its endpoint."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(azurite()), "--blobPort", str(port), "--location", folder, "--silent", "--skipApiVersionCheck"]
        with subprocess.Popen([*command, "--disableTelemetry"], stdout=subprocess.DEVNULL) as process:
            try:
                eventually_sync(lambda: _listens(port), 60)
                yield f"http://127.0.0.1:{port}/{ACCOUNT}"
            finally:
                process.kill()


def azure_container(endpoint: str) -> EmptyBucket:
    """Create an empty container on a server that runs."""
    name = f"{BUCKET}-{next(_containers)}"
    create_container(endpoint, name, ACCOUNT, ACCOUNT_KEY)
    keys = {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY}
    return EmptyBucket(f"az://{name}/examples", {"endpoint": endpoint, "allow_http": "true", **keys})


@contextmanager
def stored(kind: str, request: pytest.FixtureRequest) -> Iterator[EmptyBucket]:
    """Serve a bucket of that kind to a test of the contract suites."""
    if kind == "azure":
        yield azure_container(request.getfixturevalue("azurite_endpoint"))
    else:
        with {"s3": s3, "google": google}[kind]() as served:
            yield served


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return 0 == probe.connect_ex(("127.0.0.1", port))

"""Azurite, for the suites over every kind of store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.object_stores import azurite_server


@pytest.fixture(scope="session")
def azurite_endpoint() -> Iterator[str]:
    """One server for all tests of a worker: it takes half a second of a core to start. Each test has a container."""
    with azurite_server() as endpoint:
        yield endpoint

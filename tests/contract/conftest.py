"""Azurite for the contract tests of all kinds of object store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.object_stores import azurite_server


@pytest.fixture(scope="session")
def azurite_endpoint() -> Iterator[str]:
    """Yield the endpoint of one server for all tests of a worker, because a start takes half a second of a core. Each
    test has its own container."""
    with azurite_server() as endpoint:
        yield endpoint

"""installer/build/versions.txt: the package versions that the installer contains."""

from __future__ import annotations

from tests.support.tested_versions import installed, listed


def test_installer_versions_match_the_test_environment():
    """versions.txt lists each package of the agent with the version in the test environment; `python -m
    tests.support.tested_versions` writes it."""
    here, carried = installed(), listed()
    assert here == {name: carried.get(name) for name in here}

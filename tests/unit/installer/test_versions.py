"""installer/build/versions.txt: the versions that the installer carries."""

from __future__ import annotations

from tests.support.tested_versions import installed, listed


def test_the_installer_carries_the_versions_that_the_tests_run_with():
    """Each package that the agent needs has its line. `python -m tests.support.tested_versions` writes them."""
    here, carried = installed(), listed()
    assert here == {name: carried.get(name) for name in here}

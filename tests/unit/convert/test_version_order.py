"""convert/version_order.py: which of two versions is the newer one."""

from __future__ import annotations

from convert.publish.repository_reader import BundleTarget, newest
from convert.version_order import precedence


def test_versions_sort_as_numbers():
    """As semver.org has it: a longer number is a greater one, and a candidate comes before its release."""
    versions = ["", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0-rc.a", "1.0.0", "1.9.0", "1.10.0-x", "1.10.0"]
    assert versions == sorted(set(versions), key=precedence)


def test_a_release_is_newer_than_its_candidates():
    """`publish --compare-on` compares with the release, not with a candidate that was signed before it."""
    candidate, release = (BundleTarget("desk", version, version, 1) for version in ("1.0.0-rc.1", "1.0.0"))
    assert release == newest({"a": candidate, "b": release}, "desk")

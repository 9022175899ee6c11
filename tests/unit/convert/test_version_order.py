"""convert/version_order.py: the order of two versions."""

from __future__ import annotations

from convert.publish.repository_reader import BundleTarget, newest
from convert.version_order import precedence


def test_versions_are_ordered_as_semver():
    """As on semver.org, numbers are compared by value, and a candidate precedes its release."""
    versions = ["", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0-rc.a", "1.0.0", "1.9.0", "1.10.0-x", "1.10.0"]
    assert versions == sorted(set(versions), key=precedence)


def test_release_is_newer_than_its_candidates():
    """`publish --compare-on` compares with the release instead of a candidate that was signed before it."""
    candidate, release = (BundleTarget("desk", version, version, 1) for version in ("1.0.0-rc.1", "1.0.0"))
    assert release == newest({"a": candidate, "b": release}, "desk")

"""Settings of the whole test run. Fixtures live beside the tests that use them."""

from __future__ import annotations

from hypothesis import settings

# The same examples on every run and machine; a shared core may be slow, so no example has a time limit.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")

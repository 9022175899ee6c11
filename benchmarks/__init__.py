"""Benchmarks: each module prints one JSON object for each bar, and says by its exit code whether all were met."""

"""Benchmarks: each module prints one JSON object for each bar; its exit code is 0 if all bars were met."""

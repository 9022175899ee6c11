"""The faults between an acknowledged correction and the central team, by where they hit: benchmarks/spool_faults.py."""

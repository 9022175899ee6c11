"""The faults between an acknowledged correction and the centre, by where they hit. See benchmarks/spool_faults.py."""

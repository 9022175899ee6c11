"""`edge-agent doctor`: checks of one installation, which change nothing.

A file `*_checks.py` has the checks of one subject. Each group of checks has a probe (`probe_clock`), which looks at the
machine, and a rule (`judge_clock`), which turns what the probe saw into findings. A rule is a pure function.
"""

"""The report of a run: report.json for programs, report.md with plots for people. `writing.py` is the way in."""

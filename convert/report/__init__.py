"""The report of a run: report.json for programs, report.md with plots for people. `report_files.py` writes them."""

"""Rows of training data.

row_files.py             the rows of a recipe's four splits, checked against the task and each other
row_lines.py             reads a file of rows, JSONL or CSV
data_row.py              one row
splits.py                divides rows into splits, all variants of a text into one; counts copies between splits
probability_sampling.py  the rows that figures rest on: of known sampling probability
imported_rows.py         rows that no site sent pass the redaction of a site
synthesis.py             more texts from a large model
"""

"""Rows of training data.

row_files.py             the rows of a recipe's four splits, checked against the task and each other
row_lines.py             reads a file of rows, JSONL or CSV
data_row.py              one row
splits.py                divides rows into splits, all variants of a text into one; counts near duplicates
probability_sampling.py  the rows that figures rest on: those of known sampling probability
imported_rows.py         redacts rows that no site sent, as a site redacts its examples
synthesis.py             more texts from a large model
"""

"""Rows of training data: reading, checking and dividing them, near duplicates, more texts from a large model."""

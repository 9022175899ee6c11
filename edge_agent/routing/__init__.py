"""Routing: which model answers, the questions to the large model, and the check of its answers."""

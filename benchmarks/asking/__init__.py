"""What it costs, and what becomes of callers, that a large model may be asked: parts of routing.py."""

"""Parts of routing.py: the cost of escalation, and its effect on callers."""

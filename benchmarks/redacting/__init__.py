"""What `scripts/bench redaction` compares: the rules, other redactors, their union, and the figures of each."""

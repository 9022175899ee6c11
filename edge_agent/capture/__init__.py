"""Examples: what devices asked and what was answered, redacted, kept for a while, and sealed for the centre."""

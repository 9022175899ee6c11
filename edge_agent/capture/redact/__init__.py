"""Redaction: personal data in a text becomes typed, numbered placeholders before anything is written to disk."""

RULES_VERSION = "2"
"""Of the built-in rules. What a redaction model promises was proved together with rules of one version."""

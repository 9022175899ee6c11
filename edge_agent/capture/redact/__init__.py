"""Redaction: personal data in a text becomes typed, numbered placeholders before anything is written to disk."""

"""The sections of `scripts/bench hardening`: each attacks a real daemon in one way, and returns its bars."""

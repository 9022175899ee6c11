"""Metrics for Prometheus: counts of answers, figures of the site, and the listener on loopback."""

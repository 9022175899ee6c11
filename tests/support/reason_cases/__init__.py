"""The remedy sweep over the catalogue of errors: a row for each reason. benchmarks/remedies.py plays them, too.

A row makes the fault against a real daemon, or the nearest honest stand-in, as the user who meets it; it returns every
reason that appeared, and whether the remedy, followed as printed, cured it or named the person who can.
"""

from __future__ import annotations

from tests.support.reason_cases import (  # noqa: F401 - they fill the table
    access_cases,
    bundle_cases,
    call_cases,
    exchange_cases,
    machine_cases,
    uplink_cases,
)
from tests.support.reason_cases.case import CASES, CaseOutcome, CommandEnd, RemedyCase

CLIENT_REASONS = frozenset({"UNREACHABLE", "TLS_FAILED", "MESSAGE_TOO_LARGE"})
"""Reasons that no daemon wrote: docs/errors.md, "From the client's side"."""

__all__ = ["CASES", "CLIENT_REASONS", "CaseOutcome", "CommandEnd", "RemedyCase"]

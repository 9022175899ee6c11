"""Whether an enrolment file can be used here, and now. Pure: time is an argument."""

from __future__ import annotations

from typing import Literal

from edge_agent.errors import EnrolmentFileRefused
from edge_agent.formats.enrolment_file import EnrolmentFile, SiteEnrolment
from edge_agent.formats.signed_document import parse_timestamp

CLOCK_SECONDS_SLACK = 86_400
"""A machine's clock may be so far behind that of the central team: without a battery it knows the day at best."""
_ANEW = "Have the central team make a new one: 'edge-convert enrolment-file'."

EnrolmentKind = Literal["first", "renewal", "replacement"]
"""first: this machine was not a site. renewal: other settings, same site. replacement: it becomes another site."""


def classify_enrolment(
    enrolment: EnrolmentFile, known: SiteEnrolment | None, now: float, *, same_fleet: bool, replace: bool
) -> EnrolmentKind:
    """Decide about an enrolment file.

    Args:
        enrolment: the enrolment file.
        known: what this machine was enrolled with before; None = never.
        now: seconds since 1970, by this machine's clock.
        same_fleet: whether its root of trust leads to, or from, the one that is trusted here.
        replace: whether this machine may stop being the site that it is.

    Raises:
        EnrolmentFileRefused: the reason, and what to do.
    """
    _check_dates(enrolment, now)
    if known is None:
        return "first"
    stranger = _strangeness(enrolment, known, same_fleet=same_fleet)
    if stranger and replace:
        return "replacement"
    if stranger:
        raise EnrolmentFileRefused(
            f"{stranger}; nothing was changed",
            remedy="Use this machine's own enrolment file. To make it another site, add --replace: the data of this one"
            " is set aside ('edge-agent help enrolment').",
        )
    if parse_timestamp(enrolment.issued_at) < parse_timestamp(known.issued_at):
        said = (
            f"the enrolment file of {enrolment.issued_at[:16]} is older than the one in use, of {known.issued_at[:16]}"
        )
        raise EnrolmentFileRefused(said, remedy=_ANEW)
    return "renewal"


def _check_dates(enrolment: EnrolmentFile, now: float) -> None:
    if now >= parse_timestamp(enrolment.expires_at):
        raise EnrolmentFileRefused(
            f"the enrolment file expired on {enrolment.expires_at[:10]}",
            remedy=f"{_ANEW} If that is not so, this machine's clock is wrong: 'date' shows it.",
        )
    if now < parse_timestamp(enrolment.issued_at) - CLOCK_SECONDS_SLACK:
        said = f"the enrolment file was made on {enrolment.issued_at[:10]}, and this machine's clock is before that"
        raise EnrolmentFileRefused(said, remedy="Set the clock: 'date' shows it, 'sudo timedatectl set-time' sets it.")


def _strangeness(enrolment: EnrolmentFile, known: SiteEnrolment, *, same_fleet: bool) -> str:
    """Return why this machine would not stay the site that it is; empty = it would."""
    if enrolment.site != known.site:
        return f"the enrolment file is for site {enrolment.site}, and this machine is site {known.site}"
    if not same_fleet:
        return f"the enrolment file of {enrolment.site} has another root of trust than this machine, so another fleet"
    return ""

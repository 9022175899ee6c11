"""May this kit be taken here, and now? Pure: time is an argument."""

from __future__ import annotations

from typing import Literal

from edge_agent.errors import KitRefused
from edge_agent.formats.enrolment_file import Kit
from edge_agent.formats.enrolment_record import Enrolment
from edge_agent.formats.signed_document import seconds

CLOCK_SECONDS_SLACK = 86_400
"""So far a machine's clock may be behind the centre's: a box without a battery knows the day at best."""
_ANEW = "Have the centre make a new one: 'edge-convert site-kit'."

Kind = Literal["first", "renewal", "replacement"]
"""first: this box was no site. renewal: other settings, same site. replacement: it begins anew, as another site."""


def judge(kit: Kit, known: Enrolment | None, now: float, *, same_fleet: bool, replace: bool) -> Kind:
    """Decide about a kit.

    Args:
        kit: the kit.
        known: what this box was enrolled with before; None = never.
        now: seconds since 1970, by this machine's clock.
        same_fleet: whether its root of trust leads to, or from, the one that is trusted here.
        replace: whether this box may stop being the site that it is.

    Raises:
        KitRefused: says why, and what to do.
    """
    _check_dates(kit, now)
    if known is None:
        return "first"
    stranger = _strangeness(kit, known, same_fleet=same_fleet)
    if stranger and replace:
        return "replacement"
    if stranger:
        raise KitRefused(
            f"{stranger}; nothing was changed",
            remedy="Take this box's own kit. To make it another site, look under 'Another site' in docs/enrolment.md,"
            " and add --replace.",
        )
    if seconds(kit.issued_at) < seconds(known.issued_at):
        said = f"the kit of {kit.issued_at[:16]} is older than the one in use, of {known.issued_at[:16]}"
        raise KitRefused(said, remedy=_ANEW)
    return "renewal"


def _check_dates(kit: Kit, now: float) -> None:
    if now >= seconds(kit.expires_at):
        raise KitRefused(f"the kit expired on {kit.expires_at[:10]}", remedy=f"{_ANEW} If it should not: check 'date'.")
    if now < seconds(kit.issued_at) - CLOCK_SECONDS_SLACK:
        said = f"the kit was made on {kit.issued_at[:10]}, and this machine's clock is before that"
        raise KitRefused(said, remedy="Set the clock: 'date' shows it, 'timedatectl set-time' sets it.")


def _strangeness(kit: Kit, known: Enrolment, *, same_fleet: bool) -> str:
    """Say why this box would not stay the site that it is; empty = it would."""
    if kit.site != known.site:
        return f"the kit is for site {kit.site}, and this box is {known.site}"
    if not same_fleet:
        return f"the kit of {kit.site} has another root of trust than this box: it is of another fleet"
    return ""

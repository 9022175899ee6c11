"""Whether an enrolment file may be applied: its dates, the machine's site, and which file is newer."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.enrolment.site_enrolment import EnrolmentKind, classify_enrolment
from edge_agent.errors import EnrolmentFileRefused
from edge_agent.formats.enrolment_file import SiteEnrolment
from edge_agent.formats.signed_document import format_timestamp
from tests.support.enrolment_files import DAY, SITE, a_enrolment
from tests.support.examples import NOW


def known(**changes: Any) -> SiteEnrolment:
    """Return the record of a machine that became shop-12 at NOW."""
    plain = {
        "site": SITE,
        "kit_sha256": "0" * 64,
        "issued_at": format_timestamp(NOW),
        "expires_at": format_timestamp(NOW + DAY),
        "enrolled_at": format_timestamp(NOW),
        "secrecy": "none",
        "files": {},
    }
    return SiteEnrolment.model_validate({**plain, **changes})


def judged(before: SiteEnrolment | None = None, now: float = NOW, **options: Any) -> EnrolmentKind:
    """Classify the enrolment file of shop-12, made at NOW for 30 days."""
    return classify_enrolment(a_enrolment(), before, now, **{"same_fleet": True, "replace": False, **options})


@pytest.mark.parametrize(
    ("before", "options", "kind"),
    [
        (None, {}, "first"),
        (None, {"replace": True}, "first"),
        (known(), {}, "renewal"),
        (known(), {"replace": True}, "renewal"),
        (known(site="shop-1"), {"replace": True}, "replacement"),
        (known(), {"same_fleet": False, "replace": True}, "replacement"),
        (known(issued_at=format_timestamp(NOW + DAY), site="shop-1"), {"replace": True}, "replacement"),
    ],
)
def test_kind_of_an_enrolment(before: SiteEnrolment | None, options: dict[str, Any], kind: EnrolmentKind):
    """A machine stays its site unless --force replaces it."""
    assert kind == judged(before, **options)


@pytest.mark.parametrize(
    ("before", "options", "said"),
    [
        (known(site="shop-1"), {}, "for site shop-12, and this machine is site shop-1"),
        (known(), {"same_fleet": False}, "another root of trust"),
        (known(issued_at=format_timestamp(NOW + 1)), {}, "older than the one in use"),
        (None, {"now": NOW + 30 * DAY}, "expired on"),
        (None, {"now": 0.0}, "this machine's clock is before that"),
        (None, {"now": NOW - DAY - 1}, "this machine's clock is before that"),
        (known(), {"now": NOW + 31 * DAY, "replace": True}, "expired on"),
    ],
)
def test_refused_enrolment_has_a_remedy(before: SiteEnrolment | None, options: dict[str, Any], said: str):
    """With what to do about it."""
    with pytest.raises(EnrolmentFileRefused) as caught:
        judged(before, **options)
    assert (True, True) == (said in caught.value.message, bool(caught.value.remedy))


def test_a_clock_may_be_a_day_behind():
    """A clock up to a day behind is accepted, because a machine without a battery may be off by that."""
    assert "first" == judged(now=NOW - DAY + 1)

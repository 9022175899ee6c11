"""The sweep over every finding of doctor: the fault is made, the printed remedy run, and the finding is gone."""

import pytest

from edge_agent.doctor.all_checks import CHECKS
from tests.support.finding_cases import CASES, MADE, finding_kinds
from tests.support.finding_cases.booted_rows import BOOTED

MADE_CASES = [case for case in CASES if case.fault]


def test_every_finding_has_one_row():
    """The table is read from doctor's modules: each kind has a row, and no row is of a kind that is gone."""
    names = [case.name for case in CASES]
    assert ([kind.name for kind in finding_kinds()], len(names)) == (names, len(set(names)))
    assert set(CHECKS) - {"huge-pages"} <= {kind.check for kind in finding_kinds()} | {"previous-version"}
    assert sorted(MADE) == sorted(case.name for case in MADE_CASES)


def test_every_finding_is_made_or_excused():
    """An excuse has its reason; a finding that is new needs a row that makes it."""
    assert [] == [case.name for case in CASES if case.fault and case.excused]
    assert set(BOOTED) <= {case.name for case in CASES if case.excused}
    assert [] == [case.name for case in CASES if not case.fault and not case.excused]


@pytest.mark.release
@pytest.mark.parametrize("case", MADE_CASES, ids=lambda case: case.name)
def test_the_printed_remedy_cures_the_fault(case):
    """Exactly this check reports, with those that the same fault necessarily reaches; afterwards none does."""
    outcome = case.run()
    assert (case.expected, []) == (outcome.shown, outcome.left)

"""The sweep over every finding of doctor: the fault is made, the printed remedy run, and the finding is gone."""

import pytest

from edge_agent.doctor.all_checks import CHECKS
from tests.support.finding_cases import CASES, MADE, finding_kinds
from tests.support.finding_cases.booted_rows import BOOTED
from tests.support.finding_cases.kinds import ROOT

MADE_CASES = [case for case in CASES if case.fault]


def test_every_finding_has_one_row():
    """The table is read from doctor's modules: each kind has a row, and no row is of a kind that is gone."""
    names = [case.name for case in CASES]
    assert ([kind.name for kind in finding_kinds()], len(names)) == (names, len(set(names)))
    assert set(CHECKS) - {"huge-pages"} <= {kind.check for kind in finding_kinds()} | {"previous-version"}
    assert sorted(MADE) == sorted(case.name for case in MADE_CASES)


def test_every_finding_is_made_here_or_on_a_booted_machine_or_excused():
    """One of the three, and an excuse has its reason; a finding that is new needs a row that makes it."""
    ways = {case.name: (bool(case.fault), bool(case.played_by), bool(case.excused)) for case in CASES}
    assert {} == {name: way for name, way in ways.items() if sum(way) != 1}
    assert set(BOOTED) <= {case.name for case in CASES if case.played_by}


def test_the_tests_that_play_a_finding_on_a_booted_machine_exist():
    """By file and name."""
    for file, name in {tuple(case.played_by.split("::")) for case in CASES if case.played_by}:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.release
@pytest.mark.parametrize("case", MADE_CASES, ids=lambda case: case.name)
def test_the_printed_remedy_cures_the_fault(case):
    """Exactly this check reports, with those that the same fault necessarily reaches; afterwards none does."""
    outcome = case.run()
    assert (case.expected, []) == (outcome.shown, outcome.left)

"""Every finding of `doctor`: the fault is produced, the printed remedy is run, and the finding disappears."""

import pytest

from edge_agent.doctor.all_checks import CHECKS
from tests.support.finding_cases import CASES, MADE, finding_kinds
from tests.support.finding_cases.booted_rows import BOOTED
from tests.support.finding_cases.kinds import ROOT

MADE_CASES = [case for case in CASES if case.fault]


def test_every_finding_has_one_case():
    """The table of cases has exactly one row for each kind of finding in doctor's modules."""
    names = [case.name for case in CASES]
    assert ([kind.name for kind in finding_kinds()], len(names)) == (names, len(set(names)))
    assert set(CHECKS) - {"huge-pages"} <= {kind.check for kind in finding_kinds()} | {"previous-version"}
    assert sorted(MADE) == sorted(case.name for case in MADE_CASES)


def test_every_finding_is_produced_or_excused():
    """Each finding is produced here, produced on a booted machine, or excused with a reason; a new finding needs a
    row."""
    ways = {case.name: (bool(case.fault), bool(case.played_by), bool(case.excused)) for case in CASES}
    assert {} == {name: way for name, way in ways.items() if sum(way) != 1}
    assert set(BOOTED) <= {case.name for case in CASES if case.played_by}


def test_tests_on_a_booted_machine_exist():
    """Each test that produces a finding on a booted machine exists under its file and name."""
    for file, name in {tuple(case.played_by.split("::")) for case in CASES if case.played_by}:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.release
@pytest.mark.parametrize("case", MADE_CASES, ids=lambda case: case.name)
def test_printed_remedy_removes_the_finding(case):
    """A fault causes exactly its expected findings, and after the printed remedy none is left."""
    outcome = case.run()
    assert (case.expected, []) == (outcome.shown, outcome.left)

"""The audit of redaction on the command line: where values stand that a person names, and the rows of an export."""

from pathlib import Path

import pytest

from edge_agent.cli.privacy import export_rows, training_row
from edge_agent.client.operator_reports import MissedSpan, RedactionAuditText, ReplacedSpan, missed_values
from edge_agent.errors import InvalidRequest

NAME = ReplacedSpan(0, 4, "[NAME_1]", "model:name", by_rules=False, by_model=True, score=0.9)
TEXT = "Anna, 5 mg for Anna Berg and Bo"


def audited(missed: tuple[MissedSpan, ...] = (), wrong: tuple[int, ...] = ()) -> RedactionAuditText:
    """Return a text in which the first name was replaced."""
    return RedactionAuditText(1, "p-1", "intent", "pii@1.0.0", TEXT, "", (NAME,), missed, wrong)


def test_a_value_is_marked_wherever_it_was_not_replaced():
    """The replaced occurrence is not missed; a longer value takes the place of one inside of it."""
    found = missed_values(audited(), ["Anna", "Anna Berg", "Bo"], "NAME")
    assert [MissedSpan(15, 24, "NAME"), MissedSpan(29, 31, "NAME")] == found


@pytest.mark.parametrize(("value", "said"), [("Zoe", "is not in the text"), ("Anna,", "")])
def test_a_value_that_stands_nowhere_is_refused(value, said):
    """A typing error is no missed value; a value with more than was replaced is one."""
    if said:
        with pytest.raises(ValueError, match=said):
            missed_values(audited(), [value], "NAME")
    else:
        assert [MissedSpan(0, 5, "NAME")] == missed_values(audited(), [value], "NAME")


def test_a_row_has_what_was_rightly_replaced_and_what_was_missed():
    """What overlaps is one value; what the person took back is none."""
    both = (MissedSpan(0, 5, "NAME"), MissedSpan(29, 31, "CITY"))
    spans = [{"start": 0, "end": 5, "label": "NAME"}, {"start": 29, "end": 31, "label": "CITY"}]
    assert {"text": TEXT, "spans": spans, "family": "p-1"} == training_row(audited(both))
    assert [spans[1]] == training_row(audited((both[1],), wrong=(0,)))["spans"]


def test_an_export_never_replaces_a_file(tmp_path: Path):
    """An existing file, and a folder that does not exist, are refused before anything is asked."""
    (tmp_path / "rows.jsonl").write_text("kept")
    with pytest.raises(InvalidRequest, match="exists"):
        export_rows(None, tmp_path / "rows.jsonl")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="cannot be written"):
        export_rows(None, tmp_path / "none" / "rows.jsonl")  # type: ignore[arg-type]
    assert "kept" == (tmp_path / "rows.jsonl").read_text()


def test_an_export_whose_daemon_goes_away_leaves_no_file(tmp_path: Path):
    """A half-written file would stand in the way of the next export, and look whole."""

    class Leaving:
        def redaction_audit(self, *, judged: bool, after: int, count: int) -> list[RedactionAuditText]:
            if after:
                raise ConnectionError
            return [audited()]

    with pytest.raises(ConnectionError):
        export_rows(Leaving(), tmp_path / "rows.jsonl")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())

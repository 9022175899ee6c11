"""The redaction audit on the command line: the positions of values that a person names, and the rows of an export."""

from pathlib import Path

import pytest

from edge_agent.cli.privacy import export_rows, training_row
from edge_agent.client.operator_reports import MissedSpan, RedactionAuditText, ReplacedSpan, missed_values
from edge_agent.errors import InvalidRequest

NAME = ReplacedSpan(0, 4, "[NAME_1]", "model:name", by_rules=False, by_model=True, score=0.9)
TEXT = "Anna, 5 mg for Anna Berg and Bo"


def audited(missed: tuple[MissedSpan, ...] = (), wrong: tuple[int, ...] = ()) -> RedactionAuditText:
    """Return a text whose first name was replaced."""
    return RedactionAuditText(1, "p-1", "intent", "pii@1.0.0", TEXT, "", (NAME,), missed, wrong)


def test_missed_value_is_marked_wherever_it_was_not_replaced():
    """Every occurrence that was not replaced is marked; a longer value takes precedence over one inside it."""
    found = missed_values(audited(), ["Anna", "Anna Berg", "Bo"], "NAME")
    assert [MissedSpan(15, 24, "NAME"), MissedSpan(29, 31, "NAME")] == found


@pytest.mark.parametrize(("value", "said"), [("Zoe", "is not in the text"), ("Anna,", "")])
def test_value_that_is_not_in_the_text_is_refused(value, said):
    """A value that is not in the text is refused as a typing error; a value that extends a replaced one is accepted."""
    if said:
        with pytest.raises(ValueError, match=said):
            missed_values(audited(), [value], "NAME")
    else:
        assert [MissedSpan(0, 5, "NAME")] == missed_values(audited(), [value], "NAME")


def test_training_row_has_correct_and_missed_spans():
    """A training row has the missed spans and the correctly replaced ones: overlapping spans are merged, and a
    replacement that was marked wrong is left out."""
    both = (MissedSpan(0, 5, "NAME"), MissedSpan(29, 31, "CITY"))
    spans = [{"start": 0, "end": 5, "label": "NAME"}, {"start": 29, "end": 31, "label": "CITY"}]
    assert {"text": TEXT, "spans": spans, "family": "p-1"} == training_row(audited(both))
    assert [spans[1]] == training_row(audited((both[1],), wrong=(0,)))["spans"]


def test_export_does_not_overwrite_a_file(tmp_path: Path):
    """An export to an existing file or into a missing folder is refused before the daemon is called."""
    (tmp_path / "rows.jsonl").write_text("kept")
    with pytest.raises(InvalidRequest, match="exists"):
        export_rows(None, tmp_path / "rows.jsonl")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="cannot be written"):
        export_rows(None, tmp_path / "none" / "rows.jsonl")  # type: ignore[arg-type]
    assert "kept" == (tmp_path / "rows.jsonl").read_text()


def test_export_leaves_no_file_if_the_daemon_disconnects(tmp_path: Path):
    """If the daemon disconnects during an export, no partial file remains: it would look complete and block the next
    export."""

    class PagingAdmin:
        def redaction_audit(self, *, judged: bool, after: int, count: int) -> list[RedactionAuditText]:
            if after:
                raise ConnectionError
            return [audited()]

    with pytest.raises(ConnectionError):
        export_rows(PagingAdmin(), tmp_path / "rows.jsonl")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())

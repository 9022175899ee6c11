"""Finds and erases what concerns a person, by values such as a name or a number: on the spool's thread.

A record is found by the keyed digest of a value that redaction replaced in it, also when the record itself has left the
site and expired here; and by its text, where no rule replaced the value. A value that no rule replaced in a record that
has left is not found: nothing here tells that it was there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_agent.capture.value_digests import VALUE_CHARS_MAX, ValueDigester, fold, forms_of, text_pattern
from edge_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from edge_agent.capture.spool import Spool

VALUES_MAX = 100
ROWS_AT_ONCE = 2000
"""Records whose texts are read in one piece of work, so that feedback does not wait for the whole spool."""
TABLES = ("predictions", "feedback", "opinions", "redaction_audit")
_TEXTS = ("input", "output", "value", "reason")


@dataclass(frozen=True)
class ScanPlace:
    """How far the search in texts is."""

    table: str = TABLES[0]
    row: int = 0


@dataclass(frozen=True)
class FoundRecords:
    """The predictions that concern the values."""

    by_digest: frozenset[str]
    by_text: frozenset[str]
    """Those that have a value in plain text."""

    @property
    def prediction_ids(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self.by_digest | self.by_text)


@dataclass(frozen=True)
class PersonErasure:
    """What was found, and what became of it."""

    found: int
    by_digest: int
    by_text: int
    here: int
    """Of these, predictions that are still in the spool."""
    sent: int
    """Of these, predictions that have left the site, or can have."""
    tasks: dict[str, int]
    """Those still in the spool, by task."""
    erased: int = 0
    told: int = 0
    """Predictions that the central team is told to erase, with the next segment."""
    number: int = 0
    """The erasure's number in the privacy report; 0 = nothing was erased."""

    def with_held(self, held: int, *, dry_run: bool) -> PersonErasure:
        """Return it with answers that wait in memory for the redaction model, which are in no database yet."""
        found, here, by_text = self.found + held, self.here + held, self.by_text + held
        return replace(self, found=found, here=here, by_text=by_text, erased=self.erased + (0 if dry_run else held))


@dataclass(frozen=True)
class AnswerErasure:
    """What became of one answer that was to be erased."""

    was_kept: bool
    """It was here."""
    tombstoned: bool
    """The central team is told to erase what left the site."""
    same_text_ids: tuple[str, ...] = ()
    """Answers to other questions about the same text that were kept here: erased, too, where that was asked for."""


class ValueSearch:
    """One search."""

    def __init__(self, values: Sequence[str], digester: ValueDigester) -> None:
        """Prepare it. Raises InvalidRequest for values that cannot be searched for; its message does not have them."""
        if not 0 < len(values) <= VALUES_MAX:
            raise InvalidRequest(f"1 to {VALUES_MAX} values can be searched for; this is {len(values)}")
        for place, value in enumerate(values, 1):
            if len(value) > VALUE_CHARS_MAX or not forms_of(value):
                said = f"value {place} must have a letter or a digit, and {VALUE_CHARS_MAX} characters at most"
                raise InvalidRequest(said, remedy="Send one name, address or number as one value.")
        self._digests = digester.digests(values)
        self._patterns = [pattern for pattern in map(text_pattern, values) if pattern]

    def find_digests(self, spool: Spool) -> frozenset[str]:
        """Return the predictions with the digest of a value."""
        return frozenset(spool.personal.find(self._digests))

    def scan(self, spool: Spool, place: ScanPlace) -> tuple[frozenset[str], ScanPlace | None]:
        """Search the texts of some records; return the predictions found, and where to go on; None = at the end."""
        if not self._patterns:
            return frozenset(), None
        rows = spool.records_after(place.table, place.row, ROWS_AT_ONCE)
        found = frozenset(prediction_id for _, prediction_id, record in rows if self._is_in(record))
        if len(rows) == ROWS_AT_ONCE:
            return found, ScanPlace(place.table, rows[-1][0])
        following = TABLES[TABLES.index(place.table) + 1 :]
        return found, ScanPlace(following[0]) if following else None

    def is_in_text(self, text: str) -> bool:
        """Tell whether a value stands in a text."""
        folded = fold(text)
        return any(pattern.search(folded) for pattern in self._patterns)

    def _is_in(self, record: bytes) -> bool:
        return self.is_in_text("\n".join(_texts(record)))


def describe(spool: Spool, found: FoundRecords) -> PersonErasure:
    """Return what was found; writes nothing."""
    ids = found.prediction_ids
    kept = [row for each in ids for row in spool.db.rows(_KEPT, (each,))]
    sent = len(ids) - len(kept) + sum(segment > 0 for _, segment in kept)
    tasks = Counter(task for task, _ in kept)
    return PersonErasure(
        len(ids), len(found.by_digest), len(found.by_text - found.by_digest), len(kept), sent, dict(tasks)
    )


_KEPT = "SELECT task, coalesce(segment, 0) FROM predictions WHERE prediction_id = ?"


def _texts(record: bytes) -> Iterator[str]:
    plain = json.loads(record)
    yield from (plain[name] for name in _TEXTS if isinstance(plain.get(name), str))
    yield str((plain.get("local") or {}).get("answer", ""))

"""Finds the records of a person by values such as a name or a number (`ValueSearch`), and erases them (`SpoolErasure`).

A digest is the start of HMAC-SHA-256 (RFC 2104) under a key that never leaves the site, so nobody without the key can
try values. A value has up to three forms, each with a digest, so that it is found as people write it:

- its letters and digits, without case, blanks and punctuation: "DE89 3704 0044" is "de8937040044";
- words in any order: "Müller, Anna" is "Anna Müller";
- the last nine digits of a number of nine or more: "+49 171 1234567" is "0171 1234567".

A record is found by the keyed digest of a value that redaction replaced in it, even after the record has left the site
and expired here; and by its text, if no rule replaced the value. A record that has left the site with a value that no
rule replaced is not found, because the site stores no trace of that value.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.durable.atomic_files import disk_errors, stat_or_none, write_durably
from edge_agent.errors import InvalidRequest, StoreDamaged

if TYPE_CHECKING:
    from edge_agent.capture.redaction_audit import RedactionAudit
    from edge_agent.capture.spool import Spool
    from edge_agent.monitoring.monitoring_store import MonitoringStore


DIGEST_BYTES = 16
KEY_BYTES = 32
VALUE_CHARS_MAX = 1000
"""Longest value that can be searched for."""
_TAIL_DIGITS = 9
_SEARCH_CHARS_MIN = 3
_BETWEEN_WORDS = re.compile(r"[\s,;]+")
_BEGIN, _BETWEEN, _END = r"(?<!\w)", r"[\W_]{0,3}", r"(?!\w)"


def forms_of(value: str) -> frozenset[str]:
    """Return the forms by which a value is found; empty for a value without letters and digits."""
    parts = _BETWEEN_WORDS.split(fold(value))
    words = [word for part in parts if (word := part if part.isalnum() else "".join(filter(str.isalnum, part)))]
    compact = "".join(words)
    if not compact:
        return frozenset()
    forms = {f"whole:{compact}"}
    if len(words) > 1 and any(char.isalpha() for char in compact):
        forms.add(f"words:{' '.join(sorted(words))}")
    if compact.isdecimal() and len(compact) >= _TAIL_DIGITS:
        forms.add(f"tail:{compact[-_TAIL_DIGITS:]}")
    return frozenset(forms)


def text_pattern(value: str) -> re.Pattern[str] | None:
    """Return a pattern that finds a value in a folded text, however it is spaced; None = the value is too short.

    A match begins and ends at a word boundary.
    """
    compact = "".join(filter(str.isalnum, fold(value)))
    if len(compact) < _SEARCH_CHARS_MIN:
        return None
    return re.compile(f"{_BEGIN}{_BETWEEN.join(map(re.escape, compact))}{_END}")


def fold(text: str) -> str:
    """Return a text in lower case and NFKC, with ASCII digits."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isascii():
        return folded
    return "".join(str(int(char)) if char.isdecimal() else char for char in folded)


class ValueDigester:
    """Makes digests with the key of one site."""

    def __init__(self, key: bytes) -> None:
        """Use a key of KEY_BYTES."""
        self._key = key

    def digests(self, values: Iterable[str]) -> frozenset[bytes]:
        """Return the digests of all forms of some values, each of DIGEST_BYTES."""
        return frozenset(
            hmac.digest(self._key, form.encode("utf-8", "surrogatepass"), hashlib.sha256)[:DIGEST_BYTES]
            for value in values
            for form in forms_of(value)
        )


def load_digest_key(path: Path) -> bytes:
    """Read the key; create it, with mode 0600, if there is none.

    Raises:
        StoreDamaged: the file has no such key. It is not replaced, because stored digests need its key.
        StateDirUnwritable, DiskFull: it cannot be read, or a new one cannot be written.
    """
    with disk_errors(path):
        key = path.read_bytes() if stat_or_none(path) else b""
    if not key:
        key = secrets.token_bytes(KEY_BYTES)
        write_durably(path, key)
    if len(key) != KEY_BYTES:
        message = f"{path} has {len(key)} bytes; the key of the value digests has {KEY_BYTES}"
        raise StoreDamaged(message, remedy=f"Restore {path.name} from a backup, or move it away: then 'edge-agent erase"
                           " --value -' finds only what is stored from then on.", path=path)  # fmt: skip
    return key


VALUES_MAX = 100
ROWS_AT_ONCE = 2000
"""Records that one job reads, so that feedback does not wait for a scan of the whole spool."""
TABLES = ("predictions", "feedback", "opinions", "questions", "redaction_audit")
"""Tables with texts. A question for the large model copies its prediction, and can outlive it."""
_TEXTS = ("input", "output", "value", "reason")


@dataclass(frozen=True)
class ScanPlace:
    """Where a search in texts continues."""

    table: str = TABLES[0]
    row: int = 0


@dataclass(frozen=True)
class FoundRecords:
    """The predictions with the values."""

    by_digest: frozenset[str]
    by_text: frozenset[str]
    """Predictions with a value in plain text."""

    @property
    def prediction_ids(self) -> list[str]:
        """All these predictions, sorted."""
        return sorted(self.by_digest | self.by_text)


@dataclass(frozen=True)
class PersonErasure:
    """The number of found predictions, and how many were erased."""

    found: int
    found_by_digest: int
    found_by_text: int
    kept_here: int
    """Of these, predictions that are still in the spool."""
    sent: int
    """Of these, predictions that have left the site, or may have left it."""
    tasks: dict[str, int]
    """Predictions that are still in the spool, by task."""
    erased: int = 0
    told: int = 0
    """Predictions whose tombstone goes to the central team with the next segment."""
    erasure: int = 0
    """Number of the erasure in the privacy report; 0 = nothing was erased."""

    def with_waiting(self, waiting: int, *, dry_run: bool) -> PersonErasure:
        """Add answers that wait in memory for the redaction model and are not in the database yet."""
        return replace(
            self,
            found=self.found + waiting,
            found_by_text=self.found_by_text + waiting,
            kept_here=self.kept_here + waiting,
            erased=self.erased + (0 if dry_run else waiting),
        )


@dataclass(frozen=True)
class AnswerErasure:
    """The result of erasing one answer."""

    was_kept: bool
    """The answer was stored or queued here."""
    tombstoned: bool
    """A tombstone tells the central team to erase records that left the site."""
    same_text_ids: tuple[str, ...] = ()
    """Stored answers to other questions about the same text; also erased if `all_questions` was set."""


class ValueSearch:
    """A search for the records that contain some values."""

    def __init__(self, values: Sequence[str], digester: ValueDigester) -> None:
        """Prepare it. Raises InvalidRequest, without the value in its message, for one that cannot be searched for."""
        if not 0 < len(values) <= VALUES_MAX:
            raise InvalidRequest(f"1 to {VALUES_MAX} values can be searched for; this is {len(values)}")
        for number, value in enumerate(values, 1):
            if len(value) > VALUE_CHARS_MAX or not forms_of(value):
                message = f"value {number} must have a letter or a digit, and {VALUE_CHARS_MAX} characters at most"
                raise InvalidRequest(message, remedy="Send one name, address or number as one value.")
        self._digests = digester.digests(values)
        self._patterns = [pattern for pattern in map(text_pattern, values) if pattern]

    def find_digests(self, spool: Spool) -> frozenset[str]:
        """Return the predictions with the digest of a value."""
        return frozenset(spool.personal.find(self._digests))

    def scan(self, spool: Spool, place: ScanPlace) -> tuple[frozenset[str], ScanPlace | None]:
        """Search the texts of some records; return the predictions found, and where to continue, None = at the end."""
        if not self._patterns:
            return frozenset(), None
        rows = spool.records_after(place.table, place.row, ROWS_AT_ONCE)
        matches = frozenset(prediction_id for _, prediction_id, record in rows if self.is_in_text(_text(record)))
        if len(rows) == ROWS_AT_ONCE:
            return matches, ScanPlace(place.table, rows[-1][0])
        next_tables = TABLES[TABLES.index(place.table) + 1 :]
        return matches, ScanPlace(next_tables[0]) if next_tables else None

    def is_in_text(self, text: str) -> bool:
        """Return whether a text contains one of the values."""
        folded = fold(text)
        return any(pattern.search(folded) for pattern in self._patterns)


def describe(spool: Spool, records: FoundRecords) -> PersonErasure:
    """Return what was found; writes nothing."""
    ids = records.prediction_ids
    query = "SELECT task FROM predictions WHERE prediction_id = ?"
    tasks = Counter(task for each in ids for (task,) in spool.db.rows(query, (each,)))
    sent = sum(map(spool.can_have_left, ids))
    by_digest, by_text = len(records.by_digest), len(records.by_text - records.by_digest)
    return PersonErasure(len(ids), by_digest, by_text, tasks.total(), sent, dict(tasks))


class SpoolErasure:
    """Erases from the spool, monitoring and the redaction audit, and records each erasure."""

    def __init__(
        self,
        spool: Spool,
        monitoring: MonitoringStore,
        audit: RedactionAudit,
        build_tombstone: Callable[[str, float], bytes],
        digester: ValueDigester,
        now: Callable[[], float],
    ) -> None:
        """Erase from the first three, which share one database.

        Args:
            spool: the answers, with the feedback on them.
            monitoring: the counts by answer.
            audit: the texts of the redaction audit.
            build_tombstone: makes the record of an erasure, from the id of a prediction and seconds since 1970.
            digester: makes the digests of values.
            now: gives seconds since 1970.
        """
        self._spool, self._monitoring, self._audit = spool, monitoring, audit
        self._build_tombstone, self._digester, self._now = build_tombstone, digester, now

    def erase_answer(self, prediction_id: str, *, all_questions: bool = False) -> AnswerErasure:
        """Erase a prediction, as `Spool.erase` does, and record the erasure; inside the spool's transaction.

        `all_questions` also erases the answers to other questions about the same text.
        """
        same_text = self._spool.find_same_text(prediction_id)
        was_here, is_told = self._erase(prediction_id)
        others = {each: self._erase(each)[1] for each in same_text} if all_questions else {}
        tombstoned = [each for each, told in {prediction_id: is_told, **others}.items() if told]
        if was_here or is_told:
            self._spool.personal.record_erasure(self._now(), was_here + len(others), tombstoned)
        return AnswerErasure(was_here, bool(tombstoned), tuple(same_text))

    def search(self, values: Sequence[str]) -> ValueSearch:
        """Prepare a search for records about a person. Raises InvalidRequest."""
        return ValueSearch(values, self._digester)

    def erase_found(self, records: FoundRecords) -> PersonErasure:
        """Erase the found records, and record the erasure; inside the spool's transaction."""
        description, tombstoned, erased = describe(self._spool, records), list[str](), 0
        for prediction_id in records.prediction_ids:
            was_here, is_told = self._erase(prediction_id)
            erased += was_here
            tombstoned += [prediction_id] if is_told else []
        number = self._spool.personal.record_erasure(self._now(), erased, tombstoned) if records.prediction_ids else 0
        return replace(description, erased=erased, told=len(tombstoned), erasure=number)

    def _erase(self, prediction_id: str) -> tuple[bool, bool]:
        self._monitoring.delete_input(prediction_id)
        self._audit.erase(prediction_id)
        return self._spool.erase(prediction_id, self._build_tombstone(prediction_id, self._now()))


def _text(record: bytes) -> str:
    fields = json.loads(record)
    texts = [fields[name] for name in _TEXTS if isinstance(fields.get(name), str)]
    return "\n".join([*texts, str((fields.get("local") or {}).get("answer", ""))])

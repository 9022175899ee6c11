"""One run of collect: reads every source, stores new segments, writes receipts, erases records, joins; its report.

A run can be killed at any point. The next run continues from what was synced and reads the rest again. Running twice
changes nothing.

`purge` deletes examples whose retention period has ended, by site and task; the most specific rule counts. A prediction
goes with its reviews and its teacher label. The raw files still list its segment, so that it is not collected again;
tombstones stay. Datasets made earlier keep their rows: convert/dataset/lineage.py lists them. The age is that of the
answer by the site's clock, unless that is later than the collection or more than a year before it: then the clock was
wrong, and the age is that of the collection.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from convert.collect import derived_examples, receipts, record_files
from convert.collect.example_join import TaskExampleCounts
from convert.collect.receipts import ChainBreak, SequenceGap
from convert.collect.record_files import REVIEWED_CENTRALLY, SegmentOrigin
from convert.collect.segment_intake import RefusedDocument, SegmentIntake, SiteKeyTrust
from convert.collect.sources import SegmentSource, SiteListing, SourceFailed, listings
from convert.collect.status_folder import FOLDER as STATUS_FOLDER
from convert.collect.status_folder import StatusFolder
from convert.dataset import lineage
from convert.fleet import accountability
from convert.fleet.site_registry import FILE_NAME as SITES_NAME
from convert.fleet.site_registry import SiteRegistry
from convert.publish.central_keys import CentralKeys
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import private_folder
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.example_records import ExampleFeedback
from edge_agent.formats.segment import EpochReceipts, RefusedSegment, name_of, parse_name


@dataclass(frozen=True)
class PendingKey:
    """A site's key that the central team must accept or reject."""

    site: str
    key: str
    documents: int
    """Segments and status objects that it had signed in this run."""


@dataclass
class CollectReport:
    """The results of a run."""

    segments_taken: int = 0
    records_taken: int = 0
    segments_held: int = 0
    """Stored in this run or before."""
    records_erased: int = 0
    concerned: list[dict[str, Any]] = field(default_factory=list)
    """Datasets and bundles that contain records erased in this run (convert/dataset/lineage.py)."""
    sites: int = 0
    pinned: dict[str, str] = field(default_factory=dict)
    """Sites seen for the first time, with the key that is trusted from now on."""
    waiting: list[PendingKey] = field(default_factory=list)
    """Keys without a decision."""
    revoked: list[str] = field(default_factory=list)
    """Revoked sites that have data in a source or in the collection."""
    refused: list[RefusedDocument] = field(default_factory=list)
    replaced: list[RefusedDocument] = field(default_factory=list)
    """Refused, but a later segment has their records."""
    gaps: list[SequenceGap] = field(default_factory=list)
    breaks: list[ChainBreak] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Reads and writes that failed in this run; the next run tries again."""
    tasks: list[TaskExampleCounts] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was refused and nothing failed. Gaps do not count: missing segments can still arrive."""
        return not (self.refused or self.breaks or self.troubles)

    def plain(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {"schema": "edge-agent/collected/v1", **asdict(self)}


REPORT_NAME = "report.json"
_LOCK = ".lock"
_FAILURES_IN_A_ROW_MAX = 5

Progress = Callable[[str, int, int], None]
"""Called with a description of the step, the amount done, and the total (0 = unknown)."""
SiteEpoch = tuple[str, str]
"""Site and epoch."""


@dataclass(frozen=True)
class CollectRequest:
    """The sources and the target of a run."""

    sources: Sequence[SegmentSource]
    out: Path
    keys: CentralKeys
    now: Callable[[], float]
    """Seconds since 1970."""
    sites: Path | None = None
    """The registry; None = sites.json below `out`."""
    registered_only: bool = False
    reviews: Sequence[ExampleFeedback] = ()
    """Reviews by the central team."""
    memory_bytes: int = derived_examples.MEMORY_BYTES_DEFAULT
    progress: Progress = lambda _what, _done, _size: None


def collect(request: CollectRequest) -> CollectReport:
    """Run once.

    Raises:
        InvalidRequest: another run uses `out`, or the memory limit is too small.
        ManifestInvalid: the registry of sites breaks a rule.
        OSError: the disk of `out` is full or not writable.
    """
    if request.memory_bytes < derived_examples.MEMORY_BYTES_MIN:
        least = derived_examples.MEMORY_BYTES_MIN // 1024**2
        raise InvalidRequest(f"at least {least} MiB of memory are needed", remedy="Allow more with --memory-mib.")
    with locked(request.out):
        return _CollectRun(request).run()


@dataclass
class _EpochState:
    """The stored segments of an epoch, and information from the sources; numbers are sequence numbers."""

    stored: dict[SiteEpoch, dict[int, list[record_files.SegmentEntry]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    absent: dict[SiteEpoch, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """Why a segment is missing, by sequence number."""
    refused: list[tuple[SiteEpoch, int, RefusedDocument]] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Consecutive failures by source."""

    def add(self, entry: record_files.SegmentEntry) -> None:
        self.stored[entry.site, entry.epoch].setdefault(entry.sequence, []).append(entry)

    def refuse(self, site_epoch: SiteEpoch, number: int, refusal: RefusedDocument) -> None:
        self.refused.append((site_epoch, number, refusal))
        self.absent[site_epoch][number] = "was refused"

    def damaged(self) -> Iterator[tuple[SiteEpoch, RefusedSegment]]:
        """Yield the entries of receipts for segments without an intact copy."""
        for site_epoch, number, refusal in self.refused:
            if refusal.damaged and number not in self.stored.get(site_epoch, {}):
                why = refusal.why[:500]
                yield site_epoch, RefusedSegment(sequence=number, manifest_sha256=refusal.damaged, why=why)

    def entries(self, site_epoch: SiteEpoch) -> list[record_files.SegmentEntry]:
        """Return the stored segments of one epoch, in order."""
        numbers = self.stored.get(site_epoch, {})
        return [entry for number in sorted(numbers) for entry in numbers[number]]

    def is_stored(self, site_epoch: SiteEpoch, number: int) -> bool:
        """Return whether the records of a segment are stored anyway: from another copy, or in a later segment."""
        numbers = self.stored.get(site_epoch, {})
        return number in numbers or any(number in entry.reseals for entry in self.entries(site_epoch))


class _CollectRun:
    def __init__(self, request: CollectRequest) -> None:
        self._request = request
        self._report = CollectReport()
        self._state = _EpochState()
        self._sites = SiteRegistry(request.sites or request.out / SITES_NAME)
        self._trust = SiteKeyTrust(self._sites, registered_only=request.registered_only)
        self._statuses = StatusFolder(request.out / STATUS_FOLDER)
        self._raw = request.out / record_files.FOLDER
        self._writer = record_files.RecordWriter(self._raw)
        for entry in record_files.entries(self._raw):
            self._state.add(entry)

    def run(self) -> CollectReport:
        request, report = self._request, self._report
        site_listings: list[tuple[SegmentSource, SiteListing]] = []
        for source in request.sources:
            self._show_step(f"list {source.name}")
            source_listings, problem = listings(source)
            report.troubles += [problem] if problem else []
            site_listings += [(source, listing) for listing in source_listings]
        open_listings = [(source, listing) for source, listing in site_listings if not self._is_revoked(listing.site)]
        for source, listing in open_listings:
            self._read_site(source, listing)
        for source, listing in open_listings:
            self._check_unconnected(source, listing)
        self._writer.close()
        self._statuses.save()
        if request.reviews:
            origin = SegmentOrigin(REVIEWED_CENTRALLY, 0, request.now())
            self._writer.add_rows([record_files.table(request.reviews, origin, 1)])
            self._writer.close()
        self._report_findings()
        self._write_receipts(open_listings)
        derived = derived_examples.derive(request.out, request.memory_bytes, self._show_step, self._record_erasure)
        report.records_erased, report.tasks = derived.records_erased, derived.tasks
        report.concerned = [use.plain() for use in lineage.trace(lineage.documents(request.out), derived.erased)]
        content = json.dumps(report.plain(), indent=1, ensure_ascii=False).encode() + b"\n"
        atomic_files.write_atomically(request.out / REPORT_NAME, content)
        return report

    def _record_erasure(self, erased: Sequence[str]) -> None:
        """Log an erasure before it happens: a kill can repeat an entry, but loses none."""
        accountability.record(self._request.out, "records erased", erased, actor="collect", why="tombstones of sites")

    # --- reading --------------------------------------------------------------------------------------------------

    def _show_step(self, what: str) -> None:
        self._request.progress(what, 0, 0)

    def _is_revoked(self, site: str) -> bool:
        """Return whether a site is revoked, and report it: its files are ignored and are not errors."""
        revoked = self._sites.entry(site).revoked_at is not None
        if revoked and site not in self._report.revoked:
            self._report.revoked.append(site)
        return revoked

    def _read_site(self, source: SegmentSource, listing: SiteListing) -> None:
        """Store the new segments of one site."""
        with self._record_failures(source):
            objection = self._statuses.read_status(source, listing, self._trust)
            if objection:
                self._report.refused.append(RefusedDocument(source.name, listing.site, "status.json", objection))
        intake = SegmentIntake(source, self._trust, self._request.keys.identities, self._request.now)
        stems = sorted(listing.manifests | listing.sealed.keys())
        for done, stem in enumerate(stems):
            self._request.progress(f"read {listing.site}", done, len(stems))
            if self._state.failures[source.name] >= _FAILURES_IN_A_ROW_MAX:
                return
            with self._record_failures(source):
                self._read_new(intake, listing, stem)

    def _read_new(self, intake: SegmentIntake, listing: SiteListing, stem: str) -> None:
        """Store one segment, unless one of its files is missing, or it is stored already."""
        epoch, number = parse_name(stem) or ("", 0)
        site_epoch = (listing.site, epoch)
        entries = self._state.stored.get(site_epoch, {}).get(number, [])
        missing_half = listing.missing_half(stem)
        if missing_half:
            self._state.absent[site_epoch].setdefault(number, f"its {missing_half} has not arrived")
        elif all(listing.sealed[stem] != entry.size_bytes for entry in entries):
            self._read_segment(intake, listing, stem)

    def _check_unconnected(self, source: SegmentSource, listing: SiteListing) -> None:
        """Read again each segment that its stored successor does not continue: its content can have changed."""
        intake = SegmentIntake(source, self._trust, self._request.keys.identities, self._request.now)
        epochs = {epoch for site, epoch in self._state.stored if site == listing.site}
        for epoch in sorted(epochs):
            for entry in receipts.unconnected(self._state.entries((listing.site, epoch))):
                stem = name_of(epoch, entry.sequence - 1)
                if self._state.failures[source.name] >= _FAILURES_IN_A_ROW_MAX:
                    return
                if stem in listing.manifests and stem in listing.sealed:
                    with self._record_failures(source):
                        self._read_segment(intake, listing, stem)

    def _read_segment(self, intake: SegmentIntake, listing: SiteListing, stem: str) -> None:
        """Store one segment, unless it is refused or stored already."""
        epoch, number = parse_name(stem) or ("", 0)
        site_epoch, result = (listing.site, epoch), intake.read_segment(listing.site, stem)
        if isinstance(result, RefusedDocument):
            self._state.refuse(site_epoch, number, result)
        elif result.entry not in self._state.stored.get(site_epoch, {}).get(number, []):
            self._writer.add(result.entry, result.batches)
            self._state.add(result.entry)
            self._report.segments_taken += 1
            self._report.records_taken += result.entry.records

    @contextmanager
    def _record_failures(self, source: SegmentSource) -> Iterator[None]:
        """Record a read or write that failed, and continue."""
        try:
            yield
            self._state.failures[source.name] = 0
        except SourceFailed as error:
            self._report.troubles.append(str(error))
            self._state.failures[source.name] += 1
            if self._state.failures[source.name] == _FAILURES_IN_A_ROW_MAX:
                self._report.troubles.append(f"{source.name}: skipped after {_FAILURES_IN_A_ROW_MAX} failures")

    # --- reporting --------------------------------------------------------------------------------------------------

    def _report_findings(self) -> None:
        """Report missing, contradictory and refused segments."""
        report, state = self._report, self._state
        for site_epoch, number, refusal in state.refused:
            (report.replaced if state.is_stored(site_epoch, number) else report.refused).append(refusal)
        reported = {(site, epoch) for site in self._statuses.sites() for epoch in self._statuses.highest(site)}
        for site, epoch in sorted(reported | {*state.stored, *state.absent}):
            if self._is_revoked(site):
                continue
            entries = state.entries((site, epoch))
            highest = self._statuses.highest(site).get(epoch, 0)
            lost = dict.fromkeys(self._statuses.lost(site, epoch), "the site lost it")
            report.gaps += receipts.gaps(site, epoch, entries, highest, lost | state.absent.get((site, epoch), {}))
            report.breaks += receipts.breaks(entries)
            report.segments_held += len(entries)
        report.pinned = self._trust.pinned
        report.waiting = [PendingKey(*site_key, count) for site_key, count in sorted(self._trust.waiting.items())]
        report.sites = len(self._statuses.sites() | {site for site, _ in state.stored})

    def _write_receipts(self, site_listings: list[tuple[SegmentSource, SiteListing]]) -> None:
        """Sign receipts for each site, and write them to every source that has its data."""
        damaged: dict[SiteEpoch, list[RefusedSegment]] = defaultdict(list)
        for site_epoch, refused in self._state.damaged():
            damaged[site_epoch].append(refused)
        epochs: dict[str, list[EpochReceipts]] = defaultdict(list)
        for site, epoch in sorted({*self._state.stored, *damaged}):
            entries = self._state.entries((site, epoch))
            epochs[site].append(receipts.epoch_receipts(epoch, entries, damaged[site, epoch]))
        folder, key = self._request.out / receipts.RECEIPTS_FOLDER, self._request.keys.receipts
        signed = {site: receipts.sign_receipts(folder, site, epochs[site], key, self._request.now) for site in epochs}
        for source, listing in site_listings:
            with self._record_failures(source):
                receipts.write_receipts(source, listing, signed.get(listing.site))


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder, which is private: two runs would store a segment twice. Raises InvalidRequest, OSError."""
    with private_folder(out, marks=(_LOCK,)):
        fd = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, out)
            yield
        finally:
            os.close(fd)


def _lock(fd: int, out: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"another run of collect uses {out}"
        raise InvalidRequest(message, remedy="Wait until it is done, or collect to another folder.") from None


_ERASED = "SELECT DISTINCT site || '/' || prediction_id FROM records WHERE type = 'tombstone' ORDER BY 1"


def erased_records(collected: Path) -> list[str]:
    """Return the erased records of a collection, as SITE/PREDICTION_ID."""
    folder = collected / record_files.FOLDER
    memory = derived_examples.MEMORY_BYTES_DEFAULT
    with derived_examples.open_database(folder, collected / ".erased", memory) as connection:
        return [name for (name,) in connection.execute(_ERASED).fetchall()]


RETENTION_DAYS_MAX = 100_000
"""Longer than any example is old; a rule with more days counts as this many."""
_RULE = re.compile(r"(?P<site>\*|[a-z0-9-]+)/(?P<task>\*|[a-z0-9-]+)=(?P<days>\d+(\.\d+)?)")
# The most specific rule for a prediction counts; of equally specific rules, the one with the shorter period.
_DUE = """
    WITH aged AS (
        SELECT filename, site, prediction_id, task, type,
               CASE WHEN collected_at IS NULL OR recorded_at BETWEEN collected_at - INTERVAL 366 DAY AND collected_at
                    THEN recorded_at ELSE collected_at END AS moment
        FROM records WHERE type <> 'tombstone'
    ), each AS (
        SELECT site, prediction_id, any_value(task) AS task,
               coalesce(min(moment) FILTER (type = 'prediction'), max(moment)) AS moment
        FROM aged GROUP BY site, prediction_id
    ), ruled AS (
        SELECT e.site, e.prediction_id, e.moment < r.before AS is_due
        FROM each e JOIN rules r ON r.site IN ('*', e.site) AND r.task IN ('*', e.task)
        QUALIFY row_number() OVER (
            PARTITION BY e.site, e.prediction_id
            ORDER BY (r.site <> '*')::INT + (r.task <> '*')::INT DESC, r.before DESC
        ) = 1
    ), due AS (
        SELECT site, prediction_id FROM ruled WHERE is_due
    )
    SELECT DISTINCT filename, site, prediction_id, task FROM aged SEMI JOIN due USING (site, prediction_id)
    ORDER BY ALL
"""


@dataclass(frozen=True)
class RetentionRule:
    """How long the examples of a site and a task are kept."""

    site: str
    """* = every site."""
    task: str
    """* = every task."""
    days: float


@dataclass(frozen=True)
class PurgeReport:
    """What was deleted, or would be."""

    predictions: int
    records: int
    """Lines of the raw files; 0 where nothing was deleted."""
    by_site_and_task: dict[str, int]
    """Predictions by SITE/TASK."""


def parse_retention_rule(text: str) -> RetentionRule:
    """Read SITE/TASK=DAYS, where `*` stands for every site or task. Raises InvalidRequest."""
    match = _RULE.fullmatch(text)
    if not match:
        remedy = "Write SITE/TASK=DAYS, such as 'clinic-1/*=90' or '*/reception=30'."
        raise InvalidRequest(f"--keep {text!r} is not understood", remedy=remedy)
    return RetentionRule(match["site"], match["task"], float(match["days"]))


def purge(out: Path, rules: Sequence[RetentionRule], now: float, *, dry_run: bool) -> PurgeReport:
    """Delete examples that are older than their rule allows, and join the examples again; with `dry_run` only count.

    Raises:
        FileMissing: nothing was collected there.
        InvalidRequest: a run of collect uses the folder, or the memory is not enough.
        OSError: a file cannot be written; files already rewritten stay so.
    """
    memory, folder = derived_examples.MEMORY_BYTES_DEFAULT, out / record_files.FOLDER
    if not record_files.files(folder):
        raise FileMissing(
            f"nothing is collected in {out}", remedy="Name the folder that 'edge-convert collect' writes."
        )
    with locked(out):
        by_file: dict[str, set[tuple[str, str]]] = {}
        due: dict[tuple[str, str], str] = {}
        with derived_examples.open_database(folder, out / ".purge", memory) as connection:
            connection.execute("CREATE TEMP TABLE rules (site VARCHAR, task VARCHAR, before TIMESTAMP)")
            at = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
            # Each rule with the moment before which it deletes.
            rows = [(rule.site, rule.task, at - timedelta(days=min(rule.days, RETENTION_DAYS_MAX))) for rule in rules]
            connection.executemany("INSERT INTO rules VALUES (?, ?, ?)", rows)
            for filename, site, prediction_id, task in connection.execute(_DUE).fetchall():
                by_file.setdefault(filename, set()).add((site, prediction_id))
                due[site, prediction_id] = f"{site}/{task}"
        records = 0
        if due and not dry_run:
            records = sum(record_files.forget(Path(filename), names) for filename, names in by_file.items())
            derived_examples.derive(out, memory, lambda _: None)
    return PurgeReport(len(due), records, dict(sorted(Counter(due.values()).items())))

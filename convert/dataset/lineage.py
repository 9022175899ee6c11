"""Records at the central team which datasets and bundles learned from a collected record.

    collected/lineage/dataset-<id>.json   written by `edge-convert dataset`: its files, and the records of each split
    collected/lineage/bundle-<id>.json    written by `edge-convert run`: the bundle, and the records of each split
    WORK/assemble/lineage.json            the same next to the bundle, if the collection is not known

A record is SITE/PREDICTION_ID, which rows of `dataset` carry as `site` and `prediction_id`. So a dataset that somebody
edited, or joined with others, is traced as well, as long as the rows keep these keys. No text is in these files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import FILE_MODE, make_private

FOLDER = "lineage"
FILE_NAME = "lineage.json"
SCHEMA = "edge-agent/lineage/v1"
LEARNED = ("train", "importance")
"""Splits from which weights are learned or chosen."""
Kind = Literal["dataset", "bundle"]
Consequence = Literal["retire", "measured", "rows"]


@dataclass(frozen=True)
class LineageDocument:
    """What one dataset or bundle was made of."""

    kind: Kind
    task: str
    records: Mapping[str, Sequence[str]]
    """By split, and `golden` for the golden cases of a bundle."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the files of rows, by split."""
    place: str = ""
    """The folder of the dataset, or the work folder."""
    version: str = ""
    digest: str = ""
    """bundle: the digest of its manifest."""
    at: str = ""

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == "bundle":
            return f"{self.task} {self.version} ({self.digest[:12]})"
        return f"{self.task}, {self.place}"

    @property
    def identity(self) -> str:
        """The digest of the bundle, or a hash of the dataset's files and their folder."""
        files = json.dumps([dict(self.files), self.place], sort_keys=True)
        return self.digest or hashlib.sha256(files.encode()).hexdigest()


@dataclass(frozen=True)
class LineageUse:
    """A dataset or bundle that contains some of the traced records."""

    document: LineageDocument
    records: Mapping[str, Sequence[str]]
    """The traced records in it, by split."""

    @property
    def consequence(self) -> Consequence:
        """retire: its weights learned from them, or it carries their text. measured: only its figures did."""
        if self.document.kind == "dataset":
            return "rows"
        return "retire" if any(self.records.get(split) for split in (*LEARNED, "golden")) else "measured"

    def sentence(self) -> str:
        """Return what to do, in words."""
        splits = ", ".join(f"{len(records)} in {split}" for split, records in self.records.items() if records)
        if self.consequence == "rows":
            return f"{splits}: make the dataset again, and delete this one"
        if self.consequence == "measured":
            return f"{splits}: its figures rest on them, its weights and golden cases do not; it can stay"
        return f"{splits}: train again without them and publish that, then revoke this version"

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        fields = {key: value for key, value in asdict(self.document).items() if key != "records"}
        records = {split: list(each) for split, each in self.records.items() if each}
        return {**fields, "identity": self.document.identity, "records": records, "consequence": self.consequence}


def register(collected: Path, document: LineageDocument) -> None:
    """Keep a document in the collection; the same one again replaces itself. Raises OSError."""
    folder = collected / FOLDER
    make_private(folder)
    write(folder / f"{document.kind}-{document.identity[:32]}.json", document)


def write(path: Path, document: LineageDocument) -> None:
    """Write a document for its owner alone. Raises OSError."""
    plain = {"schema": SCHEMA, **asdict(document)}
    atomic_files.write_atomically(path, json.dumps(plain, ensure_ascii=False).encode() + b"\n", FILE_MODE)


def documents(collected: Path | None, works: Iterable[Path] = ()) -> Iterator[LineageDocument]:
    """Yield the documents of a collection and of work folders, each of them once; damaged ones are skipped."""
    seen = set()
    for path in _paths(collected, works):
        document = _read(path)
        if document is not None and (document.kind, document.identity) not in seen:
            seen.add((document.kind, document.identity))
            yield document


def unread(collected: Path | None, works: Iterable[Path]) -> list[Path]:
    """Return the documents that `documents` skips, because they are damaged or of a newer version."""
    return [path for path in _paths(collected, works) if path.exists() and _read(path) is None]


def _paths(collected: Path | None, works: Iterable[Path]) -> list[Path]:
    registered = sorted((collected / FOLDER).glob("*.json")) if collected else []
    return [*registered, *(work / "assemble" / FILE_NAME for work in works)]


def trace(documents: Iterable[LineageDocument], records: Iterable[str]) -> list[LineageUse]:
    """Return which documents have some of the records, those to retire first."""
    traced, uses = frozenset(records), list[LineageUse]()
    for document in documents:
        hits = {split: sorted(traced.intersection(learned)) for split, learned in document.records.items()}
        if any(hits.values()):
            uses.append(LineageUse(document, hits))
    order: tuple[Consequence, ...] = ("retire", "rows", "measured")
    return sorted(uses, key=lambda use: (order.index(use.consequence), use.document.task, use.document.version))


def collection_of(data: Path) -> Path | None:
    """Return the collection that a file of rows was made from, by the data sheet next to it; None = not known."""
    try:
        collected = json.loads((data.parent / "dataset.json").read_bytes())["collected"]
        folder = Path(collected)
        return folder if isinstance(collected, str) and folder.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> LineageDocument | None:
    try:
        plain = json.loads(path.read_bytes())
        if plain.pop("schema") != SCHEMA:
            return None
        document = LineageDocument(**plain)
        return document if all(isinstance(each, list) for each in document.records.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

"""A staged change: a folder that is carried to the people who hold the signing keys, and back.

staged.json                 flags of the change that its metadata lack
current/metadata/…          all roots, and the signed metadata before the change, for comparison
new/root.json …             the new metadata, with their signatures so far
new/<sha256>                a new plan
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from convert.publish import layout, repository_reader
from convert.publish.commit import ChangeDraft, MissingSignatures, sign_draft
from convert.publish.keyring import Keyring
from convert.publish.layout import ONLINE, PLAN, ROOT, TARGETS, TIMESTAMP
from convert.publish.plan_text import consequences
from convert.publish.publisher import Publisher
from convert.publish.repository_reader import BundleTarget, RepositoryReader, RepositoryState, bundles_of, newest
from convert.publish.repository_storage import FolderStorage
from convert.report.markdown import headline
from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, InvalidRequest, UpdateOutdated
from edge_agent.formats import plan as plans
from edge_agent.formats import strict_json
from edge_agent.formats.plan import PLAN_BYTES_MAX
from edge_agent.formatting import format_bytes

_SCHEMA = "edge-agent/staged/v1"
STAGED = "staged.json"
_CURRENT, _NEW = "current", "new"
_KINDS: dict[str, Any] = {ROOT: Root, TARGETS: Targets, PLAN: Targets}


Name = Callable[[str], str]
"""Returns the name of a key by its id."""


@dataclass(frozen=True)
class StagedChange:
    """A staged change with its signatures so far; the metadata before it are verified."""

    held: RepositoryState
    draft: ChangeDraft
    folder: Path

    def after(self) -> RepositoryState:
        """Return the content of the repository after the change."""
        fields: dict[str, Any] = {self.draft.ROLES[role]: metadata for role, metadata in self.draft.metadata().items()}
        return replace(self.held, **fields)

    def described(self, keys: Keyring) -> list[str]:
        """Return its effect in words."""
        lines = describe_changes(self.held.roles(), self.draft.metadata(), keys.name_of)
        if self.draft.plan is not None:
            lines += [f"effect: {each}" for each in consequences(self.held.plan, self.draft.plan)]
        return lines


def write(folder: Path, held: RepositoryState, draft: ChangeDraft) -> None:
    """Write a change to a folder, which is new or has an earlier one.

    Raises:
        InvalidRequest: the folder has other content.
        OSError: it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / STAGED).is_file():
        raise InvalidRequest(f"{folder} is not empty and has no staged change", remedy="Name a new folder for --stage.")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _NEW).mkdir(parents=True)
    current = FolderStorage(folder / _CURRENT)
    for path, content in held.files.items():
        current.write(path, content)
    for path, content in draft.blobs.items():
        atomic_files.write_atomically(folder / _NEW / Path(path).name, content)
    _save(folder, draft)
    head = {"schema": _SCHEMA, "restart_versions": draft.restart_versions, "without_old": draft.without_old}
    atomic_files.write_atomically(folder / STAGED, json.dumps(head).encode() + b"\n")


def read(folder: Path, keys: Keyring) -> StagedChange:
    """Read a staged change, and verify the metadata before it with the root of trust in the keys' folder.

    Raises:
        FileMissing: there is no staged change.
        InvalidRequest: the folder is incomplete.
        UpdateUntrusted, UpdateIncomplete: the metadata before it do not verify with the trusted root.
        UpdateOutdated: it is based on versions older than those that these keys have seen.
    """
    staged = _read(folder, keys)
    try:
        keys.require_newest(staged.held.versions())
    except UpdateOutdated as error:
        said = f"{folder} is based on an outdated version: {error.message}"
        raise UpdateOutdated(
            said, remedy="It is published already; or another change was published first: then stage it again."
        ) from None
    return staged


def _read(folder: Path, keys: Keyring) -> StagedChange:
    draft = _draft(folder)
    held = RepositoryReader(FolderStorage(folder / _CURRENT)).held(keys.anchor())
    keys.note(repository_reader.public_keys(draft.root or held.root, draft.targets or held.targets))
    keys.note(held.public_keys())
    return StagedChange(held, draft, folder)


def _draft(folder: Path) -> ChangeDraft:
    head = _head(folder)
    draft = ChangeDraft(restart_versions=bool(head.get("restart_versions")), without_old=bool(head.get("without_old")))
    for role, kind in _KINDS.items():
        path = folder / _NEW / f"{role}.json"
        if path.is_file():
            draft.put(role, layout.decode(kind, path.read_bytes(), str(path)))
    _read_plan(folder / _NEW, draft)
    return draft


def _head(folder: Path) -> dict[str, Any]:
    try:
        head = strict_json.decode((folder / STAGED).read_bytes())
    except FileNotFoundError:
        remedy = "Name the folder that 'edge-convert publish … --stage FOLDER' wrote."
        raise FileMissing(f"{folder} has no staged change", remedy=remedy) from None
    except ValueError:
        head = None
    if not isinstance(head, dict) or head.get("schema") != _SCHEMA:
        raise InvalidRequest(f"{folder / STAGED} is damaged, or from a newer edge-convert", remedy="Stage it again.")
    return head


def add_signatures(staged: StagedChange, keys: Keyring) -> list[MissingSignatures]:
    """Sign with the available keys, write the result to the folder, and return the missing signatures.

    Raises:
        InvalidRequest: none of these keys can add a signature.
    """
    before = _signatures(staged.draft)
    missing = sign_draft(keys, staged.held, staged.draft)
    if missing and before == _signatures(staged.draft):
        message = "none of these keys adds a signature that is still needed"
        raise InvalidRequest(
            message, remedy=f"{'; '.join(each.said(keys.name_of) for each in missing)}. Name their folder with --keys."
        )
    _save(staged.folder, staged.draft)
    keys.remember_versions(staged.held.versions())
    return missing


def missing(staged: StagedChange) -> list[MissingSignatures]:
    """Return which signatures are missing."""
    return sign_draft(Keyring([], _nobody), staged.held, staged.draft)


def publish(publisher: Publisher, folder: Path) -> StagedChange | None:
    """Publish the unpublished part of a staged change; None = all of it is published.

    Raises:
        InsufficientSignatures: signatures are missing.
        InvalidRequest: the repository has changed since it was staged.
    """
    held = publisher.held()
    wanted = _draft(folder).metadata()
    there = [role for role, metadata in wanted.items() if _signed(held, role) == metadata.signed]
    if len(there) == len(wanted):
        return None
    staged = _read(folder, publisher.keys)
    for role in there:
        staged.draft.drop(role)
    for role, metadata in staged.draft.metadata().items():
        before, now = _signed(staged.held, role), _signed(held, role)
        if before != now or metadata.signed.version != now.version + 1:
            message = f"'{role}' has changed since this was staged: it is at version {now.version}"
            raise InvalidRequest(message, remedy="Stage the change again, and have it signed again.")
    publisher.finish(held, staged.draft)
    return staged


def _signed(held: RepositoryState, role: str) -> Any:
    return held.roles()[role].signed


def _nobody(folder: Path) -> str:
    raise AssertionError(folder)


def _save(folder: Path, draft: ChangeDraft) -> None:
    for role, metadata in draft.metadata().items():
        atomic_files.write_atomically(folder / _NEW / f"{role}.json", layout.encode(metadata))


def _read_plan(folder: Path, draft: ChangeDraft) -> None:
    """Read the plan of the staged role, if it is a new one."""
    for target in draft.plan_role.signed.targets.values() if draft.plan_role else ():
        path = folder / target.hashes.get("sha256", "-")
        if path.is_file():
            raw = _whole(path)
            draft.blobs[layout.blob(path.name)] = raw
            draft.plan = plans.parse(raw)


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(PLAN_BYTES_MAX + 1)
    if repository_reader.sha256(raw) != path.name:
        raise InvalidRequest(f"{path} is damaged", remedy="Stage the change again.")
    return raw


def _signatures(draft: ChangeDraft) -> Mapping[str, set[str]]:
    return {role: set(metadata.signatures) for role, metadata in draft.metadata().items()}


def describe_targets(old: Targets, new: Targets, name: Name) -> Iterator[str]:
    """Yield a line for each bundle and each plan key that is added or removed."""
    before, after = bundles_of(old), bundles_of(new)
    for digest in before.keys() - after.keys():
        yield f"- bundle {before[digest].name}: revoked"
    for digest in after.keys() - before.keys():
        again = ", which was revoked" if digest in layout.revoked(old) else ""
        yield f"+ bundle {after[digest].name}, {format_bytes(after[digest].size_bytes)}{again}"
        yield from _quality(after[digest], newest(before, after[digest].task))
        if after[digest].golden:
            yield f"    golden cases, which travel to every site: {after[digest].golden}"
    yield from _keys(PLAN, old.get_delegated_role(PLAN), new.get_delegated_role(PLAN), name)


def _quality(new: BundleTarget, old: BundleTarget | None) -> Iterator[str]:
    yield from (f"    {said}" for said in headline(new.quality))
    if old is not None and old.quality:
        yield f"    before, {old.name}, on its own test rows:"
        yield from (f"      {said}" for said in headline(old.quality))


def describe_root(old: Root, new: Root, name: Name) -> Iterator[str]:
    """Yield a line for each key that is added or removed, and each threshold that changes."""
    for role, called in ((ROOT, ROOT), (TARGETS, TARGETS), (TIMESTAMP, ONLINE)):
        yield from _keys(called, old.get_delegated_role(role), new.get_delegated_role(role), name)


def describe_changes(old: Mapping[str, Metadata[Any]], new: Mapping[str, Metadata[Any]], name: Name) -> list[str]:
    """Return the differences between new and old metadata, by role."""
    how: dict[str, Any] = {ROOT: describe_root, TARGETS: describe_targets}
    lines = []
    for role, metadata in new.items():
        signed, before = metadata.signed, old[role].signed
        lines.append(f"{role}, version {before.version} → {signed.version}, valid until {signed.expires:%Y-%m-%d}")
        changes = list(how[role](before, signed, name)) if role in how else []
        lines += [f"  {line}" for line in changes] or ["  only the expiry changes"]
    return lines


def _keys(called: str, old: Any, new: Any, name: Name) -> Iterator[str]:
    for sign, keyids in (("-", set(old.keyids) - set(new.keyids)), ("+", set(new.keyids) - set(old.keyids))):
        yield from (f"{sign} key {name(keyid)} of {called} ({keyid[:12]})" for keyid in sorted(keyids))
    before, after = ((of.threshold, len(of.keyids)) for of in (old, new))
    if before != after:
        yield f"* {called}: {after[0]} of {after[1]} must sign; it was {before[0]} of {before[1]}"

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

    state: RepositoryState
    draft: ChangeDraft
    folder: Path

    def after(self) -> RepositoryState:
        """Return the content of the repository after the change."""
        fields: dict[str, Any] = {self.draft.ROLES[role]: metadata for role, metadata in self.draft.metadata().items()}
        return replace(self.state, **fields)

    def description(self, keys: Keyring) -> list[str]:
        """Return its effect in words."""
        lines = describe_changes(self.state.roles(), self.draft.metadata(), keys.name_of)
        if self.draft.plan is not None:
            lines += [f"effect: {each}" for each in consequences(self.state.plan, self.draft.plan)]
        return lines


def write(folder: Path, state: RepositoryState, draft: ChangeDraft) -> None:
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
    for path, content in state.files.items():
        current.write(path, content)
    for path, content in draft.blobs.items():
        atomic_files.write_atomically(folder / _NEW / Path(path).name, content)
    _save(folder, draft)
    header = {"schema": _SCHEMA, "restart_versions": draft.restart_versions, "without_old": draft.without_old}
    atomic_files.write_atomically(folder / STAGED, json.dumps(header).encode() + b"\n")


def read(folder: Path, keys: Keyring) -> StagedChange:
    """Read a staged change, and verify the metadata before it with the root of trust in the keys' folder.

    Raises:
        FileMissing: there is no staged change.
        InvalidRequest: the folder is incomplete.
        UpdateUntrusted, UpdateIncomplete: the metadata before it do not verify with the trusted root.
        UpdateOutdated: it is based on versions older than those that these keys have seen.
    """
    staged = _read_change(folder, keys)
    try:
        keys.require_newest(staged.state.versions())
    except UpdateOutdated as error:
        message = f"{folder} is based on an outdated version: {error.message}"
        raise UpdateOutdated(
            message, remedy="It is published already; or another change was published first: then stage it again."
        ) from None
    return staged


def _read_change(folder: Path, keys: Keyring) -> StagedChange:
    draft = _read_draft(folder)
    state = RepositoryReader(FolderStorage(folder / _CURRENT)).read_state(keys.anchor())
    keys.add_names(repository_reader.public_keys(draft.root or state.root, draft.targets or state.targets))
    keys.add_names(state.public_keys())
    return StagedChange(state, draft, folder)


def _read_draft(folder: Path) -> ChangeDraft:
    header = _read_header(folder)
    draft = ChangeDraft(
        restart_versions=bool(header.get("restart_versions")), without_old=bool(header.get("without_old"))
    )
    for role, kind in _KINDS.items():
        path = folder / _NEW / f"{role}.json"
        if path.is_file():
            draft.put(role, layout.decode(kind, path.read_bytes(), str(path)))
    _read_plan(folder / _NEW, draft)
    return draft


def _read_header(folder: Path) -> dict[str, Any]:
    try:
        header = strict_json.decode((folder / STAGED).read_bytes())
    except FileNotFoundError:
        remedy = "Name the folder that 'edge-convert publish … --stage FOLDER' wrote."
        raise FileMissing(f"{folder} has no staged change", remedy=remedy) from None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("schema") != _SCHEMA:
        raise InvalidRequest(f"{folder / STAGED} is damaged, or from a newer edge-convert", remedy="Stage it again.")
    return header


def add_signatures(staged: StagedChange, keys: Keyring) -> list[MissingSignatures]:
    """Sign with the available keys, write the result to the folder, and return the missing signatures.

    Raises:
        InvalidRequest: none of these keys can add a signature.
    """
    before = _signatures(staged.draft)
    missing = sign_draft(keys, staged.state, staged.draft)
    if missing and before == _signatures(staged.draft):
        message = "none of these keys adds a signature that is still needed"
        needed = "; ".join(each.sentence(keys.name_of) for each in missing)
        raise InvalidRequest(message, remedy=f"{needed}. Name their folder with --keys.")
    _save(staged.folder, staged.draft)
    keys.remember_versions(staged.state.versions())
    return missing


def missing(staged: StagedChange) -> list[MissingSignatures]:
    """Return which signatures are missing."""
    return sign_draft(Keyring([], _no_passphrase), staged.state, staged.draft)


def publish(publisher: Publisher, folder: Path) -> StagedChange | None:
    """Publish the unpublished part of a staged change; None = all of it is published.

    Raises:
        InsufficientSignatures: signatures are missing.
        InvalidRequest: the repository has changed since it was staged.
    """
    state = publisher.read_state()
    new_metadata = _read_draft(folder).metadata()
    published = [role for role, metadata in new_metadata.items() if _content(state, role) == metadata.signed]
    if len(published) == len(new_metadata):
        return None
    staged = _read_change(folder, publisher.keys)
    for role in published:
        staged.draft.drop(role)
    for role, metadata in staged.draft.metadata().items():
        before, now = _content(staged.state, role), _content(state, role)
        if before != now or metadata.signed.version != now.version + 1:
            message = f"'{role}' has changed since this was staged: it is at version {now.version}"
            raise InvalidRequest(message, remedy="Stage the change again, and have it signed again.")
    publisher.finish(state, staged.draft)
    return staged


def _content(state: RepositoryState, role: str) -> Any:
    return state.roles()[role].signed


def _no_passphrase(folder: Path) -> str:
    raise AssertionError(folder)


def _save(folder: Path, draft: ChangeDraft) -> None:
    for role, metadata in draft.metadata().items():
        atomic_files.write_atomically(folder / _NEW / f"{role}.json", layout.encode(metadata))


def _read_plan(folder: Path, draft: ChangeDraft) -> None:
    """Read the plan of the staged role, if it is a new one."""
    for target in draft.plan_role.signed.targets.values() if draft.plan_role else ():
        path = folder / target.hashes.get("sha256", "-")
        if path.is_file():
            with path.open("rb") as file:
                raw = file.read(PLAN_BYTES_MAX + 1)
            if repository_reader.sha256(raw) != path.name:
                raise InvalidRequest(f"{path} is damaged", remedy="Stage the change again.")
            draft.blobs[layout.blob_path(path.name)] = raw
            draft.plan = plans.parse(raw)


def _signatures(draft: ChangeDraft) -> Mapping[str, set[str]]:
    return {role: set(metadata.signatures) for role, metadata in draft.metadata().items()}


def describe_targets(old: Targets, new: Targets, name_of: Name) -> Iterator[str]:
    """Yield a line for each bundle and each plan key that is added or removed."""
    before, after = bundles_of(old), bundles_of(new)
    for digest in before.keys() - after.keys():
        yield f"- bundle {before[digest].name}: revoked"
    for digest in after.keys() - before.keys():
        note = ", which was revoked" if digest in layout.revoked_digests(old) else ""
        yield f"+ bundle {after[digest].name}, {format_bytes(after[digest].size_bytes)}{note}"
        yield from _quality_lines(after[digest], newest(before, after[digest].task))
        if after[digest].golden:
            yield f"    golden cases, which travel to every site: {after[digest].golden}"
    yield from _key_changes(PLAN, old.get_delegated_role(PLAN), new.get_delegated_role(PLAN), name_of)


def _quality_lines(new: BundleTarget, old: BundleTarget | None) -> Iterator[str]:
    yield from (f"    {line}" for line in headline(new.quality))
    if old is not None and old.quality:
        yield f"    before, {old.name}, on its own test rows:"
        yield from (f"      {line}" for line in headline(old.quality))


def describe_root(old: Root, new: Root, name_of: Name) -> Iterator[str]:
    """Yield a line for each key that is added or removed, and each threshold that changes."""
    for role, key_role in ((ROOT, ROOT), (TARGETS, TARGETS), (TIMESTAMP, ONLINE)):
        yield from _key_changes(key_role, old.get_delegated_role(role), new.get_delegated_role(role), name_of)


def describe_changes(old: Mapping[str, Metadata[Any]], new: Mapping[str, Metadata[Any]], name_of: Name) -> list[str]:
    """Return the differences between new and old metadata, by role."""
    describe: dict[str, Any] = {ROOT: describe_root, TARGETS: describe_targets}
    lines = []
    for role, metadata in new.items():
        signed, before = metadata.signed, old[role].signed
        lines.append(f"{role}, version {before.version} → {signed.version}, valid until {signed.expires:%Y-%m-%d}")
        changes = list(describe[role](before, signed, name_of)) if role in describe else []
        lines += [f"  {line}" for line in changes] or ["  only the expiry changes"]
    return lines


def _key_changes(key_role: str, old: Any, new: Any, name_of: Name) -> Iterator[str]:
    for sign, keyids in (("-", set(old.keyids) - set(new.keyids)), ("+", set(new.keyids) - set(old.keyids))):
        yield from (f"{sign} key {name_of(keyid)} of {key_role} ({keyid[:12]})" for keyid in sorted(keyids))
    before, after = ((role.threshold, len(role.keyids)) for role in (old, new))
    if before != after:
        yield f"* {key_role}: {after[0]} of {after[1]} must sign; it was {before[0]} of {before[1]}"

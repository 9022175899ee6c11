"""The central team's operations on a repository: create it, sign bundles, publish plans, revoke bundles.

publisher = Publisher(open_storage("s3://…", {}), Keyring([folder], ask))
publisher.create()                                # once
published = publisher.publish(Path("build/my-task/assemble/bundle"))
publisher.set_plan(plan)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from convert.publish import layout, publishable_bundle, repository_reader
from convert.publish.commit import ChangeDraft, MissingSignatures, commit, sign, sign_draft, sign_online
from convert.publish.keyring import FIRST_TARGETS, Keyring
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.plan_text import require_signed, same_plan
from convert.publish.publishable_bundle import PublishableBundle
from convert.publish.repository_reader import BundleTarget, RepositoryState
from convert.publish.repository_storage import Advance, RepositoryStorage, file_chunks, no_progress, with_progress
from edge_agent.errors import InvalidRequest, UpdateUntrusted
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import RolloutPlan
from edge_agent.formats.signed_document import format_timestamp

Store = Callable[[RepositoryState, ChangeDraft], None]
"""Writes a draft that needs further signatures to a folder; see convert/publish/staged_change.py."""


class InsufficientSignatures(InvalidRequest):
    """The available keys do not suffice."""

    def __init__(self, missing: list[MissingSignatures], keys: Keyring) -> None:
        """Name the missing signatures."""
        remedy = (
            "Name more key folders with --keys; or use --stage FOLDER, and then 'edge-convert sign FOLDER --keys KEYS'"
            " on another machine."
        )
        super().__init__("; ".join(each.sentence(keys.name_of) for each in missing), remedy=remedy)
        self.missing = missing


@dataclass(frozen=True)
class UploadedBundle:
    """A bundle whose files are in the repository."""

    state: RepositoryState
    """The repository it was compared with."""
    signed: BundleTarget
    """Its target, as it will be signed."""
    raw: bytes
    """Its manifest."""
    bytes_written: int


@dataclass(frozen=True)
class PublishedBundle:
    """The result of publishing a bundle."""

    signed: BundleTarget
    new: bool
    """False = it was published already, and only missing files were written."""
    bytes_written: int
    """Bytes of its files; the others were there already."""


@dataclass
class Publisher:
    """A repository, and the keys to change it."""

    storage: RepositoryStorage
    keys: Keyring
    now: Callable[[], float] = time.time
    days: Mapping[str, float] = field(default_factory=lambda: dict(layout.DAYS))
    """How long new signatures are valid, by role."""
    stage: Store | None = None
    """Receives a change that the available keys cannot sign; None = that is an error."""
    staged: bool = False
    """Whether a change was staged."""

    def read_state(self) -> RepositoryState:
        """Read and verify the repository. Raises InvalidRequest, UpdateUntrusted, UpdateIncomplete, UpdateOutdated."""
        state = repository_reader.require(self.storage, self.keys.anchor())
        self.keys.require_newest(state.versions())
        self.keys.add_names(state.public_keys())
        return state

    def create(self) -> RepositoryState:
        """Create the repository, without bundles and with an empty plan; an existing one of this fleet is kept.

        Raises:
            UpdateUntrusted: there is a repository of another fleet.
            InvalidRequest: the plan key or the online key is not available.
        """
        anchor = self.keys.anchor()
        if state := repository_reader.read(self.storage, anchor):
            return state
        root = layout.decode(Root, anchor, "root.json")
        path = layout.path_of(ROOT, 1)
        if root.signed.version != 1 or self.storage.read(path, len(anchor)) not in (None, anchor):
            message = f"there is a root of another fleet at {self.storage.name}, or these keys are in use elsewhere"
            raise UpdateUntrusted(message, remedy="Use an empty place, and new keys: edge-convert keys signing FOLDER")
        for name, content in self._first_files(root).items():
            self.storage.write(name, content)
        return self.read_state()

    def _first_files(self, root: Metadata[Root]) -> dict[str, bytes]:
        raw = self.keys.file(FIRST_TARGETS)
        targets = layout.decode(Targets, raw, FIRST_TARGETS)
        repository_reader.verify(root, TARGETS, targets, FIRST_TARGETS)
        plan = RolloutPlan(version=1, issued_at=format_timestamp(self.now()))
        role, blobs = self._make_plan_role(plan, 1)
        if missing := sign(self.keys, role, PLAN, [targets]):
            raise InsufficientSignatures(missing, self.keys)
        snapshot, timestamp = Metadata(Snapshot()), Metadata(Timestamp())
        files = {layout.path_of(ROOT, 1): layout.encode(root), **blobs, layout.path_of(TARGETS, 1): raw}
        files[layout.path_of(PLAN, 1)] = layout.encode(role)
        for name, metadata in ((TARGETS, targets), (PLAN, role)):
            snapshot.signed.meta[f"{name}.json"] = layout.meta_file(metadata, files[layout.path_of(name, 1)])
        layout.issue(snapshot.signed, 1, self.now(), self.days[SNAPSHOT])
        raw = files[layout.path_of(SNAPSHOT, 1)] = sign_online(self.keys, snapshot, SNAPSHOT, [root])
        timestamp.signed.snapshot_meta = layout.meta_file(snapshot, raw)
        layout.issue(timestamp.signed, 1, self.now(), self.days[TIMESTAMP])
        return {**files, layout.TIMESTAMP_PATH: sign_online(self.keys, timestamp, TIMESTAMP, [root])}

    def publish(self, path: Path) -> PublishedBundle:
        """Upload a bundle and sign it. The same bytes again change nothing.

        Raises:
            BundleError: it is not a bundle, or a file differs from the manifest.
            InsufficientSignatures: the keys of `targets` do not suffice, and there is no folder to stage the change.
            InvalidRequest: another bundle of that task and version is signed.
        """
        return self.sign(self.upload(path))

    def upload(self, path: Path, advance: Advance = no_progress) -> UploadedBundle:
        """Upload a bundle's files to the repository, invisible to sites. Raises as `publish`; never prompts."""
        state = self.read_state()
        with publishable_bundle.open_bundle(path) as bundle:
            target = _bundle_target(bundle)
            _require_new_version(state, target)
            return UploadedBundle(state, target, bundle.raw, self._upload(bundle, advance))

    def sign(self, uploaded: UploadedBundle, *, again: bool = False) -> PublishedBundle:
        """Sign an uploaded bundle; with `again` also one that was revoked.

        Raises as `publish`; InvalidRequest for a bundle that was revoked.
        """
        state, target = uploaded.state, uploaded.signed
        if target.digest in state.bundles():
            return PublishedBundle(target, new=False, bytes_written=uploaded.bytes_written)
        revoked = layout.revoked_digests(state.targets.signed)
        if target.digest in revoked and not again:
            remedy = "Make and publish a new version. If it was revoked by mistake: --sign-revoked."
            raise InvalidRequest(f"{target.name} was revoked; it was not signed", remedy=remedy)
        targets = self.next_of(state.targets, TARGETS)
        targets.signed.targets[layout.target_of(target.task, target.digest)] = _target_file(uploaded.raw, target)
        _set_revoked(targets.signed, [digest for digest in revoked if digest != target.digest])
        self.finish(state, ChangeDraft(targets=targets))
        return PublishedBundle(target, new=True, bytes_written=uploaded.bytes_written)

    def revoke(self, digest: str) -> BundleTarget:
        """Revoke the signature of a bundle. Sites that run it continue; no site installs it any more.

        The metadata record the digest, so that publishing it again is refused.

        Raises:
            InvalidRequest: no such bundle is signed, or the plan still names it.
            InsufficientSignatures: as `publish`.
        """
        state = self.read_state()
        target = state.bundles().get(digest)
        if target is None:
            raise InvalidRequest(f"no bundle {digest[:12]} is signed", remedy="See 'edge-convert plan show'.")
        if digest in state.plan.bundles():
            remedy = "Remove it from the plan first ('edge-convert plan edit'): sites refuse a plan that names it."
            raise InvalidRequest(f"the plan still names {target.name}", remedy=remedy)
        targets = self.next_of(state.targets, TARGETS)
        del targets.signed.targets[layout.target_of(target.task, digest)]
        _set_revoked(targets.signed, [*layout.revoked_digests(targets.signed), digest])
        self.finish(state, ChangeDraft(targets=targets))
        return target

    def set_plan(self, plan: RolloutPlan) -> RolloutPlan:
        """Publish a plan; its version and time are set here. The same plan again changes nothing.

        Raises:
            PlanInvalid: it names a bundle that is not signed, or under another task or version.
            InsufficientSignatures: the plan key is not available.
        """
        state = self.read_state()
        if same_plan(plan, state.plan):
            return state.plan
        new = plan.model_copy(update={"version": state.plan.version + 1, "issued_at": format_timestamp(self.now())})
        role, blobs = self._make_plan_role(new, state.plan_role.signed.version + 1)
        self.finish(state, ChangeDraft(plan_role=role, plan=new, blobs=blobs))
        return new

    def renew(self, *roles: str) -> None:
        """Sign snapshot, timestamp and the named roles again, with new expiries.

        Raises:
            InsufficientSignatures: keys of a named role are not available.
        """
        state = self.read_state()
        draft = ChangeDraft()
        for role in draft.ROLES:
            if role in roles:
                draft.put(role, self.next_of(state.roles()[role], role))
        self.finish(state, draft)

    def finish(self, state: RepositoryState, draft: ChangeDraft) -> None:
        """Sign a draft and publish it; or stage it, if keys are missing and there is a folder to stage it.

        Raises:
            PlanInvalid: the plan would name a bundle that is not signed.
            InsufficientSignatures: the available keys do not suffice, and there is no folder to stage the change.
        """
        require_signed(*draft.result(state))
        missing = sign_draft(self.keys, state, draft)
        offline = draft.metadata() and not self.keys.available(state.root.signed.roles[TIMESTAMP].keyids)
        if self.stage and (missing or offline):
            self.stage(state, draft)
            self.staged = True
        elif missing:
            raise InsufficientSignatures(missing, self.keys)
        else:
            commit(self.storage, self.keys, state, draft, self.now(), self.days)
            changed = {role: metadata.signed.version for role, metadata in draft.metadata().items()}
            self.keys.remember_versions({**state.versions(), **changed})
            if draft.root is not None:
                self.keys.store_root(layout.encode(draft.root))

    def next_of(self, metadata: Metadata[Kind], role: str) -> Metadata[Kind]:
        """Return a copy as the next version, without signatures."""
        successor = Metadata(copy.deepcopy(metadata.signed))
        layout.issue(successor.signed, metadata.signed.version + 1, self.now(), self.days[role])
        return successor

    def _make_plan_role(self, plan: RolloutPlan, version: int) -> tuple[Metadata[Targets], dict[str, bytes]]:
        raw = plans.encode(plan)
        if len(raw) > plans.PLAN_BYTES_MAX:
            message = f"the plan has {len(raw)} bytes; the limit is {plans.PLAN_BYTES_MAX}"
            raise InvalidRequest(message, remedy="Put more into channels, and less into single sites.")
        target = TargetFile.from_data(plans.FILE_NAME, raw, ["sha256"])
        role = Metadata(Targets(targets={plans.FILE_NAME: target}))
        layout.issue(role.signed, version, self.now(), self.days[PLAN])
        return role, {layout.blob_path(repository_reader.sha256(raw)): raw}

    def _upload(self, bundle: PublishableBundle, advance: Advance) -> int:
        written = 0
        for artifact in bundle.manifest.artifacts:
            path = layout.blob_path(artifact.sha256)
            with bundle.open_artifact(artifact) as file:
                if self.storage.size(path) != artifact.size_bytes:
                    progress = partial(advance, f"uploading {artifact.path}")
                    self.storage.write(path, with_progress(file_chunks(file), artifact.size_bytes, progress))
                    written += artifact.size_bytes
        path = layout.blob_path(bundle.digest)
        if self.storage.size(path) != len(bundle.raw):
            self.storage.write(path, bundle.raw)
            written += len(bundle.raw)
        return written


def _bundle_target(bundle: PublishableBundle) -> BundleTarget:
    parsed = bundle.manifest
    quality, golden = publishable_bundle.quality_figures(bundle), publishable_bundle.golden_origin_of(bundle)
    return BundleTarget(parsed.task.name, parsed.version, bundle.digest, parsed.size_bytes, quality, golden)


def _target_file(raw: bytes, bundle: BundleTarget) -> TargetFile:
    target = TargetFile.from_data(layout.target_of(bundle.task, bundle.digest), raw, ["sha256"])
    custom: dict[str, Any] = {"task": bundle.task, "version": bundle.version, "size_bytes": bundle.size_bytes}
    if bundle.quality:
        custom[publishable_bundle.KEY] = publishable_bundle.encode(bundle.quality)
    if bundle.golden:
        custom[publishable_bundle.GOLDEN_KEY] = bundle.golden
    target.unrecognized_fields["custom"] = custom
    return target


def _set_revoked(targets: Targets, digests: list[str]) -> None:
    targets.unrecognized_fields.pop(layout.REVOKED, None)
    if digests:
        targets.unrecognized_fields[layout.REVOKED] = digests


def _require_new_version(state: RepositoryState, target: BundleTarget) -> None:
    for other in repository_reader.of_task(state.bundles(), target.task):
        if other.version == target.version and other.digest != target.digest:
            message = f"{target.task} {target.version} is signed already, as another bundle: {other.digest[:12]}"
            raise InvalidRequest(message, remedy="Raise 'version' in task.yaml, and make the bundle again.")

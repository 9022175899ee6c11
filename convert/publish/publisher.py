"""The central team's operations on a repository: create it, sign bundles, publish plans, revoke bundles.

publisher = Publisher(open_place("s3://…", {}), Keyring([folder], ask))
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
from convert.publish.commit import ChangeDraft, MissingSignatures, commit, online, sign, sign_draft
from convert.publish.keyring import FIRST_TARGETS, Keyring
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Kind
from convert.publish.plan_text import require_signed, same_plan
from convert.publish.publishable_bundle import PublishableBundle
from convert.publish.repository_reader import BundleTarget, RepositoryState
from convert.publish.repository_storage import Advance, RepositoryStorage, chunked, counted, silent
from edge_agent.errors import InvalidRequest, UpdateUntrusted
from edge_agent.formats import plan as plans
from edge_agent.formats.manifest import Artifact
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
        super().__init__("; ".join(each.said(keys.name_of) for each in missing), remedy=remedy)
        self.missing = missing


@dataclass(frozen=True)
class UploadedBundle:
    """A bundle whose files are in the repository."""

    held: RepositoryState
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

    place: RepositoryStorage
    keys: Keyring
    now: Callable[[], float] = time.time
    days: Mapping[str, float] = field(default_factory=lambda: dict(layout.DAYS))
    """How long new signatures are valid, by role."""
    stage: Store | None = None
    """Receives a change that the available keys cannot sign; None = that is an error."""
    staged: bool = False
    """Whether a change was staged."""

    def held(self) -> RepositoryState:
        """Read and verify the repository. Raises InvalidRequest, UpdateUntrusted, UpdateIncomplete, UpdateOutdated."""
        held = repository_reader.require(self.place, self.keys.anchor())
        self.keys.require_newest(held.versions())
        self.keys.note(held.public_keys())
        return held

    def create(self) -> RepositoryState:
        """Create the repository, without bundles and with an empty plan; an existing one of this fleet is kept.

        Raises:
            UpdateUntrusted: there is a repository of another fleet.
            InvalidRequest: the plan key or the online key is not available.
        """
        anchor = self.keys.anchor()
        if held := repository_reader.read(self.place, anchor):
            return held
        root = layout.decode(Root, anchor, "root.json")
        path = layout.path_of(ROOT, 1)
        if root.signed.version != 1 or self.place.read(path, len(anchor)) not in (None, anchor):
            message = f"there is a root of another fleet at {self.place.name}, or these keys are in use elsewhere"
            raise UpdateUntrusted(message, remedy="Use an empty place, and new keys: edge-convert keys signing FOLDER")
        for each, content in self._first(root).items():
            self.place.write(each, content)
        return self.held()

    def _first(self, root: Metadata[Root]) -> dict[str, bytes]:
        raw = self.keys.file(FIRST_TARGETS)
        targets = layout.decode(Targets, raw, FIRST_TARGETS)
        repository_reader.verify(root, TARGETS, targets, FIRST_TARGETS)
        plan = RolloutPlan(version=1, issued_at=format_timestamp(self.now()))
        role, blobs = self._plan_role(plan, 1)
        if missing := sign(self.keys, role, PLAN, [targets]):
            raise InsufficientSignatures(missing, self.keys)
        snapshot, stamp = Metadata(Snapshot()), Metadata(Timestamp())
        files = {layout.path_of(ROOT, 1): layout.encode(root), **blobs, layout.path_of(TARGETS, 1): raw}
        files[layout.path_of(PLAN, 1)] = layout.encode(role)
        for name, metadata in ((TARGETS, targets), (PLAN, role)):
            snapshot.signed.meta[f"{name}.json"] = layout.described(metadata, files[layout.path_of(name, 1)])
        layout.issue(snapshot.signed, 1, self.now(), self.days[SNAPSHOT])
        raw = files[layout.path_of(SNAPSHOT, 1)] = online(self.keys, snapshot, SNAPSHOT, [root])
        stamp.signed.snapshot_meta = layout.described(snapshot, raw)
        layout.issue(stamp.signed, 1, self.now(), self.days[TIMESTAMP])
        return {**files, layout.TIMESTAMP_PATH: online(self.keys, stamp, TIMESTAMP, [root])}

    def publish(self, path: Path) -> PublishedBundle:
        """Upload a bundle and sign it. The same bytes again change nothing.

        Raises:
            BundleError: it is not a bundle, or a file differs from the manifest.
            InsufficientSignatures: the keys of `targets` do not suffice, and there is no folder to stage the change.
            InvalidRequest: another bundle of that task and version is signed.
        """
        return self.sign(self.upload(path))

    def upload(self, path: Path, advance: Advance = silent) -> UploadedBundle:
        """Upload a bundle's files to the repository, invisible to sites. Raises as `publish`; never prompts."""
        held = self.held()
        with publishable_bundle.opened(path) as bundle:
            signed = _signed(bundle)
            _require_new_version(held, signed)
            return UploadedBundle(held, signed, bundle.raw, self._upload(bundle, advance))

    def sign(self, uploaded: UploadedBundle, *, again: bool = False) -> PublishedBundle:
        """Sign an uploaded bundle; with `again` also one that was revoked.

        Raises as `publish`; InvalidRequest for a bundle that was revoked.
        """
        held, signed = uploaded.held, uploaded.signed
        if signed.digest in held.bundles():
            return PublishedBundle(signed, new=False, bytes_written=uploaded.bytes_written)
        revoked = layout.revoked(held.targets.signed)
        if signed.digest in revoked and not again:
            remedy = "Make and publish a new version. If it was revoked by mistake: --sign-revoked."
            raise InvalidRequest(f"{signed.name} was revoked; it was not signed", remedy=remedy)
        targets = self.next_of(held.targets, TARGETS)
        targets.signed.targets[layout.target_of(signed.task, signed.digest)] = _target(uploaded.raw, signed)
        _set_revoked(targets.signed, [digest for digest in revoked if digest != signed.digest])
        self.finish(held, ChangeDraft(targets=targets))
        return PublishedBundle(signed, new=True, bytes_written=uploaded.bytes_written)

    def revoke(self, digest: str) -> BundleTarget:
        """Revoke the signature of a bundle. Sites that run it continue; no site installs it any more.

        The metadata record the digest, so that publishing it again is refused.

        Raises:
            InvalidRequest: no such bundle is signed, or the plan still names it.
            InsufficientSignatures: as `publish`.
        """
        held = self.held()
        signed = held.bundles().get(digest)
        if signed is None:
            raise InvalidRequest(f"no bundle {digest[:12]} is signed", remedy="See 'edge-convert plan show'.")
        if digest in held.plan.bundles():
            remedy = "Remove it from the plan first ('edge-convert plan edit'): sites refuse a plan that names it."
            raise InvalidRequest(f"the plan still names {signed.name}", remedy=remedy)
        targets = self.next_of(held.targets, TARGETS)
        del targets.signed.targets[layout.target_of(signed.task, digest)]
        _set_revoked(targets.signed, [*layout.revoked(targets.signed), digest])
        self.finish(held, ChangeDraft(targets=targets))
        return signed

    def set_plan(self, plan: RolloutPlan) -> RolloutPlan:
        """Publish a plan; its version and time are set here. The same plan again changes nothing.

        Raises:
            PlanInvalid: it names a bundle that is not signed, or under another task or version.
            InsufficientSignatures: the plan key is not available.
        """
        held = self.held()
        if same_plan(plan, held.plan):
            return held.plan
        new = plan.model_copy(update={"version": held.plan.version + 1, "issued_at": format_timestamp(self.now())})
        role, blobs = self._plan_role(new, held.plan_role.signed.version + 1)
        self.finish(held, ChangeDraft(plan_role=role, plan=new, blobs=blobs))
        return new

    def renew(self, *roles: str) -> None:
        """Sign snapshot, timestamp and the named roles again, with new expiries.

        Raises:
            InsufficientSignatures: keys of a named role are not available.
        """
        held = self.held()
        draft = ChangeDraft()
        for role in draft.ROLES:
            if role in roles:
                draft.put(role, self.next_of(held.roles()[role], role))
        self.finish(held, draft)

    def finish(self, held: RepositoryState, draft: ChangeDraft) -> None:
        """Sign a draft and publish it; or stage it, if keys are missing and there is a folder to stage it.

        Raises:
            PlanInvalid: the plan would name a bundle that is not signed.
            InsufficientSignatures: the available keys do not suffice, and there is no folder to stage the change.
        """
        require_signed(*draft.result(held))
        missing = sign_draft(self.keys, held, draft)
        offline = draft.metadata() and not self.keys.available(held.root.signed.roles[TIMESTAMP].keyids)
        if self.stage and (missing or offline):
            self.stage(held, draft)
            self.staged = True
        elif missing:
            raise InsufficientSignatures(missing, self.keys)
        else:
            commit(self.place, self.keys, held, draft, self.now(), self.days)
            self._remember(held, draft)

    def _remember(self, held: RepositoryState, draft: ChangeDraft) -> None:
        changed = {role: metadata.signed.version for role, metadata in draft.metadata().items()}
        self.keys.remember_versions({**held.versions(), **changed})
        if draft.root is not None:
            self.keys.trust(layout.encode(draft.root))

    def next_of(self, metadata: Metadata[Kind], role: str) -> Metadata[Kind]:
        """Return a copy as the next version, without signatures."""
        following = Metadata(copy.deepcopy(metadata.signed))
        layout.issue(following.signed, metadata.signed.version + 1, self.now(), self.days[role])
        return following

    def _plan_role(self, plan: RolloutPlan, version: int) -> tuple[Metadata[Targets], dict[str, bytes]]:
        raw = plans.encode(plan)
        if len(raw) > plans.PLAN_BYTES_MAX:
            message = f"the plan has {len(raw)} bytes; the limit is {plans.PLAN_BYTES_MAX}"
            raise InvalidRequest(message, remedy="Put more into channels, and less into single sites.")
        target = TargetFile.from_data(plans.FILE_NAME, raw, ["sha256"])
        role = Metadata(Targets(targets={plans.FILE_NAME: target}))
        layout.issue(role.signed, version, self.now(), self.days[PLAN])
        return role, {layout.blob(repository_reader.sha256(raw)): raw}

    def _upload(self, bundle: PublishableBundle, advance: Advance) -> int:
        written = sum(self._upload_file(bundle, artifact, advance) for artifact in bundle.manifest.artifacts)
        path = layout.blob(bundle.digest)
        if self.place.size(path) != len(bundle.raw):
            self.place.write(path, bundle.raw)
            written += len(bundle.raw)
        return written

    def _upload_file(self, bundle: PublishableBundle, artifact: Artifact, advance: Advance) -> int:
        path = layout.blob(artifact.sha256)
        with bundle.opened(artifact) as file:
            if self.place.size(path) == artifact.size_bytes:
                return 0
            progress = partial(advance, f"uploading {artifact.path}")
            self.place.write(path, counted(chunked(file), artifact.size_bytes, progress))
        return artifact.size_bytes


def _signed(bundle: PublishableBundle) -> BundleTarget:
    of = bundle.manifest
    quality, golden = publishable_bundle.of_bundle(bundle), publishable_bundle.golden_origin_of(bundle)
    return BundleTarget(of.task.name, of.version, bundle.digest, of.size_bytes, quality, golden)


def _target(raw: bytes, signed: BundleTarget) -> TargetFile:
    target = TargetFile.from_data(layout.target_of(signed.task, signed.digest), raw, ["sha256"])
    custom: dict[str, Any] = {"task": signed.task, "version": signed.version, "size_bytes": signed.size_bytes}
    if signed.quality:
        custom[publishable_bundle.KEY] = publishable_bundle.encode(signed.quality)
    if signed.golden:
        custom[publishable_bundle.GOLDEN_KEY] = signed.golden
    target.unrecognized_fields["custom"] = custom
    return target


def _set_revoked(targets: Targets, digests: list[str]) -> None:
    targets.unrecognized_fields.pop(layout.REVOKED, None)
    if digests:
        targets.unrecognized_fields[layout.REVOKED] = digests


def _require_new_version(held: RepositoryState, signed: BundleTarget) -> None:
    for other in repository_reader.of_task(held.bundles(), signed.task):
        if other.version == signed.version and other.digest != signed.digest:
            message = f"{signed.task} {signed.version} is signed already, as another bundle: {other.digest[:12]}"
            raise InvalidRequest(message, remedy="Raise 'version' in task.yaml, and make the bundle again.")

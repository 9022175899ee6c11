"""The store of one site: installs, finds and removes bundles, each wholly or not at all.

    state_dir/lock            held while a process owns the directory
    state_dir/state.db        the installed bundles, and the active one of each task (state_database.py)
    state_dir/blobs/          their files, by content (blob_store.py)
    state_dir/settings.json   the engine settings that suit this machine (`TuningFile`)

A bundle exists when its row does, and the row is written after the last blob is durable; a row is deleted before its
blobs are. So a kill or power cut at any point leaves only blobs that no row names, and the next open deletes them. The
active and the previous bundle of every task are never deleted, except with the whole task.

A bundle whose stored manifest this agent cannot read keeps its row and its blobs, for the version that installed it. It
can be removed; using it raises an error with the reason. Other bundles are not affected.

Nothing depends on settings.json: settings that cannot be read are measured again. It is a separate file, because
engines report settings while another thread may use state.db, and an older agent ignores it.

Synchronous: calls block on the disk. One process owns a store, and one thread at a time uses it: in a daemon that is
`Store.thread`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import edge_agent
from edge_agent.durable.atomic_files import Ballast, disk_errors, is_disk_full, write_durably
from edge_agent.durable.disk_thread import DiskThread
from edge_agent.errors import (
    AmbiguousBundle,
    BundleInUse,
    BundleTooLarge,
    BundleUnreadable,
    BundleUnsigned,
    DiskFull,
    FileMissing,
    HashMismatch,
    ManifestInvalid,
    RequirementUnmet,
    StateDirInUse,
    StateDirUnwritable,
    StoreDamaged,
    UnknownBundle,
)
from edge_agent.formats import golden_cases
from edge_agent.formats.manifest import MANIFEST_NAME, Artifact, Manifest, digest_of, parse
from edge_agent.formatting import format_bytes, megabytes_to_free
from edge_agent.store import bundle_archive
from edge_agent.store.blob_store import BlobStore
from edge_agent.store.bundle_archive import BundleMember, StoreLimits
from edge_agent.store.state_database import BundleName, InstalledBundle, StateDatabase, UnreadableBundle, UpdateProgress

BUNDLE_ABSENT = (
    "'sudo edge-agent media import' of the USB drive that has it brings it, or 'edge-agent install PATH' of its file;"
    " 'edge-agent bundles list' shows what is installed."
)
StoredTuning = dict[str, dict[str, str]]


class TuningFile:
    """settings.json, which may be missing."""

    def __init__(self, path: Path) -> None:
        """Use the file at that path."""
        self._path = path

    def read(self) -> StoredTuning:
        """Return the stored settings; none if the file is missing, cannot be read or has another form."""
        try:
            stored = json.loads(self._path.read_bytes())
            return {
                str(key): {str(name): str(value) for name, value in settings.items()}
                for key, settings in stored.items()
            }
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def write(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the file. Raises DiskFull, StateDirUnwritable or StoreDamaged."""
        write_durably(self._path, json.dumps(settings, indent=1).encode())


__all__ = ["BundleName", "InstalledBundle", "Store", "StoreLimits", "UnreadableBundle"]

DIGEST_PREFIX_CHARACTERS_MIN = 8
ENGINE_ROLES = ("weights", "adapter", "tokenizer", "golden")
"""Roles of the files that an engine opens; a manifest has at most one file of each."""
_WAIT_REMEDY = "Wait for the uplink, or have the USB drive written again, with all its files."
_SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Store:
    """One owned state directory. Make it with `open`."""

    def __init__(
        self,
        blobs: BlobStore,
        state: StateDatabase,
        limits: StoreLimits,
        now: Callable[[], float],
        closing: ExitStack,
        ballast: Ballast,
    ) -> None:
        """Take over what `open` opened."""
        self._blobs, self._state = blobs, state
        self._limits, self._now = limits, now
        self._closing = closing
        self._ballast = ballast
        self.journal, self.trusted = state.journal, state.trusted
        self.modes, self.demotions = state.modes, state.demotions
        self.settings = TuningFile(state.path.with_name("settings.json"))
        self.thread = DiskThread("store")
        """Where a daemon calls these methods, one after the other; `Activation` stops it."""

    @classmethod
    def open(cls, state_dir: Path, limits: StoreLimits, now: Callable[[], float] = time.time) -> Store:
        """Open a state directory, creating what is missing; `now` gives seconds since 1970.

        Raises:
            StateDirUnwritable: the directory cannot be created or written.
            StateDirInUse: another process owns it; the message has its process id.
            DiskFull: it is new, and there is no space for it.
            StoreDamaged: state.db cannot be used; the remedy says what to do.
        """
        with ExitStack() as closing:
            closing.callback(os.close, _lock_directory(state_dir))
            blobs = BlobStore(state_dir / "blobs")
            ballast, may_create = Ballast(state_dir / "ballast"), blobs.used_bytes() == 0
            # The ballast lets a site with a full disk start again after a power cut: answers need no disk.
            state = ballast.run(lambda: StateDatabase(state_dir / "state.db", may_create))
            closing.callback(state.close)
            store = cls(blobs, state, limits, now, closing, ballast)
            store._collect()
            ballast.lay()
            store._closing = closing.pop_all()
        return store

    @property
    def readable(self) -> tuple[Path, ...]:
        """The folders that a process must read to load a bundle's files: absolute, without symbolic links."""
        return (self._blobs.folder.resolve(),)

    def close(self) -> None:
        """Close the files and give up the directory; closing twice is fine."""
        self._closing.close()

    def task_of(self, path: Path) -> str:
        """Return the task of a bundle directory or tar. Raises BundleError."""
        with bundle_archive.open_bundle(path, self._limits) as members:
            return parse(bundle_archive.manifest_bytes(members)).task.name

    def install(self, path: Path, allow_unsigned: bool, task: str = "") -> tuple[InstalledBundle, bool]:
        """Verify a bundle directory or tar and store it; return it, and whether it was new.

        Installing a bundle again checks the stored files too and replaces damaged ones. A new bundle does not answer
        until `set_active`. It may replace the oldest idle bundle of its task: see `bundles_per_task_max`. With `task`,
        the bundle must be of that task.

        Raises:
            BundleError: the bundle is refused; the message names the file and the rule. Nothing is left behind.
            DiskFull: it does not fit on the disk in addition to the reserve. Nothing is left behind.
        """
        with bundle_archive.open_bundle(path, self._limits) as members:
            manifest_bytes = bundle_archive.manifest_bytes(members)
            manifest = parse(manifest_bytes)
            if task not in ("", manifest.task.name):
                raise BundleUnreadable(f"{path} was of task {task} and is of task {manifest.task.name} now")
            _check_files(manifest, members, self._limits)
            _check_agent(manifest)
            if not allow_unsigned:
                message = f"bundle {manifest.task.name} {manifest.version} has no signature"
                raise BundleUnsigned(message, task=manifest.task.name, version=manifest.version)
            digest = digest_of(manifest_bytes)
            bundle = InstalledBundle(digest, manifest_bytes, manifest, signed=False, installed_at=self._now())
            added = self._add(bundle, members)
        return self._by_digest(digest), added

    def admit(self, manifest_bytes: bytes, files: Mapping[str, BundleMember]) -> InstalledBundle:
        """Store a bundle whose manifest is signed; it does not answer until `set_active`.

        `files` are its downloaded or imported files, by sha256; one that is intact in the store is not read from there.

        Raises:
            BundleError: the bundle is refused, or one of `files` is damaged. Nothing is left behind.
            FileMissing: a file is neither among `files` nor intact in the store; `sha256` is in its metadata.
            DiskFull: it does not fit on the disk in addition to the reserve. Nothing is left behind.
        """
        manifest = parse(manifest_bytes)
        _check_size(manifest, self._limits)
        _check_agent(manifest)
        members = {}
        for artifact in manifest.artifacts:
            if self.holds(artifact) and self._blobs.intact(artifact.sha256):
                continue
            member = files.get(artifact.sha256)
            if member is None:
                name = f"{manifest.task.name} {manifest.version}"
                message = f"{artifact.path} of bundle {name} has not come in: blobs/{artifact.sha256}"
                raise FileMissing(message, path=artifact.path, sha256=artifact.sha256, remedy=_WAIT_REMEDY)
            members[artifact.path] = member
        bundle = InstalledBundle(digest_of(manifest_bytes), manifest_bytes, manifest, True, self._now())
        self._add(bundle, members)
        return self._by_digest(bundle.digest)

    def holds(self, artifact: Artifact) -> bool:
        """Tell whether the store has a file of that hash and size; its content is not read."""
        return self._blobs.size(artifact.sha256) == artifact.size_bytes

    def bundles(self, task: str = "") -> list[InstalledBundle]:
        """Return the installed bundles that can be read, of one task or all: by task, the newest first."""
        return [bundle for bundle in self._state.bundles() if task in ("", bundle.manifest.task.name)]

    def unreadable(self) -> list[UnreadableBundle]:
        """Return the installed bundles that this agent cannot read: by task, the newest first."""
        return self._state.unreadable()

    def resolve(self, task: str, version_or_digest: str) -> BundleName:
        """Return the task's bundle with that version, digest, or digest prefix of at least 8 characters.

        Raises UnknownBundle, whose message lists what is installed, or AmbiguousBundle.
        """
        names = self._state.names()
        installed = [name for name in names if name.task == task]
        matches = [name for name in installed if _matches(name, version_or_digest)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            message = f"{len(matches)} bundles of task '{task}' match '{version_or_digest}': {_versions_text(matches)}"
            raise AmbiguousBundle(message, task=task, wanted=version_or_digest)
        if installed:
            message = f"task '{task}' has no bundle '{version_or_digest}'; installed: {_versions_text(installed)}"
            raise UnknownBundle(message, task=task, wanted=version_or_digest)
        tasks = sorted({name.task for name in names})
        message = f"task '{task}' has no bundle; tasks with bundles: {', '.join(tasks) or 'none'}"
        raise UnknownBundle(message, remedy=BUNDLE_ABSENT, task=task, wanted=version_or_digest)

    def find(self, task: str, version_or_digest: str) -> InstalledBundle:
        """Return the bundle that `resolve` finds. Raises as `resolve`, and StoreDamaged if it cannot be read."""
        return self._by_digest(self.resolve(task, version_or_digest).digest)

    def active(self) -> dict[str, InstalledBundle]:
        """Return the bundle that answers, by task; a task whose bundle cannot be read is left out."""
        readable = {bundle.digest: bundle for bundle in self._state.bundles()}
        return {task: readable[active] for task, (active, _) in self._state.pointers().items() if active in readable}

    def pointers(self) -> dict[str, tuple[str, str]]:
        """Return the digests of the active and of the previous bundle, readable or not, by task; empty = none."""
        return self._state.pointers()

    def previous(self, task: str) -> InstalledBundle | None:
        """Return the bundle that answered before the active one. Raises StoreDamaged if it cannot be read."""
        _, previous = self._state.pointers().get(task, ("", ""))
        return self._by_digest(previous) if previous else None

    def set_active(self, digest: str, progress: UpdateProgress | None = None) -> None:
        """Let a bundle answer for its task; the active one becomes the previous one. Repeating it changes nothing.

        `progress` is written to the journal in the same transaction. Raises UnknownBundle.
        """
        self._state.set_active(self._by_digest(digest).digest, progress)

    def remove(self, digest: str) -> int:
        """Delete a bundle; return the bytes freed. Raises UnknownBundle, or BundleInUse if it is active or previous."""
        name = self._name(digest)
        active, previous = self._state.pointers().get(name.task, ("", ""))
        if digest in (active, previous):
            uses = f"answers for task '{name.task}'", f"is what task '{name.task}' would roll back to"
            message = f"bundle {name.version} ({digest[:12]}) {uses[digest != active]}"
            raise BundleInUse(message, task=name.task, version=name.version, digest=digest)
        return self._delete(lambda: self._state.remove(digest))

    def remove_task(self, task: str) -> int:
        """Delete a task with all its bundles; return the bytes freed. Raises UnknownBundle."""
        if not any(name.task == task for name in self._state.names()):
            raise UnknownBundle(f"nothing is installed for a task called {task[:64]!r}", task=task[:64])
        return self._delete(lambda: self._state.remove_task(task))

    def _delete(self, delete_rows: Callable[[], None]) -> int:
        """Delete rows, and blobs that only they named; return the bytes freed."""
        self._ballast.run(delete_rows)
        freed = self._collect()
        self._ballast.lay()
        return freed

    def paths(self, bundle: InstalledBundle) -> dict[str, Path]:
        """Return the files that an engine opens, by role. Raises StoreDamaged if one is missing or has another size."""
        paths: dict[str, Path] = {}
        for artifact in bundle.manifest.artifacts:
            size = self._blobs.size(artifact.sha256)
            if size != artifact.size_bytes:
                is_now = "is missing" if size < 0 else f"has {size} bytes instead of {artifact.size_bytes}"
                name = f"{bundle.manifest.task.name} {bundle.manifest.version}"
                path = self._blobs.path(artifact.sha256)
                raise StoreDamaged(f"file {artifact.path} of bundle {name} {is_now}: {path}", path=path)
            if artifact.role in ENGINE_ROLES:
                paths[artifact.role] = self._blobs.path(artifact.sha256)
        return paths

    def usage(self) -> tuple[int, int]:
        """Return the bytes of all blobs, and the bytes free on their disk."""
        return self._blobs.used_bytes(), self._blobs.free_bytes()

    def _name(self, digest: str) -> BundleName:
        for name in self._state.names():
            if name.digest == digest:
                return name
        raise UnknownBundle(f"no bundle with digest '{digest}' is installed", digest=digest)

    def _by_digest(self, digest: str) -> InstalledBundle:
        self._name(digest)
        for broken in self._state.unreadable():
            if broken.name.digest == digest:
                raise broken.error
        return next(bundle for bundle in self._state.bundles() if bundle.digest == digest)

    def _add(self, bundle: InstalledBundle, members: dict[str, BundleMember]) -> bool:
        with ExitStack() as closing:
            closing.callback(self._collect)
            self._copy(bundle.manifest, members)
            for artifact in bundle.manifest.by_role("golden"):
                path = self._blobs.path(artifact.sha256)
                with disk_errors(path), path.open("rb") as file:
                    deque(golden_cases.read(file), maxlen=0)  # to its end; raises BundleUnreadable
            try:
                return self._state.add(bundle, self._limits.bundles_per_task_max)
            except StoreDamaged:
                # The failed commit may still be on the disk, which only the next open shows. So the blobs stay.
                closing.pop_all()
                raise

    def _copy(self, manifest: Manifest, members: dict[str, BundleMember]) -> None:
        """Copy the files in `members` into the store, which has the others already."""
        sizes = {artifact.sha256: artifact.size_bytes for artifact in manifest.artifacts}
        needed = sum(size for sha256, size in sizes.items() if self._blobs.size(sha256) != size)
        free, reserve = self._blobs.free_bytes(), self._limits.disk_reserve_bytes
        if needed and free - needed < reserve:
            short = needed + reserve - free
            message = (
                f"the bundle needs {format_bytes(needed)}; the disk has {format_bytes(free)} free,"
                f" of which {format_bytes(reserve)} stay reserved"
            )
            folder = self._state.path.parent
            remedy = f"Free {megabytes_to_free(short)} on the disk of {folder}. {DiskFull.remedy_default}"
            raise DiskFull(message, remedy=remedy, needed=needed, free=free, reserve=reserve)
        for artifact in manifest.artifacts:
            if artifact.path in members:
                self._blobs.put(artifact.path, artifact.sha256, members[artifact.path].chunks())

    def _collect(self) -> int:
        referenced = {file.sha256 for bundle in self._state.bundles() for file in bundle.manifest.artifacts}
        for broken in self._state.unreadable():
            # In any format, a blob is named by its sha256: keep every blob that the manifest may name.
            referenced |= {name.decode() for name in _SHA256.findall(broken.manifest_bytes)}
        return self._blobs.collect(referenced)


def _lock_directory(state_dir: Path) -> int:
    """Create the directory and lock it; return the descriptor that holds the lock."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot write the state directory {state_dir}: {error.strerror}"
        raise (DiskFull if is_disk_full(error) else StateDirUnwritable)(message, path=state_dir) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _write_process_id(fd)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        message = f"state directory {state_dir} is in use by process {holder or 'unknown'}"
        raise StateDirInUse(message, path=state_dir, pid=holder) from None
    except OSError as error:
        os.close(fd)
        message = f"cannot lock the state directory {state_dir}: {error.strerror}"
        raise StateDirUnwritable(message, path=state_dir) from None
    return fd


def _write_process_id(fd: int) -> None:
    """Write this process's id into the lock file; a full disk leaves it empty. Raises OSError."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        if not is_disk_full(error):
            raise


def _check_files(manifest: Manifest, members: dict[str, BundleMember], limits: StoreLimits) -> None:
    """Check the names and sizes in the bundle against the manifest and the limits."""
    manifest_paths = {artifact.path for artifact in manifest.artifacts} | {MANIFEST_NAME}
    for path in sorted(members.keys() - manifest_paths):
        raise ManifestInvalid(f"the bundle holds {path}, which {MANIFEST_NAME} does not name", path=path)
    for artifact in manifest.artifacts:
        if artifact.path not in members:
            message = f"the bundle has no {artifact.path}, which {MANIFEST_NAME} names as {artifact.role}"
            raise FileMissing(message, path=artifact.path, remedy="Copy the bundle again, with all its files.")
        actual = members[artifact.path].size_bytes
        if actual != artifact.size_bytes:
            message = f"{artifact.path} has {actual} bytes; the manifest says {artifact.size_bytes}"
            raise HashMismatch(message, path=artifact.path, expected=artifact.size_bytes, actual=actual)
    _check_size(manifest, limits)


def _check_size(manifest: Manifest, limits: StoreLimits) -> None:
    if manifest.size_bytes > limits.bundle_bytes_max:
        message = f"the bundle has {manifest.size_bytes} bytes; the limit is {limits.bundle_bytes_max}"
        raise BundleTooLarge(message, size=manifest.size_bytes, limit=limits.bundle_bytes_max)


def _check_agent(manifest: Manifest) -> None:
    needed, actual = manifest.requires.agent, edge_agent.__version__
    if _version_numbers(needed) > _version_numbers(actual):
        message = f"the bundle needs edge-agent {needed} or newer; this is {actual}"
        raise RequirementUnmet(message, remedy="Update edge-agent.", needed=needed, actual=actual)


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _matches(name: BundleName, version_or_digest: str) -> bool:
    is_prefix = len(version_or_digest) >= DIGEST_PREFIX_CHARACTERS_MIN and name.digest.startswith(version_or_digest)
    return is_prefix or version_or_digest == name.version


def _versions_text(names: list[BundleName]) -> str:
    return ", ".join(f"{name.version} ({name.digest[:12]})" for name in names)

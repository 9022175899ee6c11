"""A store beside a model of it: whatever is done in whatever order, they agree, and so does the disk."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.errors import BundleInUse, HashMismatch, UnknownBundle
from edge_agent.store.bundle_store import Store
from tests.support.bundles import digest_of, manifest_of
from tests.support.store_cases import LIMITS, blob_names, bundle, tar_of

TASKS = ("pos", "assistant")
VERSIONS = ("1.0.0", "1.1.0", "2.0.0", "2.1.0")
KEPT = 3

tasks = st.sampled_from(TASKS)
versions = st.sampled_from(VERSIONS)


@dataclass(frozen=True)
class Source:
    """A bundle on the drive: as a directory and a tar, and once spoilt."""

    folder: Path
    tar: Path
    spoilt: Path
    digest: str
    blobs: frozenset[str]


@functools.cache
def source(task: str, version: str) -> Source:
    """Write a bundle once; all share a base, and each major version shares an adapter."""
    at = _drives() / task / version
    files = {
        "weights": b"base",
        "adapter": version[:1].encode(),
        "golden": b'{"input": "%s %s"}' % (task.encode(), version.encode()),
    }
    folder = bundle(at / "whole", version, task, **files)
    spoilt = bundle(at / "spoilt", version, task, **files)
    (spoilt / "golden.bin").write_bytes(b"?" * len(files["golden"]))
    blobs = frozenset(artifact.sha256 for artifact in manifest_of(folder).artifacts)
    return Source(folder, tar_of(folder, at / "whole.tar"), spoilt, digest_of(folder), blobs)


@functools.cache
def _drives() -> Path:
    return Path(tempfile.mkdtemp(prefix="drives-"))


@pytest.fixture(scope="module", autouse=True)
def _clean_up() -> object:
    yield
    if _drives.cache_info().currsize:
        shutil.rmtree(_drives())


@dataclass
class Task:
    """What the model knows of a task: installed versions (oldest first), and which one answers."""

    installed: list[str] = field(default_factory=list)
    active: str = ""
    previous: str = ""


class StoreMachine(RuleBasedStateMachine):
    """Install, activate, roll back, remove, close and open, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state_dir = Path(tempfile.mkdtemp(prefix="store-"))
        self.model = {task: Task() for task in TASKS}
        self.store = self.open()

    def open(self) -> Store:
        return Store.open(self.state_dir, replace(LIMITS, bundles_per_task_max=KEPT))

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.state_dir)

    @rule(task=tasks, version=versions, as_tar=st.booleans())
    def install(self, task: str, version: str, as_tar: bool) -> None:
        known, wanted = self.model[task], source(task, version)
        bundle, new = self.store.install(wanted.tar if as_tar else wanted.folder, allow_unsigned=True)
        assert (wanted.digest, version not in known.installed) == (bundle.digest, new)
        if new:
            known.installed.append(version)
            idle = [each for each in known.installed[:-1] if each not in (known.active, known.previous)]
            for spare in idle[: max(0, len(known.installed) - KEPT)]:
                known.installed.remove(spare)

    @rule(task=tasks, version=versions)
    def install_spoilt(self, task: str, version: str) -> None:
        with pytest.raises(HashMismatch):
            self.store.install(source(task, version).spoilt, allow_unsigned=True)

    @rule(task=tasks, version=versions)
    def activate(self, task: str, version: str) -> None:
        known = self.model[task]
        if version not in known.installed:
            with pytest.raises(UnknownBundle):
                self.store.set_active(source(task, version).digest)
            return
        self.store.set_active(self.store.find(task, version).digest)
        if version != known.active:
            known.active, known.previous = version, known.active

    @rule(task=tasks)
    def roll_back(self, task: str) -> None:
        known, previous = self.model[task], self.store.previous(task)
        assert known.previous == (previous.manifest.version if previous else "")
        if previous:
            self.store.set_active(previous.digest)
            known.active, known.previous = known.previous, known.active

    @rule(task=tasks, version=versions)
    def remove(self, task: str, version: str) -> None:
        known, digest = self.model[task], source(task, version).digest
        if version in (known.active, known.previous):
            with pytest.raises(BundleInUse):
                self.store.remove(digest)
        elif version in known.installed:
            self.store.remove(digest)
            known.installed.remove(version)

    @precondition(lambda self: any(task.installed for task in self.model.values()))
    @rule(data=st.data())
    def remove_task(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, task in self.model.items() if task.installed]))
        self.store.remove_task(name)
        self.model[name] = Task()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @invariant()
    def the_store_agrees(self) -> None:
        for task, known in self.model.items():
            found = [bundle.manifest.version for bundle in self.store.bundles(task)]
            assert known.installed[::-1] == found
        active = {task: known.active for task, known in self.model.items() if known.active}
        assert active == {task: bundle.manifest.version for task, bundle in self.store.active().items()}

    @invariant()
    def the_disk_agrees(self) -> None:
        kept = [source(task, version) for task, known in self.model.items() for version in known.installed]
        assert set().union(*(each.blobs for each in kept)) == blob_names(self.state_dir)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=20)

"""Finding, activating and removing bundles, and which blobs garbage collection keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from edge_agent.errors import AmbiguousBundle, BundleInUse, StoreDamaged, UnknownBundle
from edge_agent.store.bundle_store import InstalledBundle, Store
from tests.support.store_cases import GOLDEN, LIMITS, as_of_another_agent, blob_names, bundle, sha256_of

BASE = b"the base that all versions share"
_numbers = count()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store in tmp_path/state, whose clock runs backwards."""
    ticks = count(1000.0, -1.0)
    opened = Store.open(tmp_path / "state", replace(LIMITS, bundles_per_task_max=4), now=lambda: next(ticks))
    yield opened
    opened.close()


def install(store: Store, tmp_path: Path, version: str, task: str = "pos", **files: bytes) -> InstalledBundle:
    """Install a bundle that shares its weights with the others and has its own adapter."""
    files = {"weights": BASE, "adapter": f"{task} {version}".encode(), **files}
    folder = bundle(tmp_path / f"bundle{next(_numbers)}", version, task, **files)
    return store.install(folder, allow_unsigned=True)[0]


def adapters(*names: str) -> set[str]:
    """Return the expected blobs: the base and these adapters."""
    return {sha256_of(BASE)} | {sha256_of(name.encode()) for name in names}


def test_bundles_are_listed_newest_first(store: Store, tmp_path: Path) -> None:
    """Bundles are sorted by task, then by order of installation, whatever the clock shows."""
    old, new = (install(store, tmp_path, version) for version in ("2.0.0", "1.0.0"))
    other = install(store, tmp_path, "1.0.0", task="assistant")
    assert [other, new, old] == store.bundles()
    assert [new, old] == store.bundles("pos")
    assert [] == store.bundles("nothing")


def test_a_bundle_is_found_by_version_digest_or_prefix(store: Store, tmp_path: Path) -> None:
    """A bundle is found by version, digest, or the first 8 or more characters of the digest."""
    first, second = (install(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    for wanted in ("1.0.0", first.digest, first.digest[:8]):
        assert first == store.find("pos", wanted)
    assert second == store.find("pos", "2.0.0")


@pytest.mark.parametrize("wanted", ["3.0.0", "", "0" * 64, "ffffffff"])
def test_error_for_a_missing_bundle_lists_the_installed_ones(store: Store, tmp_path: Path, wanted: str) -> None:
    """The error lists the installed versions with their digests; a prefix of 7 characters finds nothing."""
    first = install(store, tmp_path, "1.0.0")
    with pytest.raises(UnknownBundle, match=rf"no bundle '{wanted}'; installed: 1\.0\.0 \({first.digest[:12]}\)"):
        store.find("pos", wanted)
    with pytest.raises(UnknownBundle):
        store.find("pos", first.digest[:7])


def test_error_for_an_unknown_task_lists_tasks_with_bundles(store: Store, tmp_path: Path) -> None:
    """The error lists the tasks that have bundles, or 'none'."""
    with pytest.raises(UnknownBundle, match="tasks with bundles: none"):
        store.find("pos", "1.0.0")
    install(store, tmp_path, "1.0.0")
    with pytest.raises(UnknownBundle, match="task 'x' has no bundle; tasks with bundles: pos"):
        store.find("x", "1.0.0")


def test_one_version_twice_is_ambiguous(store: Store, tmp_path: Path) -> None:
    """If two bundles have one version, the error has both digests, and each digest finds its bundle."""
    both = [install(store, tmp_path, "1.0.0", golden=golden) for golden in (GOLDEN, GOLDEN + b"\n")]
    with pytest.raises(AmbiguousBundle) as caught:
        store.find("pos", "1.0.0")
    assert all(each.digest[:12] in caught.value.message for each in both)
    assert both == [store.find("pos", each.digest) for each in both]


def test_activating_moves_the_active_one_to_previous(store: Store, tmp_path: Path) -> None:
    """Activating a bundle makes the active one the previous; activating it again changes nothing, and returning swaps
    both."""
    first, second = (install(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    store.set_active(first.digest)
    assert ({"pos": first}, None) == (store.active(), store.previous("pos"))
    store.set_active(second.digest)
    store.set_active(second.digest)
    assert ({"pos": second}, first) == (store.active(), store.previous("pos"))
    store.set_active(first.digest)
    assert ({"pos": first}, second) == (store.active(), store.previous("pos"))


def test_tasks_have_separate_pointers(store: Store, tmp_path: Path) -> None:
    """Each task has its own active and previous bundle."""
    first, second = (install(store, tmp_path, "1.0.0", task) for task in ("pos", "assistant"))
    store.set_active(first.digest)
    store.set_active(second.digest)
    assert {"assistant": second, "pos": first} == store.active()
    assert None is store.previous("pos")


def test_the_state_survives_closing(store: Store, tmp_path: Path) -> None:
    """After closing and opening, the store has the same bundles and pointers."""
    first, second = (install(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    store.set_active(first.digest)
    store.set_active(second.digest)
    store.close()
    again = Store.open(tmp_path / "state", LIMITS)
    assert ([second, first], {"pos": second}, first) == (again.bundles(), again.active(), again.previous("pos"))
    again.close()


def test_unknown_digest_can_be_neither_activated_nor_removed(store: Store) -> None:
    """Activating or removing a bundle that is not installed raises UnknownBundle."""
    for call in (store.set_active, store.remove):
        with pytest.raises(UnknownBundle, match="0000"):
            call("0" * 64)
    with pytest.raises(UnknownBundle, match="nothing is installed"):
        store.remove_task("pos")


def test_removing_a_bundle_deletes_only_its_own_blobs(store: Store, tmp_path: Path) -> None:
    """Removing a bundle deletes its adapter, returns those bytes, and keeps the shared base."""
    first = install(store, tmp_path, "1.0.0")
    install(store, tmp_path, "2.0.0")
    assert len("pos 1.0.0") == store.remove(first.digest)
    assert adapters("pos 2.0.0") == blob_names(tmp_path / "state")


def test_active_and_previous_bundles_cannot_be_removed(store: Store, tmp_path: Path) -> None:
    """The error says why the bundle is needed, and its files stay."""
    first, second = (install(store, tmp_path, version) for version in ("1.0.0", "2.0.0"))
    store.set_active(first.digest)
    store.set_active(second.digest)
    with pytest.raises(BundleInUse, match=r"bundle 2\.0\.0 .* answers for task 'pos'"):
        store.remove(second.digest)
    with pytest.raises(BundleInUse, match=r"bundle 1\.0\.0 .* is what task 'pos' would roll back to"):
        store.remove(first.digest)
    assert adapters("pos 1.0.0", "pos 2.0.0") == blob_names(tmp_path / "state")


def test_a_third_activation_releases_the_first(store: Store, tmp_path: Path) -> None:
    """After a third activation the first bundle is neither active nor previous and can be removed."""
    first, second, third = (install(store, tmp_path, version) for version in ("1.0.0", "2.0.0", "3.0.0"))
    for each in (first, second, third):
        store.set_active(each.digest)
    store.remove(first.digest)
    assert [third, second] == store.bundles()


def test_removing_a_task_removes_all_its_bundles(store: Store, tmp_path: Path) -> None:
    """Removing a task removes its active, previous and idle bundles; the base that another task shares stays."""
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        store.set_active(install(store, tmp_path, version).digest)
    other = install(store, tmp_path, "1.0.0", task="assistant")
    assert 3 * len("pos 1.0.0") == store.remove_task("pos")
    assert ([other], {}, None) == (store.bundles(), store.active(), store.previous("pos"))
    assert adapters("assistant 1.0.0") == blob_names(tmp_path / "state")


def test_oldest_idle_bundle_is_removed_at_the_limit(store: Store, tmp_path: Path) -> None:
    """With a limit of 4, an installation removes the oldest idle bundle and keeps the active and previous ones."""
    bundles = [install(store, tmp_path, f"{i}.0.0") for i in range(4)]
    store.set_active(bundles[0].digest)
    store.set_active(bundles[1].digest)
    fifth = install(store, tmp_path, "4.0.0")
    assert [fifth, bundles[3], bundles[1], bundles[0]] == store.bundles()
    assert adapters("pos 0.0.0", "pos 1.0.0", "pos 3.0.0", "pos 4.0.0") == blob_names(tmp_path / "state")


def test_limit_never_removes_the_active_or_previous_bundle(tmp_path: Path) -> None:
    """With a limit of 2, a third bundle is kept beside the active and previous ones until another is installed."""
    store = Store.open(tmp_path / "state", replace(LIMITS, bundles_per_task_max=2))
    first, second, third = (install(store, tmp_path, f"{i}.0.0") for i in range(3))
    assert [third, second] == store.bundles()
    with pytest.raises(UnknownBundle):
        store.set_active(first.digest)
    store.set_active(second.digest)
    store.set_active(third.digest)
    fourth = install(store, tmp_path, "4.0.0")
    fifth = install(store, tmp_path, "5.0.0")
    assert [fifth, third, second] == store.bundles()
    assert fourth not in store.bundles()
    store.close()


def test_unreadable_bundle_keeps_its_files_until_removed(store: Store, tmp_path: Path) -> None:
    """A bundle of another agent version keeps its files and does not affect the others; it is listed as unreadable and
    can be removed."""
    known, _ = install(store, tmp_path, "1.0.0"), install(store, tmp_path, "2.0.0")
    store.close()
    strange = as_of_another_agent(tmp_path / "state", "2.0.0")
    again = Store.open(tmp_path / "state", LIMITS)
    assert adapters("pos 1.0.0", "pos 2.0.0") == blob_names(tmp_path / "state")
    assert [known] == again.bundles()
    assert [strange] == [broken.name.digest for broken in again.unreadable()]
    assert known == again.find("pos", "1.0.0")
    with pytest.raises(StoreDamaged, match="cannot read the installed bundle"):
        again.find("pos", "2.0.0")
    assert len(b"pos 2.0.0") == again.remove(strange)
    assert adapters("pos 1.0.0") == blob_names(tmp_path / "state")
    again.close()

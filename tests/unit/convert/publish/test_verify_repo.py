"""`verify-repo`: finds and names each kind of damage, and reports none for a complete repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.publish import layout
from convert.publish.commit import ChangeDraft, commit, sign_draft
from convert.publish.repository_check import CheckScope, RepositoryFindings, check
from convert.publish.repository_storage import FolderStorage
from edge_agent.errors import InvalidRequest
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam

DAY = 86_400


class Fleet:
    """A repository with three roots, two bundles with the same weights, and a plan for one of them."""

    def __init__(self, root: Path) -> None:
        self.central = CentralTeam(root)
        self.digests = [
            self.central.publish(echo_bundle(root / version, weights=b"weights", version=version))
            for version in ("1.0.0", "1.1.0")
        ]
        self.central.plan(self.central.offering(self.digests[1]))
        self.central.rotate_root()
        self.central.rotate("online")
        self.central.publisher.renew()

    def blob(self, content: bytes) -> Path:
        """Return the blob with this content."""
        return next(path for path in (self.central.folder / "blobs").iterdir() if path.read_bytes() == content)

    def manifest(self) -> Path:
        """Return the manifest of the second bundle."""
        return self.central.folder / layout.blob_path(self.digests[1])

    def check(self, days_later: float = 0, **scope) -> RepositoryFindings:
        """Check the repository."""
        now = self.central.now() + days_later * DAY
        return check(
            FolderStorage(self.central.folder), self.central.root_bytes, now, CheckScope(**scope), lambda *_: None
        )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Return an undamaged repository."""
    return Fleet(tmp_path)


def test_complete_repository_has_no_problems(fleet: Fleet):
    """A complete repository has no problems and no warnings, and a blob shared by two bundles is read once."""
    found = fleet.check()
    assert ([], [], 3, len(b"weights")) == (found.problems, found.warnings, found.blobs, found.bytes_read)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    """Remove the last byte."""
    path.write_bytes(path.read_bytes()[:-1])


FILES: dict[str, Callable[[Fleet], Path]] = {
    "timestamp": lambda fleet: fleet.central.metadata("timestamp"),
    "snapshot": lambda fleet: fleet.central.metadata("snapshot"),
    "targets": lambda fleet: fleet.central.metadata("targets"),
    "plan": lambda fleet: fleet.central.metadata("plan"),
    "first root": lambda fleet: fleet.central.folder / "metadata" / "1.root.json",
    "a root": lambda fleet: fleet.central.folder / "metadata" / "2.root.json",
    "newest root": lambda fleet: fleet.central.folder / "metadata" / "3.root.json",
    "plan file": lambda fleet: fleet.central.folder
    / next(path for path in fleet.central.held.files if path.startswith("blobs/")),
    "manifest": lambda fleet: fleet.manifest(),
    "weights": lambda fleet: fleet.blob(b"weights"),
}


@pytest.mark.parametrize("how", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "timestamp"])
def test_each_damaged_file_is_named(fleet: Fleet, name: str, how: Callable[[Path], None]):
    """A file with a flipped bit, without its last byte, or missing is named in a problem."""
    path = FILES[name](fleet)
    how(path)
    problems = fleet.check().problems
    # Without the newest root what follows it fits no more, and that is what is seen.
    shown = "timestamp.json" if (name, how) == ("newest root", Path.unlink) else path.name
    assert any(shown in problem for problem in problems), problems


@pytest.mark.parametrize("how", [flip, cut], ids=["flipped", "cut"])
def test_damaged_timestamp_is_named(fleet: Fleet, how: Callable[[Path], None]):
    """A damaged timestamp.json is named in a problem."""
    how(fleet.central.metadata("timestamp"))
    assert any("timestamp.json" in problem for problem in fleet.check().problems)


def test_missing_timestamp_means_no_repository(fleet: Fleet):
    """Without timestamp.json the check fails with `no repository`."""
    fleet.central.metadata("timestamp").unlink()
    with pytest.raises(InvalidRequest, match="no repository"):
        fleet.check()


def test_missing_old_root_is_found(fleet: Fleet):
    """A missing older root is reported even if the check starts from the newest root, because older sites could not
    update."""
    (fleet.central.folder / "metadata" / "2.root.json").unlink()
    anchor = (fleet.central.keys / "root.json").read_bytes()
    found = check(FolderStorage(fleet.central.folder), anchor, fleet.central.now(), CheckScope(), lambda *_: None)
    assert ["metadata/2.root.json is missing: sites with an older root cannot update"] == found.problems


def test_expiry_is_a_warning_first_and_then_a_problem(fleet: Fleet):
    """A role that expires within two weeks is a warning, and an expired role is a problem."""
    assert ["timestamp"] == [warning.split("'")[1] for warning in fleet.check(20).warnings]
    late = fleet.check(31)
    assert ([], 1, True) == (late.warnings, len(late.problems), "'timestamp' has expired" in late.problems[0])


def test_root_of_another_fleet_is_a_problem(fleet: Fleet, tmp_path: Path):
    """A repository that does not follow from the given root has one problem, which names the root of trust."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    found = check(FolderStorage(fleet.central.folder), other.root_bytes, other.now(), CheckScope(), lambda *_: None)
    assert ["not the root of trust" in problem for problem in found.problems] == [True]


def test_plan_with_unsigned_bundle_is_a_problem(fleet: Fleet):
    """A plan that names an unsigned bundle is a problem, because sites refuse it; no command can make such a plan."""
    target = layout.target_of("pos-intent", fleet.digests[1])
    held = fleet.central.held
    targets = fleet.central.publisher.next_of(held.targets, "targets")
    del targets.signed.targets[target]
    draft, publisher = ChangeDraft(targets=targets), fleet.central.publisher
    assert [] == sign_draft(publisher.keys, held, draft)
    commit(publisher.storage, publisher.keys, held, draft, publisher.now(), publisher.days)
    assert any("is not signed" in problem for problem in fleet.check().problems)


def test_shallow_check_compares_sizes_only(fleet: Fleet):
    """A check without reading blobs finds a lost byte but not a flipped bit."""
    flip(fleet.blob(b"weights"))
    assert ([], 0) == (fleet.check(deep=False).problems, fleet.check(deep=False).bytes_read)
    damaged = next(path for path in (fleet.central.folder / "blobs").iterdir() if path.stat().st_size == 7)
    cut(damaged)
    assert ["has 6 bytes; it should have 7" in problem for problem in fleet.check(deep=False).problems] == [True]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify-repo", *map(str, arguments)])
    return result.exit_code, result.output


def test_verify_repo_prints_problems_and_exit_code(fleet: Fleet):
    """`verify-repo` exits with 1 and a line for each problem, with 0 and the earliest expiry if there is none, and has
    a JSON form."""
    root = fleet.central.keys / "root.json"
    code, said = run(fleet.central.folder, "--root", root)
    assert (0, True, True) == (code, "nothing is wrong" in said, "earliest expiry: timestamp" in said)
    code, said = run(fleet.central.folder, "--root", "/dev/zero")
    assert (2, True) == (code, "/dev/zero has more than" in said)
    fleet.blob(b"weights").unlink()
    code, said = run(fleet.central.folder, "--root", root)
    assert (1, True) == (code, "wrong: blobs/" in said)
    code, said = run(fleet.central.folder, "--root", root, "--json")
    plain = json.loads(said)
    assert (1, 1, 2) == (code, len(plain["problems"]), len(plain["bundles"]))
    assert plain["expires"].keys() == {"root", "targets", "plan", "snapshot", "timestamp"}


def test_verify_repo_site_needs_media(fleet: Fleet):
    """`verify-repo --site` without --media is refused, because everything is checked then."""
    code, said = run(fleet.central.folder, "--root", fleet.central.keys / "root.json", "--site", "till-1")
    assert (False, True) == (code == 0, "Add --media" in said), said


def test_drive_is_complete_with_the_planned_bundles(fleet: Fleet, tmp_path: Path):
    """With --media a drive is complete if it has the bundles of the plan; without --media the other signed bundle is
    missing."""
    drive = fleet.central.drive(tmp_path / "drive")
    root = fleet.central.keys / "root.json"
    assert 1 == run(drive, "--root", root)[0]
    assert 0 == run(drive, "--root", root, "--media")[0]
    assert 0 == run(drive, "--root", root, "--media", "--site", "shop-1", "--channel", "stable")[0]
    shutil.rmtree(drive / "blobs")
    assert 1 == run(drive, "--root", root, "--media")[0]

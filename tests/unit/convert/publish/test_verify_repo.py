"""verify-repo: each kind of damage is found and named, and a whole repository is whole."""

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
    """A repository with three roots, two bundles of shared weights, and a plan for one of them."""

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
        """Return the blob that holds something."""
        return next(path for path in (self.central.folder / "blobs").iterdir() if path.read_bytes() == content)

    def manifest(self) -> Path:
        """Return the manifest of the second bundle."""
        return self.central.folder / layout.blob_path(self.digests[1])

    def check(self, days_later: float = 0, **scope) -> RepositoryFindings:
        """Look at it."""
        now = self.central.now() + days_later * DAY
        return check(
            FolderStorage(self.central.folder), self.central.root_bytes, now, CheckScope(**scope), lambda *_: None
        )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Return a repository that is whole."""
    return Fleet(tmp_path)


def test_a_whole_repository_is_whole(fleet: Fleet):
    """Every file of every bundle is read once, however many bundles share it."""
    found = fleet.check()
    assert ([], [], 3, len(b"weights")) == (found.problems, found.warnings, found.blobs, found.bytes_read)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    """Lose the last byte."""
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
    """A bit that has changed, a byte that is lost, a file that is gone: the problem says which file."""
    path = FILES[name](fleet)
    how(path)
    problems = fleet.check().problems
    # Without the newest root what follows it fits no more, and that is what is seen.
    shown = "timestamp.json" if (name, how) == ("newest root", Path.unlink) else path.name
    assert any(shown in problem for problem in problems), problems


@pytest.mark.parametrize("how", [flip, cut], ids=["flipped", "cut"])
def test_a_damaged_timestamp_is_named(fleet: Fleet, how: Callable[[Path], None]):
    """Everything hangs on it."""
    how(fleet.central.metadata("timestamp"))
    assert any("timestamp.json" in problem for problem in fleet.check().problems)


def test_without_a_timestamp_there_is_no_repository(fleet: Fleet):
    """The command says that there is none."""
    fleet.central.metadata("timestamp").unlink()
    with pytest.raises(InvalidRequest, match="no repository"):
        fleet.check()


def test_an_old_root_that_is_gone_is_found_from_the_newest(fleet: Fleet):
    """Who trusts the newest root sees all the same that sites with an older one cannot go on."""
    (fleet.central.folder / "metadata" / "2.root.json").unlink()
    anchor = (fleet.central.keys / "root.json").read_bytes()
    found = check(FolderStorage(fleet.central.folder), anchor, fleet.central.now(), CheckScope(), lambda *_: None)
    assert ["metadata/2.root.json is missing: sites with an older root cannot update"] == found.problems


def test_expiry_is_a_warning_first_and_then_a_problem(fleet: Fleet):
    """Two weeks before, the command that renews is named."""
    assert ["timestamp"] == [warning.split("'")[1] for warning in fleet.check(20).warnings]
    late = fleet.check(31)
    assert ([], 1, True) == (late.warnings, len(late.problems), "'timestamp' has expired" in late.problems[0])


def test_another_fleets_root_fits_nothing(fleet: Fleet, tmp_path: Path):
    """The repository is held against the root that was named."""
    other = CentralTeam(tmp_path / "other", whose="theirs")
    found = check(FolderStorage(fleet.central.folder), other.root_bytes, other.now(), CheckScope(), lambda *_: None)
    assert ["not the root of trust" in problem for problem in found.problems] == [True]


def test_a_plan_that_names_what_is_not_signed_is_a_problem(fleet: Fleet):
    """Sites refuse it whole. No command makes one: it takes the keys and other tools."""
    target = layout.target_of("pos-intent", fleet.digests[1])
    held = fleet.central.held
    targets = fleet.central.publisher.next_of(held.targets, "targets")
    del targets.signed.targets[target]
    draft, publisher = ChangeDraft(targets=targets), fleet.central.publisher
    assert [] == sign_draft(publisher.keys, held, draft)
    commit(publisher.storage, publisher.keys, held, draft, publisher.now(), publisher.days)
    assert any("is not signed" in problem for problem in fleet.check().problems)


def test_sizes_alone_are_quick(fleet: Fleet):
    """A flipped bit is not seen, a lost byte is."""
    flip(fleet.blob(b"weights"))
    assert ([], 0) == (fleet.check(deep=False).problems, fleet.check(deep=False).bytes_read)
    damaged = next(path for path in (fleet.central.folder / "blobs").iterdir() if path.stat().st_size == 7)
    cut(damaged)
    assert ["has 6 bytes; it should have 7" in problem for problem in fleet.check(deep=False).problems] == [True]


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify-repo", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_says_what_is_wrong(fleet: Fleet):
    """Exit code 1 and a line for each problem; 0 and the earliest expiry when nothing is."""
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


def test_sites_are_named_for_a_drive_alone(fleet: Fleet):
    """Without --media everything is checked, so that --site would choose nothing: it is refused."""
    code, said = run(fleet.central.folder, "--root", fleet.central.keys / "root.json", "--site", "till-1")
    assert (False, True) == (code == 0, "Add --media" in said), said


def test_a_drive_is_whole_with_what_the_plan_wants(fleet: Fleet, tmp_path: Path):
    """The other signed bundle is not on it, and need not be."""
    drive = fleet.central.drive(tmp_path / "drive")
    root = fleet.central.keys / "root.json"
    assert 1 == run(drive, "--root", root)[0]
    assert 0 == run(drive, "--root", root, "--media")[0]
    assert 0 == run(drive, "--root", root, "--media", "--site", "shop-1", "--channel", "stable")[0]
    shutil.rmtree(drive / "blobs")
    assert 1 == run(drive, "--root", root, "--media")[0]

"""What clients of the last release count on is still there, and a change that would break one is caught."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.errors import BY_REASON

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / "proto" / "released"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The parts of the tree that scripts/breaking looks at, to be changed."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/breaking", "buf.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def breaking(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tree / "scripts/breaking", *arguments], capture_output=True, text=True, check=False)


def change(tree: Path, name: str, old: str, new: str) -> None:
    path = tree / "proto" / "edge_agent" / "v1" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_api_keeps_what_the_last_release_had(tree):
    """Nothing of it is gone, and the newest release is the one compared with."""
    newest = max(RELEASED.glob("*.binpb"), key=lambda path: [int(part) for part in path.stem.split(".")])
    ended = breaking(tree)
    assert (0, f"note: compared with release {newest.stem}\n") == (ended.returncode, ended.stdout), ended.stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("inference.proto", "  uint32 top_k = 5;\n", "  uint32 top_n = 5;\n", 'name from "top_k" to "top_n"'),
        ("inference.proto", "uint32 top_k = 5;", "uint32 top_k = 6;", 'field "5" with name "top_k" on message'),
        ("task.proto", "uint32 inputs_max = 3;", "string inputs_max = 3;", 'type from "uint32" to "string"'),
        ("task.proto", "  // The model on this machine.\n  ROUTE_LOCAL = 1;\n", "", 'enum value "1" on enum "Route"'),
        ("admin.proto", "rpc Drain(DrainRequest)", "rpc Empty(DrainRequest)", 'RPC "Drain"'),
    ],
)
def test_a_change_that_breaks_a_client_is_caught(tree, name, old, new, said):
    """Renamed, renumbered, of another type, or gone: it fails, with the file and what it was."""
    change(tree, name, old, new)
    ended = breaking(tree)
    assert 0 != ended.returncode
    assert said in ended.stdout
    assert f"edge_agent/v1/{name}:" in ended.stdout


def test_what_is_added_breaks_nobody(tree):
    """A new field, and a new file."""
    change(tree, "inference.proto", "  uint32 top_k = 5;\n", "  uint32 top_k = 5;\n  uint32 more = 99;\n")
    (tree / "proto/edge_agent/v1/new.proto").write_text('syntax = "proto3";\npackage edge_agent.v1;\nmessage New {}\n')
    assert 0 == breaking(tree).returncode


def test_another_tree_can_be_compared_with(tree, tmp_path_factory):
    """scripts/check does so with the commit before."""
    before = tmp_path_factory.mktemp("before")
    shutil.copytree(tree / "proto", before / "proto")
    shutil.copy(tree / "buf.yaml", before)
    change(tree, "inference.proto", "uint32 top_k = 5;", "uint32 top_k = 6;")
    assert 'with name "top_k"' in breaking(tree, str(before)).stdout


@pytest.mark.parametrize("kept", sorted(RELEASED.glob("*.reasons")), ids=lambda path: path.stem)
def test_no_reason_of_a_release_is_gone(kept):
    """Programs test for them; a new one may come."""
    assert [] == sorted(set(kept.read_text(encoding="utf-8").split()) - set(BY_REASON))


def test_every_release_has_its_reasons():
    """`scripts/breaking --release` writes both files."""
    assert {path.stem for path in RELEASED.glob("*.binpb")} == {path.stem for path in RELEASED.glob("*.reasons")}


def test_every_file_names_one_go_package():
    """protoc-gen-go refuses a file without one. scripts/breaking lets it be added, so this holds what it is."""
    line = 'option go_package = "edge_agent/v1;edgeagentv1";\n'
    files = sorted((ROOT / "proto" / "edge_agent" / "v1").glob("*.proto"))
    assert files
    assert [] == [path.name for path in files if 1 != path.read_text(encoding="utf-8").count(line)]

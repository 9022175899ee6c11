"""The API of the last release is kept, and a breaking change is detected."""

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
    """Copy the parts of the tree that scripts/breaking reads."""
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


def test_api_is_compatible_with_the_last_release(tree):
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
def test_breaking_change_is_reported(tree, name, old, new, said):
    """A renamed, renumbered, retyped or removed field is reported with its file."""
    change(tree, name, old, new)
    ended = breaking(tree)
    assert 0 != ended.returncode
    assert said in ended.stdout
    assert f"edge_agent/v1/{name}:" in ended.stdout


def test_additions_are_not_breaking(tree):
    """A new field and a new file pass."""
    change(tree, "inference.proto", "  uint32 top_k = 5;\n", "  uint32 top_k = 5;\n  uint32 more = 99;\n")
    (tree / "proto/edge_agent/v1/new.proto").write_text('syntax = "proto3";\npackage edge_agent.v1;\nmessage New {}\n')
    assert 0 == breaking(tree).returncode


def test_another_tree_can_be_compared(tree, tmp_path_factory):
    """scripts/check compares with the previous commit in this way."""
    before = tmp_path_factory.mktemp("before")
    shutil.copytree(tree / "proto", before / "proto")
    shutil.copy(tree / "buf.yaml", before)
    change(tree, "inference.proto", "uint32 top_k = 5;", "uint32 top_k = 6;")
    assert 'with name "top_k"' in breaking(tree, str(before)).stdout


@pytest.mark.parametrize("kept", sorted(RELEASED.glob("*.reasons")), ids=lambda path: path.stem)
def test_no_reason_of_a_release_is_removed(kept):
    """Client programs test for reasons; a new one may be added."""
    assert [] == sorted(set(kept.read_text(encoding="utf-8").split()) - set(BY_REASON))


def test_every_release_has_its_reasons():
    """`scripts/breaking --release` writes both files."""
    assert {path.stem for path in RELEASED.glob("*.binpb")} == {path.stem for path in RELEASED.glob("*.reasons")}


def test_every_file_names_one_go_package():
    """protoc-gen-go refuses a file without go_package; scripts/breaking excepts that option, so this test fixes its
    value."""
    line = 'option go_package = "edge_agent/v1;edgeagentv1";\n'
    files = sorted((ROOT / "proto" / "edge_agent" / "v1").glob("*.proto"))
    assert files
    assert [] == [path.name for path in files if 1 != path.read_text(encoding="utf-8").count(line)]

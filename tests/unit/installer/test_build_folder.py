"""installer/build/llama_wheel.py: whenever a build is stopped, its folder stays usable."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

from installer.build import llama_wheel
from installer.build.llama_recipe import BuildRecipe


def test_folders_that_nothing_continues_are_removed(tmp_path: Path):
    """Those of other versions or recipes, and what version 0.1 left; that of a GPU waits for its next build."""
    wanted, vulkan = (tmp_path / "build" / BuildRecipe("0.3.36", gpu).key for gpu in ("", "vulkan"))
    for folder in (vulkan, tmp_path / "build/llama-0.3.35-cpu-0123456789ab", tmp_path / ".building-x1"):
        folder.mkdir(parents=True)
        (folder / "object.o").write_text("")
    llama_wheel.forget_other_recipes(wanted)
    assert sorted([wanted, vulkan]) == sorted((tmp_path / "build").iterdir())
    assert [tmp_path / "build"] == list(tmp_path.iterdir())


def test_a_source_is_unpacked_completely_or_not_at_all(tmp_path: Path):
    """What a kill left of an earlier try is no obstacle, and not taken for the source."""
    (tmp_path / "sdist-1").mkdir()
    (tmp_path / "sdist-1/CMakeLists.txt").write_text("project(x)")
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sdist-1", "sdist-1")
    (tmp_path / "source.partial/sdist-1").mkdir(parents=True)
    (tmp_path / "source.partial/torn").write_text("")
    llama_wheel.unpack(tmp_path / "sdist.tar.gz", tmp_path / "source")
    assert ["CMakeLists.txt"] == [path.name for path in (tmp_path / "source").iterdir()]
    assert not (tmp_path / "source.partial").exists()


def test_a_library_under_three_names_is_carried_once(tmp_path: Path):
    """CMake installs a file and two links to it; a wheel has no links, and carries only the name that is opened."""
    libraries = tmp_path / "tree/llama_cpp/lib"
    libraries.mkdir(parents=True)
    (tmp_path / "libgomp").write_bytes(b"")
    real = libraries / "libllama.so.0.1.2"
    subprocess.run(["gcc", "-shared", "-x", "c", os.devnull, "-o", real], check=True)
    (libraries / "libllama.so.0").symlink_to("libllama.so.0.1.2")
    (libraries / "libllama.so").symlink_to("libllama.so.0")
    content = real.read_bytes()
    llama_wheel.trim(tmp_path / "tree", tmp_path / "libgomp")
    assert {"libllama.so": content, "libgomp.so.1": b""} == {
        path.name: path.read_bytes() for path in libraries.iterdir()
    }
    assert not (libraries / "libllama.so").is_symlink()

"""installer/build/llama_wheel.py: a build folder stays usable after an interrupted build."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

from installer.build import llama_wheel
from installer.build.llama_recipe import BuildRecipe


def test_build_folders_of_other_versions_are_removed(tmp_path: Path):
    """A build removes the folders of other llama-cpp-python versions or recipes and of version 0.1, and keeps the
    folder of a GPU variant of the same version."""
    wanted, vulkan = (tmp_path / "build" / BuildRecipe("0.3.36", gpu).key for gpu in ("", "vulkan"))
    for folder in (vulkan, tmp_path / "build/llama-0.3.35-cpu-0123456789ab", tmp_path / ".building-x1"):
        folder.mkdir(parents=True)
        (folder / "object.o").write_text("")
    llama_wheel.forget_other_recipes(wanted)
    assert sorted([wanted, vulkan]) == sorted((tmp_path / "build").iterdir())
    assert [tmp_path / "build"] == list(tmp_path.iterdir())


def test_unpacking_replaces_leftovers_of_an_interrupted_attempt(tmp_path: Path):
    """Unpacking a source archive removes the partial folder of a killed attempt; its files do not reach the unpacked
    source."""
    (tmp_path / "sdist-1").mkdir()
    (tmp_path / "sdist-1/CMakeLists.txt").write_text("project(x)")
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sdist-1", "sdist-1")
    (tmp_path / "source.partial/sdist-1").mkdir(parents=True)
    (tmp_path / "source.partial/torn").write_text("")
    llama_wheel.unpack(tmp_path / "sdist.tar.gz", tmp_path / "source")
    assert ["CMakeLists.txt"] == [path.name for path in (tmp_path / "source").iterdir()]
    assert not (tmp_path / "source.partial").exists()


def test_wheel_contains_a_library_once_under_its_loaded_name(tmp_path: Path):
    """The wheel contains a library once, under the name that Python opens: CMake installs one file and two links, and a
    wheel has no links."""
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

"""The wheel of llama.cpp: compiled once for a recipe, with only the libraries that are loaded.

CMake and ninja run in a folder that is kept until the wheel is complete, so an interrupted build continues with the
next object. The metadata comes from the package's own build backend.

A GPU's library is one more file next to those for processors. If the wheel for processors is complete, the wheel for a
GPU copies them from it, and only the GPU's library is compiled.
"""

from __future__ import annotations

import email
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from installer.build import cmake_build, elf_dependencies
from installer.build.build_environment import BuildEnvironment
from installer.build.build_steps import BuildFailed
from installer.build.llama_recipe import GLIBC_HEADER, GLIBC_MAX, GPU, HEADERS, BuildRecipe
from installer.build.tool_runner import ToolRunner

LIBRARIES = "llama_cpp/lib"
BACKENDS = "bin"
"""The folder of the libraries for each kind of processor and for a GPU; llama.cpp loads the best one."""
TARGETS = ("llama", "ggml")
"""The libraries of the wheel; the backends are dependencies of ggml."""
OPENED = {"libllama.so", "libggml.so"}
BACKEND = re.compile(r"libggml-(?!base)[\w-]+\.so")
NOT_NEEDED = ("lib", "lib64", "include", "share")
"""Folders next to the package: copies of its libraries, and files for builds against them."""
WITHOUT_COMMON = """\
# CMake includes this where llama.cpp's project begins. llama-cpp-python turns its common library on; nothing loads it.
set(LLAMA_BUILD_COMMON OFF)
"""
_METADATA = "import sys; from scikit_build_core.build import prepare_metadata_for_build_wheel as p; p(sys.argv[1])"


class LlamaWheel:
    """The wheel of one recipe, and the folders of its build."""

    def __init__(self, recipe: BuildRecipe, cache: Path, environment: BuildEnvironment, runner: ToolRunner) -> None:
        """Build below `cache`, with the programs of `environment`."""
        self._recipe, self._environment, self._runner = recipe, environment, runner
        self._kept, self._folder = cache / recipe.key, cache / "build" / recipe.key
        self._archive = cache / "sources" / f"llama_cpp_python-{recipe.version}.tar.gz"
        self._for_processors = cache / BuildRecipe(recipe.version, "").key

    @property
    def built(self) -> Path | None:
        """The wheel, if it was built before."""
        return next(self._kept.glob("*.whl"), None)

    def fetch(self) -> None:
        """Download the source, unless it or the wheel exists. Raises BuildFailed."""
        if self.built or self._archive.exists():
            return
        self._archive.parent.mkdir(parents=True, exist_ok=True)
        pip = (self._environment.python, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--quiet")
        source = f"llama-cpp-python=={self._recipe.version}"
        with self._runner.console.step(f"fetch the source of {source}"):
            self._runner.run(
                [*pip, "--no-binary", "llama-cpp-python", "--dest", self._archive.parent, source],
                {"TMPDIR": str(self._archive.parent)},
            )

    def requirements(self) -> list[str]:
        """Return the requirements of llama-cpp-python, from the metadata of the wheel or the source."""
        if wheel := self.built:
            with zipfile.ZipFile(wheel) as packed:
                metadata = packed.read(next(name for name in packed.namelist() if name.endswith("/METADATA")))
        else:
            with tarfile.open(self._archive) as archive:
                info = archive.extractfile(f"{self._archive.name.removesuffix('.tar.gz')}/PKG-INFO")
                metadata = info.read() if info else b""
        needs = map(str, email.message_from_bytes(metadata).get_all("Requires-Dist", []))
        return [need for need in needs if "extra ==" not in need]

    def build(self) -> Path:
        """Return the wheel; compile its missing objects. Raises BuildFailed."""
        if wheel := self.built:
            return wheel
        forget_other_recipes(self._folder)
        shared = next(self._for_processors.glob("*.whl"), None)
        project = self._project()
        project.configure()
        if shared:
            self._runner.console.say("  note  the libraries for processors are those of the build without a GPU")
        project.compile((f"ggml-{self._recipe.gpu}",) if shared else TARGETS)
        with self._runner.console.step(f"pack {self._recipe.key}"):
            packed = self._pack(project, shared)
            self._kept.mkdir(parents=True, exist_ok=True)
            packed.replace(self._kept / packed.name)
        shutil.rmtree(self._folder)
        return self._kept / packed.name

    def _project(self) -> cmake_build.CMakeProject:
        """Copy source and headers into a folder that is kept until the wheel is complete."""
        source, headers = self._folder / "source", self._folder / "headers"
        if not source.exists():
            with self._runner.console.step("unpack the source"):
                unpack(self._archive, source)
        headers.mkdir(exist_ok=True)
        # Their content is part of the folder's name. Existing files stay: a newer time makes every object outdated.
        for header in HEADERS:
            _write_once(headers / header.name, header.read_text(encoding="utf-8"))
        _write_once(headers / "without_common.cmake", WITHOUT_COMMON)
        staged = self._folder / "staged"
        options = [
            *self._recipe.cmake_arguments,
            f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={headers / 'without_common.cmake'}",
            f"-DCMAKE_INSTALL_PREFIX={staged}",
            f"-DSKBUILD_PLATLIB_DIR={staged}",
            "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",  # a library that is copied and not installed names no folder of ours
        ]
        flags = [*(f'-include "{headers / header.name}"' for header in HEADERS), f'-ffile-prefix-map="{source}"=llama']
        programs = self._environment.program("cmake"), self._environment.program("ninja")
        return cmake_build.CMakeProject(
            source, self._folder / "objects", options, " ".join(flags), programs, self._runner
        )

    def _pack(self, project: cmake_build.CMakeProject, shared: Path | None) -> Path:
        """Assemble the wheel from libraries, the package's own files and the metadata. Raises BuildFailed.

        `shared` is the wheel for processors, which has everything but the GPU's library.
        """
        staged, python = self._folder / "staged", self._environment.python
        shutil.rmtree(staged, ignore_errors=True)
        if shared:
            shutil.unpack_archive(shared, staged, "zip")
            self._runner.run(["strip", "-o", staged / BACKENDS / self._gpu_library, project.built(self._gpu_library)])
        else:
            source = self._folder / "source"
            project.install()
            ignored = shutil.ignore_patterns("lib", "__pycache__")
            shutil.copytree(source / "llama_cpp", staged / "llama_cpp", dirs_exist_ok=True, ignore=ignored)
            # The build backend uses the current folder.
            self._runner.run([python, "-c", _METADATA, staged], folder=source)
        trim(staged, self._environment.libgomp())
        check(staged)
        packed = self._folder / "packed"
        shutil.rmtree(packed, ignore_errors=True)
        packed.mkdir()
        self._runner.run([python, "-m", "wheel", "pack", staged, "--dest-dir", packed])
        return next(packed.glob("*.whl"))

    @property
    def _gpu_library(self) -> str:
        return f"libggml-{self._recipe.gpu}.so"


def forget_other_recipes(folder: Path) -> None:
    """Make the folder of a build, and remove folders of recipes that this checkout does not have."""
    for left in folder.parent.parent.glob(".building-*"):  # of interrupted builds of version 0.1
        shutil.rmtree(left)
    folder.mkdir(parents=True, exist_ok=True)
    version = folder.name.split("-")[1]
    continued = {BuildRecipe(version, gpu).key for gpu in GPU}
    for other in folder.parent.iterdir():
        if other.name not in continued:
            shutil.rmtree(other)


def unpack(archive: Path, source: Path) -> None:
    """Unpack a source archive; the folder appears complete or not at all."""
    partial = source.with_name(f"{source.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python 3.11.2 has none
        packed.extractall(partial)  # noqa: S202 - filtered where Python can
    [only] = partial.iterdir()
    only.replace(source)
    partial.rmdir()


def _write_once(path: Path, text: str) -> None:
    """Write a file unless it exists; whole or not at all."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def trim(tree: Path, libgomp: Path) -> None:
    """Remove copies of libraries from the content of a wheel, and add its OpenMP library."""
    for name in NOT_NEEDED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for path in sorted(tree.rglob("*.so*")):
        if path.is_symlink():  # a wheel has no links
            target = path.resolve()
            path.unlink()
            shutil.copyfile(target, path)
    for path in [*second_copies(tree / LIBRARIES), *second_copies(tree / BACKENDS)]:
        path.unlink()
    shutil.copyfile(libgomp, tree / LIBRARIES / "libgomp.so.1")


def second_copies(libraries: Path) -> Iterator[Path]:
    """Yield libraries under unused names: a wheel has no links, so each name of a library is a copy.

    Python opens two by their short names; the others are backends, or dependencies of other libraries.
    """
    paths = sorted(libraries.glob("*.so*"))
    used = {name for path in paths for name in elf_dependencies.read_dependencies(path).needed} | OPENED
    yield from (path for path in paths if path.name not in used and not BACKEND.fullmatch(path.name))


def check(tree: Path) -> None:
    """Raise BuildFailed if a library does not run on the oldest system, or loads libraries from foreign folders."""
    for path in sorted(tree.rglob("*.so*")):
        needs = elf_dependencies.read_dependencies(path)
        if needs.glibc > GLIBC_MAX:
            message = f"{path.name} needs glibc {'.'.join(map(str, needs.glibc))}"
            raise BuildFailed(
                message, f"Extend {GLIBC_HEADER.name}: Debian 12 has glibc {'.'.join(map(str, GLIBC_MAX))}."
            )
        foreign = [folder for folder in needs.folders if not folder.startswith("$ORIGIN")]
        if foreign:
            message = f"{path.name} looks for libraries in {', '.join(foreign)}, a folder of the build machine"
            raise BuildFailed(message, "Look at CMAKE_INSTALL_RPATH in llama.cpp's build.")

"""The real installer: built here, installed without a network under each available Python, and called over gRPC."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.build.build_environment import BuildEnvironment
from installer.build.build_steps import StepConsole
from installer.build.llama_recipe import BuildRecipe
from installer.build.llama_wheel import LlamaWheel
from installer.build.tool_runner import ToolRunner
from installer.build.wheelhouse import PYTHONS
from tests.support.bundles import smollm2_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".cache/installer" / BuildRecipe("0.3.36", "").key
TEXT = "How much is the blue lamp?"

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not KEPT.exists(), reason="llama.cpp was not built for it: scripts/build-installer does"),
]


class InstalledDaemon(RunningDaemon):
    """The daemon of an installation."""

    def __init__(self, folder: Path, root: Path) -> None:
        super().__init__(folder)
        self.program = root / "opt/edge-agent/current"
        self.environment = {"PATH": "/usr/bin:/bin"}

    def _program(self, module: str) -> list[str]:
        """Return the installed command, because `python -m` here would find this checkout."""
        return [str(self.program / "bin/edge-agent"), *super()._program(module)[3:]]

    def answer(self) -> tuple[str, str]:
        """Return the label of a message, and the CPU library that computed it."""
        with self.client() as client, self.admin() as admin:
            [answer] = client.classify("pos-intent", [TEXT])
            [engine] = admin.status().engines
        return answer.label, engine.details["cpu_variant"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("installer")
    subprocess.run([sys.executable, "-m", "installer.build", "--out", out], cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.run"))


def pythons() -> Iterator[str]:
    """Yield the Pythons of this machine for which the installer has packages."""
    yield str(Path(sys.executable).resolve())
    for name in filter(None, (shutil.which(f"python{version}") for version in PYTHONS)):
        found = subprocess.run(
            [name, "-Ic", "import sys; print(sys.executable)"], check=False, capture_output=True, text=True
        )
        yield str(Path(found.stdout.strip() or sys.executable).resolve())


@pytest.mark.parametrize("python", dict.fromkeys(pythons()))
def test_installer_works_without_network(file: Path, tmp_path: Path, python: str):
    """An installation made without a network answers with the best CPU library for this processor, and gives the same
    label with the basic one (x64)."""
    root = tmp_path / "root"
    alone = ["unshare", "--net"] if 0 == subprocess.run(["unshare", "--net", "true"], check=False).returncode else []
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python}
    command = [*alone, "sh", file, "--root", root]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    bundle = smollm2_bundle(tmp_path / "bundle", name="pos-intent")
    daemon = InstalledDaemon(tmp_path / "daemon", root)
    with daemon:
        daemon.install(bundle)
        label, best = daemon.answer()
        assert best not in ("none", "native")
        assert 0 == daemon.stop()
        assert "load_backend" not in daemon.log.read_text()
        [plain] = daemon.program.resolve().glob("lib/python*/site-packages/bin/libggml-cpu-x64.so")
        for library in plain.parent.glob("libggml-cpu-*.so"):
            if library != plain:
                library.unlink()
        daemon.start()
        with daemon.client() as client:  # the plainest code takes its time
            eventually_sync(lambda: client.task("pos-intent").ready, 120)
        assert (label, "x64") == daemon.answer()


TINY = """\
cmake_minimum_required(VERSION 3.21)
project(tiny C)
add_library(ggml-vulkan MODULE gpu.c)
add_library(llama SHARED processors.c)
"""
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n",
    "RECORD": "",
}


def test_gpu_wheel_reuses_cpu_libraries(tmp_path: Path):
    """For a GPU wheel only the GPU library is compiled; the CPU libraries are copied unchanged from the CPU wheel."""
    console = StepConsole(io.StringIO())
    runner = ToolRunner(tmp_path / "build.log", console)
    environment = BuildEnvironment(ROOT / ".cache/installer/environment", ROOT / "pyproject.toml", runner)
    source = tmp_path / "llama_cpp_python-1"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(TINY)
    (source / "gpu.c").write_text("int gpu(void) { return 1; }\n")
    (source / "processors.c").write_text("#error this was compiled before\n")
    (tmp_path / "sources").mkdir()
    with tarfile.open(tmp_path / "sources" / "llama_cpp_python-1.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    libraries = tmp_path / "libllama.so"
    subprocess.run(["gcc", "-shared", "-x", "c", os.devnull, "-o", libraries], check=True)
    kept = tmp_path / BuildRecipe("1", "").key / "llama_cpp_python-1-py3-none-linux_x86_64.whl"
    kept.parent.mkdir()
    with zipfile.ZipFile(kept, "w") as wheel:
        wheel.write(libraries, "llama_cpp/lib/libllama.so")
        wheel.write(libraries, "bin/libggml-cpu-x64.so")
        for name, text in METADATA.items():
            wheel.writestr(f"llama_cpp_python-1.dist-info/{name}", text)
    made = LlamaWheel(BuildRecipe("1", "vulkan"), tmp_path, environment, runner).build()
    with zipfile.ZipFile(made) as wheel:
        names = sorted(name for name in wheel.namelist() if ".so" in name)
        added = ["bin/libggml-vulkan.so", "llama_cpp/lib/libgomp.so.1"]
        assert sorted([*added, "bin/libggml-cpu-x64.so", "llama_cpp/lib/libllama.so"]) == names
        assert libraries.read_bytes() == wheel.read("llama_cpp/lib/libllama.so")

"""installer/: the recipe, the file lists, the checks of the machine and the file operations."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.llama import building
from edge_agent.cli import COMMANDS
from edge_agent.config import Config
from installer.build import (
    build_steps,
    elf_dependencies,
    llama_recipe,
    llama_wheel,
    man_pages,
    shared_files,
    wheelhouse,
)
from installer.setup import durable_files, installed_files, payload, programs, target_machine
from installer.setup.errors import MACHINE, SetupError, from_os_error
from installer.setup.install_paths import InstallPaths
from tests.support.eventually import eventually_sync

READELF = """\
 0x000000000000001d (RUNPATH)            Library runpath: [$ORIGIN:/tmp/build/bin:]
 0x0000000000000001 (NEEDED)             Shared library: [libggml-base.so.0]
 0x0000000000000001 (NEEDED)             Shared library: [libgomp.so.1]
  0x0020:   Name: GLIBC_2.2.5  Flags: none  Version: 9
  0x0030:   Name: GLIBC_2.34  Flags: none  Version: 7
  0x0040:   Name: GLIBCXX_3.4.29  Flags: none  Version: 3
"""
HERE = target_machine.TargetMachine("x86_64", (2, 36), "3.11", Path("/usr/bin/python3"), 0)


def made(folder: Path, lock: str = "a==1 --hash=sha256:00\n", **about: object) -> payload.Payload:
    (folder / "python3.11").mkdir(parents=True)
    (folder / "common/share").mkdir(parents=True)
    (folder / "common/share/agent.yaml").write_text("# sample\n")
    (folder / "python3.11/lock.txt").write_text(lock)
    manifest = {"version": "1", "glibc": "2.36", "machine": "x86_64", "installed_bytes": {"3.11": 1000}, **about}
    (folder / "common/manifest.json").write_text(json.dumps(manifest))
    return payload.read_payload(folder)


def test_readelf_output_yields_the_dependencies_of_a_library():
    """The output of readelf yields a library's dependencies, its search paths and its newest glibc version; versions of
    other libraries do not count."""
    asked = elf_dependencies.ElfDependencies(
        ("libggml-base.so.0", "libgomp.so.1"), (2, 34), ("$ORIGIN", "/tmp/build/bin")
    )
    assert asked == elf_dependencies.parse_dependencies(READELF)


@pytest.mark.parametrize(("path", "refused"), [("$ORIGIN", False), ("/tmp/build/bin", True)])
def test_library_with_a_search_path_of_the_build_machine_is_refused(tmp_path: Path, path: str, refused: bool):
    """The build refuses a library whose search path is a folder of the build machine, from which other users could
    inject a library; `$ORIGIN` is allowed."""
    command = ["gcc", "-shared", "-x", "c", os.devnull, f"-Wl,-rpath,{path}", "-o", tmp_path / "lib.so"]
    subprocess.run(command, check=True)
    with (
        pytest.raises(build_steps.BuildFailed, match="a folder of the build machine")
        if refused
        else contextlib.nullcontext()
    ):
        llama_wheel.check(tmp_path)


def test_glibc_header_keeps_programs_compatible_with_debian_12(tmp_path: Path):
    """A program that is compiled with the glibc header needs no newer glibc than Debian 12 has, regardless of the build
    machine's version."""
    source = tmp_path / "old.c"
    source.write_text(
        "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
        'int main(int c, char **v) { int n = 0; sscanf(v[0], "%d", &n);\n'
        "return (int)fmod(strtol(v[0], 0, 10) + strtoull(v[c - 1], 0, 10), c) + n; }\n"
    )
    program = tmp_path / "old"
    command = ["gcc", "-O2", "-include", llama_recipe.GLIBC_HEADER, source, "-o", program, "-lm"]
    subprocess.run(command, check=True)
    assert llama_recipe.GLIBC_MAX >= elf_dependencies.read_dependencies(program).glibc


def test_only_redundant_library_copies_are_dropped(tmp_path: Path):
    """The wheel drops library copies that nothing loads, and keeps short names that Python opens and backends."""
    for name in (
        "libllama.so",
        "libllama.so.0",
        "libggml.so",
        "libgomp.so.1",
        "libggml-cpu-zen4.so",
        "libggml-base.so",
    ):
        subprocess.run(["gcc", "-shared", "-x", "c", os.devnull, "-o", tmp_path / name], check=True)
    dropped = {path.name for path in llama_wheel.second_copies(tmp_path)}
    assert {"libllama.so.0", "libgomp.so.1", "libggml-base.so"} == dropped


def test_cached_wheel_name_depends_on_the_recipe():
    """The name of a cached wheel differs by version and GPU. The Vulkan recipe has its CMake flag and needs glslc."""
    keys = {
        llama_recipe.BuildRecipe("1", "").key,
        llama_recipe.BuildRecipe("2", "").key,
        llama_recipe.BuildRecipe("1", "vulkan").key,
    }
    assert 3 == len(keys)
    assert "-DGGML_VULKAN=ON" in llama_recipe.BuildRecipe("1", "vulkan").cmake_arguments
    assert "glslc" in dict(llama_recipe.BuildRecipe("1", "vulkan").tools)


@pytest.mark.parametrize(
    ("name", "gpu", "target"),
    [
        ("agent.yaml", "", "agent.yaml"),
        ("appliance.yaml", "", "etc/appliance.yaml"),
        ("edge-agent.service", "", "systemd/edge-agent.service"),
        ("edge-agent.sysusers.conf", "", "sysusers/edge-agent.conf"),
        ("edge-agent.tmpfiles.conf", "", "tmpfiles/edge-agent.conf"),
        ("edge-agent.gpu.conf", "", ""),
        ("edge-agent.gpu.conf", "cuda", "systemd/edge-agent.service.d/50-gpu.conf"),
    ],
)
def test_each_shared_file_has_its_target_path(name: str, gpu: str, target: str):
    """The name of a shared file determines its target path; the drop-in that opens the GPU's devices is included only
    in GPU variants."""
    assert target == shared_files.share_path(name, gpu)


def test_installation_includes_the_proto_files(tmp_path: Path):
    """The installation includes the .proto files of the API, at the path from which the Node sample loads them."""
    root = Path(__file__).parents[3]
    shared_files.fill(tmp_path, root, "")
    laid = {path.name: path.read_bytes() for path in (tmp_path / "proto/edge_agent/v1").iterdir()}
    assert laid == {path.name: path.read_bytes() for path in (root / "proto/edge_agent/v1").iterdir()}
    assert "'/opt/edge-agent/current/share/proto'" in (root / "examples/till-node/daemon.js").read_text()


def test_lock_file_lists_wheels_with_their_hashes(tmp_path: Path):
    """The lock file lists each wheel for pip by normalized name, version and sha256, in alphabetical order."""
    for name in ("PyYAML-6.0-cp311-cp311-linux_x86_64.whl", "google_re2-1.1-cp311-abi3-linux_x86_64.whl"):
        (tmp_path / name).write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    expected = f"google-re2==1.1 --hash=sha256:{empty}\npyyaml==6.0 --hash=sha256:{empty}\n"
    assert expected == wheelhouse.locked(tmp_path.iterdir())


def test_resolver_uses_the_package_index_of_the_pip_configuration():
    """The resolver uses the package indexes of pip's configuration: the last index-url applies, several extra indexes
    are separated by spaces, and other settings are ignored."""
    listed = (
        "global.index-url='https://one.example/simple'\nglobal.timeout='9'\n"
        "global.extra-index-url='\\nhttps://a.example\\nhttps://b.example'\n:env:.index-url='https://two.example'\n"
    )
    expected = {"UV_DEFAULT_INDEX": "https://two.example", "UV_INDEX": "https://a.example https://b.example"}
    assert expected == wheelhouse.index_settings(listed)
    assert {} == wheelhouse.index_settings("")


def test_man_pages_document_every_command_and_key():
    """The generated manual pages are ASCII and document each command and each configuration key."""
    pages = man_pages.pages()
    headings = re.findall(r"(?m)^\.SS (\S+)", pages["edge-agent.1"].replace("\\-", "-"))
    assert set(COMMANDS) == set(headings)
    keys = pages["agent.yaml.5"]
    assert [] == [name for name in Config.model_fields if name not in keys and name.upper() not in keys]
    assert "rollback" in pages["edge-agent-setup.8"]
    assert all(page.isascii() for page in pages.values())


def test_program_identity_depends_on_its_content(tmp_path: Path):
    """A program's identity changes with its wheels, its shared files or its Python interpreter; the same content has
    the same identity."""
    first = made(tmp_path / "a").identity("3.11", HERE.interpreter)
    assert first == made(tmp_path / "b").identity("3.11", HERE.interpreter)
    unit = made(tmp_path / "c")
    (unit.share / "agent.yaml").write_text("# other\n")
    others = {
        made(tmp_path / "d", lock="a==2 --hash=sha256:00\n").identity("3.11", HERE.interpreter),
        unit.identity("3.11", HERE.interpreter),
        made(tmp_path / "e").identity("3.11", Path("/usr/local/bin/python3")),
    }
    assert (3, False) == (len(others), first in others)


def test_python_without_packages_is_refused(tmp_path: Path):
    """Setup refuses a Python version for which the installer has no packages and names the supported versions."""
    with pytest.raises(SetupError, match=r"Python 3\.14 is not supported; this installer has packages for 3\.11"):
        made(tmp_path).lock("3.14")


def test_an_older_glibc_is_refused(tmp_path: Path):
    """Setup refuses a machine with an older glibc than the installer needs and names both versions; the same version is
    accepted."""
    target_machine.check(HERE, made(tmp_path / "a"), 1 << 40)
    with pytest.raises(SetupError, match=r"needs glibc 2\.37 or newer; this machine has 2\.36") as caught:
        target_machine.check(HERE, made(tmp_path / "b", glibc="2.37"), 1 << 40)
    assert MACHINE == caught.value.code


def test_python_that_only_root_can_reach_is_refused(tmp_path: Path):
    """Setup refuses a Python in a folder that is closed to other users, because the service runs as another user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = closed / "python3"
    python.write_text("")
    python.chmod(0o755)
    with pytest.raises(SetupError, match="cannot be run by the service's user"):
        target_machine.check_shared(python)


def test_installation_into_the_system_needs_root():
    """Setup refuses to install into the system for a user other than root."""
    target_machine.check_root(HERE)
    with pytest.raises(SetupError, match="needs root"):
        target_machine.check_root(target_machine.TargetMachine("x86_64", (2, 36), "3.11", HERE.interpreter, 1000))


@pytest.mark.parametrize(
    ("number", "said"), [(28, "the disk is full"), (30, "not allowed"), (13, "not allowed"), (5, "Input/output error")]
)
def test_disk_error_names_its_kind_and_path(number: int, said: str):
    """The message of a disk error names the path and distinguishes a full disk, a missing permission and other errors;
    the exit code is 3 (the machine)."""
    error = from_os_error(OSError(number, os.strerror(number), "/opt/edge-agent"))
    assert (MACHINE, True, True) == (error.code, said in error.message, "/opt/edge-agent" in error.message)


def test_link_is_replaced_despite_leftovers_of_a_killed_attempt(tmp_path: Path):
    """`durable_files.link` replaces a link's target and removes the partial link of a killed attempt."""
    link = tmp_path / "current"
    (tmp_path / ".current.partial").symlink_to("torn")
    for target in ("one", "two"):
        durable_files.link(link, target)
    assert (Path("two"), [link]) == (link.readlink(), list(tmp_path.iterdir()))


def test_program_with_a_running_process_is_detected(tmp_path: Path):
    """A program counts as running while a process that was started from its folder exists, and no longer after the
    process ended."""
    folder = tmp_path / "venvs" / "abc"
    folder.mkdir(parents=True)
    (folder / "sleep").symlink_to("/bin/sleep")
    with subprocess.Popen([str(folder / "sleep"), "60"]) as process:
        # One that has just begun has no command line yet.
        eventually_sync(lambda: programs.running(tmp_path / "venvs") == {"abc"})
        process.kill()
    assert set() == programs.running(tmp_path / "venvs")


def test_folder_without_a_marker_is_not_a_program(tmp_path: Path):
    """A program folder without its marker file, as a killed setup leaves it, does not count as an installed program."""
    (tmp_path / "bin").mkdir()
    assert programs.read_program(tmp_path) is None


def test_trial_installation_stays_below_its_root(tmp_path: Path):
    """With --root, each path of an installation is below that folder, and the installation counts as a trial."""
    places = InstallPaths(tmp_path)
    every = [
        places.home,
        places.lock,
        places.config,
        places.units,
        *places.commands,
        places.installed_path("man", "a.1"),
    ]
    assert (True, True) == (places.trial, all(path.is_relative_to(tmp_path) for path in every))
    assert not InstallPaths().trial


def test_setup_imports_only_the_standard_library():
    """Setup imports only the standard library and its own modules, so it runs on a Python without packages."""
    script = "import installer.setup.__main__, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-S", "-c", script]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]).stdout
    foreign = {name for name in loaded.split() if name not in sys.stdlib_module_names}
    assert {"__main__", "installer"} >= foreign - {"_virtualenv"}


def test_every_build_of_llama_cpp_has_the_same_kernels() -> None:
    """The installer, scripts/setup, the benchmark's second llama-server and the manual build in docs/devices.md use the
    same kernel headers."""
    kernels = [header for header in llama_recipe.HEADERS if header != llama_recipe.GLIBC_HEADER]
    assert building.KERNELS == kernels
    root = kernels[0].parents[2]
    folders = {"scripts/setup": "$PWD/installer/build", "docs/devices.md": "$kernels"}
    for path, folder in folders.items():
        found = re.findall(rf"{re.escape(folder)}/([\w-]+\.h)", (root / path).read_text(encoding="utf-8"))
        assert (path, [header.name for header in kernels]) == (path, found)


def test_man_pages_of_dependencies_are_not_installed(tmp_path: Path):
    """Setup installs only this program's manual pages; a page of a dependency, such as segno.1, stays in the program's
    folder."""
    manual = tmp_path / "program/share/man"
    (manual / "man1").mkdir(parents=True)
    (manual / "man1/segno.1").write_text(".TH segno\n")
    (manual / "edge-agent.1").write_text(".TH edge-agent\n")
    program = programs.InstalledProgram(tmp_path / "program", "1", "cpu", "", "3.11", "/usr/bin/python3", "")
    places = InstallPaths(tmp_path / "root")
    assert installed_files.install_files(places, program, None).changed
    laid = [path for path in (tmp_path / "root/usr/local/share").rglob("*") if path.is_file()]
    assert [tmp_path / "root/usr/local/share/man/man1/edge-agent.1"] == laid


def test_unchanged_files_are_not_written_again(tmp_path: Path):
    """Setup counts only a missing or different file as a change, restores it, and reports a file that a person
    edited."""
    unit = tmp_path / "program/share/systemd/edge-agent.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    program = programs.InstalledProgram(tmp_path / "program", "1", "cpu", "", "3.11", "/usr/bin/python3", "")
    places = InstallPaths(tmp_path / "root")
    laid = tmp_path / "root/etc/systemd/system/edge-agent.service"

    def install() -> tuple[bool, list[Path]]:
        done = installed_files.install_files(places, program, program)
        return done.changed, done.edited

    assert ((True, []), (False, [])) == (install(), install())
    laid.write_text("[Service]\nNice=5\n")
    assert ((True, [laid]), (False, [])) == (install(), install())
    laid.unlink()
    assert ((True, []), "[Service]\n") == (install(), laid.read_text())

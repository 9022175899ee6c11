"""The installer's build, stopped while a compiler runs: no process remains, and the next build continues. Runs real
ninja and gcc."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.build.build_steps import BuildFailed, StepConsole
from installer.build.cmake_build import CMakeProject, jobs_here
from installer.build.tool_runner import ToolRunner
from tests.support.eventually import eventually_sync

ROOT = Path(__file__).parents[2]
_SEARCHED = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
NINJA = Path(shutil.which("ninja", path=_SEARCHED) or "ninja")
CMAKE = Path(shutil.which("cmake", path=_SEARCHED) or "cmake")
RULES = """\
rule compile
  command = gcc -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = Building C object $out
rule link
  command = gcc -shared $in -o $out
  description = Linking C shared library $out
build first.c.o: compile {source}/first.c
build slow.c.o: compile {source}/slow.c || first.c.o
build liball.so: link first.c.o slow.c.o
build all: phony liball.so
"""
COMPILE = """\
import sys
from pathlib import Path
from installer.build.build_steps import StepConsole
from installer.build.cmake_build import CMakeProject
from installer.build.tool_runner import ToolRunner, ending_all_children

folder = Path(sys.argv[1])
with ending_all_children():
    runner = ToolRunner(folder / "build.log", StepConsole())
    CMakeProject(folder / "source", folder / "objects", [], "", ("cmake", sys.argv[2]), runner).compile(["all"])
"""


def project(folder: Path) -> CMakeProject:
    runner = ToolRunner(folder / "build.log", StepConsole())
    return CMakeProject(folder / "source", folder / "objects", [], "", (CMAKE, NINJA), runner)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library of two files; the compiler of the second blocks, because the file that it includes is a FIFO."""
    source, objects = tmp_path / "source", tmp_path / "objects"
    source.mkdir()
    objects.mkdir()
    (source / "first.c").write_text("int first(void) { return 1; }\n")
    (source / "slow.c").write_text('#include "slow.h"\nint slow(void) { return SLOW; }\n')
    (objects / "build.ninja").write_text(RULES.format(source=source))
    os.mkfifo(source / "slow.h")
    return tmp_path


def processes(folder: Path) -> Iterator[str]:
    """Yield the command line of each process that works in a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if any(str(folder) in word for word in words) and not path.match(f"/proc/{os.getpid()}/*"):
            yield " ".join(words)


def stop(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Send a signal to a build after its first object is complete, while the compiler of the second runs."""
    command = [sys.executable, "-c", COMPILE, folder, NINJA]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as build:
        eventually_sync(lambda: any("cc1" in line and "slow.c" in line for line in processes(folder)), 60)
        build.send_signal(number)
        said, _ = build.communicate(timeout=60)
    return subprocess.CompletedProcess(command, build.returncode, said)


@pytest.mark.skipif(not NINJA.is_absolute(), reason="no ninja: scripts/setup installs it")
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_build_leaves_no_process_and_continues(folder: Path, number: int):
    """When a signal ends the build, its compilers end as well; the next build compiles only the objects that were not
    complete."""
    stop(folder, number)
    eventually_sync(lambda: [] == list(processes(folder)), 60)
    first = (folder / "objects/first.c.o").stat().st_mtime_ns
    (folder / "source/slow.h").unlink()
    (folder / "source/slow.h").write_text("#define SLOW 2\n")
    again = project(folder)
    again.compile(["all"])
    assert (True, first) == ((folder / "objects/liball.so").exists(), (folder / "objects/first.c.o").stat().st_mtime_ns)
    log = (folder / "build.log").read_text()
    assert (0, 2) == (log.count("first.c.o\n"), log.count("Building C object slow.c.o"))  # planned, then done
    assert [] == list((folder / "tmp").iterdir())


@pytest.mark.skipif(not NINJA.is_absolute(), reason="no ninja: scripts/setup installs it")
def test_compiler_error_is_reported(folder: Path):
    """If an object does not compile, the error and the log contain the compiler's message; objects that were compiled
    before are kept."""
    (folder / "source/slow.h").unlink()
    (folder / "source/slow.h").write_text("#error broken\n")
    with pytest.raises(BuildFailed, match="#error broken") as caught:
        project(folder).compile(["all"])
    assert (True, True) == ("build.log" in caught.value.remedy, (folder / "objects/first.c.o").exists())
    assert "#error broken" in (folder / "build.log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    not (NINJA.is_absolute() and CMAKE.is_absolute()), reason="no ninja or cmake: scripts/setup installs them"
)
def test_objects_found_by_a_cmake_glob_are_counted(tmp_path: Path):
    """If a project lists its sources by a glob, as llama.cpp's Vulkan code does, the build prints the number of objects
    before it compiles."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("one", "two"):
        (source / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
    pattern = "file(GLOB found CONFIGURE_DEPENDS *.c)\nadd_library(all_of SHARED ${found})\n"
    (source / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.16)\nproject(tiny C)\n{pattern}")
    shown = io.StringIO()
    runner = ToolRunner(tmp_path / "build.log", StepConsole(shown))
    tiny = CMakeProject(source, tmp_path / "objects", [], "", (CMAKE, NINJA), runner)
    tiny.configure()
    tiny.compile(["all_of"])
    assert "2 objects to compile" in shown.getvalue()
    assert tiny.built("liball_of.so").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (NINJA.is_absolute() and CMAKE.is_absolute()), reason="no ninja or cmake: scripts/setup installs them"
)
def test_configuring_again_keeps_the_objects(tmp_path: Path):
    """Flags reach the compiler, the install step installs only the stripped library, and a second run compiles
    nothing."""
    source, objects, staged = (tmp_path / name for name in ("a source", "objects", "staged"))
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(tiny C)\nadd_library(tiny SHARED tiny.c)\n"
        "install(TARGETS tiny DESTINATION lib)\n"
    )
    (source / "value.h").write_text("#define VALUE 3\n")
    (source / "tiny.c").write_text("int tiny(void) { return VALUE; }\n")
    runner = ToolRunner(tmp_path / "build.log", StepConsole())
    flags = f'-include "{source / "value.h"}"'
    built = CMakeProject(source, objects, [f"-DCMAKE_INSTALL_PREFIX={staged}"], flags, (CMAKE, NINJA), runner)
    for _ in range(2):
        built.configure()
        built.compile(["tiny"])
    built.install()
    assert [staged / "lib/libtiny.so"] == [path for path in staged.rglob("*") if path.is_file()]
    assert 2 == (tmp_path / "build.log").read_text().count("Building C object")  # planned and done, in the first run


def test_compiler_jobs_do_not_exceed_the_available_cores():
    """The build runs at least one compiler and at most one for each core that this process can use."""
    assert 1 <= jobs_here() <= len(os.sched_getaffinity(0))


def test_tool_that_ignores_sigterm_is_killed(tmp_path: Path):
    """A tool that ignores SIGTERM is killed together with its background processes, including one that left its process
    group."""
    script = "trap '' TERM; setsid sleep 987654 & echo began; wait; sleep 987654"
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from installer.build.build_steps import StepConsole\n"
        "from installer.build.tool_runner import BuildInterrupted, ToolRunner, ending_all_children\n"
        "import os, signal\n"
        "def stop(line):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "try:\n    with ending_all_children():\n"
        "        runner = ToolRunner(Path(sys.argv[1]), StepConsole(), 0.1)\n"
        "        runner.run(['sh', '-c', sys.argv[2], sys.argv[3]], on_line=stop)\n"
        "except BuildInterrupted as error:\n    print(error)\n    raise SystemExit(128 + error.number)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "log", script, tmp_path / "mark"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (143, "SIGTERM") == (done.returncode, done.stdout.strip()), done.stderr
    assert [] == [line for line in processes(tmp_path) if "sleep" in line]


def test_build_without_a_compiler_stops_before_it_downloads(tmp_path: Path):
    """If compilers are missing, the build names every missing program and the packages to install, and exits before it
    writes anything."""
    command = [sys.executable, "-m", "installer.build", "--out", tmp_path / "out"]
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    expected = (
        "error: these programs are missing: gcc, g++, readelf, git\n"
        "what to do: Debian, Ubuntu: sudo apt-get install gcc g++ binutils git\n"
    )
    assert (1, "", expected) == (done.returncode, done.stdout, done.stderr)
    assert not (tmp_path / "out").exists()

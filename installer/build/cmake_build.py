"""A CMake project that ninja compiles object by object; an interrupted build continues."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from installer.build.compile_progress import CompileProgress, planned, rough_time
from installer.build.object_costs import MEASURED_ON, SECONDS, SECONDS_USUAL
from installer.build.tool_runner import ToolRunner

_JOB_BYTES = 1 << 30
"""Most memory that one compiler uses."""


class CMakeProject:
    """A source folder, the folder of its objects, and the options of the compilation."""

    def __init__(
        self,
        source: Path,
        objects: Path,
        options: Sequence[str],
        flags: str,
        programs: tuple[Path, Path],
        runner: ToolRunner,
    ) -> None:
        """Take cmake's options, the compiler's flags, and the programs cmake and ninja."""
        self._source, self._objects, self._options, self._flags = source, objects, options, flags
        (self._cmake, self._ninja), self._runner = programs, runner

    def configure(self) -> None:
        """Let CMake write the build files for ninja; existing objects stay valid. Raises BuildFailed."""
        command = [self._cmake, "-S", self._source, "-B", self._objects, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
        with self._runner.console.step("configure llama.cpp"):
            self._runner.run(
                [*command, f"-DCMAKE_MAKE_PROGRAM={self._ninja}", *self._options],
                {"CFLAGS": self._flags, "CXXFLAGS": self._flags, **self._environment()},
            )

    def compile(self, targets: Sequence[str]) -> None:
        """Compile the missing objects of the targets. Raises BuildFailed, BuildInterrupted."""
        console, jobs = self._runner.console, jobs_here()
        ninja = [self._ninja, "-C", self._objects, f"-j{jobs}"]
        progress = CompileProgress(self._planned(targets), jobs, SECONDS, SECONDS_USUAL)
        if progress.objects:
            console.say(
                f"  note  {progress.objects} objects to compile, {jobs} at once:"
                f" {rough_time(progress.seconds_left(0))} at the speed of {MEASURED_ON}"
            )
        with console.step("compile llama.cpp"):
            self._runner.run(
                [*ninja, *targets],
                {"NINJA_STATUS": "[%f/%t] ", **self._environment()},
                progress.see,
                lambda: progress.describe(console.elapsed()),
            )

    def _planned(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Return the steps that ninja would take.

        The dry run uses a copy of build.ninja: if a project finds its files by a pattern, as llama.cpp's code for
        Vulkan does, a dry run of build.ninja itself only plans to run CMake again.
        """
        copy = self._objects / "planned.ninja"
        shutil.copyfile(self._objects / "build.ninja", copy)
        ninja = [self._ninja, "-C", self._objects, "-f", copy.name, "-n"]
        return planned(self._runner.run([*ninja, *targets], {"NINJA_STATUS": "[%f/%t] "}))

    def install(self) -> None:
        """Copy the libraries, without symbols, to CMAKE_INSTALL_PREFIX. Raises BuildFailed."""
        self._runner.run([self._cmake, "--install", self._objects, "--strip"], self._environment())

    def built(self, name: str) -> Path:
        """Return the file of a compiled library."""
        return next(path for path in sorted(self._objects.rglob(name)) if not path.is_symlink())

    def _environment(self) -> dict[str, str]:
        """Return the environment of compilers: TMPDIR next to the objects, and no git repository above the source."""
        temporary = self._objects.with_name("tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(temporary), "GIT_CEILING_DIRECTORIES": str(self._source.parent)}


def jobs_here() -> int:
    """Return how many compilers run at once: one for each core, fewer if memory is short."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    by_memory = int(available[1]) * 1024 // _JOB_BYTES if available else 1
    return max(1, min(len(os.sched_getaffinity(0)), by_memory))

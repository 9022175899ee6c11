"""llama-server and llama-bench, of the very commit that the agent runs, built once into .cache/llama-server/VERSION.

Their source is in the source archive of the pinned llama-cpp-python, which is held to its hash. They are built as that
package's wheel is: optimized, for this machine's processor, with OpenMP, and with what CMAKE_ARGS says.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from convert.export import converter

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "llama-server"
PROGRAMS = ("llama-server", "llama-bench")
# As scikit-build-core builds the wheel; neither web page nor TLS, which would be fetched or found somewhere.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_CURL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
)
_SHOWN_EVERY = 10  # percent
_PROGRESS = re.compile(r"^\[\s*(?:(\d+)%|(\d+)/(\d+))\]")
_INSIDE = f"llama_cpp_python-{converter.VERSION}/vendor/llama.cpp/"


@dataclass(frozen=True)
class Programs:
    """Where they are."""

    server: Path
    bench: Path


def programs(cache: Path = CACHE) -> Programs:
    """Return the programs; the first time, that takes minutes."""
    folder = cache / converter.VERSION
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as name:
            made = _build(Path(name))
            made.replace(folder)
    return Programs(*(folder / program for program in PROGRAMS))


def percent(line: str) -> int | None:
    """Return how far a build is, by a line of make or of ninja; None where it does not say."""
    found = _PROGRESS.match(line)
    if found is None:
        return None
    done, number, of = found.groups()
    return int(done) if done else 100 * int(number) // int(of)


def _build(folder: Path) -> Path:
    _say("loading the source of llama-server: the archive of llama-cpp-python, 100 MB")
    source = _unpacked(converter.download(folder), folder)
    _say("building llama-server, once; minutes")
    build = folder / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    _run(["cmake", "-S", str(source), "-B", str(build), *generator, *FLAGS, *extra])
    _run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", *PROGRAMS])
    made = folder / "made"
    made.mkdir()
    for program in PROGRAMS:
        shutil.copy2(build / "bin" / program, made / program)
    return made


def _unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, [each for each in tar if each.name.startswith(_INSIDE)], filter="data")
    return folder / _INSIDE


def _run(command: list[str]) -> None:
    """Run a step; what it says is shown when it fails, and otherwise how far it is."""
    pipe = subprocess.PIPE
    lines, shown = [], 0
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603 - cmake
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            done = percent(line) or 0
            if done >= shown + _SHOWN_EVERY:
                shown = done
                _say(f"  {done} %")
    if process.returncode != 0:
        sys.exit("".join([*lines[-30:], f"{shlex.join(command)} failed\n"]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - beside the figures

"""llama-server and llama-bench, of the very commit that the agent runs, built once into .cache/llama-server.

Their source is in the source archive of the pinned llama-cpp-python, which is held to its hash. They are built as
scripts/setup builds that package's wheel: optimized, for this machine's processor but for AVX512-FP16 (decision 0022),
with OpenMP, and with what CFLAGS, CXXFLAGS and CMAKE_ARGS say. That wheel has kernels of our own, too (decisions 0043,
0045, 0051). llama-server is what its makers publish; a second one has those kernels as well, to tell what an engine is
worth from what a kernel is.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.export import gguf_export

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "llama-server"
PROGRAMS = ("llama-server", "llama-bench")
# As scikit-build-core builds the wheel; neither web page nor TLS, which would be fetched or found somewhere.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_CURL=OFF"),
    *("-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
)
BUILD = 1
"""Another one is built with other flags."""
KERNELS = [
    Path(__file__).resolve().parents[2] / "installer" / "build" / name for name in ("attention.h", "rows.h", "dot.h")
]
"""What scripts/setup has the compiler include."""
WITHOUT = "-mno-avx512fp16"
_SHOWN_EVERY = 10  # percent
_PROGRESS = re.compile(r"^\[\s*(?:(\d+)%|(\d+)/(\d+))\]")
_INSIDE = f"llama_cpp_python-{gguf_export.VERSION}/vendor/llama.cpp/"


@dataclass(frozen=True)
class Programs:
    """Where they are."""

    server: Path
    bench: Path


def programs(*, kernels: bool = False) -> Programs:
    """Return the programs, with the agent's kernels built in or not; the first time, that takes minutes."""
    of = hashlib.sha256(b"".join(header.read_bytes() for header in KERNELS)).hexdigest()[:8]
    folder = CACHE / "-".join([gguf_export.VERSION, str(BUILD), *([of] if kernels else [])])
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as name:
            made = _build(Path(name), [f'-include "{header}"' for header in KERNELS] if kernels else [])
            made.replace(folder)
    return Programs(*(folder / program for program in PROGRAMS))


def percent(line: str) -> int | None:
    """Return the progress of a build from a line of make or ninja; None if the line has none."""
    found = _PROGRESS.match(line)
    if found is None:
        return None
    done, number, of = found.groups()
    return int(done) if done else 100 * int(number) // int(of)


def _build(folder: Path, flags: Sequence[str]) -> Path:
    _say("loading the source of llama-server: the archive of llama-cpp-python, 100 MB")
    source = _unpacked(gguf_export.download(folder), folder)
    _say("building llama-server, once; minutes")
    build = folder / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    _run(["cmake", "-S", str(source), "-B", str(build), *generator, *FLAGS, *extra], _compiler_flags(flags))
    _run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1), "--target", *PROGRAMS])
    made = folder / "made"
    made.mkdir()
    for program in PROGRAMS:
        shutil.copy2(build / "bin" / program, made / program)
    return made


def _compiler_flags(more: Sequence[str]) -> dict[str, str]:
    """Return the environment of cmake with these flags, and the flag above if the compiler supports it."""
    known = [os.environ.get("CC", "cc"), WITHOUT, "-E", "-x", "c", os.devnull]
    usual = [WITHOUT] if subprocess.run(known, check=False, capture_output=True).returncode == 0 else []  # noqa: S603 - the compiler
    return {name: " ".join([os.environ.get(name, ""), *usual, *more]).strip() for name in ("CFLAGS", "CXXFLAGS")}


def _unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, [each for each in tar if each.name.startswith(_INSIDE)], filter="data")
    return folder / _INSIDE


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a step; show its progress, or its output if it fails."""
    lines, shown = [], 0
    started = subprocess.Popen(  # noqa: S603 - cmake
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    with started as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            done = percent(line) or 0
            if done >= shown + _SHOWN_EVERY:
                shown = done
                _say(f"  {done}%")
    if process.returncode != 0:
        sys.exit("".join([*lines[-30:], f"{shlex.join(command)} failed\n"]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - beside the figures

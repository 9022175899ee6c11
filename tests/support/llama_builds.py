"""Builds of llama.cpp for other kinds of processor than this machine's own, to run the tests of the llama engine on.

    EDGE_AGENT_LLAMA_BUILD=avx2 scripts/test tests/contract   # whatever loads llama.cpp loads that build
    python -m tests.support.llama_builds [NAME...]            # makes all that this processor can execute, or those

A build is a folder that llama-cpp-python takes by LLAMA_CPP_LIB_PATH: the libraries of the installed wheel, but the one
that computes, libggml-cpu, is compiled from the pinned source archive, with the agent's kernels and with the flags that
llama.cpp gives that kind of processor. It takes 40 s of one core, once: folders are kept in .cache/llama-builds by
everything that they are made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "llama-builds"
VARIABLE = "EDGE_AGENT_LLAMA_BUILD"
NATIVE = "native"
"""What scripts/setup has built for this machine."""
HEADERS = tuple(ROOT / "installer" / "build" / name for name in ("attention.h", "rows.h", "dot.h"))
_COMPUTES = "libggml-cpu.so.0"
_OTHERS = ("libllama.so", "libggml.so", "libggml.so.0", "libggml-base.so.0")
_OPTIONS = ("SSE42", "AVX", "F16C", "AVX2", "FMA", "BMI2", "AVX512")
_TOLD = 6000
"""Characters of what a failed run has printed."""
_SECONDS_MAX = 600
"""What one test may take on such a build before it counts as hung, so that the run says which it was."""
_LEFT_OUT = ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER")
_AVX2 = ("avx2", "fma", "f16c", "bmi2")


@dataclass(frozen=True)
class Build:
    """The code for one kind of processor."""

    name: str
    options: tuple[str, ...]
    """Of llama.cpp's CMake, by the names in _OPTIONS; the others are off."""
    needs: tuple[str, ...]
    """What the processor must have, by the names of /proc/cpuinfo."""
    by_row: bool
    """It has the agent's own kernels (decisions 0043, 0045 and 0051)."""
    tier: str = "not release"
    """Which tests of the contract run on it, as pytest's -m."""
    also: tuple[str, ...] = ()
    """Tests that do although they are of another tier."""

    @property
    def runs(self) -> list[list[str]]:
        """Arguments of pytest for each run of the contract on it."""
        suite = [
            f"tests/contract/{path.name}" for path in sorted((ROOT / "tests" / "contract").glob("test_llama_*.py"))
        ]
        left_out = [f"--deselect={test}" for test in _SAY_NOTHING_OF_THE_CODE]
        return [["-m", self.tier, *left_out, *suite], *([[*self.also]] if self.also else [])]

    @property
    def names_tests(self) -> set[str]:
        """Beginnings of the ids of tests that are left out of its runs, or added to them."""
        return {*_SAY_NOTHING_OF_THE_CODE, *_SAME_BITS, *self.also}

    @property
    def runs_here(self) -> bool:
        """Return whether this processor can execute it."""
        return set(self.needs) <= processor_flags()

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        content = hashlib.sha256(repr((_version(), self.options, _LEFT_OUT)).encode())
        for path in (*HEADERS, *(_installed() / name for name in _OTHERS)):
            content.update(path.read_bytes())
        return CACHE / f"{self.name}-{content.hexdigest()[:12]}"


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/contract/test_llama_{file}.py::test_{name}" for name in names)


_SAY_NOTHING_OF_THE_CODE = (
    # Who is computed when, and what the cache says it holds.
    *_of("planning", "jobs_are_admitted_by_priority", "calls_are_answered_again_after_a_load_ends"),
    *_of("planning", "job_with_attainable_deadline_is_computed"),
    "tests/contract/test_llama_cache.py",
    # What is refused, and in which words.
    *_of("runtime", "details_name_model_and_quantization", "long_input_is_refused_with_count_and_limit"),
    *_of("runtime", "broken_adapter_is_refused", "adapter_with_nan_is_refused", "truncated_weights_are_refused"),
    *_of("runtime", "missing_weights_and_too_much_context_are_refused", "unusable_tasks_are_refused"),
    *_of("runtime", "prompt_larger_than_the_prompt_cache_is_refused", "installed_release_is_the_pinned_one"),
    *_of("extract", "schema_without_a_possible_record_is_refused", "hostile_schema_is_refused_or_fails_one_record"),
    *_of("extract", "draft_does_not_exceed_the_output_limit", "record_over_the_output_limit_fails_alone"),
    *_of("extract", "records_need_additional_memory"),
    *_of("faults", "huge_prompt_is_refused_cheaply", "job_without_its_adapter_fails_alone"),
    # What is made of tokens, whichever they are.
    *_of("runtime", "stream_is_sent_in_pieces_at_a_limited_rate", "chunks_add_up_to_the_text"),
    *_of(
        "runtime",
        "stop_string_ends_the_text",
        "stop_string_of_the_bundle_applies",
        "multi_token_characters_are_not_split",
    ),
    *_of("runtime", "output_limit_of_the_task_is_the_maximum", "control_tokens_in_the_input_are_text"),
    *_of("extract", "record_fits_its_schema_for_any_text", "any_allowed_tokens_make_a_valid_record"),
    # What is left over, and when something is tried.
    *_of("runtime", "cancelled_generation_frees_its_sequence"),
    *_of("extract", "cancelled_records_free_their_places"),
    *_of("faults", "memory_stays_flat_over_thousands_of_jobs"),
    *_of("threads", "thread_trials_do_not_delay_streams", "effect_of_threads_is_measured_once_and_remembered"),
    *_of("threads", "given_threads_are_used_without_tuning"),
    *_of("autotune", "busy_machine_is_not_measured", "settings_stay_if_there_is_no_time_to_measure"),
    *_of("autotune", "nothing_is_tuned_unasked_or_on_a_device", "processor_name_is_a_string"),
)
"""Beginnings of the ids of tests that run on the native build only. The rule: a test runs on each build if it asserts
bits, scores, texts, or what becomes of them when a step is ended, a beginning is found again or an adapter is there; or
if it has failed for how slow a build is."""

_SAME_BITS = (
    *_of("runtime", "scores_do_not_depend_on_neighbours"),
    *_of("extract", "record_does_not_depend_on_its_neighbours"),
    *_of("lone_rows", "lone_row_with_few_cells_is_computed_alone"),
    *_of("texts", "texts_are_the_same_next_to_other_jobs[F16]", "texts_are_the_same_next_to_other_jobs[Q4_K_M]"),
)

_FORMATS = _of(
    "rows",
    *(
        f"fifty_texts_score_the_same_alone_and_in_batches[{kind}]"
        for kind in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_1", "Q4_0")
    ),
)
"""Of the slow tier; F16 and Q4_K_M are of the fast one. Ten seconds each on the slowest build."""

_IS_CHOSEN = "tests/contract/test_llama_builds.py::test_chosen_build_computes"

_FAST = "not slow and not release"

BUILDS = {
    build.name: build
    for build in (
        # Many times slower than the others, so the fast tests do: half floats are converted by a table.
        Build(
            "sse42",
            _OPTIONS[:1],
            ("sse4_2",),
            by_row=False,
            tier=_FAST,
            also=(*_SAME_BITS, *_FORMATS),
        ),
        # Processors of 2011 and 2012; in the release tier.
        Build("avx", _OPTIONS[:2], ("avx",), by_row=False, tier=_FAST, also=(*_SAME_BITS, *_FORMATS)),
        Build("f16c", _OPTIONS[:3], ("avx", "f16c"), by_row=False, tier=_FAST, also=(*_SAME_BITS, *_FORMATS)),
        Build("avx2", _OPTIONS[:6], _AVX2, by_row=True),
        Build("avx512", _OPTIONS, (*_AVX2, *(f"avx512{each}" for each in ("f", "cd", "bw", "dq", "vl"))), by_row=True),
    )
}


def processor_flags() -> set[str]:
    """Return what this processor has, as Linux names it."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return set(about.partition("\nflags")[2].partition("\n")[0].split())


def chosen() -> Build | None:
    """Return the build that this run was asked for; None = the native one."""
    name = os.environ.get(VARIABLE) or NATIVE
    return None if name == NATIVE else BUILDS[name]


def run_contract(name: str) -> None:
    """Run the contract of the llama engine on a build, in processes of their own, and fail with what they print.

    It is skipped where this processor cannot execute the build. Where the native build reports the same code paths
    (llama_print_system_info), as with AVX2 on a processor that has nothing newer, the whole contract runs on the native
    one anyway, and only the tests of equal bits run again on this one.
    """
    build = BUILDS[name]
    if not build.runs_here:
        pytest.skip(f"this processor has not all of {', '.join(build.needs)}")
    make([build])
    alike = _code_paths(build.folder) == _code_paths(_installed())
    for arguments in [[*_SAME_BITS, _IS_CHOSEN]] if alike else build.runs:
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-n0",
                "-v",
                "-rfE",
                "--tb=short",
                f"--timeout={_SECONDS_MAX}",
                *arguments,
            ],
            cwd=ROOT,
            env={**os.environ, VARIABLE: name},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"on the build for {name}:\n{(run.stdout + run.stderr)[-_TOLD:]}"


def _code_paths(folder: Path) -> str:
    """Return which of its code paths the build in a folder has, as llama.cpp reports them."""
    return subprocess.run(
        [sys.executable, "-c", "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"],
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def use_chosen() -> None:
    """Have this process and its children load the chosen build, made first where need be. Before llama_cpp is there."""
    build = chosen()
    if build is None:
        return
    assert build.runs_here, f"{VARIABLE}={build.name}: this processor cannot execute that build"
    assert "llama_cpp" not in sys.modules
    os.environ["LLAMA_CPP_LIB_PATH"] = str(build.folder)
    if not build.folder.is_dir():  # in a process of its own: what finds the source may load llama_cpp
        subprocess.run([sys.executable, "-m", "tests.support.llama_builds", build.name], cwd=ROOT, check=True)


def make(builds: Sequence[Build]) -> None:
    """Make those builds that are not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [build for build in builds if not build.folder.is_dir()]
        if not missing:
            return
        with _source() as source:
            for build in missing:
                _make(build, source)
                for older in set(CACHE.glob(f"{build.name}-*")) - {build.folder}:
                    shutil.rmtree(older)


@contextmanager
def _source() -> Iterator[Path]:
    """Yield llama.cpp's source, of the pinned archive."""
    from convert.export import gguf_export  # noqa: PLC0415 - may load llama_cpp, and then it is too late to choose

    inside = f"llama_cpp_python-{gguf_export.VERSION}/vendor/llama.cpp/"
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".source-") as name:
        folder = Path(name)
        with tarfile.open(gguf_export.download(folder)) as tar:
            tar.extractall(folder, [each for each in tar if each.name.startswith(inside)], filter="data")
        yield folder / inside


def _make(build: Build, source: Path) -> None:
    """Compile the CPU backend, and put it next to the wheel's other libraries."""
    tree = source.with_name(build.name)
    include = " ".join(f'-include "{header}"' for header in HEADERS)
    options = [f"-DGGML_{name}={'ON' if name in build.options else 'OFF'}" for name in ("NATIVE", *_OPTIONS)]
    options += [f"-DLLAMA_BUILD_{name}=OFF" for name in _LEFT_OUT]
    options += ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", f"-DCMAKE_C_FLAGS={include}"]
    options += ["-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DCMAKE_INSTALL_RPATH=$ORIGIN"]
    _run(["cmake", "-S", str(source), "-B", str(tree), *options])
    _run(["cmake", "--build", str(tree), "--target", "ggml-cpu", "--parallel", str(os.cpu_count() or 1)])
    made = tree / "made"
    made.mkdir()
    shutil.copy2(tree / "bin" / _COMPUTES, made / _COMPUTES)
    for name in _OTHERS:
        shutil.copy2(_installed() / name, made / name)
    made.replace(build.folder)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed\n{(done.stdout + done.stderr)[-4000:]}")


def _installed() -> Path:
    """Return the folder of the installed wheel's libraries, without loading one."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "lib"


def _version() -> str:
    return importlib.metadata.version("llama-cpp-python")


if __name__ == "__main__":
    make([BUILDS[name] for name in sys.argv[1:]] or [build for build in BUILDS.values() if build.runs_here])

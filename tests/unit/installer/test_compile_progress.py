"""installer/build/compile_progress.py: the progress of a ninja build and the estimate of its remaining time."""

from __future__ import annotations

import pytest

from installer.build.compile_progress import CompileProgress, planned, rough_time

DRY_RUN = """\
ninja: Entering directory `/build'
[1/4] Building C object ggml/CMakeFiles/ggml-base.dir/ggml.c.o
[2/4] Building CXX object ggml/CMakeFiles/ggml-cpu.dir/ops.cpp.o
[3/4] Building CXX object src/CMakeFiles/llama.dir/llama.cpp.o
[4/4] Linking CXX shared library bin/libllama.so
"""
STEPS = planned(DRY_RUN)
COSTS = {"ops.cpp": 90.0, "ggml.c": 10.0}


def progress(jobs: int = 2) -> CompileProgress:
    return CompileProgress(STEPS, jobs, COSTS, 10.0)


def test_a_dry_run_lists_the_steps():
    """Each numbered line of `ninja -n` is a step that is still to be done; other lines are ignored."""
    assert "Building C object ggml/CMakeFiles/ggml-base.dir/ggml.c.o" == STEPS[0]
    assert 4 == len(STEPS)


def test_progress_counts_compiled_objects_only():
    """Progress counts compiled objects; link steps do not count because they take almost no time."""
    counted = progress()
    for line in DRY_RUN.splitlines():
        counted.see(line)
    assert (3, 3) == (counted.compiled, counted.objects)


@pytest.mark.parametrize(
    "line",
    [
        "[1/3] Building CXX object CMakeFiles/shaders-gen.dir/main.cpp.o",
        "[0/1] Re-running CMake...",
        "ops.cpp:12: warning: [1/4] Building C object",
        "",
    ],
)
def test_unplanned_output_lines_do_not_count(line: str):
    """Step numbers of nested builds, compiler output and empty lines do not count as progress."""
    counted = progress()
    counted.see(line)
    assert 0 == counted.compiled


def test_a_step_counts_once():
    """A step whose line ninja prints several times counts as one compiled object."""
    counted = progress()
    for _ in range(3):
        counted.see(f"[1/4] {STEPS[0]}")
    assert 1 == counted.compiled


def test_initial_estimate_comes_from_the_cost_table():
    """Before the first object is compiled, the estimate is the total of the cost table divided by the number of jobs:
    110.2 s for one job, 55.1 s for two."""
    assert pytest.approx(55.1, abs=0.1) == progress().seconds_left(0)
    assert pytest.approx(110.2, abs=0.1) == progress(jobs=1).seconds_left(0)


def test_estimate_adapts_to_the_speed_of_the_machine():
    """On a machine that took ten times as long for the finished steps, the estimate for the rest is 8 to 10 times as
    long."""
    fast, slow = progress(1), progress(1)
    for each in (fast, slow):
        each.see(f"[1/4] {STEPS[1]}")
    left = fast.seconds_left(90), slow.seconds_left(900)
    assert pytest.approx(20.2, abs=0.1) == left[0]
    assert 8 * left[0] < left[1] < 10 * left[0]


def test_finished_build_shows_a_full_bar():
    """After the last step the progress bar is full and the remaining time is less than 1 min."""
    counted = progress()
    for line in DRY_RUN.splitlines():
        counted.see(line)
    assert "[##########] 3 of 3, less than 1 min left" == counted.describe(100)


def test_progress_line_shows_bar_count_and_remaining_time():
    """The progress line shows a bar, the number of compiled objects and the remaining time."""
    counted = progress()
    counted.see(f"[1/4] {STEPS[0]}")
    assert "[###.......] 1 of 3, about 1 min left" == counted.describe(10)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than 1 min"), (29, "less than 1 min"), (31, "about 1 min"), (640, "about 11 min")],
)
def test_estimate_is_rounded_to_minutes(seconds: float, said: str):
    """The remaining time is shown in whole minutes, or as less than 1 min."""
    assert said == rough_time(seconds)

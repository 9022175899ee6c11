"""installer/build/compile_progress.py: how far a build with ninja is, and how long the rest takes."""

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
    """Each numbered line of `ninja -n` is a step that is still to be done; other lines are not."""
    assert "Building C object ggml/CMakeFiles/ggml-base.dir/ggml.c.o" == STEPS[0]
    assert 4 == len(STEPS)


def test_objects_are_counted_and_other_steps_are_not():
    """A link is done in no time; a person counts what is compiled."""
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
def test_lines_of_others_do_not_count(line: str):
    """Nested builds number their own steps, and compilers print what they like."""
    counted = progress()
    counted.see(line)
    assert 0 == counted.compiled


def test_a_step_counts_once():
    """A line that comes twice does not count an object that is still to be compiled."""
    counted = progress()
    for _ in range(3):
        counted.see(f"[1/4] {STEPS[0]}")
    assert 1 == counted.compiled


def test_before_the_first_object_the_estimate_is_that_of_the_table():
    """110.2 s of work for one core take two cores half as long."""
    assert pytest.approx(55.1, abs=0.1) == progress().seconds_left(0)
    assert pytest.approx(110.2, abs=0.1) == progress(jobs=1).seconds_left(0)


def test_the_estimate_follows_the_machine():
    """On a machine that took ten times as long for what is done, the rest takes nearly ten times as long."""
    fast, slow = progress(1), progress(1)
    for each in (fast, slow):
        each.see(f"[1/4] {STEPS[1]}")
    left = fast.seconds_left(90), slow.seconds_left(900)
    assert pytest.approx(20.2, abs=0.1) == left[0]
    assert 8 * left[0] < left[1] < 10 * left[0]


def test_nothing_is_left_when_all_is_done():
    """Then the bar is full."""
    counted = progress()
    for line in DRY_RUN.splitlines():
        counted.see(line)
    assert "[##########] 3 of 3, less than 1 min left" == counted.describe(100)


def test_the_line_shows_bar_count_and_rest():
    """It fits beside a title into 80 columns."""
    counted = progress()
    counted.see(f"[1/4] {STEPS[0]}")
    assert "[###.......] 1 of 3, about 1 min left" == counted.describe(10)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than 1 min"), (29, "less than 1 min"), (31, "about 1 min"), (640, "about 11 min")],
)
def test_an_estimate_has_no_more_digits_than_it_deserves(seconds: float, said: str):
    """Minutes are enough."""
    assert said == rough_time(seconds)

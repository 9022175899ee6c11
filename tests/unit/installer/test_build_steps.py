"""installer/build/build_steps.py: progress lines, error messages and checks of the installer build."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from installer.build.__main__ import commit_of
from installer.build.build_steps import BuildFailed, StepConsole, failure, need, need_space

NO_NETWORK = """\
WARNING: Retrying (Retry(total=4, connect=None, read=None, redirect=None, status=None)) after connection broken by \
'NewConnectionError('<HTTPSConnection object at 0x7f>: Failed to establish a new connection: [Errno -3] Temporary \
failure in name resolution')': /simple/uv/
ERROR: Could not find a version that satisfies the requirement uv>=0.9 (from versions: none)
ERROR: No matching distribution found for uv>=0.9
"""
DISK_FULL = """\
[3/9] Building C object ops.c.o
/tmp/ccV2.s: fatal error: cannot write: No space left on device
ninja: build stopped: subcommand failed.
"""


class Screen(io.StringIO):
    """A text stream that reports itself as a terminal or as a file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def shown(terminal: bool, detail: str, seconds: int = 95) -> str:
    """Return the output of a step that takes `seconds` and reports its progress once per second."""
    now = [0.0]
    screen = Screen(terminal)
    console = StepConsole(screen, lambda: now[0])
    with console.step("compiled 3 objects"):
        for _ in range(seconds):
            now[0] += 1
            console.tick(detail)
    return screen.getvalue()


def test_log_gets_a_progress_line_every_30_seconds():
    """If the output is not a terminal, a step prints a progress line every 30 seconds and one at its end, without
    control characters."""
    assert shown(terminal=False, detail="1 of 3").splitlines() == [
        "  ...  compiled 3 objects  1 of 3  30 s",
        "  ...  compiled 3 objects  1 of 3  60 s",
        "  ...  compiled 3 objects  1 of 3  90 s",
        "  ok   compiled 3 objects  95 s",
    ]


def test_terminal_shows_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch):
    """On a terminal a step redraws a single line, which is never wider than the terminal: a wrapped line could not be
    redrawn."""
    monkeypatch.setenv("COLUMNS", "40")
    drawn = shown(terminal=True, detail="x" * 100)
    assert 1 == drawn.count("\n")
    assert drawn.endswith("\r\033[K  ok   compiled 3 objects  95 s\n")
    assert all(40 > len(part) for part in drawn.split("\r\033[K"))


def test_failed_step_clears_its_line_and_prints_no_ok():
    """A step that fails clears its progress line and does not print `ok`; the caller prints the error."""
    screen = Screen(terminal=True)
    with pytest.raises(BuildFailed), StepConsole(screen).step("fetched"):
        raise BuildFailed("no", "try")
    assert "ok" not in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")


@pytest.mark.parametrize(
    ("output", "message", "remedy"),
    [
        (
            NO_NETWORK,
            "no package index can be reached: Temporary failure in name resolution (all lines",
            "Check the network",
        ),
        (DISK_FULL, "the disk is full: /tmp/ccV2.s", "GB free. Free some space."),
        ("one\ntwo\n", "pip ended with 2:\n    one\n    two", "The whole output is in"),
    ],
)
def test_failed_command_names_its_cause_and_remedy(tmp_path: Path, output: str, message: str, remedy: str):
    """A failed build command names a missing network or a full disk as the cause; for any other failure it shows the
    last lines of output. Each message names the remedy."""
    failed = failure("pip", 2, output, tmp_path / "build.log")
    assert (True, True) == (failed.message.startswith(message), remedy in failed.remedy)
    assert failed.remedy.endswith("run scripts/build-installer again to continue.")


def test_build_refuses_a_disk_without_enough_space(tmp_path: Path):
    """The build refuses a disk without enough space and names the free and the needed space."""
    need_space(tmp_path, 1)
    with pytest.raises(BuildFailed, match=r"has [\d.]+ GB free; the build needs 1000000\.0 GB"):
        need_space(tmp_path, 10**15)


def test_missing_programs_are_named_with_their_packages():
    """The build names all missing programs at once, and the command that installs their packages."""
    need([("sh", "dash")])
    with pytest.raises(BuildFailed, match="these programs are missing: no-gcc, no-glslc") as caught:
        need([("no-gcc", "gcc"), ("sh", "dash"), ("no-glslc", "glslc libvulkan-dev")])
    assert "Debian, Ubuntu: sudo apt-get install gcc glslc libvulkan-dev" == caught.value.remedy


def test_build_names_a_folder_that_git_cannot_read(tmp_path: Path):
    """The build refuses a folder that is not a git repository, such as a copy without its history, and names the folder
    and git's error."""
    with pytest.raises(BuildFailed, match=f"git cannot read {tmp_path}: .*not a git repository"):
        commit_of(tmp_path)

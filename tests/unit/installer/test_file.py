"""installer/build/archive.py and header.sh: a file that checks itself before it runs anything."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from installer.build.archive import InstallerLabel, write

LABEL = InstallerLabel("1.0", "cpu")
PYTHON = str(Path(sys.executable).resolve())
SETUP = "import sys\nprint('setup was run with', *sys.argv[1:])\nopen('RAN', 'w')\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An installer file whose setup leaves a trace beside it."""
    payload = tmp_path / "payload"
    (payload / "common").mkdir(parents=True)
    (payload / "common/setup.pyz").write_text(SETUP.replace("RAN", str(tmp_path / "ran")))
    for version in ("3.11", "3.12", "3.13"):
        (payload / f"python{version}").mkdir()
        (payload / f"python{version}/lock.txt").write_text(version)
    path = tmp_path / "some folder" / LABEL.file_name
    path.parent.mkdir()
    write(path, payload, LABEL)
    return path


def run(file: Path, *arguments: str, python: str = PYTHON, shell: str = "sh") -> tuple[int, str, bool]:
    """Run it; return the exit code, what it said, and whether setup was run."""
    ran = file.parent.parent / "ran"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "TMPDIR": str(file.parent)}
    done = subprocess.run([shell, file, *arguments], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr, ran.exists()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_whole_file_runs_its_setup_and_leaves_nothing(file: Path, shell: str):
    """The setup gets the unpacked payload and the arguments; the folder where it was unpacked is removed."""
    code, said, ran = run(file, "--root", "x y", shell=shell)
    assert (0, True, True) == (code, said.rstrip().endswith("--root x y"), ran)
    assert [file] == list(file.parent.iterdir())


def test_a_file_that_is_cut_off_runs_nothing(file: Path):
    """Wherever it ends: the script is then no whole function, or nothing calls it; or its size is wrong."""
    whole = file.read_bytes()
    end = whole.index(b'main "$@"; exit\n')
    for length in (*range(0, end, 97), *range(end, end + 18), len(whole) - 1):
        file.write_bytes(whole[:length])
        code, said, ran = run(file)
        assert not ran, f"cut at {length}"
        assert code != 0 or not said


def test_a_damaged_file_runs_nothing_and_says_so(file: Path):
    """One changed byte, in the payload or in the script's own words, ends it with 5."""
    whole = file.read_bytes()
    for place in (whole.index(b"looked at:"), len(whole) - 700, whole.index(b"find_python: sets")):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, said, ran = run(file)
        assert (5, True, False) == (code, "is damaged" in said and "Copy it again" in said, ran)


def test_another_python_than_it_has_packages_for_is_refused(file: Path, tmp_path: Path):
    """What was looked at is named, and what to install."""
    fake = tmp_path / "python3.9"
    fake.write_text("#!/bin/sh\necho 3.9\n")
    fake.chmod(0o755)
    code, said, ran = run(file, python=str(fake))
    assert (3, True, True, False) == (code, f"{fake} (3.9)" in said, "apt-get install python3" in said, ran)


def test_a_python_is_one_path_whatever_is_in_it(file: Path, tmp_path: Path):
    """PYTHON names one interpreter, also where its path has a blank, and nothing else is looked at."""
    linked = tmp_path / "my tools/python3"
    linked.parent.mkdir()
    linked.symlink_to(PYTHON)
    assert (0, True) == run(file, python=str(linked))[::2]
    code, said, _ = run(file, python=f"{tmp_path}/none {PYTHON}")
    assert (3, True) == (code, "looked at: nothing" in said)


def test_a_file_that_is_piped_into_a_shell_says_how_to_run_it(file: Path):
    """Its payload cannot be found then."""
    done = subprocess.run(["sh"], input=file.read_bytes(), capture_output=True, cwd=file.parent, check=False)
    assert (2, True) == (done.returncode, b"was not started from its file" in done.stderr)


def test_a_folder_without_room_is_named(file: Path):
    """Where it cannot unpack it ends with 3 and says which folder to change."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": PYTHON, "TMPDIR": "/proc"}
    done = subprocess.run(["sh", file], capture_output=True, text=True, env=environment, check=False)
    assert (3, True) == (done.returncode, "TMPDIR" in done.stderr)


def test_what_a_killed_one_left_is_removed(file: Path):
    """The folder of a process that is gone goes; the one of a process that runs stays."""
    gone, running = (file.with_name(f"edge-agent-setup.{pid}.abcdef") for pid in (2**22 + 1, os.getpid()))
    for folder in (gone, running):
        (folder / "common").mkdir(parents=True)
    assert 0 == run(file)[0]
    assert {file, running} == set(file.parent.iterdir())


def test_the_same_content_makes_the_same_file(file: Path, tmp_path: Path):
    """Nothing in it says who packed it, or when."""
    again = tmp_path / "again.run"
    (tmp_path / "payload/common/setup.pyz").touch()
    write(again, tmp_path / "payload", LABEL)
    assert file.read_bytes() == again.read_bytes()


def test_the_payload_is_a_plain_tar(file: Path):
    """Behind the script a tar opens, owned by nobody in particular."""
    whole = file.read_bytes()
    start = whole.index(b'main "$@"; exit\n') + len(b'main "$@"; exit\n')
    with tarfile.open(fileobj=io.BytesIO(whole[start:])) as tar:
        assert {0} == {item.uid for item in tar}


@pytest.mark.parametrize(
    ("variant", "name"),
    [("cpu", "edge-agent-1.0-linux-x86_64.run"), ("vulkan", "edge-agent-1.0-linux-x86_64-vulkan.run")],
)
def test_a_gpu_variant_is_named(variant: str, name: str):
    """The plain name is the one for processors."""
    assert name == InstallerLabel("1.0", variant).file_name

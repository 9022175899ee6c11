"""installer/build/archive.py and header.sh: an installer file that verifies itself before it runs anything."""

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
    """An installer file whose setup creates the file `ran` to show that it ran."""
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
    """Run the installer file; return the exit code, its output, and whether setup ran."""
    ran = file.parent.parent / "ran"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "TMPDIR": str(file.parent)}
    done = subprocess.run([shell, file, *arguments], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr, ran.exists()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_intact_installer_runs_setup_and_removes_its_temp_folder(file: Path, shell: str):
    """An intact installer file passes its arguments to setup and removes the folder into which it unpacked the payload,
    under sh and bash."""
    code, said, ran = run(file, "--root", "x y", shell=shell)
    assert (0, True, True) == (code, said.rstrip().endswith("--root x y"), ran)
    assert [file] == list(file.parent.iterdir())


def test_truncated_installer_never_runs_setup(file: Path):
    """An installer file that is truncated at any point does not run setup: its script is incomplete, nothing calls its
    main function, or its size is wrong."""
    whole = file.read_bytes()
    end = whole.index(b'main "$@"; exit\n')
    for length in (*range(0, end, 97), *range(end, end + 18), len(whole) - 1):
        file.write_bytes(whole[:length])
        code, said, ran = run(file)
        assert not ran, f"cut at {length}"
        assert code != 0 or not said


def test_damaged_installer_is_refused_with_exit_code_5(file: Path):
    """An installer file with one changed byte, in the payload or in the script, ends with exit code 5, reports the
    damage and does not run setup."""
    whole = file.read_bytes()
    for place in (whole.index(b"looked at:"), len(whole) - 700, whole.index(b"find_python: sets")):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, said, ran = run(file)
        assert (5, True, False) == (code, "is damaged" in said and "Copy it again" in said, ran)


def test_installer_refuses_an_unsupported_python(file: Path, tmp_path: Path):
    """If the installer has no packages for the Python that it finds, it ends with exit code 3 and names the Python that
    it examined and the package to install."""
    fake = tmp_path / "python3.9"
    fake.write_text("#!/bin/sh\necho 3.9\n")
    fake.chmod(0o755)
    code, said, ran = run(file, python=str(fake))
    assert (3, True, True, False) == (code, f"{fake} (3.9)" in said, "apt-get install python3" in said, ran)


def test_python_variable_is_one_path_even_with_spaces(file: Path, tmp_path: Path):
    """The variable PYTHON names one interpreter, whose path can contain spaces; if it does not exist, the installer
    tries no other."""
    linked = tmp_path / "my tools/python3"
    linked.parent.mkdir()
    linked.symlink_to(PYTHON)
    assert (0, True) == run(file, python=str(linked))[::2]
    code, said, _ = run(file, python=f"{tmp_path}/none {PYTHON}")
    assert (3, True) == (code, "looked at: nothing" in said)


def test_installer_piped_into_a_shell_is_refused(file: Path):
    """An installer that is piped into a shell cannot find its payload: it ends with exit code 2 and reports that it was
    not started from its file."""
    done = subprocess.run(["sh"], input=file.read_bytes(), capture_output=True, cwd=file.parent, check=False)
    assert (2, True) == (done.returncode, b"was not started from its file" in done.stderr)


def test_installer_that_cannot_unpack_names_tmpdir(file: Path):
    """If the installer cannot unpack into TMPDIR, it ends with exit code 3 and names that variable."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": PYTHON, "TMPDIR": "/proc"}
    done = subprocess.run(["sh", file], capture_output=True, text=True, env=environment, check=False)
    assert (3, True) == (done.returncode, "TMPDIR" in done.stderr)


def test_installer_removes_the_temp_folder_of_a_killed_run(file: Path):
    """The installer removes temporary folders whose process no longer runs and keeps the folder of a running
    process."""
    gone, running = (file.with_name(f"edge-agent-setup.{pid}.abcdef") for pid in (2**22 + 1, os.getpid()))
    for folder in (gone, running):
        (folder / "common").mkdir(parents=True)
    assert 0 == run(file)[0]
    assert {file, running} == set(file.parent.iterdir())


def test_installer_build_is_reproducible(file: Path, tmp_path: Path):
    """The same payload produces the same installer file, byte for byte, even if a file's modification time differs."""
    again = tmp_path / "again.run"
    (tmp_path / "payload/common/setup.pyz").touch()
    write(again, tmp_path / "payload", LABEL)
    assert file.read_bytes() == again.read_bytes()


def test_payload_is_a_tar_whose_files_belong_to_uid_0(file: Path):
    """The bytes behind the script are a tar archive whose files all belong to user id 0."""
    whole = file.read_bytes()
    start = whole.index(b'main "$@"; exit\n') + len(b'main "$@"; exit\n')
    with tarfile.open(fileobj=io.BytesIO(whole[start:])) as tar:
        assert {0} == {item.uid for item in tar}


@pytest.mark.parametrize(
    ("variant", "name"),
    [("cpu", "edge-agent-1.0-linux-x86_64.run"), ("vulkan", "edge-agent-1.0-linux-x86_64-vulkan.run")],
)
def test_file_name_contains_the_gpu_variant(variant: str, name: str):
    """The file name of a GPU installer ends with the variant; the CPU installer has no suffix."""
    assert name == InstallerLabel("1.0", variant).file_name

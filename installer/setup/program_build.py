"""Makes a program's folder: an environment of the machine's Python, the wheels by their hashes, and the shared files.

No link points to the folder until it is complete. It counts as a program only with its `program.json`, which is written
last, after everything else is synced.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from installer.setup import durable_files, integrity
from installer.setup.errors import FAILED, MACHINE, SetupError
from installer.setup.payload import Payload
from installer.setup.target_machine import TargetMachine

MARK = "program.json"
LINES_SHOWN = 12

# The other commands run under the program's Python; this one must also run when that Python is gone.
_COMMAND = """#!/bin/sh
# edge-agent-setup: runs under any Python that is new enough, because the program's own can be broken.
here=$(dirname -- "$(readlink -f -- "$0")")
for python in "$here/python3" python3.13 python3.12 python3.11 python3; do
  if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" -I "$here/../setup.pyz" --installed "$here/.." "$@"
  fi
done
echo "error: no Python 3.11 or newer was found" >&2
echo "what to do: install python3, then run this again" >&2
exit 3
"""

# Python looks next to the command first, but prefers any package of that name to a folder without __init__.py. So it
# loads this file only if the program's Python has another version, and therefore none of its packages.
_STUB = Path("bin/edge_agent/cli.py")
_STUB_CODE = """\"\"\"Prints the remedy if an upgrade of the system has replaced the Python of this program.\"\"\"

import sys


def main():
    sys.stderr.write("error: the program does not run: its Python {python} is no longer on this machine\\n")
    sys.stderr.write("what to do: run the installer file again: configuration and data stay\\n")
    return 3
"""


def build_program(folder: Path, payload: Payload, machine: TargetMachine) -> None:
    """Make and fill the folder. Raises SetupError, OSError; the folder is then incomplete."""
    folder.mkdir(parents=True)
    interpreter = str(machine.interpreter)
    _run([interpreter, "-I", "-m", "venv", "--without-pip", str(folder)], "the environment cannot be made", _VENV)
    shared, own = payload.wheels(machine.python)
    options = ["--no-index", "--no-deps", "--require-hashes", "--no-cache-dir", "--root-user-action=ignore"]
    options += ["--disable-pip-version-check", "--no-input", "--quiet", "--no-warn-script-location"]
    find_links = ["--find-links", str(shared), "--find-links", str(own)]
    install = [
        f"{payload.pip}/pip",
        "--isolated",
        "install",
        *options,
        *find_links,
        "-r",
        str(payload.lock(machine.python)),
    ]
    _run([str(folder / "bin/python"), "-I", *install], "the wheels cannot be installed", _WHEELS)
    shutil.copytree(payload.share, folder / "share", dirs_exist_ok=True)
    shutil.copyfile(payload.common / "setup.pyz", folder / "setup.pyz")
    command = folder / "bin/edge-agent-setup"
    command.write_text(_COMMAND, encoding="utf-8")
    command.chmod(0o755)
    stub = folder / _STUB
    stub.parent.mkdir()
    stub.write_text(_STUB_CODE.format(python=machine.python), encoding="utf-8")
    share = sorted(path for path in (folder / "share").rglob("*") if path.is_file())
    integrity.record_files(folder, [*share, folder / "setup.pyz", command, stub])


def test_program(folder: Path, payload: Payload) -> list[str]:
    """Run the program's own short tests under its Python; return the output of each. Raises SetupError."""
    outputs = []
    for arguments in payload.manifest["tests"]:
        command = [str(folder / "bin/python"), "-I", *arguments]
        outputs.append(_run(command, "the program does not run on this machine", _RUNS).strip())
    return outputs


def complete_program(folder: Path, payload: Payload, machine: TargetMachine) -> None:
    """Sync everything to the disk, then write `program.json`, which makes the program complete."""
    durable_files.sync_all(folder)
    about = {
        "version": payload.version,
        "variant": payload.variant,
        "commit": payload.manifest["commit"],
        "python": machine.python,
        "interpreter": str(machine.interpreter),
        "installed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    durable_files.write(folder / MARK, json.dumps(about, indent=2).encode())


_VENV = (MACHINE, "Install the package python3 (Debian, Ubuntu: python3 with its standard library), then run it again.")
_WHEELS = (MACHINE, "Run the same command again; if it fails again, copy the installer file again.")
_RUNS = (FAILED, "Nothing was changed. Send the lines above to the team that gave you this installer.")


def _run(command: Sequence[str], problem: str, failure: tuple[int, str]) -> str:
    """Run a program without the caller's environment; return its output. Raises SetupError with its last lines."""
    with tempfile.TemporaryDirectory(prefix="edge-agent-setup.") as home:
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": home, "PIP_CONFIG_FILE": os.devnull}
        environment["ORT_DISABLE_TELEMETRY"] = "1"  # the tests import ONNX Runtime, which otherwise calls its vendor
        if "TMPDIR" in os.environ:
            environment["TMPDIR"] = os.environ["TMPDIR"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603 - ours
    if done.returncode == 0:
        return done.stdout
    lines = (done.stderr or done.stdout).strip().splitlines()[-LINES_SHOWN:] or [_describe_exit(done.returncode)]
    code, remedy = failure
    if any("No space left on device" in line for line in lines):
        problem, code, remedy = "the disk is full", MACHINE, "Free some space and run the same command again."
    raise SetupError(code, "\n        ".join([f"{problem}:", *lines]), remedy)


def _describe_exit(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"

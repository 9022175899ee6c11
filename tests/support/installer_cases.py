"""Installers of a tiny program: real installer files whose one wheel contains only a command."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from installer.build import archive
from installer.build.wheelhouse import locked

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BUNDLED = sorted((Path(sys.base_prefix) / f"lib/python{PYTHON}/ensurepip/_bundled").glob("pip-*.whl"))
TESTS = (("-m", "edge_agent.cli"), ("-m", "edge_agent.engine.runtimes.llama.llama_backends"))
BACKENDS = "edge_agent/engine/runtimes/llama/llama_backends.py"

needs_pip = pytest.mark.skipif(not BUNDLED, reason="this Python brings no wheel of pip")


CLI = """\
import sys
from pathlib import Path


def main():
    print("edge-agent VERSION")
    if sys.argv[1:2] == ["enrol"]:
        sys.exit("kit" not in Path(sys.argv[2]).read_text())


if __name__ == "__main__":
    main()
"""


def program(version: str) -> dict[str, str]:
    """Return the modules of a program that says its version, and enrols with nothing but an enrolment file."""
    cli = CLI.replace("VERSION", version)
    return {"edge_agent/__init__.py": "", "edge_agent/cli.py": cli, BACKENDS: "print('x64')\n"}


def wheel(folder: Path, version: str, modules: dict[str, str]) -> Path:
    """Write a wheel of the agent."""
    about = f"edge_agent_appliance-{version}.dist-info"
    files = {
        **modules,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: edge-agent-appliance\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\nedge-agent = edge_agent.cli:main\n",
    }
    record = "".join(f"{name},sha256={_hash(text)},{len(text)}\n" for name, text in files.items())
    path = folder / f"edge_agent_appliance-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        for name, text in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            out.writestr(name, text)
    return path


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def installer(folder: Path, version: str = "1.0", share: dict[str, str] | None = None, **about: object) -> Path:
    """Write an installer file; `share` has what is laid on the machine, `about` changes the manifest."""
    payload = folder / f"payload-{version}"
    wheels, own = payload / "common/wheels", payload / f"python{PYTHON}"
    for path in (wheels, own / "wheels"):
        path.mkdir(parents=True)
    made = wheel(wheels, version, program(version))
    (own / "lock.txt").write_text(locked([made]))
    for name, text in {**SHARE, **(share or {})}.items():
        path = payload / "common/share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for bundled in BUNDLED[:1]:
        shutil.copyfile(bundled, payload / "common" / bundled.name)
    archive.setup_program(payload / "common/setup.pyz")
    manifest = {**MANIFEST, "version": version, "installed_bytes": {PYTHON: 1 << 20}, **about}
    (payload / "common/manifest.json").write_text(json.dumps(manifest))
    label = archive.InstallerLabel(version, "cpu")
    archive.write(folder / label.file_name, payload, label)
    shutil.rmtree(payload)
    return folder / label.file_name


MANIFEST = {"variant": "cpu", "machine": "x86_64", "commit": "abc", "glibc": "2.17", "tests": TESTS}
SHARE = {
    "agent.yaml": "# sample\n",
    "systemd/edge-agent.service": "[Service]\nExecStart=/opt/edge-agent/current/bin/edge-agent serve\n",
    "sysusers/edge-agent.conf": "u edge-agent -\n",
    "man/edge-agent.1": ".TH EDGE-AGENT 1\n",
}


class Site:
    """A folder that setup installs into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "opt/edge-agent/current"

    def run(self, file: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run an installer file."""
        return _run([*before, "sh", str(file), "--root", str(self.root), *arguments])

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installed edge-agent-setup."""
        return _run([str(self.root / "usr/local/sbin/edge-agent-setup"), *arguments])

    def version(self) -> str:
        """Return what the installed program says."""
        return self.agent().stdout.strip()

    def agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installed edge-agent."""
        return _run([str(self.root / "usr/local/bin/edge-agent"), *arguments])

    def programs(self) -> list[str]:
        """Return the names of the programs that are there."""
        return sorted(path.name for path in (self.root / "opt/edge-agent/venvs").glob("*"))

    def read(self, name: str) -> str:
        """Return the text of a file below the root."""
        return (self.root / name).read_text()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(Path(sys.executable).resolve())}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)

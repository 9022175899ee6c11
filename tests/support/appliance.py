"""An appliance as a technician sets it up, on a booted machine: installer, enrolment file, drives, users.

site = Appliance(machine, tmp_path)
site.install("0.1.0"); site.enrol(); site.bring(site.smollm2())
site.classify("till")
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.formats import enrolment_file
from edge_agent.formats.signed_document import format_timestamp
from tests.support import machine_callers
from tests.support.booted_machine import CACHE, ROOT, Machine, shortened
from tests.support.bundles import echo_bundle, smollm2_bundle, tiny_onnx_bundle
from tests.support.enrolment_files import a_enrolment
from tests.support.fleet_cases import CentralTeam

DAY = 86_400
SITE = "shop-12"
DEVICE, STRANGER, REVIEWER = "till", "stranger", "manager"
TASKS = ("echoed", "pos-intent", "tiny")
WRITER = "written"
"""The task that generates; on the engine of the first."""
NEXT_VERSION = "9.0.0"
# Before= so that in a reboot they call until serve has ended. Then nobody will answer them, and they are killed.
CALLERS = f"""
[Unit]
Before=edge-agent.service
[Service]
User={DEVICE}
ExecStart=/opt/edge-agent/current/bin/python /srv/callers.py {TASKS[0]} {WRITER}
StandardOutput=truncate:/srv/calls
StandardError=inherit
TimeoutStopSec=20
"""
# So that a test need not wait a minute: what is shorter is the time, not the way.
QUICK_UNIT = "[Service]\nWatchdogSec=12\n"
QUICK = "engine: {heartbeat_seconds_max: 2, restart_seconds_first: 0.2}\n"


def installer(version: str = __version__) -> Path:
    """Return the installer file of this checkout, under another version if given; rebuilt when the code changes."""
    name = f"edge-agent-{version}-linux-x86_64.run"
    made = CACHE / "installers" / _content() / name
    if not made.exists():
        source = ROOT if version == __version__ else _renamed(version)
        command = [sys.executable, "-m", "installer.build", "--out", str(made.parent / "partial")]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (made.parent / "partial" / name).rename(made)
    return made


def _content() -> str:
    """Return a hash of the files that an installer is made from."""
    content = hashlib.sha256()
    listed = ["git", "-C", str(ROOT), "ls-files", "edge_agent", "installer", "systemd", "pyproject.toml"]
    for name in subprocess.check_output(listed, text=True).splitlines():
        content.update((ROOT / name).read_bytes())
    return content.hexdigest()[:12]


def _renamed(version: str) -> Path:
    """Return a copy of this checkout that calls itself another version."""
    copy = CACHE / f"source-{version}"
    shutil.rmtree(copy, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, copy], check=True)
    (copy / ".cache").symlink_to(ROOT / ".cache")
    for name in ("edge_agent/__init__.py", "pyproject.toml"):
        path = copy / name
        path.write_text(path.read_text().replace(f'"{__version__}"', f'"{version}"', 1))
    return copy


def _not_ok(said: str) -> str:
    """Return a line for each doctor finding that is not ok; return text that is not JSON unchanged."""
    if not said.startswith("{"):
        return shortened(said)
    found = json.loads(said)["findings"]
    lines = [f"{f['verdict']} {f['check']} {f['about']}: {f['seen']}" for f in found if f["verdict"] != "ok"]
    return "\n".join([*lines, f"({len(found) - len(lines)} findings are ok)"])


class Calls:
    """The outcomes of the calls of a load."""

    def __init__(self, output: Path) -> None:
        self._output = output

    def outcomes(self) -> Counter[str]:
        """Count the lines; there are none before systemd has made the file."""
        return Counter(self._output.read_text().splitlines() if self._output.exists() else ())

    def under_way(self) -> bool:
        """Return whether callers of each kind get answers and a stream runs."""
        said = self.outcomes()
        return (
            said["streams began"] > said["streams whole"] > 0 < said["once answered"] and said["patient answered"] > 0
        )

    def lost(self) -> list[str]:
        """Return forbidden outcomes: calls cut, failed or refused permanently, and streams that never ended."""
        said = self.outcomes()
        never = ["streams without an end"] * (said["streams began"] > said["streams whole"])
        good = ("streams began", "streams whole", "once answered", "patient answered")
        refused = ("streams refused UNAVAILABLE ", "once refused UNAVAILABLE ")
        return never + [each for each in said if each not in good and not each.startswith(refused)]


class Appliance:
    """See the module."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.central = CentralTeam(folder / "central")
        self.drives = 0
        machine.run("mkdir", "-p", "/var/log/journal")  # so that the log outlives a reboot
        machine.run("journalctl", "--flush")
        for name in (DEVICE, STRANGER, REVIEWER):
            machine.run("useradd", "--create-home", name)

    def install(self, version: str = __version__, *words: str) -> str:
        """Run an installer file from a USB drive."""
        file = installer(version)
        self.machine.put(file, f"/srv/{file.name}")
        return self.machine.run("sh", f"/srv/{file.name}", *words)

    def enrol(self) -> str:
        """Make the machine a site whose store cannot be reached."""
        now = time.time()
        made = a_enrolment(
            site=SITE,
            issued_at=format_timestamp(now),
            expires_at=format_timestamp(now + DAY),
            root=self.central.root_bytes.decode(),
            updates={"url": "s3://fleet/updates", "options": {"region": "eu-1"}},
        )
        path = self.folder / f"{SITE}.kit"
        path.write_bytes(enrolment_file.encode(made))
        self.machine.put(path, f"/srv/{SITE}.kit")
        return self.machine.run("edge-agent", "enrol", "--yes", f"/srv/{SITE}.kit")

    def publish(self) -> None:
        """Sign a bundle for each runtime, and a plan that wants them."""
        made = self.folder / "bundles"
        bundles = (
            echo_bundle(made / "echo", TASKS[0]),
            smollm2_bundle(made / "smollm2", name=TASKS[1]),
            tiny_onnx_bundle(made / "tiny", name=TASKS[2]),
            echo_bundle(made / "writer", WRITER, "generate"),
        )
        self.central.plan(self.central.offering(*map(self.central.publish, bundles)))

    def bring(self, user: str = "") -> str:
        """Mount a USB drive while the daemon runs, import it as a user, and unmount it."""
        self.drives += 1
        self.machine.put(self.central.drive(self.folder / f"drive-{self.drives}"), f"/srv/drive-{self.drives}")
        return self.bring_again(user)

    def bring_again(self, user: str = "") -> str:
        """Mount and import the most recent drive again."""
        self.machine.run("mkdir", "-p", "/media/drive")
        self.machine.run("mount", "--bind", f"/srv/drive-{self.drives}", "/media/drive")
        said = self.machine.run("edge-agent", "media", "import", "/media/drive", user=user)
        self.machine.run("umount", "/media/drive")
        return said

    def classify(self, user: str, task: str = TASKS[0]) -> tuple[int, str]:
        """Call a task as a user; return the exit code and the output."""
        return self.machine.tell("edge-agent", "classify", task, "where is my refund", user=user)

    def answers(self, *tasks: str) -> bool:
        """Return whether these tasks answer a device; without names, all tasks."""
        asked = ("edge-agent", "classify")
        return all(self.machine.ask(*asked, task, "refund", user=DEVICE)[0] == 0 for task in tasks or TASKS)

    def until_it_answers(self, seconds: float = 120.0) -> None:
        """Wait until all tasks answer, and log the answer of one."""
        self.machine.until(self.answers, seconds)
        self.classify(DEVICE, TASKS[1])

    @contextlib.contextmanager
    def called(self) -> Iterator[Calls]:
        """Run callers of every kind while the block runs (tests/support/machine_callers.py)."""
        self.machine.put(Path(machine_callers.__file__), "/srv/callers.py")
        self.machine.write("/etc/systemd/system/callers.service", CALLERS)
        self.machine.run("rm", "-f", "/srv/calls")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "start", "callers")
        calls = Calls(self.machine.root / "srv/calls")
        try:
            self.machine.until(calls.under_way)
            yield calls
        finally:
            self.machine.run("systemctl", "stop", "callers")
            self.machine.note(f"-- {dict(calls.outcomes())}")

    def logged(self) -> list[dict[str, Any]]:
        """Return what the daemon has written to its log since it was last asked."""
        asked = ("journalctl", "--no-pager", "--quiet", "-u", "edge-agent", "-o", "cat", "--cursor-file=/srv/seen")
        lines = self.machine.ask(*asked)[1].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def status(self) -> dict[str, Any]:
        """Return what `edge-agent status --json` says."""
        code, said = self.machine.ask("edge-agent", "status", "--json")
        assert code == 0, said
        plain: dict[str, Any] = json.loads(said)
        return plain

    def update_of(self, task: str) -> dict[str, Any]:
        """Return the state of a task's update, as status has it."""
        found: dict[str, Any] = next(each for each in self.status()["updates"]["tasks"] if task == each["task"])
        return found

    def doctor(self, user: str = "") -> list[dict[str, str]]:
        """Return all of doctor's findings as a user; the log gets a line for each finding that is not ok."""
        code, said = self.machine.tell("edge-agent", "doctor", "--json", user=user, shown=_not_ok)
        assert code in (0, 1, 3), said
        found: list[dict[str, str]] = json.loads(said)["findings"]
        return found

    def findings(self, user: str = "") -> list[dict[str, str]]:
        """Return doctor's findings as a user, without notes and findings that the user may not see."""
        return [each for each in self.doctor(user) if each["verdict"] in ("warning", "fault")]

    def engine_of(self, task: str) -> dict[str, Any]:
        """Return the engine of a task, as status has it."""
        found: dict[str, Any] = next(each for each in self.status()["engines"] if task in each["tasks"])
        return found

    def main_pid(self, unit: str = "edge-agent") -> int:
        """Return the process id of a unit's daemon, as the machine counts; 0 = none."""
        return int(self.machine.property(unit, "MainPID") or 0)

    def signal(self, name: str, pid: int) -> None:
        """Send a signal to a process of the machine."""
        assert pid > 0, "0 would be everybody"
        self.machine.run("sh", "-c", f"kill -{name} {pid}")

    def hurry(self) -> None:
        """Shorten the intervals that a test would wait for."""
        self.machine.write("/etc/edge-agent/agent.yaml", QUICK)
        self.machine.write("/etc/systemd/system/edge-agent.service.d/90-quick.conf", QUICK_UNIT)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", "edge-agent")

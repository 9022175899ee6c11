"""A real daemon in which faults are made, and the programs that doctor's remedies use there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from edge_agent.doctor.installation import MEDIA_FOLDER
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.finding_cases.appliance import ApplianceNamespace
from tests.support.remedy_commands import RemedyRunner

SECONDS_MAX = 60.0
UNTIL_SECONDS_MAX = 180.0
TASK = "pos-intent"
WEIGHTS = b"w" * 4096
Settings = Callable[[Path], Mapping[str, Any]]
"""Makes what a site needs in its folder, and returns the sections of agent.yaml for it."""


def plain(_: Path) -> Mapping[str, Any]:
    """Add nothing to agent.yaml."""
    return {}


class FaultySite:
    """A daemon in a process, with a task and a site key, in a folder that every user may enter."""

    def __init__(self, settings: Settings = plain, *, has_task: bool = True, is_appliance: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ea-finding-"))
        self.folder.chmod(0o755)
        self.has_task = has_task
        self.drive = self.folder / "drive"
        """What is on the USB drive."""
        self.look_from: list[str] = []
        """What is put in front of doctor alone, such as what gives it a namespace."""
        self.environment: dict[str, str] = {}
        """What doctor's environment has more, such as another clock."""
        self.serve_environment: dict[str, str] = {}
        """What the environment of our other programs has more."""
        self.served: dict[str, subprocess.Popen[bytes]] = {}
        """Our other programs that run, by name."""
        self.ends = ExitStack()
        """Takes back what a fault did to the machine."""
        self.releases = ExitStack()
        """Takes back what would keep the daemon from ending."""
        self.sections = sections = {"site": {"id": "shop-7"}, **settings(self.folder)}
        self.daemon = RunningDaemon(self.folder / "site", **sections)
        self.daemon.start_seconds_max = UNTIL_SECONDS_MAX
        self.agent_yaml = self.folder / "site" / "agent.yaml"
        self.config = self.folder / "site" / "all.yaml"
        self.appliance = ApplianceNamespace(self.folder) if is_appliance else None
        if self.appliance:
            self.agent_yaml = self.appliance.take_over(self.daemon)
        controls = {"systemctl": self._systemctl, "edge-agent": self._agent, "tail": self._wait}
        self.runner = RemedyRunner(
            self.folder / "bin",
            self.daemon.command(),
            controls,
            inside=self.daemon.inside,
            cwd=self.folder,
        )

    def _settings(self) -> dict[str, Any]:
        folders = {"state_dir": str(self.daemon.state_dir), "run_dir": str(self.daemon.run_dir)}
        return {**folders, "metrics": {"address": ""}, "store": {"allow_unsigned": True}, **self.sections}

    def __enter__(self) -> FaultySite:
        self.config.write_text(json.dumps(self._settings()))
        self.daemon.start()
        if self.has_task:
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.releases.close()
        self.daemon.kill()
        self.ends.close()
        if self.appliance:
            self.appliance.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.daemon.run_dir, ignore_errors=True)

    def install(self) -> None:
        """Install the task's bundle, as the technician who has it."""
        bundle = self.folder / "bundle"
        self.daemon.install(bundle if bundle.exists() else echo_bundle(bundle, weights=WEIGHTS))

    def serve(self, program: str, *checks: str) -> None:
        """Run another of our programs until the end of this site, and wait until these checks are well."""
        process = self.served[program] = subprocess.Popen(
            [*self.daemon.command(), "serve", program],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.serve_environment},
        )
        self.ends.callback(process.wait)
        self.ends.callback(process.kill)
        self.until(lambda: not {each["check"] for each in self.findings()} & set(checks))
        if program == "uplink":  # until the daemon has reached it, no task can ask the large model
            self.until(lambda: ("large-model", "fault") not in {(f["check"], f["verdict"]) for f in self.findings()})

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, for as long as doctor takes on a busy machine."""
        eventually_sync(condition, UNTIL_SECONDS_MAX)

    def until_found(self, check: str, *, is_found: bool = True) -> None:
        """Wait until a check of doctor reports something, or nothing any more."""
        self.until(lambda: (check in {each["check"] for each in self.everything()}) is is_found)

    def end(self, program: str) -> None:
        """Kill another of our programs."""
        process = self.served.pop(program)
        process.kill()
        process.wait()

    def restart_uplink(self) -> None:
        """Run the uplink once, in place of a restart of its service."""
        self._agent(["serve", "uplink", "--once"])

    def edit(self, **sections: Mapping[str, Any]) -> None:
        """Change keys of agent.yaml; None removes one. The file keeps its time, as if the daemon had read it."""
        kept = self.agent_yaml.stat()
        document = yaml.safe_load(self.agent_yaml.read_text())
        for name, changes in sections.items():
            merged = {**document.get(name, {}), **changes}
            document[name] = {key: value for key, value in merged.items() if value is not None}
        self.agent_yaml.write_text(yaml.safe_dump(document))
        os.utime(self.agent_yaml, (kept.st_atime, kept.st_mtime))

    def findings(self, user: Sequence[str] = ()) -> list[dict[str, str]]:
        """Return doctor's findings as a user, without ok findings and notes."""
        return [each for each in self.everything(user) if each["verdict"] != "note"]

    def everything(self, user: Sequence[str] = ()) -> list[dict[str, str]]:
        """Return doctor's findings as a user, without ok findings."""
        # As an installed machine has it: an option would name a folder that this user may not enter.
        program = [self.daemon.python, "-m", "edge_agent.cli", "--config", str(self.config)]
        command = [*self.daemon.inside, *user, *program] if user else self.daemon.command()
        done = subprocess.run(
            [*self.look_from, *command, "doctor", "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
            env={**os.environ, **self.environment},
        )
        assert done.stdout, done.stderr
        found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
        return [each for each in found if each["verdict"] != "ok"]

    def restart(self) -> None:
        """Do what systemd does."""
        if self.is_running:
            self.daemon.stop()
        self._start()

    @property
    def is_running(self) -> bool:
        """Return whether the daemon's process lives."""
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def _is_running_on(self) -> bool:
        """Return whether the daemon still runs a moment later, as a killed process may not have ended yet."""
        assert self.daemon.process is not None
        with suppress(subprocess.TimeoutExpired):
            self.daemon.process.wait(1)
        return self.is_running

    def _start(self) -> None:
        has_state = (self.daemon.state_dir / "state.db").exists()
        self.daemon.start(*((TASK,) if self.has_task and has_state else ()))

    def _systemctl(self, words: Sequence[str]) -> int:
        """Stand in for systemd: `start` does nothing to a daemon that runs."""
        if words[0] == "stop" and self.is_running:
            self.daemon.stop()
        if words[0] == "restart" and "edge-agent" in words:
            self.restart()
        if words[0] == "restart" and "edge-uplink" in words:
            self.restart_uplink()
        if words[0] == "start" and not self.is_running:
            self._start()
        return 0

    def _wait(self, _: Sequence[str]) -> int:
        """Wait for the end of the daemon, which is this program's child: until that has waited, tail sees it."""
        assert self.daemon.process is not None
        self.daemon.process.wait(SECONDS_MAX)
        return 0

    def _agent(self, words: Sequence[str]) -> int:
        if list(words) in (["serve", "uplink"], ["serve", "web"]):
            program = words[1]
            if program in self.served:
                self.end(program)
            self.serve(program, {"uplink": "uplink", "web": "console"}[program])
            return 0
        if list(words) == ["serve"] and not self._is_running_on():
            self._start()
            return 0
        words = [str(self.drive) if word == MEDIA_FOLDER else word for word in words]
        done = subprocess.run(
            [*self.daemon.command(), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=self.folder,
            timeout=SECONDS_MAX,
        )
        return done.returncode

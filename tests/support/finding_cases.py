"""Every finding that a rule of doctor can return, and the fault that makes it on a real installation.

A row either makes its fault for real, sees that doctor reports this finding and no other, runs the printed remedy and
sees the finding gone; or it has the reason why it does not. benchmarks and tests count the rows.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.remedy_commands import OWN, RemedyRunner, command_lines

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60.0
NOT_MADE = "judged from facts in tests/unit/doctor; nobody has made this fault on a real installation yet"
SYSTEMD_NEEDED = "systemd is the subject: it needs a booted machine"
INTERACTIVE = "the remedy opens an editor: the technician decides what to write"
VERDICTS = ("note", "warning", "fault")


@dataclass(frozen=True)
class FindingKind:
    """A finding that one line of doctor's code can return."""

    check: str
    verdict: str
    seen: str
    """The words of its sentence that are fixed."""

    @property
    def name(self) -> str:
        """Return its name in the table."""
        return f"{self.check}/{self.verdict}/{self.seen}"


def finding_kinds() -> list[FindingKind]:
    """Read doctor's modules; return the kinds in their order, those that are ok or unseen left out."""
    return [kind for path in sorted((ROOT / "edge_agent/doctor").glob("*_checks.py")) for kind in _kinds_of(path)]


def _kinds_of(path: Path) -> Iterator[FindingKind]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checks = dict(_named_checks(tree))
    used = _checks_of_tables(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Tuple):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            check = checks.get(used.get(ast.unparse(target), ""), "")
            for rule in node.value.elts if check else ():
                yield from _rule_kind(check, rule)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERDICTS:
            if name := checks.get(ast.unparse(node.func.value)):
                yield FindingKind(name, node.func.attr, _slug(node.args[0]))


def _rule_kind(check: str, rule: ast.expr) -> Iterator[FindingKind]:
    if isinstance(rule, ast.Call) and isinstance(rule.args[0], ast.Constant) and rule.args[0].value in VERDICTS:
        yield FindingKind(check, str(rule.args[0].value), _slug(rule.args[2]))


def _named_checks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "Check"
        ):
            yield ast.unparse(node.targets[0]), ast.literal_eval(node.value.args[0])


def _checks_of_tables(tree: ast.Module) -> dict[str, str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(c.args[1]): ast.unparse(c.args[0]) for c in calls if ast.unparse(c.func) == "first_match"}


def _slug(seen: ast.expr) -> str:
    return re.sub(r"[^a-z]+", "-", re.sub(r"\{[^}]*\}", " ", ast.unparse(seen).lower())).strip("-")


class FaultySite:
    """A daemon in a process, with a task and a site key, in a folder that every user may enter."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ea-finding-"))
        self.folder.chmod(0o755)
        self.daemon = RunningDaemon(self.folder / "site", site={"id": "shop-7"})
        self.config = self.folder / "site" / "all.yaml"
        self.runner = RemedyRunner(
            self.folder / "bin", self.daemon.command(), {"systemctl": self._systemctl, "edge-agent": self._agent}
        )

    def _settings(self) -> dict[str, Any]:
        folders = {"state_dir": str(self.daemon.state_dir), "run_dir": str(self.daemon.run_dir)}
        return {**folders, "metrics": {"address": ""}, "site": {"id": "shop-7"}, "store": {"allow_unsigned": True}}

    def __enter__(self) -> FaultySite:
        self.config.write_text(json.dumps(self._settings()))
        self.daemon.start()
        self.daemon.install(echo_bundle(self.folder / "bundle"))
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.daemon.run_dir, ignore_errors=True)

    def findings(self, user: Sequence[str] = ()) -> list[dict[str, str]]:
        """Return what doctor finds as a user, but for what is ok or a note."""
        # As an installed machine has it: an option would name a folder that this user may not enter.
        command = [*self.daemon.command()[:3], "--config", str(self.config)] if user else self.daemon.command()
        done = subprocess.run(
            [*user, *command, "doctor", "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        assert done.stdout, done.stderr
        found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
        return [each for each in found if each["verdict"] not in ("ok", "note")]

    def restart(self) -> None:
        """Do what systemd does."""
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.stop()
        self.daemon.start("pos-intent")

    def _systemctl(self, words: Sequence[str]) -> int:
        if words[0] in ("start", "restart"):
            self.restart()
        return 0

    def _agent(self, words: Sequence[str]) -> int:
        if list(words) == ["serve"]:
            self.daemon.start("pos-intent")
            return 0
        return int(subprocess.call([*self.daemon.command(), *words], stdin=subprocess.DEVNULL))


@dataclass(frozen=True)
class FindingCase:
    """A row of the table."""

    kind: str
    reason_excused: str = ""
    """Why its remedy is not run; empty when it is."""
    make: Callable[[FaultySite], None] | None = None
    with_it: tuple[str, ...] = ()
    """Checks that necessarily report the same fault."""

    def run(self) -> tuple[list[str], list[str]]:
        """Make the fault, follow the remedy; return the checks that newly reported then, and those that still do."""
        assert self.make is not None, self.reason_excused
        with FaultySite() as site:
            before = {each["check"] for each in site.findings()}
            self.make(site)
            found = [each for each in site.findings() if each["check"] not in before]
            own = next((each for each in found if each["check"] == self.kind.partition("/")[0]), None)
            shown = sorted({each["check"] for each in found})
            if own is None:
                return shown, ["it was not reported"]
            site.runner.run_all(each for each in command_lines(own["command"]) if each.steps[0][0] in ("sudo", *OWN))
            return shown, sorted({each["check"] for each in site.findings()} - before)


def _open_folder(site: FaultySite) -> None:
    site.daemon.state_dir.chmod(0o755)


def _foreign_file(site: FaultySite) -> None:
    path = site.daemon.state_dir / "copied"
    path.write_text("x")
    os.chown(path, 65534, -1)


def _killed(site: FaultySite) -> None:
    assert site.daemon.process is not None
    os.kill(site.daemon.process.pid, signal.SIGKILL)
    site.daemon.process.wait()


MADE: dict[str, dict[str, Any]] = {
    "state-dir/warning/is-every-user-may-read-it": {"make": _open_folder},
    "state-owner/fault/files-belong-to-another-user-than-such-as": {"make": _foreign_file},
    "daemon/fault/no-process-answers-at-the-daemon-does-not-run": {"make": _killed, "with_it": ("socket",)},
}
"""Faults that are made, by the name of their kind."""
EXCUSED_CHECKS = {
    **dict.fromkeys(
        ("systemd", "unit", "start-at-boot", "unit-restarts", "watchdog", "memory-limit", "unit-files"), SYSTEMD_NEEDED
    ),
    **dict.fromkeys(("config", "config-overruled", "plain-tcp"), INTERACTIVE),
}
CASES = [
    FindingCase(kind.name, **MADE[kind.name])
    if kind.name in MADE
    else FindingCase(kind.name, EXCUSED_CHECKS.get(kind.check, NOT_MADE))
    for kind in finding_kinds()
]
"""The table: a row for each kind."""

"""The central team of the flywheel: keys, a repository of signed updates, a store of examples, and its commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.flywheel.commands import Commands
from benchmarks.flywheel.goods import TASK

SITE = "shop-1"
BUNDLE = Path("build", "assemble", "bundle")
RISK_TARGET, RISK_DELTA = 0.05, 0.1
SHARES = "train=0.6,calibration=0.2,test=0.2"
_NOT_ALL_TAKEN = 1


class CentralTeam:
    """See the module. All files are in the folder of its commands."""

    def __init__(self, commands: Commands) -> None:
        """Note where."""
        self._commands, self.folder = commands, commands.folder
        self.store, self.repository, self.collected = (
            self.folder / name for name in ("store", "repository", "collected")
        )
        self.data, self.bundle = self.folder / "data", self.folder / BUNDLE

    def begin(self) -> None:
        """Make the keys, the repository and the store."""
        self.store.mkdir()
        self._commands.convert("keys", "create", "central-keys")
        self._commands.convert("keys", "signing", "signing-keys", "--root", "1of1", "--targets", "1of1")
        self._commands.convert("publish", "--new", *self._repository)

    def enrolment(self) -> Path:
        """Make the enrolment file of the site."""
        fleet = {
            "registry": "collected/sites.json",
            "keys": ["central-keys"],
            "root": "signing-keys",
            "examples": {"url": str(self.store)},
            "updates": {"url": str(self.repository)},
        }
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(fleet), encoding="utf-8")
        self._commands.convert("enrolment-file", SITE, "--fleet", "fleet.yaml", "--out", "kits")
        return self.folder / "kits" / f"{SITE}.kit"

    def define(self, task: Path) -> None:
        """Make the bundle of a task that has no model, and publish it."""
        self._commands.convert("assemble", task.parent, "--out", "definition")
        self._commands.convert("publish", "definition", *self._repository)

    def publish(self) -> None:
        """Publish the bundle that the recipe has made."""
        self._commands.convert("publish", self.bundle, *self._repository)

    def plan(self, version: str, mode: str) -> None:
        """Publish a plan: the bundle for every site, and the mode."""
        task = {
            "offers": [{"version": version}],
            "mode": mode,
            "probation": {"calls": 50, "hours": 1, "latency_percent_max": 1000},
        }
        plan = {"channels": {"stable": {"tasks": {TASK: task}}}}
        (self.folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
        self._commands.convert("plan", "edit", "--file", "plan.yaml", "--yes", *self._repository)

    def collect(self, code: str) -> dict[str, Any]:
        """Collect what has come, after having accepted the site's key if it waits for that."""
        report = self._collect()
        if report["waiting"]:
            self._commands.convert("sites", "accept", SITE, code, "--collected", "collected")
            report = self._collect()
        return report

    def assess(self) -> dict[str, Any]:
        """Run 'assess': do the collected examples suffice?"""
        risk = ("--target", RISK_TARGET, "--delta", RISK_DELTA)
        found: dict[str, Any] = json.loads(
            self._commands.convert("assess", "collected", "--task", TASK, *risk, "--json")
        )
        return found

    def train(self, recipe: Path) -> dict[str, Any]:
        """Make the training data and the bundle; return the report of the run."""
        named = ("--task", TASK, "--format", "text-label", "--shares", SHARES)
        self._commands.convert("dataset", "collected", *named, "--out", "data", "--force")
        self._commands.convert("run", recipe.parent, "--work", "build")
        report: dict[str, Any] = json.loads((self.folder / "build" / "report.json").read_text("utf-8"))
        return report

    def split(self, name: str) -> list[str]:
        """Return the texts of a split of the training data."""
        lines = (self.data / f"{name}.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["text"] for line in lines]

    def _collect(self) -> dict[str, Any]:
        places = ("store", "--keys", "central-keys", "--out", "collected", "--json")
        report: dict[str, Any] = json.loads(self._commands.convert("collect", *places, codes=(0, _NOT_ALL_TAKEN)))
        return report

    @property
    def _repository(self) -> tuple[str, ...]:
        return ("--repo", "repository", "--keys", "signing-keys")

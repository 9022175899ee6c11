"""The loop itself, stage by stage."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.flywheel import goods, oracle
from benchmarks.flywheel.central import CentralTeam
from benchmarks.flywheel.commands import Commands, ProgressLog, StepFailed
from benchmarks.flywheel.figures import BLOCK_CALLS, Call, Figures, ModeTotals, advised, block, sum_up, told
from benchmarks.flywheel.goods import Row
from benchmarks.flywheel.oracle import Oracle
from benchmarks.flywheel.site import AnsweredCall, Site

WRONG_SHARE = 0.06
ROUNDS_MAX = 3
WORK = Path(".cache", "flywheel").absolute()
FIGURES_NAME, UNSEEN_NAME = "flywheel.json", "unseen.jsonl"
_MARK = ".flywheel"
"""A file in a folder that a walk may empty."""


@dataclass(frozen=True)
class LoopSize:
    """How much of everything."""

    round_calls: int = 800
    """In bootstrap, between two looks of the central team."""
    shadow_calls: int = 400
    hybrid_calls: int = 1000


@dataclass
class FlywheelRun:
    """Runs the loop in an empty folder; `walk` runs all stages."""

    folder: Path
    size: LoopSize
    screen: ProgressLog
    figures: Figures = field(init=False)

    def walk(self) -> Figures:
        """Go all the way; every process has ended when it returns."""
        commands = Commands(self.folder, self.screen)
        with self.screen.stage("data", "real descriptions of food, in random order"):
            rows = goods.rows(self.folder / "raw")
            self._labels = goods.labels(rows)
            self.screen.line(f"{len(rows)} descriptions, {len(self._labels)} labels")
        large = Oracle(rows, WRONG_SHARE)
        self._large, self._rows = large.answers(), iter(rows)
        self.figures = Figures(goods.TASK, f"scripted oracle, wrong in {WRONG_SHARE:.0%} of the texts")
        self._central = CentralTeam(commands)
        with contextlib.ExitStack() as stack:
            self._site = self._begin(commands, large, stack)
            self._collect_and_train()
            self._shadow()
            self._hybrid()
            self._report()
        self.figures.seconds = self.screen.seconds
        self._keep()
        return self.figures

    # --- the stages ---

    def _begin(self, commands: Commands, large: Oracle, stack: contextlib.ExitStack) -> Site:
        with self.screen.stage(
            "enrol", "a central team with keys, a task without a model, and a box that becomes a site"
        ):
            self._central.begin()
            self._central.define(goods.write_definition(self.folder / "task", self._labels))
            self._central.plan("0.1.0", "bootstrap")
            address = stack.enter_context(oracle.running(large, self.folder))
            site = stack.enter_context(Site(commands, address, self._central.enrolment()))
            site.until("0.1.0", "bootstrap")
        return site

    def _collect_and_train(self) -> None:
        """Let the large model answer and the expert correct, until a small model meets the risk guarantee."""
        for number in range(1, ROUNDS_MAX + 1):
            if self._enough_after(number) and self._trained():
                return
        raise StepFailed(f"after {ROUNDS_MAX} rounds no small model keeps the promise: see build/report.md")

    def _enough_after(self, number: int) -> bool:
        """Run another round; return whether 'edge-convert assess' then finds enough examples."""
        with self.screen.stage(f"bootstrap {number}", "the large model answers, an expert reviews every answer"):
            answered = self._call("bootstrap", self.size.round_calls)
            reviewed = self._site.review({each.answer.prediction_id: each.row.label for each in answered})
            self.screen.line(f"the expert accepted {reviewed[0]} answers and corrected {reviewed[1]}")
        with self.screen.stage(f"collect {number}", "sealed, carried by the uplink, collected, receipted"):
            found = self._collected()
        self.figures.rounds.append({"accepted": reviewed[0], "corrected": reviewed[1], **found})
        return bool(found["ready"])

    def _collected(self) -> dict[str, Any]:
        segments = self._site.carry(self._central.store)
        report = self._central.collect(self._site.code())
        self._site.receipted()
        assessed = self._central.assess()
        names = ("examples", "reviewed", "usable", "mark", "short", "ready")
        found = {name: assessed[name] for name in names}
        self.screen.line(f"{segments} segments, {report['records_taken']} records; assess: {json.dumps(found)}")
        return {**found, "segments": segments, "records": report["records_taken"]}

    def _trained(self) -> bool:
        """Train the small model on all collected examples; return whether it has a proven threshold."""
        with self.screen.stage("train", f"{goods.BASE}: fine-tuned, exported, quantized, calibrated, measured"):
            recipe = goods.write_recipe(self.folder / "recipe", self._labels, self._central.data)
            report = self._central.train(recipe)
            calibrated, measured = (report["stages"][name]["report"] for name in ("calibrate", "evaluate"))
            promised = {name: calibrated[name] for name in ("threshold", "coverage", "bound", "temperature")}
            self.figures.model = {"rows": report["data"]["rows"], "accuracy": measured["accuracy"], **promised}
            self.screen.line(calibrated["verdict"])
        return calibrated["threshold"] is not None

    def _shadow(self) -> None:
        with self.screen.stage("shadow", "published, installed, tested by the site; both models answer, both are kept"):
            self._central.publish()
            self._central.plan("1.0.0", "shadow")
            self._site.until("1.0.0", "shadow")
            self._call("shadow", self.size.shadow_calls)
            self._count("shadow", self.size.shadow_calls)

    def _hybrid(self) -> None:
        with self.screen.stage("hybrid", "the small model answers what it is sure of"):
            self._central.plan("1.0.0", "hybrid")
            self._site.until("1.0.0", "hybrid")
            self._call("hybrid", self.size.hybrid_calls)
            self._count("hybrid", self.size.shadow_calls + self.size.hybrid_calls)

    def _report(self) -> None:
        with self.screen.stage("report", "what it cost and saved, and what to do next"):
            page = self.folder / "report.html"
            found = self.figures.report = advised(self._site.report(page))
            self.screen.line(f"next mode: {found['mode']}. {found['because']} {found['then']}")
            self.screen.line(f"the page: {page}")

    # --- within ---

    def _count(self, mode: str, answers: int) -> None:
        """Read the site's own counts."""
        found = told(self._site.counted(answers))
        self.figures.counted[mode] = found
        self.screen.line(f"counted here: the models agree on {found['agreed']} of {found['compared']}")
        for alarm in found["alarms"]:
            self.screen.line(f"alarm: {alarm}")

    def _call(self, mode: str, count: int) -> list[AnsweredCall]:
        """Call for the next rows; note what came of it, block by block."""
        began, spent = self._site.cost_micros(), 0.0
        answered: list[AnsweredCall] = []
        for some in _blocks(list(itertools.islice(self._rows, count))):
            answered += self._site.ask(some)
            cost = (self._site.cost_micros() - began) / 1e6
            calls = self._calls(answered[-len(some) :])
            self.figures.blocks.append(block(mode, calls, cost - spent))
            spent = cost
        before = self.figures.modes.get(mode)
        found = sum_up(self._calls(answered), spent)
        self.figures.modes[mode] = before.plus(found) if before else found
        self.screen.line(_said(mode, found))
        return answered

    def _calls(self, answered: Sequence[AnsweredCall]) -> list[Call]:
        return [
            Call(
                right=each.right,
                large_right=self._large[each.row.text] == each.row.label,
                local=each.local,
                abstained=each.answer.route == "ABSTAINED",
                local_label=each.local_label,
                large_label=self._large[each.row.text],
            )
            for each in answered
        ]

    def _keep(self) -> None:
        """Leave the figures, and the rows that the small model was not trained on."""
        (self.folder / FIGURES_NAME).write_text(json.dumps(self.figures.plain(), indent=1) + "\n", encoding="utf-8")
        seen = set(self._central.split("train"))
        unseen = [row for row in goods.rows(self.folder / "raw") if row.text not in seen]
        lines = "".join(json.dumps(row._asdict()) + "\n" for row in unseen)
        (self.folder / UNSEEN_NAME).write_text(lines, encoding="utf-8")


def fresh(folder: Path) -> Path:
    """Make a folder for a run, or empty that of an earlier run. Raises StepFailed if it has other files."""
    if folder.exists() and not (folder.is_dir() and (_is_of_a_walk(folder) or not any(folder.iterdir()))):
        raise StepFailed(f"{folder} was not made by a walk, and would be emptied: name a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    return folder


def _is_of_a_walk(folder: Path) -> bool:
    return folder == WORK or (folder / _MARK).is_file()


def _blocks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    return [rows[at : at + BLOCK_CALLS] for at in range(0, len(rows), BLOCK_CALLS)]


def _said(mode: str, found: ModeTotals) -> str:
    said = f"{found.calls} calls: {found.accuracy:.1%} right, the large model alone {found.large_accuracy:.1%}"
    if mode == "shadow":
        said += f"; the small one says the same in {found.agreed / found.calls:.1%}"
    if mode == "hybrid":
        said += f"; {found.local_share:.1%} answered here, {found.local_wrong_share:.1%} of them wrong"
    return f"{said}; cost {found.cost:.3f}"

"""`edge-convert calibrate`: this stage of a recipe, or the questions of a finished bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from convert.cli import progress_output, run
from convert.package.bundle_assembly import BINDING_MIN
from convert.pipeline import execution
from convert.pipeline.recipe import GoldenRule, PrivacySection
from edge_agent.errors import InvalidRequest

TARGET, DELTA, FLOOR = 0.05, 0.1, 0.5


@dataclass
class Command:
    """Prove a threshold for questions of a finished bundle; or run this stage of a recipe.

    Each question that DATA answers gets a temperature and, if enough answers are right, a threshold. The weights stay
    the same, so the new bundle is a small update. Questions without an answer in DATA keep what they have.

    Example: [bold]edge-convert calibrate build/desk reviewed.jsonl --version 1.1.0 --out build/desk-1.1.0[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    what: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A decide bundle; or a recipe, without DATA.")]
    rows: Annotated[Path | None, typer.Argument(metavar="DATA", help="JSONL with reviewed answers by question.")] = None
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Directory or .tar file to create.")] = None
    version: Annotated[str, typer.Option(metavar="X.Y.Z", help="Version of the new bundle.")] = ""
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML list of questions to add, or to replace by name.")
    ] = None
    target: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Largest share of wrong answers among the confident ones.")
    ] = TARGET
    delta: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Probability that a threshold violates it; divided among the questions."),
    ] = DELTA
    floor: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least probability of a confident answer on its own.")
    ] = FLOOR
    golden_cases: Annotated[
        GoldenRule,
        typer.Option(
            help="Rows of DATA whose texts may travel in the bundle as golden cases. surrogates: all, made-up values in"
            " place of what the rules of redaction find. composed, consented: rows so marked, as they are."
        ),
    ] = "surrogates"
    redaction_bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A redaction bundle, which finds values in them beside the rules."),
    ] = None
    locale: Annotated[
        str, typer.Option(metavar="LOCALE,…", help="Locales of the made-up values; one is drawn for each row.")
    ] = "en_US"
    golden_cases_min: Annotated[
        int, typer.Option(min=0, help="Fewest binding golden cases, with which a site checks the bundle's answers.")
    ] = BINDING_MIN
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False
    again: run.Again = False
    work: run.Work = None

    def __post_init__(self) -> None:
        """Run the command."""
        if self.rows is None:
            run.bring(self.what, "calibrate", self.again, self.work)
            return
        if self.out is None or not self.version:
            missing = "--out" if self.out is None else "--version"
            remedy = "Name a folder or a .tar with --out, and a new --version."
            raise InvalidRequest(f"{missing} is missing", remedy=remedy)
        self._calibrate(self.rows, self.out)

    def _calibrate(self, rows: Path, out: Path) -> None:
        locales = tuple(name.strip() for name in self.locale.split(","))
        calibration = execution.load_module("convert.package.question_calibration")
        wanted = calibration.QuestionCalibration(
            bundle=execution.load_module("convert.evaluate.serving").open_bundle(self.what),
            rows=rows,
            out=out,
            version=self.version,
            risk=execution.load_module("convert.calibrate.threshold").Risk(self.target, self.delta),
            questions=self.questions,
            settings=execution.load_module("convert.calibrate").CalibrationSettings(self.floor),
            privacy=PrivacySection(golden_cases=self.golden_cases, locales=locales),
            redaction_bundle=self.redaction_bundle,
            golden_cases_min=self.golden_cases_min,
            force=self.force,
        )
        with progress_output.bar() as advance:
            made, report = calibration.calibrated_bundle(wanted, advance)
        shown = progress_output.out()
        for name, each in report["questions"].items():
            shown.print(f"{name}: {each['verdict']}")
        shown.print(report["verdict"])
        shown.print(report["sampling"]["said"])
        shown.print(f"Golden cases: {report['golden']['origin']['sentence']}.")
        new = sum(each.size_bytes for each in made.manifest.artifacts if each.role in ("golden", "report"))
        shown.print(
            f"Made {made.path}: {made.manifest.task.name} {made.manifest.version}, digest {made.digest[:12]}."
            f" Besides the manifest, {decimal(new)} differ from {wanted.bundle.manifest.version}."
        )

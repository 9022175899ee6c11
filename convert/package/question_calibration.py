"""Calibrates questions of a finished bundle on reviewed rows, and writes the bundle again with their thresholds.

This is for bundles whose questions need no training: a decoder scores the options of a question. The new bundle
has the same weights, so a site that has the earlier one fetches its manifest, golden cases and report alone. A bundle
with a gate keeps it: the thresholds of its other questions were proved with it, and the new ones are, too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from convert import yaml_file
from convert.calibrate.calibrate_stage import NO_CONDITIONS, CalibrationSettings, calibrate
from convert.calibrate.threshold import Risk
from convert.data import row_files
from convert.data.data_row import DataRow
from convert.evaluate.serving import BundleFolder, open_bundle, quiet, serve_bundles
from convert.package import bundle_assembly, golden_cases
from convert.package.bundle_assembly import AssembledBundle, AssembleRequest
from convert.package.golden_cases import GoldenOrigin
from convert.pipeline.recipe import GoldenRule, PrivacySection
from convert.pipeline.stage import Progress, Report
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.golden_cases import GoldenCase, encode
from edge_agent.formats.manifest import Manifest, Role
from edge_agent.formats.manifest import encode as encode_manifest
from edge_agent.formats.questions import QuestionSpec
from edge_agent.formats.strict_yaml import load_yaml

_SEE = "docs/decisions-api.md has an example."
_ANYWAY = " to DATA. To make the bundle anyway, set --golden-cases-min {binding}."
_MORE_ROWS: Mapping[GoldenRule, str] = {
    "surrogates": "Add reviewed rows" + _ANYWAY,
    "composed": "Add rows that your team wrote, marked '\"composed\": true'," + _ANYWAY,
    "consented": "Add rows marked '\"composed\": true' or '\"consented\": true'" + _ANYWAY,
}
_REPLACED_ROLES: tuple[Role, ...] = ("golden", "report")


@dataclass(frozen=True)
class QuestionCalibration:
    """The bundle to calibrate, the rows, and the output."""

    bundle: BundleFolder
    rows: Path
    """JSONL, with `answers` by question; if some rows are of the random audit, only these count."""
    out: Path
    """A directory, or a file that ends in .tar."""
    version: str
    risk: Risk
    questions: Path | None = None
    """YAML or JSON: a list of questions that the bundle gets, or that replace those of the same name."""
    settings: CalibrationSettings = field(default=NO_CONDITIONS)
    privacy: PrivacySection = field(default_factory=PrivacySection)
    """Which texts of the rows may become golden cases."""
    redaction_bundle: Path | None = None
    """A bundle that finds values in these texts, in addition to the rules."""
    golden_cases_min: int = bundle_assembly.BINDING_MIN
    force: bool = False


def calibrated_bundle(wanted: QuestionCalibration, progress: Progress = quiet) -> tuple[AssembledBundle, Report]:
    """Make the bundle; return it with the report of the calibration.

    Raises:
        InvalidRequest: the bundle has no questions, a question is not valid, or no row answers a question.
        ModelFailed: fewer golden cases than `golden_cases_min` are binding.
        As `calibration_sample`, `assemble` and serving.
    """
    defined = _with_new_questions(wanted)
    sample = row_files.calibration_sample(wanted.rows, defined.manifest.task)
    rows = sample.rows
    calibrated = _only(defined, _answered(rows))
    settings = replace(wanted.settings, gate=defined.manifest.confidence.gate)
    found = calibrate(calibrated, rows, wanted.risk, progress, settings)
    kept = {name: each for name, each in defined.manifest.question_confidence.items() if name not in found.questions}
    confidences = {name: each.model_dump(mode="json") for name, each in {**kept, **found.questions}.items()}
    sections = {"question_confidence": confidences, "confidence": found.confidence.model_dump(mode="json")}
    report = {**found.report, "rows": len(rows), "calibrated": sorted(found.questions), "kept": sorted(kept)}
    report["sampling"] = sample.plain()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        files: dict[Role, Path] = {
            artifact.role: defined.paths[artifact.role]
            for artifact in defined.manifest.artifacts
            if artifact.role not in _REPLACED_ROLES
        }
        files["report"] = folder / "report.json"
        task = folder / "task.yaml"
        plain = _plain(defined.manifest, wanted.version)
        task.write_text(json.dumps(plain), encoding="utf-8")
        first = bundle_assembly.assemble(AssembleRequest(task, files, folder / "bundle", sections=sections))
        cases, origin = _cases(open_bundle(first.path), rows, wanted)
        files["golden"] = folder / "golden.jsonl"
        files["golden"].write_bytes(encode(cases))
        report["golden"] = {"cases": len(cases), "origin": origin.plain()}
        plain.setdefault("provenance", {}).setdefault("converter", {})[golden_cases.PROVENANCE_KEY] = origin.sentence()
        task.write_text(json.dumps(plain), encoding="utf-8")
        request = AssembleRequest(task, files, wanted.out, force=wanted.force, sections=sections)
        return bundle_assembly.assemble(request), report


def _with_new_questions(request: QuestionCalibration) -> BundleFolder:
    """Return the bundle with the new questions added or replaced; a changed question loses its threshold."""
    bundle = request.bundle
    task = bundle.manifest.task
    if task.kind != "decide":
        raise InvalidRequest(
            f"{bundle.name} is of kind {task.kind}: its threshold is calibrated by its recipe",
            remedy="Name a decide bundle; for others run 'edge-convert calibrate RECIPE'.",
        )
    if request.questions is None:
        return bundle
    new = {question.name: question for question in read_questions(request.questions)}
    before = {question.name: question for question in task.questions}
    changed = {name for name, question in new.items() if before.get(name) != question}
    confidence = {name: each for name, each in bundle.manifest.question_confidence.items() if name not in changed}
    return _with_questions(bundle, list({**before, **new}.values()), confidence)


def _only(bundle: BundleFolder, names: Sequence[str]) -> BundleFolder:
    """Return the bundle with only these questions, uncalibrated, so that the others are not computed."""
    if not names:
        raise InvalidRequest("no row answers a question of the bundle", remedy=f"Add 'answers' to the rows. {_SEE}")
    return _with_questions(bundle, [each for each in bundle.manifest.task.questions if each.name in names], {})


def _with_questions(
    bundle: BundleFolder, questions: Sequence[QuestionSpec], confidence: Mapping[str, Any]
) -> BundleFolder:
    task = bundle.manifest.task.model_copy(update={"questions": tuple(questions)})
    manifest = bundle.manifest.model_copy(update={"task": task, "question_confidence": dict(confidence)})
    return BundleFolder(bundle.folder, manifest, encode_manifest(manifest), bundle.paths)


def read_questions(path: Path) -> tuple[QuestionSpec, ...]:
    """Read a list of questions. Raises FileMissing, InvalidRequest, naming the question and its key."""
    if not is_file(path):
        raise FileMissing(f"{path} does not exist", remedy="Check --questions.")
    if path.stat().st_size > yaml_file.FILE_BYTES_MAX:
        raise InvalidRequest(f"{path} has more than {yaml_file.FILE_BYTES_MAX} bytes", remedy=_SEE)
    try:
        plain = load_yaml(path.read_bytes())
        return TypeAdapter(tuple[QuestionSpec, ...]).validate_python(plain)
    except ValidationError as error:
        raise InvalidRequest(f"{path}: {yaml_file.first_problem(error, 'questions')}", remedy=_SEE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise InvalidRequest(f"{path} is not valid YAML: {error}", remedy="Correct that line.") from None


def _answered(rows: Sequence[DataRow]) -> list[str]:
    return sorted({answer.question for row in rows for answer in row.answers})


def _plain(manifest: Manifest, version: str) -> dict[str, Any]:
    """Return the manifest in the form of task.yaml, without the calibrated sections."""
    plain: dict[str, Any] = json.loads(encode_manifest(manifest))
    calibrated = ("schema", "artifacts", "confidence", "question_confidence")
    return {key: each for key, each in plain.items() if key not in calibrated} | {"version": version}


def _cases(
    bundle: BundleFolder, rows: Sequence[DataRow], request: QuestionCalibration
) -> tuple[list[GoldenCase], GoldenOrigin]:
    """Return the golden cases, with the answers to their texts as they will travel, and their origin."""
    chosen = golden_cases.candidates(request.privacy, bundle.manifest.task, rows, request.redaction_bundle)
    with serve_bundles([bundle], cpu_threads=1) as served:
        predictions = served.predict(bundle, [row.text for row in chosen.rows])
    found = golden_cases.cases(bundle.manifest, chosen.rows, predictions)
    bundle_assembly.check_binding("decide", found, request.golden_cases_min, _MORE_ROWS[request.privacy.golden_cases])
    return found, golden_cases.origin_of(chosen, found, 0)

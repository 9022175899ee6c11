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


def calibrated_bundle(request: QuestionCalibration, progress: Progress = quiet) -> tuple[AssembledBundle, Report]:
    """Make the bundle; return it with the report of the calibration.

    Raises:
        InvalidRequest: the bundle has no questions, a question is not valid, or no row answers a question.
        ModelFailed: fewer golden cases than `golden_cases_min` are binding.
        As `calibration_sample`, `assemble` and serving.
    """
    bundle = _with_new_questions(request)
    sample = row_files.calibration_sample(request.rows, bundle.manifest.task)
    rows = sample.rows
    selected = _keep_answered_questions(bundle, rows)
    settings = replace(request.settings, gate=bundle.manifest.confidence.gate)
    result = calibrate(selected, rows, request.risk, progress, settings)
    proved = bundle.manifest.question_confidence
    others = {name: each for name, each in proved.items() if name not in result.questions}
    confidences = {name: each.model_dump(mode="json") for name, each in {**others, **result.questions}.items()}
    sections = {"question_confidence": confidences, "confidence": result.confidence.model_dump(mode="json")}
    report = {**result.report, "rows": len(rows), "calibrated": sorted(result.questions), "kept": sorted(others)}
    report["sampling"] = sample.plain()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        files: dict[Role, Path] = {
            artifact.role: bundle.paths[artifact.role]
            for artifact in bundle.manifest.artifacts
            if artifact.role not in _REPLACED_ROLES
        }
        files["report"] = folder / "report.json"
        task = folder / "task.yaml"
        plain = _task_file_content(bundle.manifest, request.version)
        task.write_text(json.dumps(plain), encoding="utf-8")
        draft = bundle_assembly.assemble(AssembleRequest(task, files, folder / "bundle", sections=sections))
        cases, origin = _golden_cases(open_bundle(draft.path), rows, request)
        files["golden"] = folder / "golden.jsonl"
        files["golden"].write_bytes(encode(cases))
        report["golden"] = {"cases": len(cases), "origin": origin.plain()}
        plain.setdefault("provenance", {}).setdefault("converter", {})[golden_cases.PROVENANCE_KEY] = origin.sentence()
        task.write_text(json.dumps(plain), encoding="utf-8")
        assemble_request = AssembleRequest(task, files, request.out, force=request.force, sections=sections)
        return bundle_assembly.assemble(assemble_request), report


def _with_new_questions(request: QuestionCalibration) -> BundleFolder:
    """Return the bundle with the new questions added or replaced; a changed question loses its threshold."""
    bundle = request.bundle
    task = bundle.manifest.task
    if task.kind != "decide":
        message = f"{bundle.name} is of kind {task.kind}: its threshold is calibrated by its recipe"
        raise InvalidRequest(message, remedy="Name a decide bundle; for others run 'edge-convert calibrate RECIPE'.")
    if request.questions is None:
        return bundle
    new = {question.name: question for question in read_questions(request.questions)}
    existing = {question.name: question for question in task.questions}
    changed = {name for name, question in new.items() if existing.get(name) != question}
    confidence = {name: each for name, each in bundle.manifest.question_confidence.items() if name not in changed}
    return _with_questions(bundle, list({**existing, **new}.values()), confidence)


def _keep_answered_questions(bundle: BundleFolder, rows: Sequence[DataRow]) -> BundleFolder:
    """Return the bundle with only the questions that rows answer, uncalibrated, so that no others are computed."""
    names = {answer.question for row in rows for answer in row.answers}
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
        return TypeAdapter(tuple[QuestionSpec, ...]).validate_python(load_yaml(path.read_bytes()))
    except ValidationError as error:
        raise InvalidRequest(f"{path}: {yaml_file.first_problem(error, 'questions')}", remedy=_SEE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise InvalidRequest(f"{path} is not valid YAML: {error}", remedy="Correct that line.") from None


def _task_file_content(manifest: Manifest, version: str) -> dict[str, Any]:
    """Return the manifest in the form of task.yaml, without the calibrated sections."""
    plain: dict[str, Any] = json.loads(encode_manifest(manifest))
    left_out = ("schema", "artifacts", "confidence", "question_confidence")
    return {key: each for key, each in plain.items() if key not in left_out} | {"version": version}


def _golden_cases(
    bundle: BundleFolder, rows: Sequence[DataRow], request: QuestionCalibration
) -> tuple[list[GoldenCase], GoldenOrigin]:
    """Return the golden cases, with the answers to their texts as they will travel, and their origin."""
    candidates = golden_cases.candidates(request.privacy, bundle.manifest.task, rows, request.redaction_bundle)
    with serve_bundles([bundle], cpu_threads=1) as served:
        predictions = served.predict(bundle, [row.text for row in candidates.rows])
    cases = golden_cases.cases(bundle.manifest, candidates.rows, predictions)
    bundle_assembly.check_binding("decide", cases, request.golden_cases_min, _MORE_ROWS[request.privacy.golden_cases])
    return cases, golden_cases.origin_of(candidates, cases, 0)

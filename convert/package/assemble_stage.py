"""The assemble stage: makes the finished bundle, with figures, provenance and golden cases.

The golden answers are those of the finished bundle on one thread. The bundle is made again with them in it, and they
are checked once more, as a site does. The required memory is the agent's own estimate for one thread and one input at a
time, the minimum of any machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from convert.data import imported_rows, row_files
from convert.data.data_row import DataRow, labels_of, output_names
from convert.data.row_files import SPLITS
from convert.data.row_lines import read_rows
from convert.dataset import lineage
from convert.dataset.lineage import LineageDocument
from convert.evaluate.batch_invariance import sentence
from convert.evaluate.evaluate_stage import QUALITY_NAME
from convert.evaluate.serving import BundleFolder, open_bundle, serve_bundles
from convert.package import bundle_assembly, golden_cases
from convert.package.bundle_assembly import candidate_files, chosen_weights, confidence_sections
from convert.package.golden_cases import GoldenOrigin
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import GoldenRule, Recipe
from convert.pipeline.stage import Report, StageJob
from convert.pipeline.workspace import fingerprint_path, fingerprint_source, library_versions
from convert.quantize.candidate_selection import LINE_NAME
from edge_agent.errors import ModelFailed
from edge_agent.formats.golden_cases import GoldenCase, differences, encode, is_binding
from edge_agent.formats.manifest import Role
from edge_agent.formatting import counted

LICENCE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_TOOLS = {
    "llama": ("torch", "transformers", "peft", "llama-cpp-python"),
    "onnx": ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime"),
}


def provenance_section(job: StageJob) -> dict[str, Any]:
    """Return the manifest's `provenance`; base and licence of task.yaml take precedence over detected ones."""
    plain = tasks.read(tasks.find(job.recipe.path(job.recipe.task)))
    stated = plain.get("provenance") or {}
    versions = library_versions(_TOOLS.get(str(plain.get("runtime")), ()))
    return {
        "base": stated.get("base") or _source_path(job.recipe),
        "licence": stated.get("licence") or "",
        "sources": {**dict(_sources(job)), **stated.get("sources", {})},
        "converter": {
            **stated.get("converter", {}),
            **{name.removeprefix("version of "): each for name, each in versions.items() if each[:1].isdigit()},
        },
    }


def licence_file(recipe: Recipe) -> Path | None:
    """Return the licence file in the source's directory, if there is one."""
    folder = recipe.path(_source_path(recipe))
    return next((path for name in LICENCE_NAMES if (path := folder / name).is_file()), None)


def _source_path(recipe: Recipe) -> str:
    source = recipe.source
    return source.checkpoint or source.base or source.gguf or source.onnx


def _sources(job: StageJob) -> Iterator[tuple[str, str]]:
    recipe = job.recipe
    task = tasks.of(recipe.path(recipe.task))
    for name, digest in fingerprint_source(recipe, job.progress).items():
        yield name, f"sha256 {digest}"
    for split in SPLITS:
        split_path = getattr(recipe.data, split)
        if split_path:
            rows, path = row_files.rows(recipe, split), recipe.path(split_path)
            digest = fingerprint_path(path, job.progress)
            # Labels of the team's own files are assumed to come from people.
            label_sources = (f"{count} {source}" for source, count in row_files.count_label_sources(rows).items())
            raw = row_files.unredacted_rows(recipe, split, task)
            imported = imported_rows.sentence(raw, recipe.privacy, task.kind, recipe.redaction_bundle)
            origin = f"{_synthetic_text(rows)}, labels: {', '.join(label_sources)}, {imported}"
            yield f"data.{split}", f"{counted(len(rows), 'row')}, {origin}, sha256 {digest}"
    if recipe.data.outliers:
        digest = fingerprint_path(recipe.path(recipe.data.outliers), job.progress)
        yield "data.outliers", f"{counted(len(row_files.outliers(recipe)), 'row')}, sha256 {digest}"


def _synthetic_text(rows: list[DataRow]) -> str:
    synthetic_rows = list(filter(attrgetter("synthetic"), rows))
    models = sorted(set(map(attrgetter("model"), synthetic_rows)) - {""})
    return " by ".join(filter(None, (f"{len(synthetic_rows)} synthetic", ", ".join(models))))


BUNDLE = "bundle"
INVARIANCE_KEY = "batch invariance"
"""Key in provenance.converter; agents store its values without interpreting them."""
_MORE_ROWS: Mapping[GoldenRule, str] = {
    "surrogates": "Add rows to the test split",
    "composed": "Mark rows of the test split that nobody said with '\"composed\": true', add lines to samples.txt",
    "consented": "Mark rows of the test split with '\"composed\": true' or '\"consented\": true'",
}
_QUANTIZATION_KEYS = ("type", "bits_per_weight", "fallback_tensors")


def run(job: StageJob) -> Report:
    """Write `bundle/`; report its digest, size, files, golden cases, and missing information.

    Raises:
        ModelFailed: the finished bundle does not reproduce its golden answers on this machine, or too few of them are
            binding.
            As `assemble`, `row_files.rows` and serving.
    """
    with tempfile.TemporaryDirectory(dir=job.out) as name:
        folder = Path(name)
        files, sections = _files_and_sections(job, folder)
        draft = _make_bundle(job, files, sections, folder / "without")
        cases, origin, memory_bytes = _golden_cases(job, draft)
        remedy = (
            f"{_MORE_ROWS[job.recipe.privacy.golden_cases]}, or train a more confident model. To ship the bundle"
            " anyway, set 'golden_cases_min: {binding}' under 'budget' in the recipe."
        )
        cases_min = job.recipe.budget.golden_cases_min
        bundle_assembly.check_binding(draft.manifest.task.kind, cases, cases_min, remedy)
        files["golden"] = folder / "golden.jsonl"
        files["golden"].write_bytes(encode(cases))
        sections["provenance"]["converter"][golden_cases.PROVENANCE_KEY] = origin.sentence()
        stated = tasks.read(tasks.find(job.recipe.path(job.recipe.task))).get("requires") or {}
        sections["requires"] = {"memory_bytes": max(memory_bytes, int(stated.get("memory_bytes") or 0))}
        bundle = _make_bundle(job, files, sections, job.out / BUNDLE)
        _check_golden_answers(bundle, cases)
    _record_lineage(job, bundle, origin)
    return _report(bundle, cases, origin)


def _record_lineage(job: StageJob, bundle: BundleFolder, origin: GoldenOrigin) -> None:
    """Store which collected records are in the bundle, next to it and in the collections that they come from."""
    data, records, files, collections = job.recipe.data, dict[str, list[str]](), dict[str, str](), set[Path]()
    for split in row_files.SPLITS:
        if split_path := getattr(data, split):
            path = job.recipe.path(split_path)
            records[split] = [row.record for row in read_rows(path, data.format, text_only=True) if row.record]
            files[split] = fingerprint_path(path, job.progress)
            collections |= {collection} if (collection := lineage.collection_of(path)) else set()
    manifest = bundle.manifest
    document = LineageDocument(
        "bundle",
        manifest.task.name,
        {**records, "golden": origin.records},
        files,
        str(job.out.parent.resolve()),
        manifest.version,
        bundle.digest,
    )
    lineage.write(job.out / lineage.FILE_NAME, document)
    for collection_folder in collections:
        lineage.register(collection_folder, document)


def _files_and_sections(job: StageJob, folder: Path) -> tuple[dict[Role, Path], dict[str, Any]]:
    calibrated_sections = confidence_sections(job)
    quality = {
        "evaluate": _read_json(job.folders["evaluate"] / QUALITY_NAME),
        "calibrate": calibrated_sections["confidence"],
        "quantize": _read_json(job.folders["quantize"] / LINE_NAME),
    }
    if questions := calibrated_sections.get("question_confidence"):
        quality["calibrate_questions"] = questions
    if redaction := calibrated_sections.get("redaction"):
        quality["calibrate_redaction"] = redaction
    (folder / "report.json").write_text(json.dumps(quality, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    files = {**candidate_files(job, chosen_weights(job)), "report": folder / "report.json"}
    licence = licence_file(job.recipe)
    quantization = {key: quality["quantize"][key] for key in _QUANTIZATION_KEYS if key in quality["quantize"]}
    origin = provenance_section(job)
    if invariance := quality["quantize"].get("batch_invariance"):
        origin["converter"][INVARIANCE_KEY] = sentence(invariance)
    sections: dict[str, Any] = {**calibrated_sections, "provenance": origin}
    if {"type", "bits_per_weight"} <= quantization.keys():
        sections["engine"] = {"quantization": quantization}
    return files | ({"licence": licence} if licence else {}), sections


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def _make_bundle(job: StageJob, files: Mapping[Role, Path], sections: Mapping[str, Any], out: Path) -> BundleFolder:
    request = bundle_assembly.AssembleRequest(job.recipe.path(job.recipe.task), files, out, sections=sections)
    return open_bundle(bundle_assembly.assemble(request).path)


def _golden_cases(job: StageJob, bundle: BundleFolder) -> tuple[list[GoldenCase], GoldenOrigin, int]:
    """Return the golden cases, those of samples.txt first, their origin, and the memory that the engine needs.

    The rows are those of the test, and the calibration rows whose label no test row has. The bundle answers the texts
    as they will travel, with surrogates in them.
    """
    task = bundle.manifest.task
    samples = bundle_assembly.samples(job.recipe.path(job.recipe.task))
    test = row_files.rows(job.recipe, "test")
    uncovered = set(output_names(task)) - set(row_files.labels(test))
    calibration_rows = row_files.rows(job.recipe, "calibration") if uncovered else []
    golden_rows = [*test, *(row for row in calibration_rows if uncovered & set(labels_of(row)))]
    candidates = golden_cases.candidates(job.recipe.privacy, task, golden_rows, job.recipe.redaction_bundle)
    rows = candidates.rows
    with serve_bundles([bundle], cpu_threads=1) as served:
        sample_predictions = served.predict(bundle, samples)
        predictions = served.predict(bundle, [row.text for row in rows], job.progress)
        memory_bytes = served.memory_bytes(bundle)
    sample_cases = [
        golden_cases.case(bundle.manifest, text, prediction)
        for text, prediction in zip(samples, sample_predictions, strict=True)
        if not prediction.failure
    ]
    all_cases = [*sample_cases, *golden_cases.cases(bundle.manifest, rows, predictions)]
    return all_cases, golden_cases.origin_of(candidates, all_cases, len(sample_cases)), memory_bytes


def _check_golden_answers(bundle: BundleFolder, cases: Sequence[GoldenCase]) -> None:
    with serve_bundles([bundle]) as served:
        predictions = served.predict(bundle, [case.input for case in cases])
    vector = bundle.manifest.task.kind == "embed"
    problems = [
        f"{case.input[:60]!r}: {difference}"
        for case, prediction in zip(cases, predictions, strict=True)
        if is_binding(case)
        for difference in differences(case, golden_cases.answer_of(bundle.manifest, prediction), vector=vector)
    ]
    if problems:
        raise ModelFailed(
            f"the finished bundle does not reproduce {len(problems)} of its golden answers: {'; '.join(problems[:3])}",
            remedy="Choose another type under quantize.types: this one does not reproduce its answers.",
        )


def _report(bundle: BundleFolder, cases: Sequence[GoldenCase], origin: GoldenOrigin) -> Report:
    manifest = bundle.manifest
    return {
        "digest": bundle.digest,
        "version": manifest.version,
        "size_bytes": manifest.size_bytes,
        "files": {artifact.path: artifact.size_bytes for artifact in manifest.artifacts},
        "memory_bytes": manifest.requires.memory_bytes,
        "golden": {"cases": len(cases), "binding": sum(map(is_binding, cases)), "origin": origin.plain()},
        "labels_without_case": golden_cases.labels_without_case(manifest.task, cases),
        "licence": manifest.provenance.licence or "unknown: set provenance.licence in task.yaml",
    }

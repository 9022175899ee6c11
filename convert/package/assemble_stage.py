"""The assemble stage: makes the finished bundle, with figures, provenance and golden cases.

The golden answers are those of the finished bundle on one thread. The bundle is made again with them in it, and they
are checked once more, as a site does. The required memory is the agent's own estimate for one thread and one input at a
time, the minimum of any machine.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.serving import BundleFolder, open_bundle, serve_bundles
from convert.package import bundle_assembly, golden_cases
from convert.package.bundle_assembly import candidate_files, chosen_weights, confidence_sections
from convert.package.golden_cases import GoldenOrigin
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import GoldenRule, Recipe, Split
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


def section(job: StageJob) -> dict[str, Any]:
    """Return the manifest's `provenance`; base and licence of task.yaml take precedence over detected ones."""
    plain = tasks.read(tasks.find(job.recipe.path(job.recipe.task)))
    written = plain.get("provenance") or {}
    return {
        "base": written.get("base") or _base(job.recipe),
        "licence": written.get("licence") or "",
        "sources": {**dict(_sources(job)), **written.get("sources", {})},
        "converter": {**written.get("converter", {}), **_versions(str(plain.get("runtime")))},
    }


def licence_file(recipe: Recipe) -> Path | None:
    """Return the licence file in the source's directory, if there is one."""
    folder = recipe.path(_base(recipe))
    places = (folder / name for name in LICENCE_NAMES)
    return next((place for place in places if place.is_file()), None)


def _base(recipe: Recipe) -> str:
    source = recipe.source
    return source.checkpoint or source.base or source.gguf or source.onnx


def _sources(job: StageJob) -> Iterator[tuple[str, str]]:
    recipe = job.recipe
    for name, digest in fingerprint_source(recipe, job.progress).items():
        yield name, f"sha256 {digest}"
    for split in SPLITS:
        written = getattr(recipe.data, split)
        if written:
            rows, path = row_files.rows(recipe, split), recipe.path(written)
            digest = fingerprint_path(path, job.progress)
            message = f"{counted(len(rows), 'row')}, {_synthetic(rows)}, {_labelled(rows)}, {_imported(recipe, split)}"
            yield f"data.{split}", f"{message}, sha256 {digest}"
    if recipe.data.outliers:
        digest = fingerprint_path(recipe.path(recipe.data.outliers), job.progress)
        yield "data.outliers", f"{counted(len(row_files.outliers(recipe)), 'row')}, sha256 {digest}"


def _synthetic(rows: list[DataRow]) -> str:
    made = list(filter(attrgetter("synthetic"), rows))
    models = sorted(set(map(attrgetter("model"), made)) - {""})
    return " by ".join(filter(None, (f"{len(made)} synthetic", ", ".join(models))))


def _labelled(rows: list[DataRow]) -> str:
    """Return the label sources in words; labels of the team's own files are assumed to come from people."""
    counts = row_files.count_label_sources(rows)
    return f"labels: {', '.join(f'{count} {source}' for source, count in counts.items())}"


def _imported(recipe: Recipe, split: Split) -> str:
    """Return what was done with imported rows, in words."""
    task = tasks.of(recipe.path(recipe.task))
    raw = row_files.unredacted_rows(recipe, split, task)
    return imported_rows.sentence(raw, recipe.privacy, task.kind, recipe.redaction_bundle)


def _versions(runtime: str) -> dict[str, str]:
    found = library_versions(_TOOLS.get(runtime, ()))
    return {name.removeprefix("version of "): version for name, version in found.items() if version[:1].isdigit()}


BUNDLE = "bundle"
INVARIANCE_KEY = "batch invariance"
"""Key in provenance.converter; agents store its values without interpreting them."""
_MORE_ROWS: Mapping[GoldenRule, str] = {
    "surrogates": "Add rows to the test split",
    "composed": "Mark rows of the test split that nobody said with '\"composed\": true', add lines to samples.txt",
    "consented": "Mark rows of the test split with '\"composed\": true' or '\"consented\": true'",
}
_QUANTIZATION = ("type", "bits_per_weight", "fallback_tensors")


@dataclass(frozen=True)
class _BundleParts:
    """The parts of the bundle."""

    files: Mapping[Role, Path]
    sections: Mapping[str, Any]


def run(job: StageJob) -> Report:
    """Write `bundle/`; report its digest, size, files, golden cases, and missing information.

    Raises:
        ModelFailed: the finished bundle does not reproduce its golden answers on this machine, or too few of them are
            binding.
            As `assemble`, `row_files.rows` and serving.
    """
    with tempfile.TemporaryDirectory(dir=job.out) as made:
        folder = Path(made)
        parts = _parts(job, folder)
        without = _made(job, parts, folder / "without")
        cases, origin, memory_bytes = _golden_cases(job, without)
        _check_binding(job, without, cases)
        (folder / "golden.jsonl").write_bytes(encode(cases))
        files: dict[Role, Path] = {**parts.files, "golden": folder / "golden.jsonl"}
        parts.sections["provenance"]["converter"][golden_cases.PROVENANCE_KEY] = origin.sentence()
        sections = {**parts.sections, "requires": {"memory_bytes": _at_least(job, memory_bytes)}}
        bundle = _made(job, _BundleParts(files, sections), job.out / BUNDLE)
        _check(bundle, cases)
    _record_lineage(job, bundle, origin)
    return _report(bundle, cases, origin)


def _record_lineage(job: StageJob, bundle: BundleFolder, origin: GoldenOrigin) -> None:
    """Store which collected records are in the bundle, next to it and in the collections that they come from."""
    data, records, files, collections = job.recipe.data, dict[str, list[str]](), dict[str, str](), set[Path]()
    for split in row_files.SPLITS:
        if written := getattr(data, split):
            path = job.recipe.path(written)
            records[split] = [row.record for row in read_rows(path, data.format, text_only=True) if row.record]
            files[split] = fingerprint_path(path, job.progress)
            collections |= {found} if (found := lineage.collection_of(path)) else set()
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
    for collected in collections:
        lineage.register(collected, document)


def _parts(job: StageJob, folder: Path) -> _BundleParts:
    calibrated = confidence_sections(job)
    quality = {
        "evaluate": _read(job.folders["evaluate"] / QUALITY_NAME),
        "calibrate": calibrated["confidence"],
        "quantize": _read(job.folders["quantize"] / LINE_NAME),
    }
    if questions := calibrated.get("question_confidence"):
        quality["calibrate_questions"] = questions
    if redaction := calibrated.get("redaction"):
        quality["calibrate_redaction"] = redaction
    (folder / "report.json").write_text(json.dumps(quality, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    files = {**candidate_files(job, chosen_weights(job)), "report": folder / "report.json"}
    licence = licence_file(job.recipe)
    stored = {key: quality["quantize"][key] for key in _QUANTIZATION if key in quality["quantize"]}
    origin = section(job)
    if invariance := quality["quantize"].get("batch_invariance"):
        origin["converter"][INVARIANCE_KEY] = sentence(invariance)
    sections: dict[str, Any] = {**calibrated, "provenance": origin}
    if {"type", "bits_per_weight"} <= stored.keys():
        sections["engine"] = {"quantization": stored}
    return _BundleParts(files | ({"licence": licence} if licence else {}), sections)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _made(job: StageJob, parts: _BundleParts, out: Path) -> BundleFolder:
    request = bundle_assembly.AssembleRequest(
        job.recipe.path(job.recipe.task), parts.files, out, sections=parts.sections
    )
    return open_bundle(bundle_assembly.assemble(request).path)


def _at_least(job: StageJob, memory_bytes: int) -> int:
    plain = tasks.read(tasks.find(job.recipe.path(job.recipe.task)))
    written = plain.get("requires") or {}
    return max(memory_bytes, int(written.get("memory_bytes") or 0))


def _golden_cases(job: StageJob, bundle: BundleFolder) -> tuple[list[GoldenCase], GoldenOrigin, int]:
    """Return the golden cases, those of samples.txt first, their origin, and the memory that the engine needs.

    The bundle answers the texts as they will travel, with surrogates in them.
    """
    samples = bundle_assembly.samples(job.recipe.path(job.recipe.task))
    found, redactor = _rows(job, bundle), job.recipe.redaction_bundle
    chosen = golden_cases.candidates(job.recipe.privacy, bundle.manifest.task, found, redactor)
    rows = chosen.rows
    with serve_bundles([bundle], cpu_threads=1) as served:
        shown = served.predict(bundle, samples)
        predictions = served.predict(bundle, [row.text for row in rows], job.progress)
        memory_bytes = served.memory_bytes(bundle)
    first = [
        golden_cases.case(bundle.manifest, *pair) for pair in zip(samples, shown, strict=True) if not pair[1].failure
    ]
    every = [*first, *golden_cases.cases(bundle.manifest, rows, predictions)]
    return every, golden_cases.origin_of(chosen, every, len(first)), memory_bytes


def _rows(job: StageJob, bundle: BundleFolder) -> list[DataRow]:
    """Return the test rows, and those calibration rows whose label no test row has."""
    test = row_files.rows(job.recipe, "test")
    there, known = set(row_files.labels(test)), set(output_names(bundle.manifest.task))
    more = row_files.rows(job.recipe, "calibration") if known - there else []
    return [*test, *(row for row in more if known & set(labels_of(row)) - there)]


def _check_binding(job: StageJob, bundle: BundleFolder, cases: Sequence[GoldenCase]) -> None:
    remedy = (
        f"{_MORE_ROWS[job.recipe.privacy.golden_cases]}, or train a more confident model. To ship the bundle"
        " anyway, set 'golden_cases_min: {binding}' under 'budget' in the recipe."
    )
    least = job.recipe.budget.golden_cases_min
    bundle_assembly.check_binding(bundle.manifest.task.kind, cases, least, remedy)


def _check(bundle: BundleFolder, cases: Sequence[GoldenCase]) -> None:
    with serve_bundles([bundle]) as served:
        answers = served.predict(bundle, [case.input for case in cases])
    wrong = [f"{case.input[:60]!r}: {said}" for case, said in _differing(bundle, cases, answers)]
    if wrong:
        said = f"the finished bundle does not reproduce {len(wrong)} of its golden answers: {'; '.join(wrong[:3])}"
        raise ModelFailed(
            said, remedy="Choose another type under quantize.types: this one does not reproduce its answers."
        )


def _differing(
    bundle: BundleFolder, cases: Sequence[GoldenCase], answers: Sequence[ServedPrediction]
) -> list[tuple[GoldenCase, str]]:
    kind = bundle.manifest.task.kind
    found = []
    for case, each in zip(cases, answers, strict=True):
        answer = golden_cases.answer_of(bundle.manifest, each)
        found += [(case, said) for said in differences(case, answer, vector=kind == "embed") if is_binding(case)]
    return found


def _report(bundle: BundleFolder, cases: Sequence[GoldenCase], origin: GoldenOrigin) -> Report:
    manifest = bundle.manifest
    return {
        "digest": bundle.digest,
        "version": manifest.version,
        "size_bytes": manifest.size_bytes,
        "files": {artifact.path: artifact.size_bytes for artifact in manifest.artifacts},
        "memory_bytes": manifest.requires.memory_bytes,
        "golden": {"cases": len(cases), "binding": sum(map(is_binding, cases)), "origin": origin.plain()},
        "labels_without_case": golden_cases.uncovered(manifest.task, cases),
        "licence": manifest.provenance.licence or "unknown: set provenance.licence in task.yaml",
    }

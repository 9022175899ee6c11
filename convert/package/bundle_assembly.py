"""Assembles a bundle, a directory or an uncompressed tar, from task.yaml and model files.

The same input gives the same bytes: files are named by role, the tar has no times and no owners. The output is made
next to its final place and moved there at the end, so it is never incomplete. Files are hard-linked if the disk allows
it.

Before a recipe's bundle is finished, its stages run temporary bundles: the files of a candidate with a manifest
(`candidate_bundle`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from convert.pipeline import task_file as tasks
from convert.pipeline.stage import StageJob
from edge_agent import __version__
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import FileMissing, InvalidRequest, ManifestInvalid, ModelFailed, ModelLoadFailed
from edge_agent.formats import golden_cases
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.manifest import (
    MANIFEST_NAME,
    ROLES_NEEDED,
    Artifact,
    Kind,
    Manifest,
    PromptTemplate,
    Role,
    digest_of,
    encode,
    is_safe_path,
    parse,
)

SAMPLES_NAME = "samples.txt"
GOLDEN_NAME = "golden.jsonl"
BINDING_MIN = 8
"""Default of the fewest binding golden cases of a bundle."""
COMPUTED = ("llama", "onnx")
"""Runtimes whose answers a model computes."""
_CHUNK_BYTES = 1024 * 1024
_CHAT_REMEDY = (
    "Leave 'chat' out of 'prompt' in task.yaml and write the whole text into 'template'; or use a chat model, whose"
    " weights file has a template."
)
_MORE_CASES = (
    "Let a recipe make the bundle ('edge-convert run'), which records golden cases; or give a file of them"
    " with --golden. To make the bundle anyway, set --golden-cases-min {binding}."
)
_SEE_REMEDY = "docs/task-yaml.md explains every key."
_MEASURED_SECTIONS = ("confidence", "question_confidence")
_COMPRESSED = (".gz", ".tgz", ".xz", ".zst", ".zip")

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes read so far and its bytes in all."""


@dataclass(frozen=True)
class AssembleRequest:
    """The inputs of a bundle."""

    task: Path
    """A task.yaml, or a directory with one and optionally a samples.txt."""
    files: Mapping[Role, Path]
    out: Path
    """A directory, or a file that ends in .tar."""
    version: str | None = None
    """Overrides the version in task.yaml."""
    force: bool = False
    """Replace existing output."""
    golden_cases_min: int = 0
    """Fewest golden cases that bind a bundle whose answers a model computes."""
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Measured values that replace keys in sections of task.yaml, such as {"confidence": {...}}.

    `confidence` and `question_confidence` are replaced as a whole."""


@dataclass(frozen=True)
class AssembledBundle:
    """A finished bundle."""

    path: Path
    digest: str
    manifest: Manifest


def assemble(request: AssembleRequest, progress: Progress = lambda _name, _done, _size: None) -> AssembledBundle:
    """Make a bundle.

    Raises:
        FileMissing: task.yaml or a model file does not exist.
        ManifestInvalid: task.yaml, with these files, breaks a rule of the manifest.
        BundleUnreadable: the file of golden cases is invalid.
        InvalidRequest: the output exists, or is not a directory or .tar file.
        ModelFailed: fewer golden cases than `golden_cases_min` are binding.
        OSError: the disk is full or not writable.
    """
    task_file = tasks.find(request.task)
    plain = _complete(tasks.read(task_file), request.sections, request.version)
    for role, source in request.files.items():
        if not is_file(source):
            raise FileMissing(f"{role} file {source} does not exist", remedy=f"Check --{role}.")
    _check_roles(plain, request.files)
    _check_golden(plain, request)
    _check_out(request.out, request.force)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=request.out.parent, prefix=f".{request.out.name}.") as staging:
        bundle = Path(staging, "bundle")
        bundle.mkdir()
        _place_files(request.files, samples(request.task), bundle)
        artifacts = [_artifact(path, progress) for path in sorted(bundle.iterdir())]
        manifest_bytes = encode(tasks.manifest_of(plain, artifacts, str(task_file)))
        manifest = parse(manifest_bytes)
        if manifest.runtime == "llama" and manifest.task.prompt.chat:
            _check_chat(manifest.task.prompt, request.files["weights"])
        (bundle / MANIFEST_NAME).write_bytes(manifest_bytes)
        output = bundle
        if request.out.suffix == ".tar":
            output = Path(staging, "bundle.tar")
            _write_tar(bundle, output)
        _move(output, request.out, Path(staging, "replaced"))
    return AssembledBundle(request.out, digest_of(manifest_bytes), manifest)


def _complete(plain: dict[str, Any], sections: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """Add the measured sections, the requested version, and the version of edge-convert."""
    merged = dict(plain)
    for name, section in sections.items():
        original = plain.get(name)
        # A calibrated section must not be mixed with a hand-written one.
        existing = original if isinstance(original, dict) and name not in _MEASURED_SECTIONS else {}
        merged[name] = {**existing, **section}
    provenance = merged.get("provenance") or {}
    if not isinstance(provenance, dict) or not isinstance(provenance.get("converter", {}), dict):
        message = "task.yaml: 'provenance' and 'provenance.converter' must contain keys and values"
        raise ManifestInvalid(message, remedy=_SEE_REMEDY)
    converter = {"edge-convert": __version__, **provenance.get("converter", {})}
    return {**merged, **({"version": version} if version else {}), "provenance": {**provenance, "converter": converter}}


def _check_roles(plain: dict[str, Any], files: Mapping[Role, Path]) -> None:
    runtime = str(plain.get("runtime"))
    for role in ROLES_NEEDED.get(runtime, ()):
        if role not in files:
            message = f"task.yaml: runtime '{runtime}' needs an artifact of role '{role}'"
            raise ManifestInvalid(message, remedy=f"Give the file: --{role} FILE.")


def _check_golden(plain: Mapping[str, Any], request: AssembleRequest) -> None:
    """Read all cases, which validates them; if a model computes the answers, check that enough are binding."""
    task = plain.get("task")
    kind: Any = task.get("kind") if isinstance(task, dict) else None
    with contextlib.ExitStack() as stack:
        cases: Iterable[GoldenCase] = (GoldenCase(input=each) for each in samples(request.task))
        if "golden" in request.files:
            cases = golden_cases.read(stack.enter_context(request.files["golden"].open("rb")))
        if plain.get("runtime") in COMPUTED and kind in get_args(Kind):
            check_binding(kind, cases, request.golden_cases_min, _MORE_CASES)
        deque(cases, maxlen=0)


def check_binding(kind: Kind, cases: Iterable[GoldenCase], cases_min: int, remedy: str) -> None:
    """Check that a bundle has enough binding cases, with which a site detects other answers; generate tasks have none.

    Args:
        kind: of the task.
        cases: of the bundle.
        cases_min: number of binding cases that it must have.
        remedy: what the maker of the bundle can do; `{binding}` in it stands for the number of binding cases.

    Raises:
        ModelFailed: fewer are binding.
    """
    counts = Counter(map(golden_cases.is_binding, cases))
    if kind != "generate" and counts[True] < cases_min:
        raise ModelFailed(
            f"{counts[True]} of {counts.total()} golden cases are binding, and {cases_min} are required for a site to"
            " detect that the bundle computes different answers there",
            remedy=remedy.format(binding=counts[True]),
        )


def _check_chat(prompt: PromptTemplate, weights: Path) -> None:
    """Render a prompt with the chat template of its weights, as the agent does when it installs the bundle."""
    # These modules read model files, which most bundles do not need.
    from convert.decoder import check_chat  # noqa: PLC0415
    from convert.quantize.gguf_files import chat_template  # noqa: PLC0415

    try:
        check_chat(prompt, *chat_template(weights))
    except ModelLoadFailed as error:
        raise ManifestInvalid(f"{weights.name}: {error.message}", remedy=_CHAT_REMEDY) from None


def _check_out(out: Path, force: bool) -> None:
    if out.suffix in _COMPRESSED:
        raise InvalidRequest(f"--out {out}: a bundle is never compressed", remedy="Name a directory, or a .tar file.")
    if not out.exists():
        return
    if not force:
        raise InvalidRequest(f"{out} exists", remedy="Name another --out, or replace it with --force.")
    is_bundle = not out.is_dir() if out.suffix == ".tar" else (out / MANIFEST_NAME).is_file()
    if not is_bundle:
        raise InvalidRequest(f"{out} is not a bundle, so --force does not replace it", remedy="Name another --out.")


def _place_files(files: Mapping[Role, Path], sample_texts: Sequence[str], bundle: Path) -> None:
    for role, source in files.items():
        name = role + source.suffix
        _link_or_copy(source.resolve(), bundle / (name if is_safe_path(name) else role))
    if sample_texts and "golden" not in files:
        (bundle / GOLDEN_NAME).write_bytes(golden_cases.encode(GoldenCase(input=each) for each in sample_texts))


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # Another disk, a file system without links, or another owner's file.
        shutil.copyfile(source, target)


def samples(task: Path) -> list[str]:
    """Return the inputs in the samples.txt next to a task.yaml: each line that is not empty and not a comment.

    Raises FileMissing, InvalidRequest.
    """
    file = tasks.find(task).with_name(SAMPLES_NAME)
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is not UTF-8: {error.reason}", remedy="Save it as UTF-8.") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _artifact(path: Path, progress: Progress) -> Artifact:
    role = next(role for role in get_args(Role) if role == path.stem)
    size = path.stat().st_size
    digest, bytes_read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            bytes_read += len(chunk)
            progress(path.name, bytes_read, size)
    return Artifact(role=role, path=path.name, sha256=digest.hexdigest(), size_bytes=bytes_read)


def _write_tar(bundle: Path, target: Path) -> None:
    # The manifest comes first, so that a reader can refuse the bundle before it has read the weights.
    names = sorted((path.name for path in bundle.iterdir()), key=lambda name: (name != MANIFEST_NAME, name))
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            path = bundle / name
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)


def _move(output: Path, out: Path, replaced: Path) -> None:
    """Move the bundle to its place; an existing one moves into the staging directory, which is deleted afterwards."""
    if output.is_dir() and out.exists():
        out.rename(replaced)
    output.replace(out)


CHOSEN_NAME = "chosen"
CONFIDENCE_NAME, QUESTIONS_NAME = "confidence.json", "question_confidence.json"
"""Written by the calibrate stage: sections of the manifest; the second one for decide only."""
REDACTION_NAME = "redaction.json"
"""Written by the calibrate stage if it proved a cut-off: keys of the manifest's section `redaction`."""
CANDIDATES = "candidates"
_UNCALIBRATED = {"policy": "always_escalate"}
# Written by the export stage next to the weights.
_EXPORTED_FILES: dict[Role, str] = {"adapter": "adapter.gguf", "tokenizer": "tokenizer.json"}


def candidate_files(job: StageJob, weights: Path) -> dict[Role, Path]:
    """Return the files of a bundle with these weights, by role."""
    export = job.folders["export"]
    exported_files = {role: export / name for role, name in _EXPORTED_FILES.items() if (export / name).is_file()}
    return {"weights": weights, **exported_files}


def candidate_bundle(job: StageJob, weights: Path, out: Path) -> Path:
    """Make a bundle in a new folder, and return it.

    Its confidence section is that of the calibrate stage; before that stage, temperature 1 and no threshold.

    Raises what `assemble` raises.
    """
    sections = confidence_sections(job)
    task = job.recipe.path(job.recipe.task)
    return assemble(AssembleRequest(task, candidate_files(job, weights), out, sections=sections)).path


def confidence_sections(job: StageJob) -> dict[str, Any]:
    """Return the manifest's section `confidence`, for decide also `question_confidence`, and for redact `redaction` if
    a cut-off is proved: of the calibrate stage, or uncalibrated ones before it."""
    task, folder = tasks.of(job.recipe.path(job.recipe.task)), job.folders.get("calibrate")
    if folder is None:
        uncalibrated: dict[str, Any] = {"confidence": _UNCALIBRATED}
        if task.kind == "decide":
            uncalibrated["question_confidence"] = {question.name: _UNCALIBRATED for question in task.questions_asked}
        return uncalibrated
    names = {"confidence": CONFIDENCE_NAME, "question_confidence": QUESTIONS_NAME, "redaction": REDACTION_NAME}
    files = {section: folder / name for section, name in names.items() if (folder / name).is_file()}
    return {section: json.loads(path.read_text(encoding="utf-8")) for section, path in files.items()}


def chosen_weights(job: StageJob) -> Path:
    """Return the weights that the quantize stage chose. Raises FileMissing."""
    folder = job.folders["quantize"]
    candidate = folder / CANDIDATES / (folder / CHOSEN_NAME).read_text(encoding="utf-8").strip()
    files = sorted(candidate.glob("model.*"))
    if not files:
        raise FileMissing(f"{candidate} has no model file", remedy="Run 'edge-convert quantize' again.")
    return files[0]

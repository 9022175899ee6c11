"""Bundle directories for tests: `manifest.json` and files with the right hashes, written where the test says.

    folder = echo_bundle(tmp_path / "pos", labels=("refund", "price"))          # no model file needed
    folder = echo_bundle(tmp_path / "other", weights=b"other")                  # an engine of its own
    folder = tiny_onnx_bundle(tmp_path / "tags", "extract")                     # random 2-layer BERT, milliseconds
    folder = tiny_onnx_bundle(tmp_path / "desk", "decide")                      # likewise, an output for each question
    folder = minilm_bundle(tmp_path / "intent", "classify")                     # real encoder, trained head, 91 MB
    folder = smollm2_bundle(tmp_path / "talk", "generate")                      # real decoder, 98 MB

Every builder takes `name`, `labels`, `version` and, as further keywords, sections of the manifest to merge in:
`echo_bundle(d, task={"limits": {"input_tokens_max": 4}}, confidence={"temperature": 2.0})`. All return the directory;
`digest_of`, `manifest_of` and `paths_of` read it back. Files are copies: a test may spoil them.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.formats import manifest
from tests.support import bert_onnx, models, pos_intents

if TYPE_CHECKING:
    from edge_agent.engine.pool import EnginePool

INTENTS = pos_intents.INTENTS
RANDOM_CUTOFF = 0.98
TAGS = ("O", "B-product", "I-product", "B-price", "I-price")
DEFAULT_LABELS: dict[str, tuple[str, ...]] = {
    "classify": INTENTS,
    "decide": (),
    "extract": TAGS,
    "generate": (),
    "embed": (),
    "redact": TAGS,
}
NAMES = {
    "classify": "pos-intent",
    "decide": "front-desk",
    "extract": "pos-fields",
    "generate": "assistant",
    "embed": "pos-vector",
    "redact": "pii",
}
QUESTIONS: list[dict[str, Any]] = [
    {"name": "intent", "type": "choice", "instructions": "What does the customer want?", "labels": list(INTENTS)},
    {"name": "urgent", "type": "predicate", "instructions": "The customer cannot wait."},
    {
        "name": "severity",
        "type": "score",
        "instructions": "How bad is it for the customer?",
        "labels": ["low", "middle", "high"],
        "descriptions": ["A question.", "Something is wrong.", "Somebody is harmed."],
    },
]
"""Of a decide task: one of each type."""

_CLASSIFY_PROMPT = {
    "template": "Sort what a customer says at the till by what the customer wants.\n\n"
    "Customer: My kettle broke after a week, I want my money back.\nWants: refund\n\n"
    "Customer: Can I swap this shirt for a larger one?\nWants: exchange\n\n"
    "Customer: How much is the blue lamp?\nWants: price\n\n"
    "Customer: Do you still have size nine boots?\nWants: stock\n\n"
    "Customer: When do you close on Sundays?\nWants: hours\n\n"
    "Customer: How many points are on my club card?\nWants: loyalty\n\n"
    "Customer: Can I pay half by card and half in cash?\nWants: payment\n\n"
    "Customer: Where are the toilets?\nWants: other\n\n"
    "Customer: {input}\nWants:",
}
_EXTRACT_PROMPT = {
    "template": "Write what a customer wants as JSON.\n\n"
    "Customer: I bought two lamps on the third of November 2026 and want my money back.\n"
    'JSON:\n{"product": "lamp", "count": 2, "wish": "refund", "day": "2026-11-03"}\n\n'
    "Customer: What does the blue kettle cost?\n"
    'JSON:\n{"product": "blue kettle", "count": null, "wish": "price", "day": null}\n\n'
    "Customer: {input}\nJSON:\n",
}
# In an order that is not that of the alphabet, with a field for each of: text, number or null, choice, date or null.
RECORD_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["product", "count", "wish", "day"],
    "properties": {
        "product": {"type": "string", "maxLength": 40},
        "count": {"type": ["integer", "null"], "minimum": 0, "maximum": 999},
        "wish": {"enum": ["refund", "exchange", "price", "other"]},
        "day": {"type": ["string", "null"], "format": "date"},
    },
    "additionalProperties": False,
}
_GENERATE_PROMPT = {"chat": True, "system": "You help the staff of a shop. Answer in one or two short sentences."}


def echo_bundle(
    directory: Path,
    name: str = "",
    kind: str = "classify",
    labels: Sequence[str] | None = None,
    version: str = "1.0.0",
    **more: Any,
) -> Path:
    """Write a bundle for the echo runtime; `weights=b"..."` gives it weights, and so an engine of its own.

    Likewise `adapter`, `golden` and `report`.
    """
    given = {role: more.pop(role, b"") for role in ("weights", "adapter", "golden", "report")}
    files = {role: (f"echo.{role}.bin", content) for role, content in given.items() if content}
    return write(directory, fields_of("echo", name, kind, labels, version), more, files)


def tiny_onnx_bundle(
    directory: Path,
    kind: str = "classify",
    name: str = "",
    labels: Sequence[str] | None = None,
    version: str = "1.0.0",
    **more: Any,
) -> Path:
    """Write a bundle with a random BERT of 2 layers; the number of its outputs is always that of the default labels."""
    weights = tiny_onnx(kind)
    files: _Files = {"weights": ("model.onnx", weights), "tokenizer": ("tokenizer.json", bert_onnx.tiny_tokenizer())}
    return write(directory, fields_of("onnx", name, kind, labels, version), more, files)


def minilm_bundle(directory: Path, kind: str = "embed", name: str = "", version: str = "1.0.0", **more: Any) -> Path:
    """Write a bundle with all-MiniLM-L6-v2: "embed", or "classify" with a head fitted to tests/data/pos_intents."""
    weights = minilm_onnx("classify" if kind == "classify" else "hidden")
    files: _Files = {
        "weights": ("model.onnx", weights),
        "tokenizer": ("tokenizer.json", models.minilm_dir() / "tokenizer.json"),
    }
    return write(directory, fields_of("onnx", name, kind, None, version), more, files)


def smollm2_bundle(
    directory: Path,
    kind: str = "classify",
    name: str = "",
    labels: Sequence[str] | None = None,
    version: str = "1.0.0",
    **more: Any,
) -> Path:
    """Write a bundle with SmolLM2-135M-Instruct: "classify" or "extract" by a few examples, "generate" as a chat, or
    "decide"."""
    fields = fields_of("llama", name, kind, () if kind == "extract" else labels, version)
    fields["task"]["prompt"] = _PROMPTS[kind]
    if kind == "extract":
        fields["task"]["record_schema"] = RECORD_SCHEMA
    fields["task"]["limits"] = {"input_tokens_max": 512, "output_tokens_max": 64}
    return write(directory, fields, more, {"weights": ("model.gguf", models.smollm2_path())})


_PROMPTS = {
    **{"classify": _CLASSIFY_PROMPT, "extract": _EXTRACT_PROMPT, "generate": _GENERATE_PROMPT},
    "decide": {"template": "Customer: {input}\n\nQuestion: {question}\nAnswer:"},
}
_Files = Mapping[str, tuple[str, bytes | Path]]


def write(directory: Path, fields: dict[str, Any], more: Mapping[str, Any], files: _Files) -> Path:
    """Write a bundle: `more` is merged into `fields`, `files` maps each role to a file name and bytes or a source."""
    directory.mkdir(parents=True, exist_ok=True)
    artifacts = []
    for role, (file_name, content) in files.items():
        target = directory / file_name
        if isinstance(content, Path):
            shutil.copyfile(content, target)
            sha256 = _sha256_of_file(content)
        else:
            target.write_bytes(content)
            sha256 = hashlib.sha256(content).hexdigest()
        size = target.stat().st_size
        artifacts.append({"role": role, "path": file_name, "sha256": sha256, "size_bytes": size})
    whole = manifest.Manifest.model_validate(merged({**fields, "artifacts": artifacts}, more))
    (directory / manifest.MANIFEST_NAME).write_bytes(manifest.encode(whole))
    return directory


def digest_of(directory: Path) -> str:
    """Return the bundle's digest."""
    return manifest.digest_of((directory / manifest.MANIFEST_NAME).read_bytes())


def manifest_of(directory: Path) -> manifest.Manifest:
    """Return the bundle's manifest."""
    return manifest.parse((directory / manifest.MANIFEST_NAME).read_bytes())


def paths_of(directory: Path) -> dict[str, str]:
    """Return the path of each file by role, as `Attach.paths` wants them."""
    return {artifact.role: str(directory / artifact.path) for artifact in manifest_of(directory).artifacts}


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `more` on top; mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def fields_of(
    runtime: str, name: str, kind: str, labels: Sequence[str] | None = None, version: str = "1.0.0"
) -> dict[str, Any]:
    chosen = DEFAULT_LABELS[kind] if labels is None else tuple(labels)
    task: dict[str, Any] = {"name": name or NAMES[kind], "kind": kind, "labels": chosen}
    if kind == "decide":
        task["questions"] = QUESTIONS
    confidence = {"policy": "always_escalate"}
    fields = {"schema": manifest.SCHEMA, "runtime": runtime, "version": version, "task": task, "confidence": confidence}
    # Random weights find every word personal at the usual cut-off, and are refused for it.
    return {**fields, "redaction": {"cutoff": RANDOM_CUTOFF}} if kind == "redact" else fields


@functools.cache
def tiny_onnx(kind: str) -> bytes:
    """Return the random BERT with the head of a task kind, or those of the questions of a decide task."""
    head = {"classify": "classify", "extract": "tags", "embed": "hidden", "redact": "tags", "decide": "classify"}[kind]
    config = bert_onnx.TINY
    if kind == "decide":
        sizes = {each["name"]: len(each.get("labels", "nh")) for each in QUESTIONS}
        weights = bert_onnx.random_weights(config, outputs=sum(sizes.values()))
        return bert_onnx.split_by_question(bert_onnx.build(config, weights, head), sizes)
    return bert_onnx.build(config, bert_onnx.random_weights(config, outputs=len(DEFAULT_LABELS[kind])), head)


@functools.cache
def minilm_onnx(head: str) -> bytes:
    """Return all-MiniLM-L6-v2 as ONNX; takes about 2 s, or 4 s with the fitted "classify" head."""
    config, weights = bert_onnx.minilm()
    if head == "classify":
        weights = {**weights, **pos_intents.fitted_head(minilm_onnx("hidden"))}
    return bert_onnx.build(config, weights, head)


@functools.cache
def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def attach_bundle(pool: EnginePool, folder: Path, digest: str) -> None:
    """Attach the bundle in a folder to a pool."""
    about = manifest_of(folder)
    paths = {role: Path(path) for role, path in paths_of(folder).items()}
    await pool.attach(digest, about, manifest.encode(about), paths)

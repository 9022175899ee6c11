"""The bundle manifest: the fields of `manifest.json`, and their rules.

A bundle is an immutable version of one task. Its identity is the sha256 of the stored bytes of `manifest.json`, so the
bytes are kept as they came and never encoded again. The manifest names every file of the bundle by role, path, size and
sha256. Unknown keys are refused: a typo must not silently drop a threshold.

`parse` is the only way to read one; it raises only SchemaUnknown and ManifestInvalid.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from edge_agent.errors import ManifestInvalid, SchemaUnknown
from edge_agent.formats import record_schema, strict_json
from edge_agent.formats.calibration import (
    UNCALIBRATED,
    AlwaysEscalate,
    Confidence,
    NoThreshold,
    RedactionSection,
    Threshold,
    check_gate_size,
    tag_types,
    tags_problem,
)
from edge_agent.formats.questions import QUESTIONS_MAX, Label, QuestionSpec, duplicates, single_choice
from edge_agent.formats.strict_json import StrictModel

SCHEMA = "edge-agent/bundle/v1"
MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES_MAX = 4 * 1024 * 1024

Kind = Literal["classify", "decide", "extract", "generate", "embed", "redact"]
RuntimeName = Literal["llama", "onnx", "echo", "upstream"]
Role = Literal["weights", "adapter", "tokenizer", "golden", "report", "licence"]

# The kinds of task of each runtime in this version of the agent. Another bundle is refused before it is installed.
RUNTIME_KINDS: dict[str, frozenset[str]] = {
    "llama": frozenset({"classify", "decide", "extract", "generate"}),
    "onnx": frozenset({"classify", "decide", "extract", "embed", "redact"}),
    "echo": frozenset({"classify", "decide", "extract", "generate", "embed", "redact"}),
    # A task without a model of its own yet: only the large one answers.
    "upstream": frozenset({"classify", "decide", "extract", "generate"}),
}
SCORED_KINDS: frozenset[Kind] = frozenset({"classify", "decide", "extract"})
"""Kinds whose answers have a confidence, which is compared with the bundle's threshold."""
LABEL_KINDS: frozenset[Kind] = frozenset({"classify", "decide"})
"""Kinds whose answers are labels: each answers one question."""
OPEN_RUNTIMES = frozenset({"llama", "echo"})
"""Runtimes that answer questions which come with the call."""
ROLES_NEEDED: dict[str, tuple[str, ...]] = {
    "llama": ("weights",),
    "onnx": ("weights", "tokenizer"),
    "echo": (),
    "upstream": (),
}

TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# https://semver.org, without build metadata: two versions that differ only there would sort as equal.
Version = Annotated[str, Field(max_length=64, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$")]


_MAKE_REMEDY = "Make the bundle again with 'edge-convert assemble'."
_CORRECT_REMEDY = "Correct it in task.yaml, and make the bundle again with 'edge-convert assemble'."
# Descriptions of fields whose rule is a pattern, by the last part of the field's name.
_PATTERNS_IN_WORDS = {
    "version": "a semantic version such as 1.2.0",
    "agent": "a version such as 0.1.0",
    "name": "a name of 1 to 63 lower-case letters, digits and inner hyphens",
    "sha256": "a sha256 of 64 lower-case hexadecimal digits",
}


class PromptTemplate(StrictModel):
    """How an input becomes the text that a decoder model reads."""

    template: str = Field(default="{input}", max_length=200_000)
    """Holds `{input}` exactly once. The text before it is the prefix that all requests of the task share.

    decide on llama: also `{question}` once, after it."""
    chat: bool = False
    """Wrap the text as a user message in the model's own chat template."""
    system: str = Field(default="", max_length=200_000)
    """System message; only with `chat`."""
    label_prefix: str = Field(default=" ", max_length=16)
    """Written before a label when it is scored; most tokenizers want the space."""
    stops: tuple[str, ...] = Field(default=(), max_length=16)
    """Strings that end a generation; they are not part of the answer."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 = always the likeliest token."""

    @model_validator(mode="after")
    def _check_template(self) -> PromptTemplate:
        if self.template.count("{input}") != 1:
            raise ValueError("'template' must hold {input} exactly once")
        if self.system and not self.chat:
            raise ValueError("'system' needs 'chat: true'")
        if any(not stop for stop in self.stops):
            raise ValueError("'stops' must not hold an empty string")
        return self


class TaskLimits(StrictModel):
    """Limits of one task."""

    input_tokens_max: int = Field(default=512, ge=1, le=131_072)
    output_tokens_max: int = Field(default=256, ge=0, le=131_072)
    inputs_max: int = Field(default=64, ge=1, le=1024)


class TaskSpec(StrictModel):
    """The task that devices call."""

    name: TaskName
    kind: Kind
    labels: tuple[Label, ...] = Field(default=(), max_length=1000)
    """classify: in the order of the model's outputs. extract on onnx, and redact: the model's tags (BIO), likewise."""
    record_schema: dict[str, Any] | None = None
    """extract on llama: JSON schema of the record; see formats/record_schema.py."""
    pii_fields: tuple[Label, ...] = Field(default=(), max_length=1000)
    """extract: fields of the record whose values are personal data; examples are kept without them."""
    questions: tuple[QuestionSpec, ...] = Field(default=(), max_length=QUESTIONS_MAX)
    """decide: the questions about each input."""
    open_questions: bool = False
    """decide on llama: a call may bring questions of its own, in addition to `questions`."""
    prompt: PromptTemplate = PromptTemplate()
    limits: TaskLimits = TaskLimits()

    @field_validator("labels")
    @classmethod
    def _check_labels_distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if repeated_labels := duplicates(labels):
            raise ValueError(f"duplicate labels: {', '.join(repeated_labels)}")
        return labels

    @field_validator("questions")
    @classmethod
    def _check_names_distinct(cls, questions: tuple[QuestionSpec, ...]) -> tuple[QuestionSpec, ...]:
        if repeated_names := duplicates([question.name for question in questions]):
            raise ValueError(f"duplicate question names: {', '.join(repeated_names)}")
        return questions

    @field_validator("record_schema")
    @classmethod
    def _check_record_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            record_schema.check(schema)
        return schema

    @property
    def written_tokens_max(self) -> int:
        """The most tokens of a written answer; 0 for a task that writes none."""
        return self.limits.output_tokens_max if self.kind == "generate" or self.record_schema is not None else 0

    @cached_property
    def questions_asked(self) -> tuple[QuestionSpec, ...]:
        """The questions about each input: for a classify task one choice with the task's name.

        Empty for other kinds than classify and decide, and for a bundle that takes questions only from the call.
        """
        return single_choice(self.name, self.labels) if self.kind == "classify" else self.questions

    @property
    def record_fields(self) -> list[str]:
        """The fields of a record: those of its schema, or the types behind BIO tags ("B-PER" and "I-PER" are one)."""
        if self.record_schema is not None:
            return record_schema.fields(self.record_schema)
        return tag_types(self.labels)

    @model_validator(mode="after")
    def _questions_fit_kind(self) -> TaskSpec:
        asks = bool(self.questions) or self.open_questions
        if self.kind == "decide" and not asks:
            raise ValueError("a decide task needs at least 1 question, or 'open_questions: true'")
        if self.kind != "decide" and asks:
            raise ValueError(f"a task of kind {self.kind} has no questions")
        return self

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSpec:
        if self.kind == "classify" and len(self.labels) < 2:
            raise ValueError("a classify task needs at least 2 labels")
        if self.kind == "redact" and (problem := tags_problem(self.labels)):
            raise ValueError(problem)
        if self.kind in ("decide", "generate", "embed") and self.labels:
            raise ValueError(f"a task of kind {self.kind} has no labels")
        if self.kind != "extract" and self.pii_fields:
            raise ValueError(f"a task of kind {self.kind} has no record, and so no 'pii_fields'")
        return self


class Artifact(StrictModel):
    """One file of the bundle."""

    role: Role
    path: str = Field(min_length=1, max_length=255)
    sha256: Sha256
    size_bytes: int = Field(ge=0, le=2**62)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if not is_safe_path(path):
            raise ValueError(f"path {path!r} must be relative, without '..', and of plain characters")
        return path


class Quantization(StrictModel):
    """The measured quantization of the weights, whatever the file's name claims."""

    type: str = Field(max_length=32)
    bits_per_weight: float = Field(gt=0, le=64)
    fallback_tensors: int = Field(default=0, ge=0)


class EngineSettings(StrictModel):
    """How the weights are loaded. Bundles with the same weights and the same settings share one engine."""

    context_tokens: int = Field(default=1024, ge=16, le=131_072)
    """Room for one request, prompt and answer, in tokens."""
    kv_type: Literal["f16", "q8_0"] = "f16"
    """Type of the key-value cache. Confidence is calibrated with it, so the site cannot change it."""
    pooling: Literal["mean", "cls"] = "mean"
    """embed on onnx: how token vectors become one vector."""
    normalize: bool = True
    """embed: scale the vector to length 1."""
    quantization: Quantization | None = None


class Provenance(StrictModel):
    """Where the bundle comes from. Free text, shown and carried, never interpreted."""

    base: str = Field(default="", max_length=500)
    licence: str = Field(default="", max_length=200)
    sources: dict[str, str] = Field(default_factory=dict, max_length=100)
    converter: dict[str, str] = Field(default_factory=dict, max_length=100)


class Requires(StrictModel):
    """The requirements on the machine."""

    agent: str = Field(default="0.1.0", max_length=64, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    """The oldest agent that can run the bundle."""
    memory_bytes: int = Field(default=0, ge=0, le=2**62)
    device: Literal["any", "cuda", "vulkan"] = "any"


class Manifest(StrictModel):
    """`manifest.json`."""

    schema_: Literal["edge-agent/bundle/v1"] = Field(default="edge-agent/bundle/v1", alias="schema")
    task: TaskSpec
    version: Version
    runtime: RuntimeName
    artifacts: tuple[Artifact, ...] = Field(default=(), max_length=64)
    engine: EngineSettings = EngineSettings()
    confidence: Confidence = AlwaysEscalate()
    """For a decide task only the gate, which its questions share."""
    question_confidence: dict[str, Confidence] = Field(default_factory=dict, max_length=QUESTIONS_MAX)
    """decide: by the name of the question, without a gate; a missing question always escalates."""
    redaction: RedactionSection | None = None
    """redact: which words count as personal; None = every tag, at the default cut-off."""
    provenance: Provenance = Provenance()
    requires: Requires = Requires()

    @model_validator(mode="after")
    def _check_consistency(self) -> Manifest:
        if self.task.kind not in RUNTIME_KINDS[self.runtime]:
            kinds = ", ".join(sorted(RUNTIME_KINDS[self.runtime]))
            raise ValueError(f"runtime {self.runtime!r} serves {kinds}; not {self.task.kind}")
        self._check_artifacts()
        self._check_record()
        self._check_gate()
        self._check_questions()
        self._check_redaction()
        context_tokens = self.engine.context_tokens
        needed = self.task.limits.input_tokens_max + self.task.written_tokens_max
        if self.runtime == "llama" and needed > context_tokens:
            raise ValueError(f"input and output limits need {needed} tokens; 'context_tokens' is {context_tokens}")
        return self

    def _check_record(self) -> None:
        writes_record = self.runtime in ("llama", "upstream") and self.task.kind == "extract"
        if writes_record and (self.task.record_schema is None or self.task.labels):
            raise ValueError(f"extract on {self.runtime} needs 'record_schema', and no 'labels'")
        if self.task.record_schema is not None and not writes_record:
            raise ValueError(f"'record_schema' is for extract on llama; this is {self.task.kind} on {self.runtime}")

    def _check_redaction(self) -> None:
        if self.redaction is None:
            return
        if self.task.kind != "redact":
            raise ValueError(f"'redaction' is for a task of kind redact; this is {self.task.kind}")
        if problem := self.redaction.labels_problem(self.task.labels):
            raise ValueError(problem)

    def _check_gate(self) -> None:
        if (gate := self.confidence.gate) is None:
            return
        by_mass = self.task.kind == "classify" and self.runtime in ("llama", "echo")
        if not by_mass and self.runtime != "onnx":
            hint = "; an encoder on onnx has one" if self.task.kind == "decide" else ""
            raise ValueError(f"{self.task.kind} on {self.runtime} has no score for 'confidence.gate'{hint}")
        expected = "label_mass" if by_mass else "ood_score"
        if gate.score != expected:
            raise ValueError(f"'confidence.gate' of {self.task.kind} on {self.runtime} needs the score {expected!r}")

    def _check_questions(self) -> None:
        if self.task.open_questions and self.runtime not in OPEN_RUNTIMES:
            raise ValueError(f"runtime {self.runtime!r} answers no questions of the call: no 'open_questions'")
        names = [question.name for question in self.task.questions]
        if unknown := [name for name in self.question_confidence if name not in names]:
            known = ", ".join(names) or "none"
            raise ValueError(f"'question_confidence' names {unknown[0][:100]!r}; the questions are: {known}")
        if self.task.kind == "decide":
            suffix = self.task.prompt.template.partition("{input}")[2]
            if self.runtime == "llama" and suffix.count("{question}") != 1:
                message = "'prompt.template' of decide on llama must hold {question} exactly once, behind {input}"
                raise ValueError(message)
            if isinstance(self.confidence, Threshold):
                raise ValueError("the thresholds of a decide task are in 'question_confidence'")
        self._check_shared_gate()

    def _check_shared_gate(self) -> None:
        calibrations = self.question_confidence.values()
        if any(calibration.gate for calibration in calibrations):
            raise ValueError("the questions of a bundle share its gate, which is in 'confidence'")
        if self.confidence.gate and any(isinstance(calibration, Threshold) for calibration in calibrations):
            check_gate_size(self.confidence.gate)

    def _check_artifacts(self) -> None:
        paths = [artifact.path for artifact in self.artifacts]
        if len(set(paths)) != len(paths) or MANIFEST_NAME in paths:
            raise ValueError("two artifacts have the same path, or one is called manifest.json")
        for role in ROLES_NEEDED[self.runtime]:
            if not self.by_role(role):
                raise ValueError(f"runtime {self.runtime!r} needs an artifact of role {role!r}")
        for role in ("weights", "adapter", "tokenizer", "golden"):
            if len(self.by_role(role)) > 1:
                raise ValueError(f"more than one artifact of role {role!r}")

    def by_role(self, role: str) -> tuple[Artifact, ...]:
        """Return the artifacts of that role."""
        return tuple(artifact for artifact in self.artifacts if artifact.role == role)

    def engine_key(self) -> str:
        """Return a hash of what bundles must have in common to share an engine: runtime, weights, and load settings.

        For onnx also the tokenizer, so that a malicious one is parsed in a process that serves no other bundles.
        """
        roles = ("weights", "tokenizer") if self.runtime == "onnx" else ("weights",)
        files = [artifact.sha256 for role in roles for artifact in self.by_role(role)]
        identity = [self.runtime, files, self.engine.context_tokens, self.engine.kv_type]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def confidence_of(self, question: str) -> Confidence:
        """Return the calibration of a question, with the gate that all questions share.

        Args:
            question: its name; for a classify task the task's. A question that the bundle does not define, such as one
                that came with the call, has no calibration: it always escalates.
        """
        if self.task.kind != "decide":
            return self.confidence
        return self._calibrations.get(question) or self._with_gate(UNCALIBRATED)

    def no_threshold_reason(self, question: str = "") -> NoThreshold:
        """Return why answers to a question have no threshold; its name as in `confidence_of`."""
        return self.no_threshold_reasons.get(question if self.task.kind == "decide" else "", "NOT_CALIBRATED")

    @cached_property
    def no_threshold_reasons(self) -> dict[str, NoThreshold]:
        """Why answers have no threshold, by question; under "" for a task that is not of kind decide.

        A missing question is not calibrated. Cached, because every answer needs a reason.
        """
        if self.task.kind == "decide":
            own = self._calibrations.items()
            return {name: "" if isinstance(each, Threshold) else "NONE_PROVED" for name, each in own}
        if isinstance(self.confidence, Threshold):
            return {"": ""}
        return {"": "NONE_PROVED" if self.confidence.is_measured else "NOT_CALIBRATED"}

    @cached_property
    def _calibrations(self) -> dict[str, Confidence]:
        """By question of a decide task; cached, because every answer needs one."""
        return {name: self._with_gate(calibration) for name, calibration in self.question_confidence.items()}

    def _with_gate(self, calibration: Confidence) -> Confidence:
        gate = self.confidence.gate
        return calibration if gate is None else calibration.model_copy(update={"gate": gate})

    @property
    def redaction_rule(self) -> RedactionSection:
        """Which words count as personal, for a task of kind redact."""
        return self.redaction or RedactionSection()

    @property
    def gate_name(self) -> str:
        """The score of the gate; "none" for a bundle without one."""
        gate = self.confidence.gate
        return gate.score if gate else "none"

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(artifact.size_bytes for artifact in self.artifacts)


def is_safe_path(path: str) -> bool:
    """Tell whether a path stays inside the bundle, and is safe for file systems and terminals."""
    plain = re.fullmatch(r"[A-Za-z0-9._/+ -]+", path) is not None
    return plain and not {"", ".", ".."} & set(path.split("/"))


def digest_of(manifest_bytes: bytes) -> str:
    """Return a bundle's identity: the lower-case hexadecimal sha256 of its manifest as stored."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Encode a manifest as canonical JSON (sorted keys, UTF-8, final newline).

    An absent gate, floor, family size, question or redaction is left out, because older agents refuse unknown keys, and
    so that a manifest of an older version keeps its bytes.
    """
    plain = manifest.model_dump(mode="json", by_alias=True)
    if manifest.redaction is None:
        del plain["redaction"]
    confidence = plain["confidence"]
    for section in (confidence, *plain["question_confidence"].values()):
        _drop_empty(section, "gate", "floor")
    if confidence.get("gate", {}).get("family_sizes", ()) is None:
        del confidence["gate"]["family_sizes"]
    _drop_empty(plain, "question_confidence")
    _drop_empty(plain["task"], "questions", "open_questions")
    return (json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _drop_empty(section: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if not section.get(key):
            section.pop(key, None)


def parse(manifest_bytes: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        SchemaUnknown: the `schema` key names another schema.
        ManifestInvalid: not JSON, over 4 MiB, or a rule is broken; the message names the field and the rule.
    """
    if len(manifest_bytes) > MANIFEST_BYTES_MAX:
        message = f"manifest.json has {len(manifest_bytes)} bytes; the limit is {MANIFEST_BYTES_MAX}"
        raise ManifestInvalid(message, remedy=_MAKE_REMEDY)
    try:
        plain = strict_json.decode(manifest_bytes)
    except ValueError as error:
        remedy = f"Copy the bundle again. If the error persists: {_MAKE_REMEDY}"
        raise ManifestInvalid(f"manifest.json is not valid JSON: {error}", remedy=remedy) from None
    if not isinstance(plain, dict):
        raise ManifestInvalid("manifest.json must hold a JSON object", remedy=_MAKE_REMEDY)
    schema = plain.get("schema")
    if schema != SCHEMA:
        shown = repr(schema)[:100]
        raise SchemaUnknown(f"manifest.json has schema {shown}; this agent supports {SCHEMA!r}", schema=shown)
    try:
        return strict_json.validate(Manifest, plain)
    except ValueError as error:
        rule, remedy = _first_problem(error)
        raise ManifestInvalid(f"manifest.json: {rule}", remedy=remedy) from None


def _first_problem(error: ValueError) -> tuple[str, str]:
    """Return the first broken rule as a sentence, and its remedy."""
    rule = strict_json.first_problem(error, show=True)
    if not isinstance(error, ValidationError):
        return rule, _CORRECT_REMEDY
    problem = error.errors()[0]
    names = [str(part) for part in problem["loc"]]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    words = _PATTERNS_IN_WORDS.get(names[-1]) if names else None
    if words and problem["type"].startswith("string"):
        rule = f"{'.'.join(names)[:200]}: {strict_json.shown(problem['input'])} is not {words}"
    known = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
    close_matches = difflib.get_close_matches(str(problem["input"])[:100], known, n=1)
    remedy = f"Did you mean '{close_matches[0]}'?" if close_matches else _CORRECT_REMEDY
    return f"{rule}{more}", remedy

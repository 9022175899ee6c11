"""What `edge-convert init` writes: a recipe and a task with comments, and which runtime suits a kind of task. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import RUNTIME_KINDS, Kind, RuntimeName


@dataclass(frozen=True)
class RuntimeAdvice:
    """Which runtime, and why."""

    runtime: RuntimeName
    because: str


_ADVICE: dict[Kind, RuntimeAdvice] = {
    "classify": RuntimeAdvice(
        "onnx",
        "For a closed set of labels take an encoder: of the same training rows it makes fewer errors than a decoder of"
        " five times its size, and answers in a tenth of the time. A decoder pays where several tasks of a site share"
        " one base: each adds an adapter of a few megabytes.",
    ),
    "extract": RuntimeAdvice(
        "onnx",
        "For values that stand in the text as they are, take an encoder that tags words. Where values must be put into"
        " another form ('half past six' to 18:30), take a decoder (runtime llama): it writes"
        " the record, and is held to its schema.",
    ),
    "generate": RuntimeAdvice("llama", "Only a decoder writes text."),
    "embed": RuntimeAdvice("onnx", "An encoder: one pass over the text gives the vector."),
}


@dataclass(frozen=True)
class ScaffoldRequest:
    """What the user said of the task."""

    name: str
    kind: Kind
    labels: Sequence[str] = ()
    """Empty: placeholders are written."""
    runtime: RuntimeName | None = None
    """None: the advised one."""


def advise(kind: Kind) -> RuntimeAdvice:
    """Return what suits a kind of task."""
    return _ADVICE[kind]


def labels_of(written: str | None, kind: Kind) -> tuple[str, ...]:
    """Read labels with commas between them; None = placeholders. Raises InvalidRequest where they do not do."""
    if written is None:
        return ()
    listed = tuple(label.strip() for label in written.split(","))
    remedy = "Write them as --labels refund,price,other; without --labels placeholders are written."
    if kind in ("generate", "embed"):
        raise InvalidRequest(
            f"a task of kind {kind} has no labels", remedy="Leave out --labels, or name another --kind."
        )
    if "" in listed:
        raise InvalidRequest(f"label {listed.index('') + 1} of {len(listed)} is empty", remedy=remedy)
    if len(set(listed)) < len(listed):
        twice = next(label for label in listed if listed.count(label) > 1)
        raise InvalidRequest(f"label {twice} stands there twice", remedy=remedy)
    if kind == "classify" and len(listed) == 1:
        raise InvalidRequest(f"a classify task needs at least 2 labels; {listed[0]} is one", remedy=remedy)
    return listed


def runtime_of(wanted: ScaffoldRequest) -> RuntimeName:
    """Return the runtime wanted, or else the advised one. Raises InvalidRequest where it does not serve the kind."""
    runtime = wanted.runtime or advise(wanted.kind).runtime
    if wanted.kind not in RUNTIME_KINDS[runtime]:
        able = ", ".join(sorted(RUNTIME_KINDS[runtime]))
        remedy = f"Take runtime {advise(wanted.kind).runtime}. {advise(wanted.kind).because}"
        raise InvalidRequest(f"runtime {runtime} serves {able}; not {wanted.kind}", remedy=remedy)
    return runtime


def recipe_text(wanted: ScaffoldRequest) -> str:
    """Return a recipe.yaml with every key: those that need a decision are set, the others commented out."""
    decoder = runtime_of(wanted) == "llama"
    return _RECIPE.format(
        because=_wrapped(advise(wanted.kind).because),
        format=_FORMATS[wanted.kind] if not decoder or wanted.kind == "classify" else "prompt-completion",
        method="lora" if decoder else "full",
        epochs=5 if decoder else 8,
    )


def task_text(wanted: ScaffoldRequest) -> str:
    """Return a task.yaml for it."""
    runtime = runtime_of(wanted)
    return _TASK.format(
        name=wanted.name,
        kind=wanted.kind,
        runtime=runtime,
        labels=_schema(wanted) if wanted.kind == "extract" and runtime == "llama" else _labels(wanted),
        prompt=_PROMPT.get(wanted.kind, "") if runtime == "llama" else "",
        engine=_ENGINE if runtime == "llama" else "",
    )


def _labels(wanted: ScaffoldRequest) -> str:
    if wanted.kind not in ("classify", "extract"):
        return ""
    listed = wanted.labels or ("first", "second", "other")
    if wanted.kind == "extract":
        listed = ["O", *(f"{sign}-{label}" for label in listed for sign in "BI")]
    written = ", ".join(json.dumps(label, ensure_ascii=False) for label in listed)
    said = "" if wanted.labels else "  # Put your own here; one of them for what belongs nowhere else.\n"
    return f"{said}  labels: [{written}]\n"


def _schema(wanted: ScaffoldRequest) -> str:
    names = [json.dumps(label, ensure_ascii=False) for label in wanted.labels or ("first", "second", "other")]
    said = "  # JSON schema of the record. Rows hold it as json.dumps writes it, in the order of 'required'.\n"
    properties = "".join(f'      {name}: {{type: [string, "null"], maxLength: 60}}\n' for name in names)
    return (
        f"{said}  record_schema:\n    type: object\n    required: [{', '.join(names)}]\n    properties:\n{properties}"
    )


def _wrapped(text: str) -> str:
    lines, line = [], "#"
    for word in text.split():
        if len(line) + len(word) > 118:
            lines.append(line)
            line = "#"
        line += f" {word}"
    return "\n".join([*lines, line])


_FORMATS: dict[Kind, str] = {
    "classify": "text-label",
    "extract": "text-spans",
    "generate": "prompt-completion",
    "embed": "text-label",
}
_PROMPT: dict[Kind, str] = {
    "classify": '  prompt:\n    # Short: fine-tuning teaches the rest.\n    template: "Message: {input}\\nIntent:"\n'
    '    label_prefix: " "\n',
    "extract": '  prompt:\n    template: "Message: {input}\\nRecord:\\n"\n',
    "generate": '  prompt:\n    template: "{input}"\n    chat: true\n',
}
_ENGINE = "engine:\n  context_tokens: 1024\n\n"

_TASK = """\
# What the bundle says of itself. docs/task-yaml.md explains every key.
version: 0.1.0
runtime: {runtime}

task:
  name: {name}
  kind: {kind}
{labels}{prompt}  limits:
    input_tokens_max: 256

{engine}provenance:
  base: ""
  # Of the weights you start from; it is carried along.
  licence: ""
"""

_RECIPE = """\
# Everything that makes one bundle out of a model and data: edge-convert run recipe.yaml
#
# Paths are relative to this file; package:NAME/PATH lies inside an installed Python package. What is commented out
# shows its default. docs/recipe-yaml.md explains every key.
#
{because}

# What the bundle says of itself.
task: task.yaml

# The weights to start from: exactly one of checkpoint, base and gguf.
source:
  # A directory as transformers writes it: config.json, safetensors, tokenizer.
  checkpoint: model
  # The same, under a PEFT adapter that is there already:
  # base: model
  # adapter: adapter
  # A GGUF file: its weights are taken back to float32 and its tokenizer is built anew.
  # gguf: model.gguf

# One JSON object a line: docs/data-formats.md. A text that stands in two splits is refused.
data:
  format: {format}
  train: train.jsonl
  # Texts that say which weights matter; the training texts when left out.
  # importance: importance.jsonl
  # Fits temperature, gate and threshold. Never trained on; some hundred rows, phrased like those of the field.
  calibration: calibration.jsonl
  # Only measured on.
  test: test.jsonl
  # Share of the calibration or test rows that may be near copies of rows of another split; with more, a run is refused.
  # near_copies_max: 0.05
  # Encoders that classify: texts that are none of the task's, to learn doubt from.
  # outliers: outliers.jsonl

# Leave the section out where the source is tuned already.
finetune:
  # lora: an adapter for a decoder. full, head: an encoder, all of it or only its classification head.
  method: {method}
  # 0: what suits the method.
  # learning_rate: 0
  epochs: {epochs}
  # batch_rows: 8
  # Longer rows are left out and counted.
  # tokens_max: 256
  # lora: size of the adapter; the layers it starts at; names of its linear layers, all when empty.
  # rank: 4
  # layers_from: 0
  # targets: []
  # Training stops when this part of the training rows has got no better for so many epochs.
  # validation_share: 0.1
  # patience_epochs: 2
  # seed: 1

# export:
  # separate: the bundle shares its base with others. merged: one file, a little faster.
  # adapter: separate
  # A llama.cpp checkout of your own, instead of what 'edge-convert setup' prepares.
  # llama_cpp: ""

# Candidates; with several the fastest inside the budget wins. Empty: the sensible ones for the runtime.
# quantize:
  # types: []
  # llama: weigh columns by how much the importance texts use them.
  # importance_matrix: false

# What may be lost on the way from the full-precision model to what is served.
# budget:
  # Share of rows with the same answer.
  # agreement_min: 0.98
  # Mean Kullback-Leibler divergence of the answers, in nats.
  # kl_mean_max: 0.05
  # accuracy_loss_max: 0.02
  # Golden answers that a site has to find alike; fewer, and the bundle is not made.
  # golden_cases_min: 8

# What a sure answer promises: wrong with at most `target`, except with probability `delta`.
risk:
  target: 0.05
  delta: 0.1
  # The least probability of a single confident answer.
  # floor: 0.5
  # The gate: so many of the inputs that resemble the calibration rows may be held up as strange; 0 = no gate.
  # held_up_max: 0.03

# Where stages leave their results: build/NAME below the current directory when empty.
# work: ""
"""

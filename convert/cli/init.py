"""`edge-convert init`, which writes a recipe and a task, and `setup`, which builds llama.cpp's converter."""

from __future__ import annotations

import json
import os
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml

from convert.cli import progress_output
from convert.pipeline.recipe import RECIPE_NAME
from convert.pipeline.stage import load_module
from convert.pipeline.task_file import TASK_NAME
from edge_agent.durable.atomic_files import write_atomically
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import RUNTIME_KINDS, Kind, RuntimeName


@dataclass(frozen=True)
class RuntimeAdvice:
    """A recommended runtime, with the reason."""

    runtime: RuntimeName
    reason: str


_ADVICE: dict[Kind, RuntimeAdvice] = {
    "classify": RuntimeAdvice(
        "onnx",
        "For a closed set of labels use an encoder: with the same training rows it makes fewer errors than a"
        " decoder of five times its size, and answers in a tenth of the time. A decoder pays off if several tasks of"
        " a site share one base: each task adds an adapter of a few megabytes.",
    ),
    "decide": RuntimeAdvice(
        "onnx",
        "For questions that stay the same use an encoder: it answers all of them in one run, and training gives each a"
        " calibrated confidence.",
    ),
    "extract": RuntimeAdvice(
        "onnx",
        "For values that the text contains word for word, use an encoder that tags words. If values need another"
        " form ('half past six' to 18:30), use a decoder (runtime llama): it writes the record, constrained to its"
        " schema.",
    ),
    "generate": RuntimeAdvice("llama", "Only a decoder writes text."),
    "embed": RuntimeAdvice("onnx", "An encoder: one pass over the text gives the vector."),
    "redact": RuntimeAdvice(
        "onnx",
        "An encoder that tags words: it reads every text that a site keeps or sends, in milliseconds. A ready token"
        " classifier in ONNX serves as it is ('onnx' under 'source', without 'finetune').",
    ),
}


@dataclass(frozen=True)
class ScaffoldRequest:
    """The user's description of the task."""

    name: str
    kind: Kind
    labels: Sequence[str] = ()
    """Empty: placeholders are written."""
    runtime: RuntimeName | None = None
    """None: the advised one."""


def advise(kind: Kind) -> RuntimeAdvice:
    """Return the recommendation for a kind of task."""
    return _ADVICE[kind]


def labels_of(text: str | None, kind: Kind) -> tuple[str, ...]:
    """Read labels separated by commas; None = placeholders. Raises InvalidRequest for impossible labels."""
    if text is None:
        return ()
    labels = tuple(label.strip() for label in text.split(","))
    remedy = "Write them as --labels refund,price,other; without --labels placeholders are written."
    if kind in ("decide", "generate", "embed"):
        message = f"a task of kind {kind} has no labels"
        raise InvalidRequest(message, remedy="Leave out --labels, or name another --kind.")
    if "" in labels:
        raise InvalidRequest(f"label {labels.index('') + 1} of {len(labels)} is empty", remedy=remedy)
    if len(set(labels)) < len(labels):
        duplicate = next(label for label in labels if labels.count(label) > 1)
        raise InvalidRequest(f"label {duplicate} appears twice", remedy=remedy)
    if kind == "classify" and len(labels) == 1:
        raise InvalidRequest(f"a classify task needs at least 2 labels; {labels[0]} is only one", remedy=remedy)
    return labels


def runtime_of(request: ScaffoldRequest) -> RuntimeName:
    """Return the requested or the recommended runtime. Raises InvalidRequest if it does not serve the kind."""
    runtime = request.runtime or advise(request.kind).runtime
    if request.kind not in RUNTIME_KINDS[runtime]:
        kinds = ", ".join(sorted(RUNTIME_KINDS[runtime]))
        remedy = f"Use runtime {advise(request.kind).runtime}. {advise(request.kind).reason}"
        raise InvalidRequest(f"runtime {runtime} serves {kinds}, not {request.kind}", remedy=remedy)
    return runtime


def recipe_text(request: ScaffoldRequest) -> str:
    """Return a recipe.yaml with every key: those that need a decision are set, the others commented out."""
    decoder = runtime_of(request) == "llama"
    return _RECIPE.format(
        reason=textwrap.fill(
            advise(request.kind).reason,
            119,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
            break_on_hyphens=False,
        ),
        format=_FORMATS[request.kind] if not decoder or request.kind == "classify" else "prompt-completion",
        method="lora" if decoder else "full",
        epochs=5 if decoder else 8,
        redaction=_REDACTION_TARGET if request.kind == "redact" else _NO_REDACTION_TARGET,
    )


def task_text(request: ScaffoldRequest) -> str:
    """Return a task.yaml for it."""
    runtime = runtime_of(request)
    return _TASK.format(
        name=yaml.safe_dump(request.name).splitlines()[0],  # quoted where it reads as a number, a date or a truth
        kind=request.kind,
        runtime=runtime,
        labels=_schema(request) if request.kind == "extract" and runtime == "llama" else _labels(request),
        prompt=_PROMPT.get(request.kind, "") if runtime == "llama" else "",
        engine=_ENGINE if runtime == "llama" else _REDACTION if request.kind == "redact" else "",
    )


def _labels(request: ScaffoldRequest) -> str:
    if request.kind == "decide":
        return _QUESTIONS
    if request.kind not in ("classify", "extract", "redact"):
        return ""
    labels = request.labels or (_PERSONAL_TYPES if request.kind == "redact" else ("first", "second", "other"))
    if request.kind in ("extract", "redact"):
        labels = ["O", *(f"{sign}-{label}" for label in labels for sign in "BI")]
    quoted = ", ".join(json.dumps(label, ensure_ascii=False) for label in labels)
    comment = "" if request.labels else _REPLACE_TYPES if request.kind == "redact" else _REPLACE_LABELS
    return f"{comment}  labels: [{quoted}]\n"


def _schema(request: ScaffoldRequest) -> str:
    names = [json.dumps(label, ensure_ascii=False) for label in request.labels or ("first", "second", "other")]
    message = (
        "  # JSON schema of the record. Rows contain records as json.dumps writes them, in the order of 'required'.\n"
    )
    properties = "".join(f'      {name}: {{type: [string, "null"], maxLength: 60}}\n' for name in names)
    required = ", ".join(names)
    return f"{message}  record_schema:\n    type: object\n    required: [{required}]\n    properties:\n{properties}"


_PERSONAL_TYPES = ("NAME", "ADDRESS", "PHONE", "EMAIL", "ID_NUMBER")
_REPLACE_LABELS = "  # Replace these with your own labels; keep one for inputs that fit no other.\n"
_REPLACE_TYPES = "  # The types of personal values, as tags (BIO); a ready model's own, in the order of its outputs.\n"
_REDACTION_TARGET = """\
# What is proved of the personal values that remain after model and rules; the cut-off follows from it.
redaction:
  # Largest share of the values that remain, and the probability that the proof fails.
  missed_max: 0.05
  delta: 0.1
"""
_NO_REDACTION_TARGET = """\
# Tasks of kind redact: 'redaction: {missed_max: 0.05, delta: 0.1}' proves a bound on what the bundle misses.
"""
_REDACTION = """\
# A word is personal at this probability or above. A cut-off that 'redaction' in the recipe proves replaces it.
redaction:
  cutoff: 0.5

"""
_FORMATS: dict[Kind, str] = {
    "classify": "text-label",
    "decide": "text-answers",
    "extract": "text-spans",
    "generate": "prompt-completion",
    "embed": "text-label",
    "redact": "text-spans",
}
_PROMPT: dict[Kind, str] = {
    "classify": '  prompt:\n    # Short: fine-tuning teaches the rest.\n    template: "Message: {input}\\nIntent:"\n'
    '    label_prefix: " "\n',
    "extract": '  prompt:\n    template: "Message: {input}\\nRecord:\\n"\n',
    "generate": '  prompt:\n    template: "{input}"\n    chat: true\n',
}
_QUESTIONS = """\
  # Replace these with your own questions: docs/task-yaml.md explains them. A column of the data is named like each.
  questions:
    - name: intent
      type: choice
      instructions: What does the customer want?
      labels: [first, second, other]
    - name: urgent
      type: predicate
      instructions: The customer cannot wait.
    - name: severity
      type: score
      instructions: How bad is it for the customer?
      labels: [low, middle, high]
"""
_ENGINE = "engine:\n  context_tokens: 1024\n\n"

_TASK = """\
# The task and its limits. docs/task-yaml.md explains every key.
version: 0.1.0
runtime: {runtime}

task:
  name: {name}
  kind: {kind}
{labels}{prompt}  limits:
    input_tokens_max: 256

{engine}provenance:
  base: ""
  # Licence of the weights you start from; the bundle carries it.
  licence: ""
"""

_RECIPE = """\
# Makes one bundle from a model and data: edge-convert run recipe.yaml
#
# Paths are relative to this file; package:NAME/PATH lies inside an installed Python package. What is commented out
# shows its default. docs/recipe-yaml.md explains every key.
#
{reason}

# The task: labels, prompt and limits.
task: task.yaml

# The weights to start from: exactly one of checkpoint, base, gguf and onnx.
source:
  # A directory in the format of transformers: config.json, safetensors, tokenizer.
  checkpoint: model
  # The same, with an existing PEFT adapter:
  # base: model
  # adapter: adapter
  # A GGUF file: its weights are converted to float32 and its tokenizer is rebuilt.
  # gguf: model.gguf
  # Tasks of kind redact or extract: a ready token classifier in ONNX, with its tokenizer.
  # onnx: model

# JSONL or CSV: docs/data-formats.md. 'edge-convert split' divides one file. A text that is in two splits is refused.
data:
  format: {format}
  train: train.jsonl
  # Texts for the importance matrix; default: the training texts.
  # importance: importance.jsonl
  # Fits temperature, gate and threshold. Never trained on; some hundred rows, phrased like real inputs.
  calibration: calibration.jsonl
  # Only used to measure.
  test: test.jsonl
  # Largest accepted share of calibration or test rows that are near duplicates of rows in another split.
  # near_copies_max: 0.05
  # Encoders that classify: texts that do not belong to the task, to learn low confidence on.
  # outliers: outliers.jsonl

# Leave the section out if the source is fine-tuned already.
finetune:
  # lora: an adapter for a decoder. full, head: an encoder, all of it or only its classification head.
  method: {method}
  # 0: the default of the method; for an encoder with about a thousand rows try 0.00015.
  # learning_rate: 0
  epochs: {epochs}
  # batch_rows: 8
  # Longer rows are left out and counted.
  # tokens_max: 256
  # lora: size of the adapter; the layers it starts at; names of its linear layers, empty = all.
  # rank: 4
  # layers_from: 0
  # targets: []
  # full, head: balanced, logit_adjusted = each label counts alike, however many rows it has.
  # class_weights: none
  # full: above 0, such as 0.5, a second loss keeps the texts of different labels apart, for the gate.
  # margin_weight: 0
  # Training stops when the loss on this share of the training rows has not improved for `patience_epochs`.
  # validation_share: 0.1
  # patience_epochs: 2
  # seed: 1

# export:
  # separate: the bundle shares its base with others. merged: one file, a little faster.
  # adapter: separate
  # A llama.cpp checkout of your own, instead of what 'edge-convert setup' prepares.
  # llama_cpp: ""

# Candidates; the fastest one inside the budget is chosen. Empty: the default ones of the runtime.
# quantize:
  # types: []
  # llama: weigh columns by how much the importance texts use them.
  # importance_matrix: false

# Largest accepted losses from the full-precision model to the served one.
# budget:
  # Share of rows with the same answer.
  # agreement_min: 0.98
  # Mean Kullback-Leibler divergence of the answers, in nats.
  # kl_mean_max: 0.05
  # accuracy_loss_max: 0.02
  # Fewest golden cases that a site's self-test compares; with fewer the bundle is not made.
  # golden_cases_min: 8

# Risk guarantee of confident answers: at most `target` of them are wrong, except with probability `delta`.
risk:
  target: 0.05
  delta: 0.1
  # Smallest probability of a single confident answer.
  # floor: 0.5
  # The gate: largest share of ordinary inputs that it holds up as out-of-distribution, on average; 0 = no gate.
  # held_up_max: 0.03

{redaction}
# What of the data may travel to every site in the bundle, and what of it is replaced before it is used.
# privacy:
  # Golden cases: surrogates = made-up values in test rows; composed, consented = rows that are marked so.
  # golden_cases: surrogates
  # Locales of the made-up values.
  # locales: [en_US]
  # Rows that no site sent: redacted; or waived, with the reason and who decided in `waiver`.
  # imported_data: redacted
  # waiver: ""
  # Folder of a redaction bundle, which finds personal values in addition to the rules. Empty: only the rules.
  # redaction_bundle: ""

# Folder for the results of stages. Empty: build/NAME below the current directory.
# work: ""
"""


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to; the task is named after it.")],
    kind: Annotated[Kind, typer.Option(help="What the task does.")] = "classify",
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Labels, separated by commas. Default: placeholders.")
    ] = None,
    runtime: Annotated[RuntimeName | None, typer.Option(help="Runtime to use instead of the recommended one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Write a commented recipe.yaml and task.yaml, for an encoder or a decoder, as suits the kind of task.

    Example: [bold]edge-convert init my-task --kind classify --labels refund,price,other[/bold]
    """
    folder_name = Path(os.path.realpath(folder)).name.lower()  # unlike `resolve`, accepts a link to itself
    characters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder_name)
    task_name = characters.strip("-")[:63].strip("-") or "task"
    request = ScaffoldRequest(task_name, kind, labels_of(labels, kind), runtime)
    texts = {RECIPE_NAME: recipe_text(request), TASK_NAME: task_text(request)}
    existing = [name for name in texts if (folder / name).exists()]
    if existing and not force:
        message = f"{folder} has a {existing[0]} already"
        raise InvalidRequest(message, remedy="Name another folder, or replace it with --force.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    advice = advise(kind)
    console = progress_output.out()
    console.print(f"Wrote {folder / RECIPE_NAME} and {folder / TASK_NAME}, for runtime {runtime_of(request)}.")
    console.print(f"Recommended: {'an encoder' if advice.runtime == 'onnx' else 'a decoder'}. {advice.reason}")
    console.print(
        "Next: name the model and the data in the recipe, then run"
        f" 'edge-convert run {shlex.quote(str(folder / RECIPE_NAME))}'."
    )


def run_setup(
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder to use instead of the user's cache; later runs need EDGE_CONVERT_CACHE=DIR."
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The source archive of llama-cpp-python, if it was downloaded by other means."
        ),
    ] = None,
) -> None:
    """Build llama.cpp's converter from the pinned source archive, once. Afterwards no network is needed.

    Only needed for runtime llama; takes about a minute. Instead you can name a checkout of llama.cpp: 'llama_cpp' under
    'export' in the recipe.
    """
    with progress_output.bar() as progress:
        folder = load_module("convert.export.gguf_export").setup(cache, archive, progress)
    progress_output.out().print(f"llama.cpp's converter is in {folder}.")

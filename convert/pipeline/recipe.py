"""recipe.yaml: everything that makes one bundle out of a model and data. Pure, but for reading the file.

    task: task.yaml                      # what the bundle says of itself: see docs/task-yaml.md
    source: {checkpoint: models/minilm}  # or {base: DIR, adapter: DIR}, or {gguf: FILE}
    data: {format: text-label, train: train.jsonl, calibration: calibration.jsonl, test: test.jsonl}
    finetune: {method: full}             # left out: the source is already tuned

Paths are relative to the recipe; `package:NAME/PATH` lies inside an installed Python package. An unknown key is an
error that names the nearest known one. docs/recipe-yaml.md explains every key.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convert import yaml_file
from edge_agent.errors import FileMissing, ManifestInvalid

RECIPE_NAME = "recipe.yaml"
PACKAGE = "package:"
_SEE = "'edge-convert init' writes a commented recipe; docs/recipe-yaml.md explains every key."

DataFormat = Literal["text-label", "prompt-completion", "messages", "text-spans"]
Split = Literal["train", "importance", "calibration", "test"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
# What the names mean is in quantize/: GGUF types of llama.cpp; for ONNX, what is done to the exported float32 graph.
GgufType = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL"]
OnnxType = Literal["fp32", "matmul8-gather8", "dynamic-int8"]


class _RecipeSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSection(_RecipeSection):
    """The weights to start from: exactly one of checkpoint, base and gguf."""

    checkpoint: str = ""
    """Directory as transformers writes it: config.json, safetensors, tokenizer."""
    base: str = ""
    """The same, under a PEFT adapter."""
    adapter: str = ""
    """Directory of a PEFT LoRA adapter for `base`."""
    gguf: str = ""
    """Base model as GGUF: its weights are taken back to float32, its tokenizer is built anew."""

    @model_validator(mode="after")
    def _one(self) -> SourceSection:
        if sum(map(bool, (self.checkpoint, self.base, self.gguf))) != 1:
            raise ValueError("name exactly one of 'checkpoint', 'base' and 'gguf'")
        if self.adapter and self.checkpoint:
            raise ValueError("'adapter' goes with 'base' or 'gguf'")
        return self


class DataSection(_RecipeSection):
    """Four splits, each a JSONL file. A text that stands in two of them is refused."""

    format: DataFormat = "text-label"
    train: str = ""
    importance: str = ""
    """Texts for the importance matrix; empty = the training texts."""
    calibration: str
    """Fits temperature and threshold; never trained on."""
    test: str
    """Only measured on."""
    near_copies_max: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of calibration or test rows that may be near copies of rows elsewhere; with more, a run is refused."""
    outliers: str = ""
    """Texts that are none of the task's, one JSON object with `text` a line: an encoder that classifies learns to give
    them no label."""


class FinetuneSection(_RecipeSection):
    """Training on `data.train`."""

    method: Literal["lora", "full", "head"]
    """lora: an adapter for a decoder. full, head: an encoder, all of it or only its classification head."""
    learning_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """0 = what suits the method."""
    epochs: int = Field(default=5, ge=1, le=1000)
    batch_rows: int = Field(default=8, ge=1, le=4096)
    tokens_max: int = Field(default=256, ge=8, le=131_072)
    """Longer rows are left out and counted."""
    rank: int = Field(default=4, ge=1, le=512)
    layers_from: int = Field(default=0, ge=0)
    """lora: only layers from this one on; those below run once and are cached."""
    targets: tuple[str, ...] = ()
    """lora: names of linear layers; empty = all."""
    validation_share: Share = 0.1
    """Part of the training rows kept for early stopping."""
    patience_epochs: int = Field(default=2, ge=1, le=1000)
    seed: int = Field(default=1, ge=0)


class ExportSection(_RecipeSection):
    """From PyTorch to the format of a runtime."""

    adapter: Literal["separate", "merged"] = "separate"
    """separate: the bundle shares its base with others."""
    llama_cpp: str = ""
    """A llama.cpp checkout of your own, instead of the converter that 'edge-convert setup' prepares."""


class QuantizeSection(_RecipeSection):
    """Smaller and faster weights."""

    types: tuple[GgufType | OnnxType, ...] = ()
    """Candidates; empty = the sensible ones for the runtime. With several, the fastest inside the budget wins."""
    importance_matrix: bool = False
    """llama: weigh columns by how much the importance texts use them. The base is then this recipe's own."""


class BudgetSection(_RecipeSection):
    """How much may be lost on the way from the full-precision model to the served artefact."""

    agreement_min: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of calibration texts with the same answer as the full-precision model; embed: a cosine of 0.99 or more."""
    kl_mean_max: float = Field(default=0.05, gt=0.0)
    """Mean Kullback-Leibler divergence of the answer's distribution, in nats."""
    accuracy_loss_max: float = Field(default=0.02, ge=0.0, le=1.0)
    """On the calibration rows that fit the temperature, against the full-precision model."""
    golden_cases_min: int = Field(default=8, ge=0, le=200)
    """Answers that a site has to find alike before it takes the bundle over; tasks that generate have none."""


class RiskSection(_RecipeSection):
    """What a sure answer promises: wrong with at most `target`, except with probability `delta`."""

    target: Share = 0.05
    delta: Share = 0.1
    floor: float = Field(default=0.5, ge=0.0, lt=1.0)
    """A confident answer has at least this calibrated probability on its own; 0 = any."""
    held_up_max: float = Field(default=0.03, ge=0.0, lt=1.0)
    """The gate: at most so many of the inputs that resemble the calibration rows are held up as strange; 0 = none."""


class Recipe(_RecipeSection):
    """The whole file, and the directory it lies in."""

    task: str = "task.yaml"
    source: SourceSection
    data: DataSection
    finetune: FinetuneSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    budget: BudgetSection = BudgetSection()
    risk: RiskSection = RiskSection()
    work: str = ""
    """Where stages leave their results; empty = build/NAME below the current directory."""
    folder: Path = Field(default=Path(), exclude=True)

    def path(self, written: str) -> Path:
        """Return the place that a path in the recipe means. Raises FileMissing for a package that is not installed."""
        if not written.startswith(PACKAGE):
            return self.folder / written
        name, _, inside = written.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise FileMissing(f"the package {name} is not installed", remedy=f"pip install {name.replace('_', '-')}")
        return Path(next(iter(spec.submodule_search_locations)), inside)


def read(path: Path) -> Recipe:
    """Read a recipe, or the recipe.yaml in a directory.

    Raises:
        FileMissing: it is not there.
        ManifestInvalid: it breaks a rule; the message names the key and the rule.
    """
    file = path / RECIPE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileMissing(f"{file} does not exist", remedy=f"Name a {RECIPE_NAME}; 'edge-convert init' writes one.")
    plain = yaml_file.read(file, Recipe, [key for key in Recipe.model_fields if key != "folder"], _SEE)
    try:
        return Recipe.model_validate({**plain, "folder": file.parent})
    except ValidationError as error:
        said = yaml_file.first_problem(error, "the recipe")
        raise ManifestInvalid(f"{file}: {said}", remedy=_SEE) from None

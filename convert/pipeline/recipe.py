"""recipe.yaml: the description of how to make one bundle from a model and data. Pure, apart from reading the file.

    task: task.yaml                      # the task, its labels and limits: see docs/task-yaml.md
    source: {checkpoint: models/minilm}  # or {base: DIR, adapter: DIR}, {gguf: FILE} or {onnx: DIR}
    data: {format: text-label, train: train.jsonl, calibration: calibration.jsonl, test: test.jsonl}
    finetune: {method: full}             # left out: the source is fine-tuned already

Paths are relative to the recipe; `package:NAME/PATH` lies inside an installed Python package. An unknown key is an
error that names the nearest known one. docs/recipe-yaml.md explains every key.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convert import yaml_file
from edge_agent.durable.atomic_files import is_dir, is_file
from edge_agent.errors import FileMissing, ManifestInvalid

RECIPE_NAME = "recipe.yaml"
PACKAGE = "package:"
_SEE = "'edge-convert init' writes a commented recipe; docs/recipe-yaml.md explains every key."

DataFormat = Literal["text-label", "text-answers", "prompt-completion", "messages", "text-spans"]
Split = Literal["train", "importance", "calibration", "test"]
GoldenRule = Literal["surrogates", "composed", "consented"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
# quantize/ explains the names: GGUF types of llama.cpp; for ONNX, the treatment of the exported float32 graph.
GgufType = Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL"]
OnnxType = Literal["fp32", "matmul8-gather8", "dynamic-int8"]


class _RecipeSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSection(_RecipeSection):
    """The weights to start from: exactly one of checkpoint, base, gguf and onnx."""

    checkpoint: str = ""
    """Directory in the format of transformers: config.json, safetensors, tokenizer."""
    base: str = ""
    """The same, with a PEFT adapter."""
    adapter: str = ""
    """Directory of a PEFT LoRA adapter for `base`."""
    gguf: str = ""
    """Base model as GGUF: its weights are converted to float32, its tokenizer is rebuilt."""
    onnx: str = ""
    """Directory of a ready token classifier: config.json, tokenizer.json, one *.onnx. It is taken as it is; with
    `finetune` its weights are read back, and training continues from them."""

    @model_validator(mode="after")
    def _require_one_source(self) -> SourceSection:
        if sum(map(bool, (self.checkpoint, self.base, self.gguf, self.onnx))) != 1:
            raise ValueError("name exactly one of 'checkpoint', 'base', 'gguf' and 'onnx'")
        if self.adapter and (self.checkpoint or self.onnx):
            raise ValueError("'adapter' goes with 'base' or 'gguf'")
        return self


class DataSection(_RecipeSection):
    """Four splits, each a JSONL or CSV file. A text that is in two of them is refused."""

    format: DataFormat = "text-label"
    train: str = ""
    importance: str = ""
    """Texts for the importance matrix; empty = the training texts."""
    calibration: str
    """Fits temperature and threshold; never trained on."""
    test: str
    """Only used to measure."""
    near_copies_max: float = Field(default=0.05, ge=0.0, le=1.0)
    """Largest accepted share of calibration or test rows that are near duplicates of rows in another split."""
    outliers: str = ""
    """Texts that do not belong to the task, one JSON object with `text` per line: an encoder that classifies learns low
    confidence on them."""


class FinetuneSection(_RecipeSection):
    """Training on `data.train`."""

    method: Literal["lora", "full", "head"]
    """lora: an adapter for a decoder. full, head: an encoder, all of it or only its classification head."""
    learning_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """0 = the default of the method."""
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
    """Part of the training rows held out for early stopping."""
    patience_epochs: int = Field(default=2, ge=1, le=1000)
    class_weights: Literal["none", "balanced", "logit_adjusted"] = "none"
    """full, head: balanced = each label of a question counts alike in the loss, however many rows it has;
    logit_adjusted = the same by priors (`encoder_objective.log_priors`). Both raise the recall of rare labels, and
    their probabilities above their frequency, which no temperature undoes."""
    margin_weight: float = Field(default=0.0, ge=0.0, le=10.0)
    """full, of a classify task on an encoder with mean pooling: the weight of a second loss, which keeps the texts of
    different labels apart (`training.encoder_objective`); 0 = none."""
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
    """Candidates; empty = the default ones of the runtime. The fastest one inside the budget is chosen."""
    importance_matrix: bool = False
    """llama: weigh columns by how much the importance texts use them. The base is then this recipe's own."""


class BudgetSection(_RecipeSection):
    """Largest accepted losses from the full-precision model to the served artefact."""

    agreement_min: float = Field(default=0.98, ge=0.0, le=1.0)
    """Share of calibration texts with the same answer as the full-precision model; embed: a cosine of 0.99 or more."""
    kl_mean_max: float = Field(default=0.05, gt=0.0)
    """Mean Kullback-Leibler divergence of the answer's distribution, in nats."""
    accuracy_loss_max: float = Field(default=0.02, ge=0.0, le=1.0)
    """On the calibration rows that fit the temperature, against the full-precision model."""
    golden_cases_min: int = Field(default=8, ge=0, le=200)
    """Fewest golden cases that a site's self-test compares before it activates the bundle; generate tasks have none."""


class RiskSection(_RecipeSection):
    """Risk guarantee of confident answers: at most `target` of them are wrong, except with probability `delta`."""

    target: Share = 0.05
    delta: Share = 0.1
    floor: float = Field(default=0.5, ge=0.0, lt=1.0)
    """A confident answer has at least this calibrated probability on its own; 0 = any."""
    held_up_max: float = Field(default=0.03, ge=0.0, lt=1.0)
    """The gate: largest share of ordinary inputs that it holds up as out-of-distribution, on average; 0 = no gate."""


class RedactionTargetSection(_RecipeSection):
    """redact: the bound on missed values that is to be proved; it determines the cut-off."""

    missed_max: Share
    """Largest share of personal values that remain after the model and the built-in rules."""
    delta: Share = 0.1
    """Probability with which the proof may fail."""


class PrivacySection(_RecipeSection):
    """Which texts of the data may travel in the bundle, to every site."""

    golden_cases: GoldenRule = "surrogates"
    """surrogates: test rows in which made-up values replace what the rules of redaction find. composed: rows marked
    `"composed": true`. consented: these, and rows marked `"consented": true`. samples.txt is composed."""
    locales: tuple[str, ...] = ("en_US",)
    """Locales of the made-up values; one is drawn for each row."""
    imported_data: Literal["redacted", "waived"] = "redacted"
    """Rows that no site sent. redacted: made-up values replace what the rules find, in every split. waived: they
    are used unchanged, for the reason in `waiver`."""
    redaction_bundle: str = Field(default="", max_length=4096)
    """A folder with a bundle of kind redact, whose model finds values in addition to the rules, as at a site; empty =
    only the rules."""
    waiver: str = Field(default="", max_length=500)
    """waived: why, and who decided; the bundle carries it."""

    @model_validator(mode="after")
    def _require_waiver_reason(self) -> PrivacySection:
        if (self.imported_data == "waived") != bool(self.waiver.strip()):
            raise ValueError(
                "'imported_data: waived' needs its reason in 'waiver', and 'waiver' goes with nothing else"
            )
        return self


class Recipe(_RecipeSection):
    """The whole file, and its directory."""

    task: str = "task.yaml"
    source: SourceSection
    data: DataSection
    finetune: FinetuneSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    budget: BudgetSection = BudgetSection()
    risk: RiskSection = RiskSection()
    redaction: RedactionTargetSection | None = None
    privacy: PrivacySection = PrivacySection()
    work: str = ""
    """Folder for the results of stages; empty = build/NAME below the current directory."""
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _refuse_types_for_ready_graph(self) -> Recipe:
        if self.takes_ready_graph and self.quantize.types:
            raise ValueError("a source 'onnx' is taken as it is: leave 'quantize.types' out, or name a checkpoint")
        return self

    @property
    def takes_ready_graph(self) -> bool:
        """Whether the bundle gets the graph of `source.onnx` unchanged."""
        return bool(self.source.onnx) and self.finetune is None

    @property
    def redaction_bundle(self) -> Path | None:
        """The bundle that finds personal values in addition to the rules; None = only the rules."""
        return self.path(self.privacy.redaction_bundle) if self.privacy.redaction_bundle else None

    def path(self, recipe_path: str) -> Path:
        """Return the absolute path for a path in the recipe. Raises FileMissing for a package that is not installed."""
        if not recipe_path.startswith(PACKAGE):
            return self.folder / recipe_path
        name, _, relative = recipe_path.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise FileMissing(f"the package {name} is not installed", remedy=f"pip install {name.replace('_', '-')}")
        return Path(next(iter(spec.submodule_search_locations)), relative)


def read(path: Path) -> Recipe:
    """Read a recipe, or the recipe.yaml in a directory.

    Raises:
        FileMissing: the file does not exist.
        ManifestInvalid: it breaks a rule; the message names the key and the rule.
    """
    file = path / RECIPE_NAME if is_dir(path) else path
    if not is_file(file):
        raise FileMissing(f"{file} does not exist", remedy=f"Name a {RECIPE_NAME}; 'edge-convert init' writes one.")
    plain = yaml_file.read(file, Recipe, [key for key in Recipe.model_fields if key != "folder"], _SEE)
    try:
        return Recipe.model_validate({**plain, "folder": file.parent})
    except ValidationError as error:
        problem = yaml_file.first_problem(error, "the recipe")
        raise ManifestInvalid(f"{file}: {problem}", remedy=_SEE) from None

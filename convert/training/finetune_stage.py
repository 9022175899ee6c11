"""The finetune stage: trains an adapter for a decoder, or an encoder, all of it or its head, on the training split.

    lora          -> adapter/     as PEFT writes it, over the checkpoint of `prepare`
    full, head    -> checkpoint/  as transformers writes it, with its tokenizer
    no finetune:  -> nothing; the source is fine-tuned already

A part of the rows is held out for early stopping. Neither calibration nor test rows are read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from convert.data import row_files
from convert.data.data_row import DataRow, output_names
from convert.decoder.label_scores import task_tokens
from convert.encoder.pooling import MeanPooledBert
from convert.pipeline import stage
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import FinetuneSection, Recipe
from convert.pipeline.stage import ADAPTER, CHECKPOINT, Report, StageJob
from convert.training import checkpoint_loading, lora
from convert.training.decoder_trainer import DecoderData, DecoderExampleEncoder, DecoderTrainer
from convert.training.encoder_objective import CosineMargin, balanced_weights, log_priors, objective_of
from convert.training.encoder_trainer import EncoderTrainer, RowEncoder, classifier, start_head
from convert.training.training_loop import (
    Trainer,
    TrainingResult,
    TrainingSettings,
    TrainValidationSplit,
    train,
    train_validation_split,
)
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec
from edge_agent.formatting import counted

# Learning rates for 0 in a recipe; docs/experiments.md has the runs behind them.
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4, "head": 5e-3, "fitted": 4e-5}
"""fitted: method full or head whose new head was fitted by a linear classifier first; above 0.00004 the first epochs
lose accuracy."""
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
_METHODS = {"llama": ("lora",), "onnx": ("full", "head")}


def run(job: StageJob) -> Report:
    """Train, and write an adapter or a checkpoint.

    Raises:
        InvalidRequest: the method does not suit the runtime, a label has no training row, no row is short enough, or
            the loss became infinite.
        OSError: the disk is too small for the hidden states of the frozen layers.
        FileMissing, ManifestInvalid: task or data are missing or invalid.
    """
    settings = job.recipe.finetune
    if settings is None:
        return {"skipped": "the recipe has no 'finetune'"}
    _check_source(job)
    task = _read_task(job.recipe, settings)
    checkpoint_loading.check_positions(checkpoint_loading.read_config(stage.checkpoint(job)), task)
    rows = row_files.rows(job.recipe, "train")
    _check_labels(rows, task)
    split = train_validation_split(rows, settings.validation_share, settings.seed)
    started = time.monotonic()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        results = (_train_adapter if settings.method == "lora" else _train_encoder)(job, settings, task, split)
    return {
        "method": settings.method,
        "seed": settings.seed,
        "learning_rate": _learning_rate(settings),
        "synthetic_rows": sum(row.synthetic for row in rows),
        **results,
        "seconds": round(time.monotonic() - started, 1),
        "device": _device().type,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _check_source(job: StageJob) -> None:
    if stage.adapter(job):
        raise InvalidRequest(
            "the source has an adapter already, and 'finetune' would train a second one",
            remedy="Leave 'finetune' out to use that adapter, or leave 'adapter' out of the source to train a new one.",
        )


def _read_task(recipe: Recipe, settings: FinetuneSection) -> TaskSpec:
    path = recipe.path(recipe.task)
    runtime = str(tasks.read(tasks.find(path)).get("runtime"))
    if settings.method not in _METHODS.get(runtime, ()):
        methods = " or ".join(_METHODS.get(runtime, ("no method",)))
        message = f"finetune.method '{settings.method}' does not make a model for runtime '{runtime}'"
        remedy = f"For {runtime}, use {methods}: lora is for decoders, the others for encoders."
        raise InvalidRequest(message, remedy=remedy)
    task = tasks.of(path)
    if task.kind == "embed":
        message = "tasks of kind embed cannot be fine-tuned"
        raise InvalidRequest(message, remedy="Leave 'finetune' out, and name a checkpoint that is fine-tuned already.")
    if task.kind == "decide" and settings.method == "lora":
        remedy = "Set 'runtime: onnx' in task.yaml and 'method: full', with an encoder as source."
        raise InvalidRequest("questions are learned by the heads of an encoder; 'lora' trains none", remedy=remedy)
    if settings.class_weights != "none" and (settings.method == "lora" or not task.questions_asked):
        message = "'finetune.class_weights' is for classify and decide tasks that an encoder answers"
        raise InvalidRequest(message, remedy="Leave 'class_weights' out of the recipe, or set it to none.")
    if settings.margin_weight and (settings.method != "full" or task.kind != "classify"):
        raise _margin_error()
    return task


def _margin_error() -> InvalidRequest:
    return InvalidRequest(
        "'finetune.margin_weight' is for a classify task and 'method: full', on an encoder with mean pooling",
        remedy="Leave 'margin_weight' out of the recipe, or set it to 0.",
    )


def _check_labels(rows: Sequence[DataRow], task: TaskSpec) -> None:
    task_labels, row_labels = row_files.known_labels(task), set(row_files.labels(rows))
    unseen = [label for label in task_labels if label not in row_labels]
    # An extract task can be learnt from completions, which name no label.
    if unseen and row_labels:
        raise InvalidRequest(
            f"{counted(len(unseen), 'label')} {'has' if len(unseen) == 1 else 'have'} no training row, such as"
            f" '{unseen[0]}': the model would never give {'it' if len(unseen) == 1 else 'them'}",
            remedy="Add rows for each, or take the labels without rows out of task.yaml.",
        )


def _learning_rate(settings: FinetuneSection, *, head_fitted: bool = False) -> float:
    return settings.learning_rate or LEARNING_RATES["fitted" if head_fitted else settings.method]


def margin_of(model: Any, task: TaskSpec, settings: FinetuneSection) -> CosineMargin | None:
    """Return the margin between the labels, if the recipe asks for one.

    Raises InvalidRequest if only a head is trained, the task does not classify, or the head does not read mean token
    vectors.
    """
    if not settings.margin_weight:
        return None
    if settings.method != "full" or task.kind != "classify" or not isinstance(model, MeanPooledBert):
        raise _margin_error()
    return CosineMargin(model.classifier, settings.margin_weight)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _run_training(
    trainer: Trainer, settings: FinetuneSection, job: StageJob, *, head_fitted: bool = False
) -> TrainingResult:
    plan = TrainingSettings(settings.epochs, settings.batch_rows, settings.patience_epochs, settings.seed)
    return train(trainer, plan, job.progress, head_fitted=head_fitted)


def _size_report(model: Any, split: tuple[int, int], too_long: int) -> dict[str, Any]:
    return {
        "rows": {"train": split[0], "validation": split[1], "too_long": too_long},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trainable_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def _train_adapter(
    job: StageJob, settings: FinetuneSection, task: TaskSpec, split: TrainValidationSplit
) -> dict[str, Any]:
    checkpoint = stage.checkpoint(job)
    tokens = task_tokens(task, checkpoint_loading.open_tokenizer(checkpoint))
    encoder = DecoderExampleEncoder(task, tokens)
    training, too_long_train = encoder.encode(split.train, settings.tokens_max)
    validation, too_long_validation = encoder.encode(split.validation, settings.tokens_max)
    model = lora.add_adapter(checkpoint_loading.open_model(checkpoint, None, "causal").to(_device()), settings)
    frozen_layers = lora.FrozenPrefixCache(model, settings.layers_from, job.out)
    trainer = DecoderTrainer(model, tokens, DecoderData(training, validation), _learning_rate(settings), frozen_layers)
    trainer.prepare(job.progress)
    result = _run_training(trainer, settings, job)
    size = lora.save(model, job.out / ADAPTER)
    report = _size_report(model, (len(training), len(validation)), too_long_train + too_long_validation)
    return {**report, "adapter_bytes": size, "hidden_states_bytes": frozen_layers.bytes_on_disk, **result.report()}


def _train_encoder(
    job: StageJob, settings: FinetuneSection, task: TaskSpec, split: TrainValidationSplit
) -> dict[str, Any]:
    checkpoint = stage.checkpoint(job)
    tokenizer = checkpoint_loading.open_tokenizer(checkpoint)
    model = classifier(str(checkpoint), task, settings.method).to(_device())
    positions = checkpoint_loading.positions_of(model.config.to_dict()) or settings.tokens_max
    encoder = RowEncoder(tokenizer, task, min(settings.tokens_max, positions))
    training, validation = encoder.encode(split.train), encoder.encode(split.validation)
    sizes = [len(question.outputs) for question in task.questions_asked]
    config = checkpoint_loading.read_config(checkpoint)
    has_new_labels = checkpoint_loading.labels_of(config) != list(output_names(task))
    weights = balanced_weights(training.items, sizes) if sizes and settings.class_weights == "balanced" else ()
    priors = log_priors(training.items, sizes) if sizes and settings.class_weights == "logit_adjusted" else ()
    head_fitted = has_new_labels and start_head(model, training, sizes, job.progress, weights, priors)
    rate = _learning_rate(settings, head_fitted=head_fitted)
    outliers = encoder.encode_outliers(row_files.outliers(job.recipe))
    objective = objective_of(task, weights, priors)
    margin = margin_of(model, task, settings)
    trainer = EncoderTrainer(model, tokenizer, (training, validation), rate, objective, outliers, margin)
    result = _run_training(trainer, settings, job, head_fitted=head_fitted)
    target = job.out / CHECKPOINT
    if sizes:
        model.config.problem_type = "single_label_classification"  # whatever the checkpoint was trained for before
    model.to("cpu").save_pretrained(str(target), safe_serialization=True)
    tokenizer.save_pretrained(str(target))
    report = _size_report(model, (len(training.items), len(validation.items)), training.too_long + validation.too_long)
    report["rows"]["outliers"] = len(outliers)
    if task.kind == "decide":
        report["rows"]["unanswered"] = training.unanswered + validation.unanswered
    return {
        **report,
        "spans_inside_words": training.misfits + validation.misfits,
        "head_fitted_first": head_fitted,
        "margin": margin is not None,
        "learning_rate": rate,
        **result.report(),
    }

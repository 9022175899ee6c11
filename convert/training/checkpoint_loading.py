"""Loads a checkpoint with transformers: float32, in evaluation mode, without randomly initialized weights.

For missing weights transformers only logs a warning and initializes them at random. Here that is an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer

from convert.encoder import pooling
from edge_agent.errors import InvalidRequest, ModelLoadFailed
from edge_agent.formats.manifest import Kind, TaskSpec
from edge_agent.formatting import counted

Head = Literal["causal", "sequence", "token", "none"]
_CLASSES = {
    "causal": transformers.AutoModelForCausalLM,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "none": transformers.AutoModel,
}
# Errors of transformers for a checkpoint that it cannot load.
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError)
_POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Model types whose positions start after the padding token: transformers' create_position_ids_from_input_ids."""
_HEADS: dict[Kind, Head] = {
    **{"classify": "sequence", "decide": "sequence", "extract": "token"},
    **{"embed": "none", "redact": "token"},
}

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def head_of(runtime: str, kind: Kind) -> Head:
    """Return the head that a task needs. Raises InvalidRequest if the runtime does not serve that kind of task."""
    if runtime == "llama":
        return "causal"
    if kind not in _HEADS:
        message = f"an encoder cannot do {kind!r}"
        raise InvalidRequest(message, remedy="Set 'runtime: llama' in task.yaml, with a decoder.")
    return _HEADS[kind]


def open_model(checkpoint: Path, adapter: Path | None, head: Head) -> Any:
    """Return a torch model in float32 and evaluation mode, a PEFT adapter merged into it.

    Raises:
        ModelLoadFailed: weights are missing, or are not finite.
    """
    model, uninitialized = _load(checkpoint, adapter, head)
    # The agent's embeddings do not read BERT's pooler.
    missing = [name for name in uninitialized if not (head == "none" and "pooler" in name)]
    if missing:
        message = f"{checkpoint} lacks {counted(len(missing), 'weight')} that the task needs, such as {missing[0]}"
        remedy = "Name a checkpoint that was fine-tuned for this kind of task, or add 'finetune:' to the recipe."
        raise ModelLoadFailed(message, remedy=remedy)
    non_finite = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if non_finite:
        message = f"{checkpoint}: {len(non_finite)} tensors have values that are not finite, such as {non_finite[0]}"
        raise ModelLoadFailed(message, remedy="Use a checkpoint from before the training diverged.")
    return model.eval()


def _load(checkpoint: Path, adapter: Path | None, head: Head) -> tuple[Any, list[str]]:
    """Return the model, and the names of the weights that transformers initialized at random."""
    try:
        pooled = head == "sequence" and pooling.takes_mean(read_config(checkpoint))
        model_class = pooling.MeanPooledBert if pooled else _CLASSES[head]
        model, loading_info = model_class.from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except _ERRORS as error:
        raise ModelLoadFailed(
            f"{checkpoint}: {read_config(checkpoint).get('model_type')} does not load: {_error_text(error)}",
            remedy="Save it again with the transformers that it was trained with, and compare config.json.",
        ) from None
    return model, sorted(loading_info["missing_keys"])


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def open_tokenizer(checkpoint: Path) -> Any:
    """Return the fast tokenizer of a checkpoint. Raises ModelLoadFailed."""
    file = checkpoint / "tokenizer.json"
    try:
        if file.is_file():
            Tokenizer.from_buffer(file.read_bytes())  # raises ValueError; transformers accepts anything
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, use_fast=True)
    except _ERRORS as error:
        raise ModelLoadFailed(
            f"{checkpoint}: the tokenizer does not load: {_error_text(error)}",
            remedy="Copy the tokenizer's files again from the model that it was fine-tuned from.",
        ) from None
    if not tokenizer.is_fast:
        message = f"{checkpoint}: the tokenizers library cannot read its tokenizer"
        raise ModelLoadFailed(message, remedy="Save it with transformers, which writes a tokenizer.json.")
    return tokenizer


def encode_text(tokenizer: Any, text: str, *, offsets: bool = False) -> Any:
    """Return a text as an encoder reads it, in training, export and verification; the agent encodes in the same way.

    "[SEP]" in a text is five characters and not a separator. Nothing is truncated.
    """
    return tokenizer(text, split_special_tokens=True, truncation=False, return_offsets_mapping=offsets)


def read_config(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return config


def positions_of(config: dict[str, Any]) -> int:
    """Return how many tokens a model has positions for; 0 = unknown."""
    positions: int = config.get("max_position_embeddings") or 0
    if config.get("model_type") in _POSITIONS_AFTER_PADDING and positions:
        positions -= config.get("pad_token_id", 1) + 1
    return positions


def check_positions(config: dict[str, Any], task: TaskSpec) -> None:
    """Raise InvalidRequest if the task allows more tokens than the model has positions for."""
    positions = positions_of(config)
    needed = task.limits.input_tokens_max + task.written_tokens_max
    if positions and needed > positions:
        message = f"the task allows {needed} tokens; the model has {positions} positions"
        raise InvalidRequest(message, remedy="Lower 'limits' in task.yaml.")


def labels_of(config: dict[str, Any]) -> list[str]:
    """Return the names of a classifier's outputs; LABEL_0 and so on if it has no names."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [names[key] for key in sorted(names, key=int)]


def is_decoder(config: dict[str, Any]) -> bool:
    """Return whether a model is a causal language model."""
    names = config.get("architectures") or []
    return any("CausalLM" in name or "ConditionalGeneration" in name for name in names)

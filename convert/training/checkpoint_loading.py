"""Opening a checkpoint with transformers: float32, in evaluation mode, nothing filled in at random.

transformers makes up what a checkpoint lacks and says so in a warning only. Here that is an error.
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
from edge_agent.formats.manifest import Kind

Head = Literal["causal", "sequence", "token", "none"]
_CLASSES = {
    "causal": transformers.AutoModelForCausalLM,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "none": transformers.AutoModel,
}
# What transformers raises for a checkpoint that it cannot make a model of.
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError)
_BEHIND_PADDING = ("camembert", "longformer", "roberta", "xlm-roberta", "xlm-roberta-xl", "xmod")
"""Model types that count positions from behind the padding token: transformers' create_position_ids_from_input_ids."""
_HEADS: dict[Kind, Head] = {"classify": "sequence", "extract": "token", "embed": "none"}

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def head_of(runtime: str, kind: Kind) -> Head:
    """Return which kind of model a task needs. Raises InvalidRequest if the runtime does not serve that kind."""
    if runtime == "llama":
        return "causal"
    if kind not in _HEADS:
        raise InvalidRequest(f"no encoder does {kind!r}", remedy="Set 'runtime: llama' in task.yaml, with a decoder.")
    return _HEADS[kind]


def open_model(checkpoint: Path, adapter: Path | None, head: Head, *, new_head: int = 0) -> Any:
    """Return a torch model in float32 and evaluation mode, a PEFT adapter merged into it.

    `new_head` allows the last layer to be missing, and gives it that many outputs.

    Raises:
        ModelLoadFailed: the weights do not fill the model, or hold something that is no number.
    """
    model, missing = _loaded(checkpoint, adapter, head, new_head)
    if not new_head:
        _refuse_gaps(checkpoint, [name for name in missing if not _is_unused(name, head)])
    _refuse_broken(checkpoint, model)
    return model.eval()


def _loaded(checkpoint: Path, adapter: Path | None, head: Head, new_head: int) -> tuple[Any, list[str]]:
    """Return the model, and the names of the weights that transformers made up."""
    more: dict[str, Any] = {"num_labels": new_head} if new_head else {}
    try:
        model, found = _class_of(checkpoint, head).from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True, local_files_only=True, **more
        )
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except _ERRORS as error:
        raise ModelLoadFailed(
            f"{checkpoint}: {read_config(checkpoint).get('model_type')} does not load: {_said(error)}",
            remedy="Save it again with the transformers that it was trained with, and compare config.json.",
        ) from None
    return model, sorted(found["missing_keys"])


def _class_of(checkpoint: Path, head: Head) -> Any:
    pooled = head == "sequence" and pooling.takes_mean(read_config(checkpoint))
    return pooling.MeanPooledBert if pooled else _CLASSES[head]


def _refuse_gaps(checkpoint: Path, missing: list[str]) -> None:
    if missing:
        said = f"{checkpoint} lacks {len(missing)} weights that the task needs, such as {missing[0]}"
        remedy = "Name a checkpoint that was tuned for this kind of task, or add 'finetune:' to the recipe."
        raise ModelLoadFailed(said, remedy=remedy)


def _refuse_broken(checkpoint: Path, model: Any) -> None:
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelLoadFailed(
            f"{checkpoint}: {len(broken)} tensors hold numbers that are not finite, such as {broken[0]}",
            remedy="Take the checkpoint from before the training went astray.",
        )


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def open_tokenizer(checkpoint: Path) -> Any:
    """Return the fast tokenizer of a checkpoint. Raises ModelLoadFailed."""
    file = checkpoint / "tokenizer.json"
    try:
        if file.is_file():
            Tokenizer.from_buffer(file.read_bytes())  # raises ValueError, where transformers lets anything through
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, use_fast=True)
    except _ERRORS as error:
        raise ModelLoadFailed(
            f"{checkpoint}: the tokenizer does not load: {_said(error)}",
            remedy="Copy the tokenizer's files again from the model that it was tuned from.",
        ) from None
    if not tokenizer.is_fast:
        said = f"{checkpoint}: its tokenizer has no form that the tokenizers library reads"
        raise ModelLoadFailed(said, remedy="Save it with transformers so that there is a tokenizer.json.")
    return tokenizer


def encoded(tokenizer: Any, text: str, *, offsets: bool = False) -> Any:
    """Return a text as an encoder reads it, for training, export and verification alike; the agent encodes so, too.

    A text that says "[SEP]" has these five characters and no separator. Nothing is cut off.
    """
    return tokenizer(text, split_special_tokens=True, truncation=False, return_offsets_mapping=offsets)


def read_config(checkpoint: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return config


def positions_of(config: dict[str, Any]) -> int:
    """Return how many tokens a model has positions for, or 0 where it does not say."""
    positions: int = config.get("max_position_embeddings") or 0
    if config.get("model_type") in _BEHIND_PADDING and positions:
        positions -= config.get("pad_token_id", 1) + 1
    return positions


def labels_of(config: dict[str, Any]) -> list[str]:
    """Return the names of a classifier's outputs; transformers calls them LABEL_0 and so on where there are none."""
    named = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [named[key] for key in sorted(named, key=int)]


def is_decoder(config: dict[str, Any]) -> bool:
    """Tell whether a model continues texts."""
    names = config.get("architectures") or []
    return any("CausalLM" in name or "ConditionalGeneration" in name for name in names)


def _is_unused(name: str, head: Head) -> bool:
    """Tell whether a weight does not matter: BERT's pooler is not read by any of the agent's embeddings."""
    return head == "none" and "pooler" in name

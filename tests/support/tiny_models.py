"""Checkpoints of many architectures: two layers of random weights, a few megabytes, with a real tokenizer.

Decoders and RoBERTa have the BPE of SmolLM2, as llama.cpp knows a pre-tokenizer by what it does; the other encoders
have the WordPiece of MiniLM. The weights are larger than fresh ones, so that attention looks at something and a mistake
shows. PyTorch and transformers take seconds to load: they are, when something is made.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from convert.quantize import gguf_files
from tests.support import models

LABELS = ("refund", "price", "other")
SPREAD = 0.15
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_DECODER = {**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True}
_GEMMA = {**_DECODER, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 512}  # the sixth sees everything
_TWO_KINDS = ["sliding_attention", "full_attention"]
# Name: the class's stem in transformers, what kind of model it is, and its configuration.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _DECODER),
    "mistral": ("Mistral", {**_DECODER, "head_dim": 16, "sliding_window": None}),
    "qwen2": ("Qwen2", _DECODER),
    "qwen3": ("Qwen3", {**_DECODER, "head_dim": 16}),
    "gemma3": ("Gemma3", {**_GEMMA, "query_pre_attn_scalar": 16}),
    "gemma3, other query scalar": ("Gemma3", {**_GEMMA, "query_pre_attn_scalar": 64}),
    "gemma3, other layers": (
        "Gemma3",
        {**_GEMMA, "query_pre_attn_scalar": 16, "num_hidden_layers": 2, "layer_types": _TWO_KINDS},
    ),
    "smollm3": ("SmolLM3", {**_DECODER, "num_hidden_layers": 4, "pad_token_id": 2}),  # the fourth knows no positions
    "phi3": ("Phi3", {**_DECODER, "pad_token_id": 2}),
}
_DISTIL = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 512}
_MODERN = {"local_attention": 64, "global_attn_every_n_layers": 2, "max_position_embeddings": 512}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {**_SMALL, "max_position_embeddings": 512}),
    "distilbert": ("DistilBert", _DISTIL),
    "roberta": ("Roberta", {**_SMALL, "max_position_embeddings": 514, "pad_token_id": 2}),
    "modernbert": ("ModernBert", {**_SMALL, **_MODERN}),
}
_HEADS = {"classify": "ForSequenceClassification", "extract": "ForTokenClassification", "embed": "Model"}


@functools.cache
def bpe() -> Any:
    """Return SmolLM2's tokenizer."""
    from convert.prepare import gguf_source as tokenizers  # noqa: PLC0415 - see the top

    return tokenizers.build_tokenizer(gguf_files.read_fields(models.smollm2_path()))


@functools.cache
def wordpiece() -> Any:
    """Return MiniLM's tokenizer."""
    import transformers  # noqa: PLC0415 - see the top

    return transformers.AutoTokenizer.from_pretrained(models.minilm_dir())


def decoder(folder: Path, name: str) -> Path:
    """Write a decoder's checkpoint."""
    stem, config = DECODERS[name]
    kind = "Gemma3Text" if stem == "Gemma3" else stem
    return _write(folder, f"{kind}Config", f"{stem}ForCausalLM", {"vocab_size": 49152, **config}, bpe())


def encoder(folder: Path, name: str, kind: str = "classify") -> Path:
    """Write an encoder's checkpoint with the head for a kind of task; LABELS are its classes."""
    stem, config = ENCODERS[name]
    tokenizer = bpe() if name == "roberta" else wordpiece()
    more = {
        "vocab_size": len(tokenizer),
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    return _write(folder, f"{stem}Config", stem + _HEADS[kind], {**more, **config}, tokenizer)


def _write(folder: Path, config_class: str, model_class: str, config: dict[str, Any], tokenizer: Any) -> Path:
    import torch  # noqa: PLC0415 - see the top
    import transformers  # noqa: PLC0415 - see the top

    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    spread = {"initializer_range": SPREAD, "initializer_cutoff_factor": 3.0}
    whole = getattr(transformers, config_class)(**{**ids, **spread, **config})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        getattr(transformers, model_class)(whole).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

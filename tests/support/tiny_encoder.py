"""A BERT of a few hundred thousand weights, random but fixed, with the WordPiece tokenizer of MiniLM."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support import models

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def checkpoint(folder: Path, hidden: int = 16) -> Path:
    """Write model and tokenizer as transformers does; return the folder."""
    import torch  # noqa: PLC0415 - takes seconds to load
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - likewise

    # Models this small are slower on several threads, and far slower beside another busy process.
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        initializer_range=0.2,  # larger than usual, or random layers hardly move what passes through them
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copyfile(models.minilm_dir() / name, folder / name)
    return folder

"""A decoder of a few thousand weights, random but fixed, with a byte-level BPE tokenizer trained on our sentences.

PyTorch and transformers take seconds to load: they are, when something is made.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.support import pos_intents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_VOCABULARY = 600


@functools.cache
def _trained() -> str:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    sentences = [text for text, _ in pos_intents.train()]
    bpe.train_from_iterator([*sentences, *(f" {intent}" for intent in pos_intents.INTENTS)] * 2, trainer)
    trained: str = bpe.to_str()
    return trained


def vocabulary() -> dict[str, Any]:
    """Return the BPE model: `vocab` and `merges`."""
    model: dict[str, Any] = json.loads(_trained())["model"]
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, with a chat template."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - see the top

    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(_trained()),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHATML
    return made


def model(layers: int = 3, hidden: int = 32, heads: int = 4, shared: int = 2) -> Any:
    """Return the model; the same weights each time. `shared` heads of queries have one of keys and values."""
    import torch  # noqa: PLC0415 - see the top
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - see the top

    # Models this small are slower on several threads, and far slower beside another busy process.
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // shared,
        max_position_embeddings=512,
        initializer_range=0.2,  # larger than usual, or random layers hardly move what passes through them
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def checkpoint(folder: Path, layers: int = 3, hidden: int = 32) -> Path:
    """Write model and tokenizer as transformers does; return the folder."""
    model(layers, hidden).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

"""Writes the tiny decoder of tests/support/tiny_decoder.py as GGUF, by hand, so that reading it needs no converter.

What is written of its own weights is kept in .cache/tiny-gguf by everything that it is made of: loading PyTorch takes
far longer than a test on so small a model.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from convert.quantize import gguf_files as quantize
from tests.support import tiny_decoder

_HERE = Path(__file__).parent
_CACHE = _HERE.parents[1] / ".cache" / "tiny-gguf"
_MADE_BY = ("tiny_gguf.py", "tiny_decoder.py", "pos_intents.py", "../data/pos_intents.jsonl")
_MADE_WITH = ("torch", "transformers", "tokenizers", "gguf", "llama-cpp-python")
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def sharp() -> Any:
    """Return the tiny decoder with attention that focuses: with fresh weights it weights all tokens alike."""
    import torch  # noqa: PLC0415 - see the top

    model = tiny_decoder.model()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                tensor.mul_(30)
    return model


def narrow(folder: Path) -> Path:
    """Write a decoder with heads of 32 numbers, in eight bits: of a form that llama.cpp's own attention computes."""

    def make(path: Path) -> None:
        whole = write_model(path.with_suffix(".whole"), tiny_decoder.model(hidden=128))
        quantize.quantize(quantize.QuantizeRequest(whole, path, "Q8_0"))

    return _kept("narrow", make, folder / "narrow.gguf")


def write(path: Path, *, sharpened: bool = False, pre: str = "gpt-2", begin: bool = False) -> Path:
    """Write the tiny decoder's own weights, or what `sharp` returns; the rest as of `write_model`."""

    def make(path: Path) -> None:
        write_model(path, sharp() if sharpened else tiny_decoder.model(), pre=pre, begin=begin)

    return _kept(f"tiny-{sharpened}-{pre}-{begin}", make, path)


def write_model(path: Path, model: Any, *, pre: str = "gpt-2", shuffled: bool = True, begin: bool = False) -> Path:
    """Write the file; llama.cpp wants the rows of queries and keys `shuffled`, and computes nonsense otherwise.

    `begin` says that a begin token stands before every text.
    """
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, model.config)
    _vocabulary(writer, tiny_decoder.tokenizer(), pre, begin)
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for part, count in heads.items():
            if part in name and shuffled:
                values = _shuffled(values, count)
        if name != "lm_head.weight":  # tied
            writer.add_tensor(_named(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _kept(name: str, make: Callable[[Path], None], path: Path) -> Path:
    """Copy the file of that name to `path`, made first if it is not there."""
    kept = _CACHE / f"{name}-{_content()}.gguf"
    if not kept.is_file():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            made = Path(folder) / "made.gguf"
            make(made)
            made.replace(kept)  # whole, whoever else makes it
        for older in set(_CACHE.glob(f"{name}-{'?' * 12}.gguf")) - {kept}:
            older.unlink(missing_ok=True)
    shutil.copyfile(kept, path)
    return path


@functools.cache
def _content() -> str:
    """Return a hash of all that the files are made of."""
    content = hashlib.sha256(repr([importlib.metadata.version(name) for name in _MADE_WITH]).encode())
    for name in _MADE_BY:
        content.update((_HERE / name).read_bytes())
    return content.hexdigest()[:12]


def _describe(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("Tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: Any, pre: str, begin: bool) -> None:
    model = tiny_decoder.vocabulary()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    control = set(tokenizer.all_special_tokens)
    kinds = [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(begin)
    writer.add_chat_template(tokenizer.chat_template)


def _named(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *inner, _ = name.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(inner)]}.weight"


def _shuffled(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Order a head's rows as llama.cpp's rotary embedding wants them: pairs together."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)

"""Builds a transformers tokenizer from the vocabulary in a GGUF file.

Byte-level BPE only, and only for the pre-tokenizers in the table: each cuts a text by a rule that the file names and
does not hold. Normalizers are left out, as llama.cpp has none for this kind. Whether the result cuts texts as llama.cpp
does is checked by who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from edge_agent.errors import InvalidRequest

_REMEDY = "Name the checkpoint that the GGUF was made from: its tokenizer comes with it."
_CONTROL, _USER_DEFINED = 3, 4  # gguf.TokenType
# llama.cpp, src/llama-vocab.cpp: the expressions of each pre-tokenizer.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(expression: str) -> Any:
    cut = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


_CUTS: dict[str, Callable[[], Any]] = {
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()]),
    "gpt-2": _byte_level,
    "llama-bpe": lambda: _split(_LLAMA3),
    "smaug-bpe": lambda: _split(_LLAMA3),
    "qwen2": lambda: _split(_QWEN2),
}


def build_tokenizer(fields: Mapping[str, Any]) -> Any:
    """Return a fast tokenizer. Raises InvalidRequest for a kind of vocabulary that is not in the table."""
    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or cut not in _CUTS:
        said = f"the GGUF's tokenizer is {kind!r} with the pre-tokenizer {cut!r}, which cannot be built anew exactly"
        raise InvalidRequest(said, remedy=_REMEDY)
    backend = Tokenizer(_model(fields))
    backend.pre_tokenizer = _CUTS[cut]()
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.add_tokens(_added(fields, _CONTROL) + _added(fields, _USER_DEFINED))
    return _wrapped(backend, fields)


def _model(fields: Mapping[str, Any]) -> BPE:
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    return BPE(vocab=vocabulary, merges=merges, ignore_merges=fields["tokenizer.ggml.pre"] == "llama-bpe")


def _added(fields: Mapping[str, Any], wanted: int) -> list[AddedToken]:
    """Return the tokens of one kind that are found before a text is cut."""
    both = zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
    return [AddedToken(token, special=wanted == _CONTROL, normalized=False) for token, kind in both if kind == wanted]


def _wrapped(backend: Tokenizer, fields: Mapping[str, Any]) -> Any:
    tokens = fields["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    special = {name: tokens[index] for name, index in ids.items() if index is not None}
    special.setdefault("pad_token", special.get("eos_token", tokens[0]))
    if fields.get("tokenizer.ggml.add_bos_token") and "bos_token" in special:
        begin = special["bos_token"]
        template = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, ids["bos_token"])]
        )
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    length = fields.get(f"{fields['general.architecture']}.context_length", 2048)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=int(length), clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = fields.get("tokenizer.chat_template")
    return tokenizer

"""Converts a source that is a GGUF file: weights to float32, a rebuilt tokenizer, both checked against llama.cpp.

transformers reads the weights correctly but gets most tokenizers wrong (begin token, digits, end token), so only its
weights are used. The result is verified: llama.cpp must produce the same tokens for every probe text, and the same
logits from the same weights at float32.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from convert import probe
from convert.pipeline.stage import Progress, Report
from convert.quantize import gguf_files
from convert.verify import divergence
from edge_agent.errors import InvalidRequest, ModelLoadFailed

_PROBE_TEXTS_MAX = 8
# Errors of transformers for a GGUF that it cannot read.
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError, TypeError)


def make_checkpoint(source: Path, out: Path, progress: Progress) -> Report:
    """Make a checkpoint from a GGUF file.

    Raises:
        FileMissing: it is not there.
        InvalidRequest: its architecture or its tokenizer cannot be rebuilt exactly.
        ModelLoadFailed: it is damaged, or the result is not the same model.
    """
    fields = gguf_files.read_fields(source)
    progress("reading the tokenizer", 0, 4)
    tokenizer = build_tokenizer(fields)
    tokens = _check_tokens(source, tokenizer)
    progress("converting the weights to float32", 1, 4)
    model = _float_model(source)
    progress("comparing with llama.cpp", 2, 4)
    kl = _check_logits(source, model, tokenizer)
    progress("writing the checkpoint", 3, 4)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _name_architecture(out, str(fields.get("general.name", "")))
    progress("writing the checkpoint", 4, 4)
    return {
        "kind": "gguf",
        "base": fields.get("general.name") or source.stem,
        "licence": fields.get("general.license", ""),
        "architecture": fields["general.architecture"],
        "tokenizer": fields["tokenizer.ggml.pre"],
        "probe_texts_equal": tokens,
        "kl_to_llama_cpp": kl,
    }


def _float_model(source: Path) -> Any:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # hides a progress bar that cannot be turned off
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
            )
    except _ERRORS as error:
        message = f"{source}: transformers cannot read these weights: {' '.join(str(error).split())[:300]}"
        raise InvalidRequest(message, remedy="Name the checkpoint that the GGUF was made from.") from None
    # The model is marked as quantized, and would refuse to be saved or trained.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model.eval()


def _check_tokens(source: Path, tokenizer: Any) -> int:
    """Check that llama.cpp and the new tokenizer give the same tokens for all probe texts; return their number."""
    answer = probe.ask("convert.probe.llama_probe", {"model": str(source), "texts": list(divergence.TEXTS)})
    problem = divergence.difference(answer.facts, tokenizer)
    if problem:
        message = f"{source}: its tokenizer cannot be rebuilt exactly: {problem}"
        raise InvalidRequest(message, remedy="Name the checkpoint that the GGUF was made from.")
    return len(divergence.TEXTS)


def _check_logits(source: Path, model: Any, tokenizer: Any) -> float:
    """Return the largest divergence between llama.cpp on the same weights at float32, and the new model."""
    prompts = divergence.prompts(tokenizer)[:_PROBE_TEXTS_MAX]
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        float_file = Path(folder, "float32.gguf")
        gguf_files.quantize(gguf_files.QuantizeRequest(source, float_file, "F32", requantize=True))
        answer = probe.ask("convert.probe.llama_probe", {"model": str(float_file), "prompts": prompts})
    gap = divergence.compare(divergence.last_logits(model, prompts), answer.arrays["logits"])
    if not gap.passes:
        message = f"{source}: the converted weights are not the same model: {gap}"
        raise ModelLoadFailed(message, remedy="Name the checkpoint that the GGUF was made from.")
    return gap.kl_max


def _name_architecture(out: Path, name: str) -> None:
    """Write the name of the model into its configuration, and remove the mark of quantization."""
    file = out / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["_name_or_path"] = name
    config.pop("quantization_config", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# The tokenizer: byte-level BPE only, and only for the pre-tokenizers in the table. Each splits a text by a rule that
# the file names but does not contain. Normalizers are left out, because llama.cpp has none for this kind.
_REMEDY = "Name the checkpoint that the GGUF was made from: it includes the tokenizer."
_CONTROL, _USER_DEFINED = 3, 4  # gguf.TokenType
# llama.cpp, src/llama-vocab.cpp: the expressions of each pre-tokenizer.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(expression: str) -> Any:
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


_PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()]),
    "gpt-2": _byte_level,
    "llama-bpe": lambda: _split(_LLAMA3),
    "smaug-bpe": lambda: _split(_LLAMA3),
    "qwen2": lambda: _split(_QWEN2),
}


def build_tokenizer(fields: Mapping[str, Any]) -> Any:
    """Return a fast tokenizer. Raises InvalidRequest for a kind of vocabulary that is not in the table."""
    kind, pre_tokenizer = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre_tokenizer not in _PRE_TOKENIZERS:
        raise InvalidRequest(
            f"the GGUF's tokenizer is {kind!r} with the pre-tokenizer {pre_tokenizer!r}, which cannot be rebuilt"
            " exactly",
            remedy=_REMEDY,
        )
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=pre_tokenizer == "llama-bpe"))
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre_tokenizer]()
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.add_tokens(_added_tokens(fields, _CONTROL) + _added_tokens(fields, _USER_DEFINED))
    return _wrap_tokenizer(backend, fields)


def _added_tokens(fields: Mapping[str, Any], token_type: int) -> list[AddedToken]:
    """Return the tokens of one kind that are matched before a text is split."""
    return [
        AddedToken(token, special=token_type == _CONTROL, normalized=False)
        for token, kind in zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
        if kind == token_type
    ]


def _wrap_tokenizer(backend: Tokenizer, fields: Mapping[str, Any]) -> Any:
    tokens = fields["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    special = {name: tokens[index] for name, index in ids.items() if index is not None}
    special.setdefault("pad_token", special.get("eos_token", tokens[0]))
    if fields.get("tokenizer.ggml.add_bos_token") and "bos_token" in special:
        begin_token = special["bos_token"]
        template = processors.TemplateProcessing(
            single=f"{begin_token} $A",
            pair=f"{begin_token} $A {begin_token}:1 $B:1",
            special_tokens=[(begin_token, ids["bos_token"])],
        )
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    length = fields.get(f"{fields['general.architecture']}.context_length", 2048)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=int(length), clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = fields.get("tokenizer.chat_template")
    return tokenizer

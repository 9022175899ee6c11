"""A GGUF file as source: its weights taken back to float32, its tokenizer built anew, both checked against llama.cpp.

transformers reads the weights rightly and gets most tokenizers wrong (begin token, digits, end token), so only its
weights are used. What comes out is proved: llama.cpp makes the same tokens of every probe text, and the same logits
of the same weights at float32.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from convert import probe
from convert.pipeline.stage import Progress, Report
from convert.prepare import tokenizer as tokenizers
from convert.quantize import gguf_files
from convert.verify import probes
from edge_agent.errors import InvalidRequest, ModelLoadFailed

_PROBE_TEXTS_MAX = 8
# What transformers raises for a GGUF that it cannot read.
_ERRORS = (OSError, ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError, TypeError)


def take_back(source: Path, out: Path, progress: Progress) -> Report:
    """Make a checkpoint of a GGUF file.

    Raises:
        FileMissing: it is not there.
        InvalidRequest: its architecture or its tokenizer is none that can be taken back exactly.
        ModelLoadFailed: it is damaged, or what came out is not the same model.
    """
    fields = gguf_files.read_fields(source)
    progress("reading the tokenizer", 0, 4)
    tokenizer = tokenizers.build(fields)
    tokens = _check_tokens(source, tokenizer)
    progress("taking the weights back to float32", 1, 4)
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
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that cannot be turned off
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
            )
    except _ERRORS as error:
        said = f"{source}: transformers does not take these weights back: {' '.join(str(error).split())[:300]}"
        raise InvalidRequest(said, remedy="Name the checkpoint that the GGUF was made from.") from None
    # It calls itself quantized, and would refuse to be saved or trained.
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    return model.eval()


def _check_tokens(source: Path, tokenizer: Any) -> int:
    """Return how many probe texts llama.cpp and the new tokenizer cut alike: all of them."""
    answer = probe.ask("convert.probe.llama", {"model": str(source), "texts": list(probes.TEXTS)})
    problem = probes.difference(answer.facts, tokenizer)
    if problem:
        said = f"{source}: its tokenizer cannot be built anew exactly: {problem}"
        raise InvalidRequest(said, remedy="Name the checkpoint that the GGUF was made from.")
    return len(probes.TEXTS)


def _check_logits(source: Path, model: Any, tokenizer: Any) -> float:
    """Return the largest divergence between llama.cpp on the same weights at float32, and the new model."""
    prompts = probes.prompts(tokenizer)[:_PROBE_TEXTS_MAX]
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        plain = Path(folder, "float32.gguf")
        gguf_files.quantize(gguf_files.QuantizeRequest(source, plain, "F32", requantize=True))
        answer = probe.ask("convert.probe.llama", {"model": str(plain), "prompts": prompts})
    expected = probes.last_logits(model, prompts)
    found = probes.compare(expected, answer.arrays["logits"])
    if not found.passes:
        said = f"{source}: the weights taken back are not the same model: {found}"
        raise ModelLoadFailed(said, remedy="Name the checkpoint that the GGUF was made from.")
    return found.kl_max


def _name_architecture(out: Path, name: str) -> None:
    """Let the configuration name the model's class, which the converter looks for, and where it came from."""
    file = out / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["_name_or_path"] = name
    config.pop("quantization_config", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

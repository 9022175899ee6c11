"""Exports checkpoints to GGUF with llama.cpp's converter, and handles or refuses what it gets silently wrong.

- BERT classifiers: the converter drops the pooler, so llama.cpp would classify without it. The pooler is renamed to the
  layer that llama.cpp computes in its place.
- Gemma 3 with a query scalar other than its head size, or with global attention in layers other than every sixth:
  llama.cpp reads neither setting.
- Adapters with a scale other than alpha / rank: llama.cpp supports no other.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from convert.export import llama_converter
from convert.export.llama_converter import GgufConverter
from convert.pipeline.stage import Progress, Report
from convert.training import checkpoint_loading
from edge_agent.errors import InvalidRequest

BASE, ADAPTER = "base.gguf", "adapter.gguf"
F32_BYTES_MAX = 4 * 10**9
"""Bytes of weights above which the file is F16."""
_GEMMA3_27B_LAYERS = 62
_GEMMA3_PATTERN = 6
_POOLED = ("bert.pooler.dense.", "classifier.dense.")
_MERGE_REMEDY = "Set 'adapter: merged' under 'export' in the recipe."


@dataclass(frozen=True)
class GgufExport:
    """The input of an export."""

    checkpoint: Path
    adapter: Path | None = None
    merged: bool = False
    """Merge the adapter into the weights, instead of writing a separate file."""


def export(how: GgufExport, tool: GgufConverter, out: Path, progress: Progress) -> Report:
    """Write `base.gguf`, and `adapter.gguf` if it stays separate.

    Raises:
        InvalidRequest: the model, its tokenizer or its adapter is of a kind that the converter gets wrong.
        ModelLoadFailed: the weights do not fill the model, or the converter fails.
    """
    _refuse(checkpoint_loading.read_config(how.checkpoint))
    report: Report = {"base": BASE, "type": weight_type(how.checkpoint), "converter": tool.scripts.name}
    if how.adapter is None:
        progress("converting", 0, 1)
        to_gguf(tool, how.checkpoint, out / BASE)
    elif how.merged:
        progress("merging and converting", 0, 1)
        with tempfile.TemporaryDirectory(dir=out, prefix=".merged-") as folder:
            to_gguf(tool, _merged(how.checkpoint, how.adapter, Path(folder)), out / BASE)
    else:
        _refuse_adapter(how.adapter)
        progress("converting the base", 0, 2)
        to_gguf(tool, how.checkpoint, out / BASE)
        progress("converting the adapter", 1, 2)
        adapter_to_gguf(tool, how.adapter, how.checkpoint, out / ADAPTER)
        report["adapter"] = ADAPTER
    return report


def to_gguf(tool: GgufConverter, checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint of any architecture that the converter knows. Raises as `export` does."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bert-") as folder:
        config = checkpoint_loading.read_config(checkpoint)
        if config.get("architectures") == ["BertForSequenceClassification"]:
            checkpoint = _with_pooler(checkpoint, Path(folder, "checkpoint"))
        name = str(config.get("_name_or_path") or config["model_type"]).rstrip("/").rpartition("/")[2]
        kind = weight_type(checkpoint).lower()
        done = tool.run(
            llama_converter.HF_SCRIPT, [str(checkpoint), "--outfile", str(out), "--outtype", kind, "--model-name", name]
        )
    _refuse_what_failed(done, config)
    llama_converter.check_done(done, out)


def adapter_to_gguf(tool: GgufConverter, adapter: Path, checkpoint: Path, out: Path) -> None:
    """Convert a PEFT adapter. Raises ModelLoadFailed."""
    arguments = [str(adapter), "--base", str(checkpoint), "--outfile", str(out), "--outtype", "f16"]
    llama_converter.check_done(tool.run(llama_converter.LORA_SCRIPT, arguments), out)


def weight_type(checkpoint: Path) -> str:
    """Return the type of the exported weights: float32 is exact, but limited to small models."""
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    return "F32" if size <= F32_BYTES_MAX else "F16"


def _refuse(config: dict[str, Any]) -> None:
    if not checkpoint_loading.is_decoder(config):
        raise InvalidRequest(
            f"the llama runtime serves decoders; the source is {_architecture(config)}",
            remedy="Set 'runtime: onnx' in task.yaml for an encoder, or name a causal language model.",
        )
    if str(config["model_type"]).startswith("gemma3"):
        _refuse_gemma3(config.get("text_config") or config)


def _refuse_gemma3(text: dict[str, Any]) -> None:
    """Raise InvalidRequest for settings of Gemma 3 that llama.cpp assumes and does not read."""
    scalar, size = text.get("query_pre_attn_scalar", 256), text.get("head_dim", 256)
    if text.get("num_hidden_layers") == _GEMMA3_27B_LAYERS:
        size = text["hidden_size"] / text["num_attention_heads"]
    if scalar != size:
        raise InvalidRequest(
            f"Gemma 3 with query_pre_attn_scalar {scalar} and heads of {size}: llama.cpp would compute with {size}",
            remedy="Start from a Gemma 3 whose query_pre_attn_scalar is the size of its heads.",
        )
    layers = text.get("layer_types") or []
    sees_all = [index for index, kind in enumerate(layers, 1) if kind == "full_attention"]
    if sees_all != list(range(_GEMMA3_PATTERN, len(layers) + 1, _GEMMA3_PATTERN)):
        raise InvalidRequest(
            f"Gemma 3 with global attention in layers {sees_all}: llama.cpp assumes every sixth layer",
            remedy="Start from a Gemma 3 with the published layer pattern.",
        )


def _refuse_adapter(adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    odd = {
        "use_rslora": "is scaled by the root of its rank (rsLoRA)",
        "use_dora": "changes magnitudes too (DoRA)",
        "alpha_pattern": "has another alpha in some layers",
        "lora_bias": "has biases",
    }
    for key, words in odd.items():
        if config.get(key):
            raise InvalidRequest(f"the adapter {words}, which llama.cpp does not support", remedy=_MERGE_REMEDY)
    if config.get("bias", "none") != "none":
        raise InvalidRequest("the adapter changes biases, which llama.cpp does not support", remedy=_MERGE_REMEDY)


def _refuse_what_failed(done: subprocess.CompletedProcess[str], config: dict[str, Any]) -> None:
    """Raise InvalidRequest for the failures that have a known cause."""
    if done.returncode == 0:
        return
    if "pre-tokenizer was not recognized" in done.stderr:
        raise InvalidRequest(
            "llama.cpp does not know this tokenizer's pre-tokenizer: it recognizes one by its result on a test"
            " string, and this tokenizer was retrained or edited",
            remedy="Use the unchanged tokenizer of the model that yours was fine-tuned from.",
        )
    if "is not supported" in done.stderr:
        said = f"llama.cpp's converter does not know the architecture {_architecture(config)}"
        raise InvalidRequest(said, remedy="docs/architectures.md lists the architectures that work.")
    if "FileNotFoundError" in done.stderr or "tokenizer.model" in done.stderr:
        raise InvalidRequest(
            f"the converter misses a file of this model's tokenizer: {llama_converter.last_error(done)[:300]}",
            remedy="Copy tokenizer.model, or the named file, from the model that yours was fine-tuned from.",
        )


def _architecture(config: dict[str, Any]) -> str:
    return ", ".join(config.get("architectures") or [str(config["model_type"])])


def _merged(checkpoint: Path, adapter: Path, out: Path) -> Path:
    checkpoint_loading.open_model(checkpoint, adapter, "causal").save_pretrained(out)
    _copy_rest(checkpoint, out)
    return out


def _with_pooler(checkpoint: Path, out: Path) -> Path:
    """Return a copy whose pooler has the name of the layer that llama.cpp computes before the classifier."""
    out.mkdir()
    for file in checkpoint.glob("*.safetensors"):
        tensors = {_repooled(name): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, out / file.name, metadata={"format": "pt"})
    _copy_rest(checkpoint, out)
    return out


def _repooled(name: str) -> str:
    return name.replace(*_POOLED)


def _copy_rest(checkpoint: Path, out: Path) -> None:
    for file in checkpoint.iterdir():
        if file.is_file() and file.suffix != ".safetensors" and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)

"""Checks and copies a source that is a Hugging Face checkpoint directory, or a PEFT adapter for one."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open

from convert.encoder import pooling
from convert.pipeline.stage import Report
from convert.training import checkpoint_loading
from edge_agent.errors import FileMissing, InvalidRequest, ModelLoadFailed

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_INTEGERS = {"I64", "I32", "BOOL"}  # buffers, such as position ids
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "README.md", "LICENSE*")
_COPY_REMEDY = "Copy the checkpoint again."
_QUANTIZED_REMEDY = "Name the float checkpoint from before quantization; the lost precision cannot be restored."

Shapes = dict[str, list[int]]


def take(source: Path, out: Path) -> Report:
    """Check a checkpoint and copy its files. Raises FileMissing, InvalidRequest, ModelLoadFailed."""
    config = _config(source)
    _refuse_code(source, config)
    _refuse_quantized(source, config)
    dtypes = _check_weights(source)
    _check_tokenizer(source)
    out.mkdir(parents=True)
    for file in filter(_is_weights, _files(source, _COPIED)):
        _link_or_copy(file.resolve(), out / file.name)
    pooling_entry = pooling.of_source(source, config)
    if pooling_entry:
        (out / CONFIG).write_text(json.dumps(config | pooling_entry, indent=2) + "\n", encoding="utf-8")
    checkpoint_loading.open_tokenizer(out)
    base = config.get("_name_or_path") or source.resolve().name
    return {"kind": "checkpoint", "base": base, "architecture": config["model_type"], "dtypes": dtypes, **pooling_entry}


def shapes(folder: Path) -> Shapes:
    """Return the shape of every tensor in a folder's safetensors files. Raises ModelLoadFailed."""
    tensor_shapes: Shapes = {}
    for file in _files(folder, ["*.safetensors"]):
        try:
            with safe_open(file, framework="numpy") as tensors:
                tensor_shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            message = f"{file} is damaged: {error}"
            raise ModelLoadFailed(message, remedy="Copy the file again; compare its size and hash.") from None
    return tensor_shapes


def _config(source: Path) -> dict[str, Any]:
    file = source / CONFIG
    if not file.is_file():
        message = f"{source} has no {CONFIG}, so it is not a checkpoint"
        raise FileMissing(message, remedy="Name a directory written by save_pretrained of transformers.")
    config = read_object(file)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        message = f"{file}: transformers {transformers.__version__} does not know the architecture {kind!r}"
        raise InvalidRequest(message, remedy="docs/architectures.md lists the architectures that work.")
    return config


def read_object(file: Path, remedy: str = _COPY_REMEDY) -> dict[str, Any]:
    """Read the JSON object in a file of a model's folder; an empty one without a file. Raises ModelLoadFailed."""
    if not file.is_file():
        return {}
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelLoadFailed(f"{file} is not valid JSON: {error}", remedy=remedy) from None
    if not isinstance(plain, dict):
        raise ModelLoadFailed(f"{file} must hold a JSON object", remedy=remedy)
    return plain


def _refuse_code(source: Path, config: dict[str, Any]) -> None:
    if any("auto_map" in each for each in (config, read_object(source / "tokenizer_config.json"))):
        remedy = "Save the model with a class of transformers itself, and remove 'auto_map' from its JSON files."
        raise InvalidRequest(f"{source} contains code of its own (auto_map), which is never run here", remedy=remedy)


def _refuse_quantized(source: Path, config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config") or config.get("quantization")
    if quantization:
        name = quantization.get("quant_method", "MLX") if isinstance(quantization, dict) else quantization
        raise InvalidRequest(f"{source} is quantized already ({name})", remedy=_QUANTIZED_REMEDY)


def _check_weights(source: Path) -> dict[str, int]:
    """Return the number of tensors of each type."""
    weights = list(filter(_is_weights, _files(source, ["*.safetensors"])))
    if not weights:
        _refuse_pickle(source)
    _check_shards(source, {file.name for file in weights})
    return dict(Counter(dtype for file in weights for dtype in _float_types(file)))


def _check_shards(source: Path, file_names: set[str]) -> None:
    index = source / INDEX
    if index.is_file():
        weight_map = read_object(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelLoadFailed(f"{index} names no files of weights: it has no 'weight_map'", remedy=_COPY_REMEDY)
        for name in sorted(set(map(str, weight_map.values())) - file_names):
            raise FileMissing(f"{index} names {name}, which does not exist", remedy="Copy the whole checkpoint.")


def _float_types(file: Path) -> Iterator[str]:
    """Yield the type of each tensor. Raises InvalidRequest at the first one with quantized weights."""
    shapes(file.parent)  # raises for a damaged file, with its name
    with safe_open(file, framework="numpy") as tensors:
        dtypes = {name: str(tensors.get_slice(name).get_dtype()) for name in tensors.keys()}  # noqa: SIM118
    for name, dtype in dtypes.items():
        if dtype not in _FLOATS | _INTEGERS or name.endswith((".qweight", ".qzeros")):
            raise InvalidRequest(f"{file} is quantized already: {name} is {dtype}", remedy=_QUANTIZED_REMEDY)
        yield dtype


def _refuse_pickle(source: Path) -> None:
    pickled = list(_files(source, _PICKLES))
    if pickled:
        raise InvalidRequest(
            f"{source} has its weights only as {pickled[0].name}; opening a pickle runs any code in it",
            remedy="If you trust it, load the model with transformers and save it with"
            " save_pretrained(safe_serialization=True).",
        )
    raise FileMissing(f"{source} has no weights (*.safetensors)", remedy="Copy the whole checkpoint.")


def _check_tokenizer(source: Path) -> None:
    if not any((source / name).is_file() for name in _TOKENIZERS):
        message = f"{source} has no tokenizer ({_TOKENIZERS[0]})"
        raise FileMissing(message, remedy="Copy the tokenizer's files from the model that it was fine-tuned from.")


def _is_weights(file: Path) -> bool:
    """Return whether a file belongs to the checkpoint, and not to an adapter in the same folder."""
    return not file.name.startswith("adapter_")


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _link_or_copy(source: Path, target: Path) -> None:
    """Weights are hard-linked if the disk allows it; files that people edit are copied."""
    if source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:  # Another disk, a file system without links, or another owner's file.
            pass
    shutil.copyfile(source, target)


ADAPTER_CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MERGE_REMEDY = "Merge it into its base with PEFT (merge_and_unload), save that, and name it as 'checkpoint'."


def take_adapter(source: Path, checkpoint: Path, out: Path, base: str) -> Report:
    """Check an adapter against the prepared checkpoint and copy it.

    Raises:
        FileMissing: a file of it is missing.
        InvalidRequest: it is not a LoRA adapter, or it names another base.
        ModelLoadFailed: its shapes are those of another base.
    """
    config = _adapter_config(source)
    made_for = str(config.get("base_model_name_or_path") or "")
    _check_name(source, made_for, base)
    pairs = _check_shapes(source, checkpoint)
    out.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, WEIGHTS):
        shutil.copyfile(source / name, out / name)
    return {"made_for": made_for, "rank": config.get("r"), "alpha": config.get("lora_alpha"), "tensors": 2 * pairs}


def _adapter_config(source: Path) -> dict[str, Any]:
    for name in (ADAPTER_CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise FileMissing(f"{source} has no {name}", remedy=_missing_remedy(source, name))
    config = read_object(source / ADAPTER_CONFIG, "Copy the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InvalidRequest(f"{source} is a PEFT adapter of type {kind}; only LORA is supported", remedy=_MERGE_REMEDY)
    if config.get("modules_to_save"):
        message = f"{source} replaces whole modules of its base ({', '.join(config['modules_to_save'])})"
        raise InvalidRequest(message, remedy=_MERGE_REMEDY)
    return config


def _missing_remedy(source: Path, name: str) -> str:
    if name == WEIGHTS and (source / "adapter_model.bin").is_file():
        return "Its weights are pickled (adapter_model.bin): if you trust it, load it with PEFT and save it again."
    return "Name the directory that PEFT's save_pretrained wrote."


def _check_name(source: Path, made_for: str, base: str) -> None:
    """Compare the names if both have the form "owner/name" of a hub; the name of a folder tells nothing."""
    hub_names = [name for name in (made_for, base) if name.count("/") == 1 and not name.startswith((".", "/"))]
    if len({name.lower() for name in hub_names}) > 1:
        message = f"the adapter {source} was made for {made_for}; the source is {base}"
        raise InvalidRequest(message, remedy=f"Name {made_for} as the base.")


def _check_shapes(source: Path, checkpoint: Path) -> int:
    """Return how many linear layers the adapter changes; each must have the shape of the base's layer."""
    base, adapter = shapes(checkpoint), shapes(source)
    downs = [name for name in adapter if name.endswith(".lora_A.weight")]
    for down in downs:
        up = down.replace(".lora_A.", ".lora_B.")
        layer = down.removeprefix(_PREFIX).replace(".lora_A.weight", ".weight")
        # A bare encoder's names lack the prefix, such as "bert.", that a model with a head has.
        expected = base.get(layer) or base.get(layer.partition(".")[2])
        actual = [*adapter.get(up, [0])[:1], *adapter[down][1:]]
        if expected != actual:
            base_shape = f"is {expected[0]} x {expected[1]}" if expected else "does not exist"
            raise ModelLoadFailed(
                f"the adapter {source} is for another base: it changes {layer} of {' x '.join(map(str, actual))}, "
                f"which {base_shape} in the source",
                remedy="Name the base that adapter_config.json states.",
            )
    if not downs:
        raise ModelLoadFailed(f"{source / WEIGHTS} holds no LoRA weights", remedy="Save the adapter again with PEFT.")
    return len(downs)

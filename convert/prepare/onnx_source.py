"""A ready token classifier in ONNX as source: copied as it is, or read back into a checkpoint to train from.

The folder has config.json with the names of the outputs (`id2label`), tokenizer.json, and one graph, at its top or in
`onnx/`. The graph is used unchanged, quantized or not: there is no checkpoint to compare it with. The checks are that
its files fit together, and fit the task.

The graph must have been exported from a class of transformers that keeps the names of weights, as optimum's exports do:
a parameter is an initializer of its own name, or NAME_quantized, NAME_scale and NAME_zero_point as ONNX Runtime's
quantizer leaves it; the weight of a linear layer is the matrix whose product is added to NAME.bias, in float32 or in 4
or 8 bits (MatMulNBits). The precision that was lost stays lost: the checkpoint computes what the graph does, and
training continues from there. In the end both compute some texts, and must give the same labels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tokenizers
import torch
import transformers
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from convert import probe
from convert.pipeline.stage import CHECKPOINT, Report, StageJob
from convert.prepare.checkpoint_source import read_object
from edge_agent.errors import FileMissing, InvalidRequest, ModelFailed, ModelLoadFailed

CONFIG, MODEL, TOKENIZER = "config.json", "model.onnx", "tokenizer.json"
LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
AS_IS = "as-is"
"""The only candidate of such a source."""
_COPY_REMEDY = "Copy the whole folder again."


def take(source: Path, out: Path) -> Report:
    """Check a folder and copy its files. Raises FileMissing, InvalidRequest, ModelLoadFailed."""
    config, graph, tokenizer = _config(source), _graph_file(source), source / TOKENIZER
    if not tokenizer.is_file():
        raise FileMissing(f"{source} has no {TOKENIZER}", remedy="Get it from the model's maker: the agent needs it.")
    model = _open_graph(graph)
    _check_tokenizer(tokenizer)
    out.mkdir(parents=True)
    shutil.copyfile(graph, out / MODEL)
    shutil.copyfile(tokenizer, out / TOKENIZER)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in sorted({file for pattern in LICENCES for file in source.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, out / file.name)
    return {
        "kind": "onnx",
        "base": source.resolve().name,
        "architecture": config.get("model_type", "unknown"),
        "graph": graph.name,
        "nodes": len(model.graph.node),
        "operator_sets": {each.domain or "ai.onnx": each.version for each in model.opset_import},
    }


def folder(job: StageJob) -> Path:
    """Return the folder that `take` wrote."""
    return job.folders["prepare"] / CHECKPOINT


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a folder that `take` wrote."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config


def check_outputs(outputs: list[NDArray[np.float32]], tokens: list[int], labels: int) -> Report:
    """Check the outputs for some texts: one row per token, one finite number per label; return the report.

    Raises:
        ModelFailed: an output has another shape, or a number that is not finite.
    """
    for output, count in zip(outputs, tokens, strict=True):
        if output.shape != (count, labels):
            message = f"the graph gives {list(output.shape)} numbers for {count} tokens; the task has {labels} tags"
            raise ModelFailed(message, remedy="Write the model's tags into task.yaml, in the order of config.json.")
        if not np.isfinite(output).all():
            raise ModelFailed("the graph computes values that are not finite", remedy=_COPY_REMEDY)
    return {"reference": "none: the graph is taken as its maker left it", "texts": len(outputs), "rows": sum(tokens)}


def _config(source: Path) -> dict[str, Any]:
    file = source / CONFIG
    if not file.is_file():
        raise FileMissing(f"{source} has no {CONFIG}, which names the model's outputs", remedy=_COPY_REMEDY)
    config = read_object(file, _COPY_REMEDY)
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(key.isdecimal() and isinstance(name, str) for key, name in names.items()):
        raise InvalidRequest(f"{file} has no 'id2label', so the meaning of the outputs is unknown", remedy=_COPY_REMEDY)
    return config


def _graph_file(source: Path) -> Path:
    graphs = sorted([*source.glob("*.onnx"), *source.glob("onnx/*.onnx")])
    if not graphs:
        raise FileMissing(f"{source} has no graph: no *.onnx, and none in onnx/", remedy=_COPY_REMEDY)
    if len(graphs) > 1:
        names = ", ".join(str(file.relative_to(source)) for file in graphs)
        message = f"{source} has several graphs: {names}"
        raise InvalidRequest(message, remedy="Copy only the graph that you want, with the other files.")
    return graphs[0]


def _open_graph(graph: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(graph, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelLoadFailed(f"{graph} is not an ONNX graph: {error}", remedy=_COPY_REMEDY) from None
    if any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer):
        message = f"{graph} has its weights in another file"
        raise InvalidRequest(message, remedy="Save it in one file of at most 2 GiB; the agent opens no others.")
    return model


def _check_tokenizer(file: Path) -> None:
    try:
        tokenizers.Tokenizer.from_buffer(file.read_bytes())
    except ValueError as error:
        raise ModelLoadFailed(f"{file} is not a tokenizer.json: {error}", remedy=_COPY_REMEDY) from None


SAME_LABELS_MIN = 0.95
"""Smallest share of tokens with the same label; the graph rounds activations, the checkpoint does not."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_TEXTS = (
    "Please call Anna Meyer back on 020 7946 0958 before noon.",
    "Rechnung an Herrn Weber, Gartenstraße 12, 50667 Köln, bitte per Post.",
    "Article 4471 costs 12.50; the shop opens at nine.",
)
_QUANTIZED, _BYTE = "_quantized", 8
_REMEDY = "Start from the float checkpoint that it was exported from; or leave 'finetune' out to take it as it is."

Array = NDArray[np.float32]


def read_back(source: Path, out: Path) -> Report:
    """Check the folder as `take` does, and write its checkpoint.

    Raises:
        FileMissing, ModelLoadFailed: the folder is incomplete or damaged, or the checkpoint gives other labels.
        InvalidRequest: the graph does not hold every weight of the architecture under its name.
    """
    report = take(source, out)
    graph = onnx.load(out / MODEL)
    config = _checked_config(source, read_config(out))
    weights = dict(_weights(graph))
    with torch.device("meta"):  # no memory: only the names of the weights
        missing = [name for name in _new_model(config).state_dict() if name not in weights]
    if missing:
        message = f"the graph of {source} lacks {len(missing)} weights under their names, such as {missing[0]}"
        raise InvalidRequest(message, remedy=_REMEDY)
    model = _new_model(config)
    try:
        model.load_state_dict({name: torch.from_numpy(weights[name].copy()) for name in model.state_dict()})
    except RuntimeError as error:
        raise ModelLoadFailed(f"{source}: {' '.join(str(error).split())[:300]}", remedy=_REMEDY) from None
    same_labels = _same_labels(model.eval(), out)
    if same_labels < SAME_LABELS_MIN:
        message = f"the weights of {source} give the graph's label for {same_labels:.0%} of the tokens of three texts"
        raise ModelLoadFailed(message, remedy=_REMEDY)
    (out / MODEL).unlink()
    model.save_pretrained(str(out), safe_serialization=True)
    for file in (source / name for name in _TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    return report | {"read_back": True, "same_labels": round(same_labels, 4)}


def _checked_config(source: Path, config: dict[str, Any]) -> Any:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        message = f"transformers {transformers.__version__} does not know the architecture {kind!r} of {source}"
        raise InvalidRequest(message, remedy=_REMEDY)
    if any("auto_map" in each for each in (config, read_object(source / "tokenizer_config.json", _COPY_REMEDY))):
        raise InvalidRequest(f"{source} contains code of its own (auto_map), which is never run here", remedy=_REMEDY)
    return transformers.AutoConfig.for_model(**config)


def _new_model(config: Any) -> Any:
    return transformers.AutoModelForTokenClassification.from_config(config, dtype=torch.float32)


def _weights(model: onnx.ModelProto) -> Iterator[tuple[str, Array]]:
    """Yield each weight by the name that it has in the checkpoint, as PyTorch lays it out."""
    initializers = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    yield from _named_weights(initializers)
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in (node for node in model.graph.node if node.op_type == "Add"):
        bias = next((name for name in node.input if name.endswith(".bias") and name in initializers), "")
        matrix = _matrix(_product_before(node, producers), initializers)
        if bias and matrix is not None:
            yield f"{bias.removesuffix('.bias')}.weight", matrix


def _product_before(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """Return the node that computes the first computed input of a node; without one, the node itself."""
    return next((producers[name] for name in node.input if name in producers), node)


def _named_weights(initializers: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, Array]]:
    """Yield the initializers that are weights under their own names."""
    for name, array in initializers.items():
        stem = name.removesuffix(_QUANTIZED)
        if stem != name and f"{stem}_scale" in initializers:
            zero = initializers.get(f"{stem}_zero_point", np.float32(0))
            yield stem, np.asarray((array.astype(np.float32) - zero) * initializers[f"{stem}_scale"], np.float32)
        elif array.dtype == np.float32:
            yield name, array


def _matrix(product: onnx.NodeProto, initializers: Mapping[str, NDArray[Any]]) -> Array | None:
    """Return the weight of a product, [outputs, inputs], or None if it is not a product with a weight."""
    names = list(product.input)
    if product.op_type == "MatMul" and names[1] in initializers:
        return np.asarray(initializers[names[1]].T, np.float32)
    if product.op_type != "MatMulNBits" or not all(name in initializers for name in names[1:] if name):
        return None
    sizes = {each.name: each.i for each in product.attribute}
    packed, scales = initializers[names[1]], initializers[names[2]]
    zero = _unpack(initializers[names[3]], sizes["bits"]) if names[3:] and names[3] else None
    return unpack_blocks(packed, scales, zero, sizes)


def unpack_blocks(
    packed: NDArray[np.uint8], scales: Array, zero: NDArray[np.uint8] | None, sizes: Mapping[str, int]
) -> Array:
    """Return the matrix of an operator MatMulNBits of ONNX Runtime's contrib operators, [N, K] in float32.

    Args:
        packed: [N, blocks, bytes of a block]; of 4 bits the lower half of a byte comes first.
        scales: of each block, N * blocks.
        zero: zero points of each block, not packed, or None for the middle of the range.
        sizes: the operator's attributes: N, K, bits (4 or 8), block_size.
    """
    rows, columns, bits = sizes["N"], sizes["K"], sizes["bits"]
    values = _unpack(packed, bits).reshape(rows, -1, sizes["block_size"]).astype(np.float32)
    blocks = values.shape[1]
    middle = zero.reshape(rows, -1)[:, :blocks, None].astype(np.float32) if zero is not None else 2.0 ** (bits - 1)
    matrix = (values - middle) * scales.reshape(rows, blocks, 1)
    return np.ascontiguousarray(matrix.reshape(rows, -1)[:, :columns], np.float32)


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == _BYTE:
        return packed
    return np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _same_labels(model: Any, folder: Path) -> float:
    """Return the share of the tokens of some texts to which graph and model give the same label."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    inputs = [list(tokenizer.encode(text).ids) for text in _TEXTS]
    request = {"model": str(folder / MODEL), "inputs": inputs, "outputs": ["logits"]}
    expected = probe.ask("convert.probe.onnx_probe", request).arrays["outputs"]
    with torch.inference_mode():
        logits = np.concatenate([model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in inputs])
    return float(np.mean(expected.reshape(logits.shape).argmax(-1) == logits.argmax(-1)))

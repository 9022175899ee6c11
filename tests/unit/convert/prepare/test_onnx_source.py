"""A ready ONNX token classifier as source: what is copied, what is refused, and how its weights are read back for
training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from convert.export import onnx_export
from convert.pipeline import recipe
from convert.pipeline.recipe import Recipe
from convert.prepare import onnx_source
from convert.quantize import onnx_quantizer
from edge_agent.errors import FileMissing, InvalidRequest, ManifestInvalid, ModelFailed, ModelLoadFailed
from tests.support import bert_onnx, bundles
from tests.support.recipes import ready_classifier, recipe_of


def test_source_files_are_copied_with_the_licence(tmp_path: Path):
    """Graph, tokenizer, config.json and licence are copied to the folder that later stages read."""
    report = onnx_source.take(ready_classifier(tmp_path / "source"), tmp_path / "out")
    assert ("onnx", "model.onnx", "bert") == (report["kind"], report["graph"], report["architecture"])
    names = ["LICENSE", "config.json", "model.onnx", "tokenizer.json"]
    assert names == sorted(each.name for each in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda at: (at / "config.json").unlink(), FileMissing, "has no config.json"),
        (lambda at: (at / "config.json").write_text("{"), ModelLoadFailed, "not valid JSON"),
        (lambda at: (at / "config.json").write_text("{}"), InvalidRequest, "no 'id2label'"),
        (lambda at: (at / "config.json").write_text('{"id2label": {"a": "O"}}'), InvalidRequest, "no 'id2label'"),
        (lambda at: (at / "tokenizer.json").unlink(), FileMissing, "has no tokenizer.json"),
        (lambda at: (at / "tokenizer.json").write_text("{}"), ModelLoadFailed, "not a tokenizer.json"),
        (lambda at: (at / "onnx" / "model.onnx").unlink(), FileMissing, "has no graph"),
        (
            lambda at: (at / "onnx" / "model.onnx").write_bytes(b"PK\x03\x04 garbage"),
            ModelLoadFailed,
            "not an ONNX graph",
        ),
        (
            lambda at: (at / "second.onnx").write_bytes(b""),
            InvalidRequest,
            "several graphs: onnx/model.onnx, second.onnx",
        ),
    ],
)
def test_incomplete_or_damaged_onnx_source_is_refused(tmp_path: Path, change, error, said):
    """A missing or damaged file, unnamed outputs or two graphs are refused with a message that names the problem."""
    source = ready_classifier(tmp_path / "source")
    change(source)
    with pytest.raises(error, match=said):
        onnx_source.take(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("shape", "value", "said"), [((3, 4), 0.0, "the task has 5 tags"), ((3, 5), np.nan, "not finite")]
)
def test_outputs_of_wrong_shape_or_value_fail_verification(shape, value, said):
    """Another number of outputs than tags, or values that are not finite, stop the run."""
    with pytest.raises(ModelFailed, match=said):
        onnx_source.check_outputs([np.full(shape, value, np.float32)], [3], 5)


def test_recipe_with_onnx_source_and_quantize_is_refused(tmp_path: Path):
    """A recipe that quantizes a ready ONNX source is refused, with a checkpoint as the remedy."""
    recipe_of(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("{checkpoint: m}", "{onnx: m}") + "quantize: {types: [fp32]}\n")
    with pytest.raises(ManifestInvalid, match="or name a checkpoint"):
        recipe.read(file)


def checkpoint(folder: Path) -> Path:
    """Write a random token classifier of one layer, with tokenizer and tags."""
    torch.manual_seed(5)
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(bert_onnx.tiny_tokenizer())
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = dict(enumerate(bundles.TAGS))
    config = BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64, id2label=names)
    model = BertForTokenClassification(config)
    with torch.no_grad():  # a trained one: no two biases are alike, so the exporter shares none
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp32", "matmul8-gather8"])
def test_exported_weights_are_read_back(tmp_path: Path, kind: str):
    """A checkpoint that is exported, with or without quantization, and read back has the same weights, within the
    rounding of a byte."""
    source, exported, ready = checkpoint(tmp_path / "source"), tmp_path / "exported", tmp_path / "ready"
    exported.mkdir()
    ready.mkdir()
    onnx_export.export(source, None, "token", exported)
    onnx_quantizer.quantize(exported / "model.onnx", ready / "model.onnx", kind)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (ready / name).write_bytes((source / name).read_bytes())
    report = onnx_source.read_back(ready, tmp_path / "out")
    assert (True, 1.0) == (report["read_back"], report["same_labels"])
    wanted, found = (
        BertForTokenClassification.from_pretrained(each).state_dict() for each in (source, tmp_path / "out")
    )
    assert wanted.keys() == found.keys()
    rounding = 0.0 if kind == "fp32" else 0.002
    assert [] == [name for name, tensor in wanted.items() if float((tensor - found[name]).abs().max()) > rounding]


def test_four_bit_blocks_are_unpacked():
    """The lower half of a byte is unpacked first, the zero point defaults to 8, and each block has its own scale."""
    packed = np.array([[[0x80, 0xF7], [0x98, 0x08]]], np.uint8)
    sizes = {"N": 1, "K": 7, "bits": 4, "block_size": 4}
    scales = np.array([[0.5, 2.0]], np.float32)
    found = onnx_source.unpack_blocks(packed, scales, None, sizes)
    assert [[-4.0, 0.0, -0.5, 3.5, 0.0, 2.0, 0.0]] == found.tolist()
    zero = np.array([0, 8], np.uint8)
    assert [[0.0, 4.0, 3.5, 7.5, 0.0, 2.0, 0.0]] == onnx_source.unpack_blocks(packed, scales, zero, sizes).tolist()


def test_graph_without_weight_names_cannot_be_trained(tmp_path: Path):
    """A graph whose weights lack the names of the architecture is refused for training, with the number of missing
    names and a remedy."""
    with pytest.raises(InvalidRequest, match=r"lacks \d+ weights under their names, such as bert") as caught:
        onnx_source.read_back(ready_classifier(tmp_path / "source"), tmp_path / "out")
    assert "leave 'finetune' out" in caught.value.remedy


def test_onnx_source_is_not_taken_as_is_with_finetune():
    """A recipe with an ONNX source takes the graph as it is, unless it has a `finetune` section."""
    data = {"calibration": "c.jsonl", "test": "t.jsonl"}
    plain = Recipe.model_validate({"source": {"onnx": "m"}, "data": data})
    trained = Recipe.model_validate({"source": {"onnx": "m"}, "data": data, "finetune": {"method": "full"}})
    assert (True, False) == (plain.takes_ready_graph, trained.takes_ready_graph)

"""Tiny models through the real exporters, the verification gate and the quantizers, after `edge-convert setup`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import gguf as library
import numpy as np
import onnx as graphs
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from convert import probe
from convert.decoder.label_scores import task_tokens
from convert.export import gguf_export, onnx_export
from convert.quantize import gguf_files, onnx_quantizer, quantize_stage
from convert.training import checkpoint_loading
from convert.verify import divergence, verify_stage
from convert.verify.verify_stage import ExportPair
from edge_agent.errors import InvalidRequest, ModelFailed
from edge_agent.formats.manifest import TaskSpec
from tests.support import mounts, tiny_decoder, tiny_models

pytestmark = pytest.mark.slow

TEXTS = ("I want my money back", "What does the blue lamp cost?", "Are you open on Sunday?")
TASK = TaskSpec(name="t", kind="classify", labels=tiny_models.LABELS, prompt={"template": "Message: {input}\nIntent:"})


def quiet(_what: str, _done: int, _total: int) -> None:
    """Draw nothing."""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> ExportPair:
    """Return a tiny Llama with an adapter, exported as two files."""
    folder = tmp_path_factory.mktemp("decoder")
    checkpoint, adapter, out = tiny_models.decoder(folder / "m", "llama"), folder / "a", folder / "out"
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        get_peft_model(checkpoint_loading.open_model(checkpoint, None, "causal"), lora).save_pretrained(adapter)
    out.mkdir()
    gguf_export.export(gguf_export.GgufExport(checkpoint, adapter), gguf_export.find(), out, quiet)
    return ExportPair(checkpoint, adapter, out)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ExportPair:
    """Return an exported tiny BERT classifier."""
    folder = tmp_path_factory.mktemp("encoder")
    checkpoint, out = tiny_models.encoder(folder / "m", "bert"), folder / "out"
    out.mkdir()
    onnx_export.export(checkpoint, None, "sequence", out)
    return ExportPair(checkpoint, None, out)


def test_exported_decoder_and_adapter_match_pytorch(decoder: ExportPair) -> None:
    """Base and adapter in llama.cpp compute the same as PyTorch with the adapter; the check fails against the model
    without it."""
    report = verify_stage.check_gguf(decoder, TASK, TEXTS)
    assert report["kl_max"] < divergence.KL_MAX
    assert (1.0, len(divergence.TEXTS) + len(TEXTS)) == (report["same_top"], report["texts"])
    with pytest.raises(ModelFailed, match="not the same model: Kullback-Leibler"):
        verify_stage.check_gguf(ExportPair(decoder.checkpoint, None, decoder.exported), TASK, TEXTS)


def test_merged_export_matches_pytorch(decoder: ExportPair, tmp_path: Path) -> None:
    """An adapter that is merged into the weights results in one file, which computes the same as PyTorch with the
    adapter."""
    how = gguf_export.GgufExport(decoder.checkpoint, decoder.adapter, merged=True)
    gguf_export.export(how, gguf_export.find(), tmp_path, quiet)
    assert not (tmp_path / gguf_export.ADAPTER).exists()
    assert (
        verify_stage.check_gguf(ExportPair(decoder.checkpoint, decoder.adapter, tmp_path), TASK, TEXTS)["kl_max"]
        < divergence.KL_MAX
    )


def test_merged_export_is_reproducible(decoder: ExportPair, tmp_path: Path) -> None:
    """Two merged exports are byte-identical and have the metadata of the base's own export, without the name of a
    folder."""
    checkpoint = shutil.copytree(decoder.checkpoint, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["_name_or_path"] = "example/Small-1M-Instruct"
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    files = {}
    for name, adapter in (("base", None), ("once", decoder.adapter), ("again", decoder.adapter)):
        (tmp_path / name).mkdir()
        how = gguf_export.GgufExport(checkpoint, adapter, merged=adapter is not None)
        gguf_export.export(how, gguf_export.find(), tmp_path / name, quiet)
        files[name] = tmp_path / name / gguf_export.BASE
    assert files["once"].read_bytes() == files["again"].read_bytes()
    assert gguf_files.read_fields(files["base"]) == gguf_files.read_fields(files["once"])
    assert "Small-1M-Instruct" == gguf_files.read_fields(files["once"])["general.name"]


def test_unknown_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    """A model with a newly trained tokenizer is refused by name: llama.cpp recognizes a pre-tokenizer by its output for
    a test string."""
    checkpoint = tiny_decoder.checkpoint(tmp_path / "m")
    with pytest.raises(InvalidRequest, match="this tokenizer's pre-tokenizer"):
        gguf_export.to_gguf(gguf_export.find(), checkpoint, tmp_path / "base.gguf")


def test_missing_tokenizer_file_is_refused_by_name(tmp_path: Path) -> None:
    """A Phi-3 checkpoint without tokenizer.model is refused, and the error names the file."""
    with pytest.raises(InvalidRequest, match=r"misses a file of this model's tokenizer.*tokenizer\.model"):
        gguf_export.to_gguf(gguf_export.find(), tiny_models.decoder(tmp_path / "m", "phi3"), tmp_path / "base.gguf")


@pytest.mark.release
def test_bert_classifier_keeps_its_pooler_as_gguf(tmp_path: Path) -> None:
    """The GGUF of a BERT classifier includes the pooler, which the converter would drop, and computes the same logits
    as PyTorch."""
    checkpoint = tiny_models.encoder(tmp_path / "m", "bert")
    gguf_export.to_gguf(gguf_export.find(), checkpoint, tmp_path / "base.gguf")
    tokenizer = checkpoint_loading.open_tokenizer(checkpoint)
    prompts = [divergence.encode(tokenizer, text) for text in TEXTS]
    asked = {"model": str(tmp_path / "base.gguf"), "prompts": prompts, "pooling": "rank"}
    answer = probe.ask("convert.probe.llama_probe", asked)
    expected = np.stack(divergence.encoder_rows(checkpoint, None, "sequence", TEXTS))
    assert list(tiny_models.LABELS) == answer.facts["labels"]
    assert np.abs(expected - answer.arrays["logits"]).max() < 1e-2


def test_exported_encoder_matches_pytorch(encoder: ExportPair) -> None:
    """The exported graph and tokenizer compute the same as PyTorch."""
    assert verify_stage.check_onnx(encoder, "classify", TEXTS)["kl_max"] < divergence.KL_MAX


def test_other_weights_or_tokenizer_fail_the_gate(encoder: ExportPair, tmp_path: Path) -> None:
    """Verification fails for a checkpoint that differs in one layer and for a tokenizer that splits texts
    differently."""
    other = shutil.copytree(encoder.checkpoint, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["bert.encoder.layer.1.attention.self.query.weight"] *= 1.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFailed, match="not the same model"):
        verify_stage.check_onnx(ExportPair(other, None, encoder.exported), "classify", TEXTS)
    spoilt = shutil.copytree(encoder.exported, tmp_path / "spoilt")
    text = (spoilt / onnx_export.TOKENIZER).read_text(encoding="utf-8")
    (spoilt / onnx_export.TOKENIZER).write_text(
        text.replace('"lowercase":true', '"lowercase":false').replace('"lowercase": true', '"lowercase": false')
    )
    with pytest.raises(ModelFailed, match="the exported tokenizer splits"):
        verify_stage.check_onnx(ExportPair(encoder.checkpoint, None, spoilt), "classify", TEXTS)


@pytest.mark.parametrize("kind", ["extract", "embed"])
def test_token_classifiers_and_embedders_match_pytorch(tmp_path: Path, kind: str) -> None:
    """Exported token classifiers are verified token by token, exported embedders by the angle of their hidden
    states."""
    checkpoint = tiny_models.encoder(tmp_path / "m", "distilbert", kind)
    onnx_export.export(checkpoint, None, checkpoint_loading.head_of("onnx", kind), tmp_path)
    report = verify_stage.check_onnx(ExportPair(checkpoint, None, tmp_path), kind, TEXTS)
    assert report["rows"] > 10 * report["texts"]


def test_reference_log_probabilities_cover_the_labels(decoder: ExportPair, encoder: ExportPair) -> None:
    """The reference probabilities of the labels add up to 1; those of a decoder are its renormalised token
    probabilities."""
    of_decoder = divergence.label_log_probabilities(decoder.checkpoint, decoder.adapter, TASK, TEXTS)
    of_encoder = divergence.label_log_probabilities(encoder.checkpoint, None, TASK, TEXTS)
    for rows in (of_decoder, of_encoder):
        assert (len(TEXTS), len(TASK.labels)) == rows.shape
        assert np.allclose(1.0, np.exp(rows).sum(axis=1))
    tokens = task_tokens(TASK, checkpoint_loading.open_tokenizer(decoder.checkpoint))
    model = checkpoint_loading.open_model(decoder.checkpoint, decoder.adapter, "causal")
    steps = divergence.log_softmax(divergence.last_logits(model, [tokens.prompt(TEXTS[0])]))[-1]
    firsts = np.array([steps[label[0]] for label in tokens.labels])
    assert {1} == {len(label) for label in tokens.labels}
    assert np.allclose(divergence.log_softmax(firsts), of_decoder[0], atol=1e-4)


def test_importance_is_the_mean_square_of_each_column(decoder: ExportPair) -> None:
    """The importance matrix has the mean square of each input column, for every linear layer except the output, under
    the layer's GGUF name."""
    model = checkpoint_loading.open_model(decoder.checkpoint, None, "causal")
    prompts = divergence.prompts(checkpoint_loading.open_tokenizer(decoder.checkpoint))[:4]
    matrix = quantize_stage.measure_importance(model, prompts, quantize_stage.tensor_names("llama", 2), quiet)
    assert {tensor.name for tensor in library.GGUFReader(decoder.exported / "base.gguf").tensors} > set(matrix)
    assert 7 * 2 == len(matrix)
    seen = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0][0]))
    divergence.last_logits(model, prompts)
    expected = torch.cat(seen).square().mean(0).numpy()
    assert np.allclose(expected, matrix["blk.1.ffn_down.weight"], rtol=1e-4)
    with pytest.raises(InvalidRequest, match="no tensor names"):
        quantize_stage.tensor_names("nothing", 2)


def test_loss_is_smaller_with_8_bits_than_with_4(decoder: ExportPair, tmp_path: Path) -> None:
    """Q8_0 loses less than Q4_0 in every measure, and a file that is compared with itself loses nothing."""
    prompts = divergence.prompts(checkpoint_loading.open_tokenizer(decoder.checkpoint))
    base = decoder.exported / "base.gguf"
    full = probe.ask("convert.probe.llama_probe", {"model": str(base), "prompts": prompts}).arrays["logits"]
    found = {}
    for name in ("Q8_0", "Q4_0"):
        gguf_files.quantize(gguf_files.QuantizeRequest(base, tmp_path / name, name))
        asked = {"model": str(tmp_path / name), "prompts": prompts}
        found[name] = divergence.measure_loss(full, probe.ask("convert.probe.llama_probe", asked).arrays["logits"])
    assert found["Q8_0"].kl_mean < found["Q4_0"].kl_mean
    assert found["Q8_0"].kl_mean <= found["Q8_0"].kl_p999
    assert found["Q4_0"].agreement <= found["Q8_0"].agreement <= 1.0
    assert (0.0, 0.0, 1.0) == tuple(divergence.measure_loss(full, full).report().values())[:3]


def test_full_disk_is_reported_and_leaves_no_file(decoder: ExportPair, tmp_path: Path) -> None:
    """A disk that fills up during an export or a quantization is an error, and the quantizer leaves no partial file."""
    with mounts.tmpfs(tmp_path / "disk", "size=4m") as disk:
        (disk / "out").mkdir()
        with pytest.raises(OSError, match="No space left on device") as caught:
            gguf_export.to_gguf(gguf_export.find(), decoder.checkpoint, disk / "out" / "base.gguf")
        assert str(disk) in str(caught.value.filename)
        (disk / "out" / "base.gguf").unlink(missing_ok=True)
        with pytest.raises(OSError, match="No space left on device"):
            gguf_files.quantize(
                gguf_files.QuantizeRequest(decoder.exported / "base.gguf", disk / "out" / "q.gguf", "F16")
            )
        assert [] == list((disk / "out").iterdir())


SIZES = {"matmul8-gather8": (8, 10), "dynamic-int8": (8, 10), "fp32": (32, 33)}


@pytest.mark.parametrize("name", onnx_quantizer.TYPES)
def test_quantized_graph_matches_its_report(
    encoder: ExportPair, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The report's bits per weight and fallbacks match the quantized graph, which computes nearly the same; nothing is
    logged for each node."""
    report = onnx_quantizer.quantize(encoder.exported / onnx_export.MODEL, tmp_path / "model.onnx", name)
    low, high = SIZES[name]
    assert [] == caplog.messages
    assert low <= report["bits_per_weight"] <= high
    assert report["fallback_tensors"] == len(report["fallbacks"])
    kinds = {node.op_type for node in graphs.load(tmp_path / "model.onnx").graph.node}
    assert ("MatMulNBits" in kinds) == (name == "matmul8-gather8")
    inputs = [divergence.encode(checkpoint_loading.open_tokenizer(encoder.checkpoint), text) for text in TEXTS]
    lost = divergence.measure_loss(
        *(outputs(path, inputs) for path in (encoder.exported / "model.onnx", tmp_path / "model.onnx"))
    )
    assert lost.kl_mean < (0.1 if name == "dynamic-int8" else 0.01)


def outputs(model: Path, inputs: Sequence[Sequence[int]]) -> np.ndarray:
    """Return [texts, labels]."""
    answer = probe.ask("convert.probe.onnx_probe", {"model": str(model), "inputs": inputs})
    return answer.arrays["outputs"].reshape(answer.facts["shapes"][0][0] and (len(inputs), -1))

"""The prepare stage: accepted sources, and the errors for all others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import ADAPTER, CHECKPOINT, Report, StageJob
from convert.prepare import prepare_stage
from convert.training import checkpoint_loading
from edge_agent.errors import EdgeAgentError, FileMissing, InvalidRequest, ModelLoadFailed
from tests.support import tiny_decoder, tiny_gguf

WEIGHTS = "model.safetensors"


def prepared(folder: Path, **source: str) -> tuple[Report, Path]:
    """Run the stage on a source; return its report and folder."""
    out = folder / "out"
    out.mkdir()
    data = {"calibration": "c.jsonl", "test": "t.jsonl"}
    recipe = Recipe.model_validate({"source": source, "data": data, "folder": folder})
    return prepare_stage.run(StageJob(recipe, out, {}, lambda _what, _done, _total: None)), out


def edited(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewritten(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint."""
    tensors = load_file(checkpoint / WEIGHTS)
    change(tensors)
    save_file(tensors, checkpoint / WEIGHTS)


def adapter(folder: Path, hidden: int = 32, **config: Any) -> Path:
    """Write a LoRA adapter for the tiny decoder; `hidden` sets another width."""
    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **config)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        get_peft_model(tiny_decoder.model(hidden=hidden), lora).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\n", "[]", "{", "[" * 100_000])
def test_damaged_checkpoint_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    """A checkpoint with a damaged file, such as a git-lfs pointer, is refused with the name of the file."""
    (tiny_decoder.checkpoint(tmp_path / "source") / name).write_text(content)
    with pytest.raises(ModelLoadFailed, match=f"source/{name} ") as raised:
        prepared(tmp_path, checkpoint="source")
    assert "Copy the checkpoint again." == raised.value.remedy


def test_shard_index_without_weight_map_is_damaged(tmp_path: Path) -> None:
    """A model.safetensors.index.json without 'weight_map' is reported as damaged."""
    (tiny_decoder.checkpoint(tmp_path / "source") / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelLoadFailed, match="weight_map"):
        prepared(tmp_path, checkpoint="source")


def test_checkpoint_is_copied_without_optimizer_states(tmp_path: Path) -> None:
    """The copied checkpoint opens as the same model and tokenizer, and optimizer.pt is not copied."""
    source = tiny_decoder.checkpoint(tmp_path / "source")
    (source / "optimizer.pt").write_bytes(b"x")
    report, out = prepared(tmp_path, checkpoint="source")
    taken = checkpoint_loading.open_model(out / CHECKPOINT, None, "causal").state_dict()
    for name, tensor in tiny_decoder.model().state_dict().items():
        assert torch.equal(tensor, taken[name])
    assert tiny_decoder.tokenizer().get_vocab() == checkpoint_loading.open_tokenizer(out / CHECKPOINT).get_vocab()
    assert not (out / CHECKPOINT / "optimizer.pt").exists()
    assert ("checkpoint", "llama") == (report["kind"], report["architecture"])
    assert {"F32"} == set(report["dtypes"])


def only_pickle(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "pytorch_model.bin")


def cut_off(checkpoint: Path) -> None:
    data = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(data[: len(data) // 2])


def without_tokenizer(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (checkpoint / name).unlink()


def with_integers(checkpoint: Path) -> None:
    rewritten(checkpoint, lambda tensors: tensors.update(q=np.zeros((2, 2), dtype=np.uint8)))


def without_a_shard(checkpoint: Path) -> None:
    index = {"weight_map": {"a": WEIGHTS, "b": "model-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED: dict[str, tuple[Callable[[Path], Any], type[EdgeAgentError], str]] = {
    "no checkpoint": (lambda path: (path / "config.json").unlink(), FileMissing, "has no config.json"),
    "no JSON": (lambda path: (path / "config.json").write_text("{"), ModelLoadFailed, "not valid JSON"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), FileMissing, "has no weights"),
    "pickle": (only_pickle, InvalidRequest, "pickle runs any code"),
    "cut off": (cut_off, ModelLoadFailed, "is damaged"),
    "a shard missing": (without_a_shard, FileMissing, "model-00002.safetensors, which does not exist"),
    "remote code": (lambda path: edited(path / "config.json", auto_map={"A": "b.C"}), InvalidRequest, "auto_map"),
    "unknown architecture": (
        lambda path: edited(path / "config.json", model_type="flux9"),
        InvalidRequest,
        "does not know the architecture 'flux9'",
    ),
    "GPTQ": (
        lambda path: edited(path / "config.json", quantization_config={"quant_method": "gptq"}),
        InvalidRequest,
        r"quantized already \(gptq\)",
    ),
    "MLX": (lambda path: edited(path / "config.json", quantization={"bits": 4}), InvalidRequest, r"already \(MLX\)"),
    "integer weights": (with_integers, InvalidRequest, "quantized already: q is U8"),
    "no tokenizer": (without_tokenizer, FileMissing, "has no tokenizer"),
    "broken tokenizer": (lambda path: (path / "tokenizer.json").write_text("{}"), ModelLoadFailed, "does not load"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_checkpoint_is_refused_with_a_remedy(tmp_path: Path, case: str) -> None:
    """A checkpoint that would fail later (incomplete, damaged, quantized, pickled or with remote code) is refused with
    the cause and a remedy."""
    spoil, error, said = REFUSED[case]
    spoil(tiny_decoder.checkpoint(tmp_path / "source"))
    with pytest.raises(error, match=said) as caught:
        prepared(tmp_path, checkpoint="source")
    assert caught.value.remedy


def test_matching_adapter_is_copied_with_its_base(tmp_path: Path) -> None:
    """An adapter whose shapes fit the base is copied with it, and the model opens with the adapter merged."""
    tiny_decoder.checkpoint(tmp_path / "base")
    adapter(tmp_path / "lora")
    report, out = prepared(tmp_path, base="base", adapter="lora")
    assert 2 == report["adapter"]["rank"]
    assert 2 * 2 * tiny_decoder.model().config.num_hidden_layers == report["adapter"]["tensors"]
    checkpoint_loading.open_model(out / CHECKPOINT, out / ADAPTER, "causal")


def test_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    """An adapter is refused if its shapes do not fit the base or it names another base on the hub."""
    tiny_decoder.checkpoint(tmp_path / "base")
    adapter(tmp_path / "wide", hidden=64)
    with pytest.raises(ModelLoadFailed, match=r"for another base: it changes .* which is"):
        prepared(tmp_path, base="base", adapter="wide")
    shutil.rmtree(tmp_path / "out")
    edited(tmp_path / "base" / "config.json", _name_or_path="maker/tiny-1")
    edited(adapter(tmp_path / "other") / "adapter_config.json", base_model_name_or_path="maker/tiny-2")
    with pytest.raises(InvalidRequest, match="made for maker/tiny-2; the source is maker/tiny-1"):
        prepared(tmp_path, base="base", adapter="other")


def test_adapter_that_is_not_plain_lora_is_refused(tmp_path: Path) -> None:
    """An adapter is refused if it is not LoRA, replaces whole modules, or is pickled."""
    tiny_decoder.checkpoint(tmp_path / "base")
    lora = adapter(tmp_path / "lora")
    edited(lora / "adapter_config.json", modules_to_save=["lm_head"])
    with pytest.raises(InvalidRequest, match="replaces whole modules"):
        prepared(tmp_path, base="base", adapter="lora")
    shutil.rmtree(tmp_path / "out")
    edited(lora / "adapter_config.json", peft_type="IA3", modules_to_save=None)
    with pytest.raises(InvalidRequest, match="of type IA3"):
        prepared(tmp_path, base="base", adapter="lora")
    shutil.rmtree(tmp_path / "out")
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    edited(lora / "adapter_config.json", peft_type="LORA")
    with pytest.raises(FileMissing) as caught:
        prepared(tmp_path, base="base", adapter="lora")
    assert "pickled" in caught.value.remedy


def test_missing_or_non_finite_weights_are_refused(tmp_path: Path) -> None:
    """A checkpoint is refused if it lacks weights that the task needs, instead of random initialization, or if weights
    are not finite."""
    checkpoint = tiny_decoder.checkpoint(tmp_path / "source")
    with pytest.raises(ModelLoadFailed, match=r"lacks 1 weight that the task needs, such as score\.weight"):
        checkpoint_loading.open_model(checkpoint, None, "sequence")
    rewritten(checkpoint, lambda tensors: tensors["model.norm.weight"].__setitem__(0, np.nan))
    with pytest.raises(ModelLoadFailed, match=r"not finite, such as model\.norm\.weight"):
        checkpoint_loading.open_model(checkpoint, None, "causal")


@pytest.mark.slow
def test_gguf_is_converted_back_exactly(tmp_path: Path) -> None:
    """A GGUF source is converted to a checkpoint with the same weights, tokenizer, special tokens and chat template."""
    tiny_gguf.write(tmp_path / "tiny.gguf")
    report, out = prepared(tmp_path, gguf="tiny.gguf")
    taken = checkpoint_loading.open_model(out / CHECKPOINT, None, "causal").state_dict()
    for name, tensor in tiny_decoder.model().state_dict().items():
        assert torch.equal(tensor, taken[name])
    tokenizer, original = checkpoint_loading.open_tokenizer(out / CHECKPOINT), tiny_decoder.tokenizer()
    text = "I want <|im_end|> 12 euros back,  please!"
    assert original(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert original.special_tokens_map == tokenizer.special_tokens_map
    assert original.chat_template == tokenizer.chat_template
    assert ["LlamaForCausalLM"] == checkpoint_loading.read_config(out / CHECKPOINT)["architectures"]
    assert report["kl_to_llama_cpp"] < 1e-4
    assert ("Tiny", "mit") == (report["base"], report["licence"])


def test_gguf_with_unknown_pre_tokenizer_is_refused(tmp_path: Path) -> None:
    """A GGUF file whose pre-tokenizer cannot be rebuilt is refused."""
    tiny_gguf.write(tmp_path / "unknown.gguf", pre="viking")
    with pytest.raises(InvalidRequest, match="pre-tokenizer 'viking', which cannot be rebuilt"):
        prepared(tmp_path, gguf="unknown.gguf")


@pytest.mark.parametrize(("content", "said"), [(b"", "is not a GGUF file"), (b"GGUF" + bytes(20), "is damaged")])
def test_empty_or_damaged_gguf_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """A file that is not GGUF, or is cut off, is refused with its cause."""
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=said):
        prepared(tmp_path, gguf="bad.gguf")

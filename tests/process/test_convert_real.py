"""SmolLM2 and MiniLM, the real models of the tests, through the stages that create and verify files. Takes minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert import probe
from convert.export import export_stage
from convert.export.gguf_export import BASE
from convert.pipeline.recipe import Recipe, read
from convert.pipeline.stage import CHECKPOINT, StageJob
from convert.prepare import prepare_stage
from convert.quantize import gguf_files, onnx_quantizer, quantize_stage
from convert.training import checkpoint_loading
from convert.verify import divergence, verify_stage
from tests.support import models as files
from tests.support import pos_intents, recipes

pytestmark = pytest.mark.release


def quiet(_what: str, _done: int, _total: int) -> None:
    """Draw nothing."""


def recipe_for(folder: Path, source: dict[str, str], task: str) -> Recipe:
    """Write a recipe over a source, with the sections of a task."""
    folder.mkdir(exist_ok=True)
    recipes.recipe_of(folder)
    (folder / "task.yaml").write_text(task)
    return read(folder).model_copy(update={"source": Recipe.model_validate({**_BARE, "source": source}).source})


_BARE = {"data": {"calibration": "calibration.jsonl", "test": "test.jsonl"}}
DECODER = "version: 1.0.0\nruntime: llama\ntask:\n  name: t\n  kind: classify\n  labels: [refund, price, other]\n"
ENCODER = "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: embed, limits: {input_tokens_max: 256}}\n"


def done(recipe: Recipe, folder: Path) -> tuple[dict[str, Path], dict[str, object]]:
    """Run prepare, export and verify; return their folders and the reports."""
    left, reports = {}, {}
    for name, module in (("prepare", prepare_stage), ("export", export_stage), ("verify", verify_stage)):
        out = folder / name
        out.mkdir()
        reports[name] = module.run(StageJob(recipe, out, dict(left), quiet))
        left[name] = out
    return left, reports


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, object]]:
    """Return SmolLM2 converted from its GGUF, exported as GGUF again and verified."""
    folder = tmp_path_factory.mktemp("smollm2")
    return done(recipe_for(folder / "recipe", {"gguf": str(files.smollm2_path())}, DECODER), folder)


def test_smollm2_round_trip_from_gguf_to_gguf_is_unchanged(smollm2: tuple[dict[str, Path], dict[str, object]]) -> None:
    """SmolLM2 from GGUF to checkpoint to GGUF keeps every token of the tokenizer, and its numbers stay within the bound
    of the gate."""
    left, reports = smollm2
    before, after = gguf_files.read_fields(files.smollm2_path()), gguf_files.read_fields(left["export"] / BASE)
    for key in ("tokens", "token_type", "merges", "pre", "bos_token_id", "eos_token_id", "padding_token_id"):
        assert before[f"tokenizer.ggml.{key}"] == after[f"tokenizer.ggml.{key}"], key
    assert before["tokenizer.chat_template"] == after["tokenizer.chat_template"]
    assert reports["prepare"]["kl_to_llama_cpp"] < divergence.KL_MAX
    assert reports["verify"]["kl_max"] < divergence.KL_MAX
    assert 32.0 == gguf_files.contents(left["export"] / BASE).bits_per_weight


def test_importance_lowers_the_loss_of_four_bits(
    smollm2: tuple[dict[str, Path], dict[str, object]], tmp_path: Path
) -> None:
    """An importance matrix that was measured on texts of the task lowers the loss of Q4_0 on other texts of the
    task."""
    left, _ = smollm2
    checkpoint, base = left["prepare"] / CHECKPOINT, left["export"] / BASE
    tokenizer = checkpoint_loading.open_tokenizer(checkpoint)
    texts = [[*tokenizer.encode(f"Customer: {text}\nWants:")] for text, _ in pos_intents.train()]
    model = checkpoint_loading.open_model(checkpoint, None, "causal")
    matrix = quantize_stage.measure_importance(model, texts[::2], quantize_stage.tensor_names("llama", 30), quiet)
    assert 7 * 30 == len(matrix)
    asked = {"prompts": texts[1::2][:40], "rows_max": 4}
    full = probe.ask("convert.probe.llama_probe", {"model": str(base), **asked}).arrays["logits"]
    lost = []
    for importance in ({}, matrix):
        gguf_files.quantize(gguf_files.QuantizeRequest(base, tmp_path / "q.gguf", "Q4_0", importance=importance))
        found = probe.ask("convert.probe.llama_probe", {"model": str(tmp_path / "q.gguf"), **asked})
        lost.append(divergence.measure_loss(full, found.arrays["logits"]))
    assert lost[1].kl_mean < lost[0].kl_mean


def test_fallback_types_of_smollm2_are_reported(
    smollm2: tuple[dict[str, Path], dict[str, object]], tmp_path: Path
) -> None:
    """Rows of 576 values are not a multiple of 256, so most of a Q4_K_M file is Q5_0, and the report counts 180
    fallback tensors."""
    left, _ = smollm2
    made = gguf_files.quantize(gguf_files.QuantizeRequest(left["export"] / BASE, tmp_path / "q.gguf", "Q4_K_M"))
    assert (180, 166) == (len(made.fallbacks), made.contents.types["Q5_0"])
    assert made.contents.bits_per_weight > 6


def test_minilm_is_exported_and_quantized(tmp_path: Path) -> None:
    """The exported MiniLM graph matches the model; with 8-bit weights its vectors keep their direction at less than 0.3
    of the size."""
    left, reports = done(recipe_for(tmp_path / "recipe", {"checkpoint": str(files.minilm_dir())}, ENCODER), tmp_path)
    assert reports["verify"]["cosine_min"] > verify_stage.COSINE_MIN
    source, target = left["export"] / "model.onnx", tmp_path / "small.onnx"
    report = onnx_quantizer.quantize(source, target, "matmul8-gather8")
    assert target.stat().st_size < 0.3 * source.stat().st_size
    assert 8 <= report["bits_per_weight"] < 9
    tokenizer = checkpoint_loading.open_tokenizer(files.minilm_dir())
    for text in divergence.TEXTS[:5]:
        asked = {"inputs": [divergence.encode(tokenizer, text)]}
        big, small = (
            probe.ask("convert.probe.onnx_probe", {"model": str(path), **asked})
            .arrays["outputs"]
            .reshape(-1, 384)
            .mean(0)
            for path in (source, target)
        )
        assert big @ small / np.linalg.norm(big) / np.linalg.norm(small) > 0.998

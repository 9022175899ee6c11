"""The prepare and finetune stages in the pipeline: repeated training, interruption and progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.pipeline import execution
from convert.pipeline import recipe as recipes
from convert.pipeline.execution import RunDisplay
from convert.pipeline.recipe import Recipe
from tests.support import tiny_decoder, tiny_encoder
from tests.support.recipes import recipe_of

TRAIN = "".join(
    json.dumps({"text": f"{opening} {asked}", "label": label}) + "\n"
    for opening in ("Hello,", "Please,", "Sorry,", "Hi there,", "Excuse me,", "Good morning,")
    for asked, label in (("I want my money back", "refund"), ("how much is it", "price"), ("nice day", "other"))
)
SETTINGS = {"method": "lora", "rank": 2, "epochs": 2, "learning_rate": 0.01, "layers_from": 1}


def written(folder: Path, runtime: str, settings: dict[str, object]) -> Recipe:
    """Write a recipe over a checkpoint in `folder`/m."""
    folder.mkdir(exist_ok=True)
    made = recipe_of(folder, sections=f"finetune: {json.dumps(settings)}", train=TRAIN)
    task = folder / "task.yaml"
    short = "name: t, limits: {input_tokens_max: 60}"  # the tiny models have 64 positions and more
    task.write_text(task.read_text().replace("runtime: onnx", f"runtime: {runtime}").replace("name: t", short))
    return made


def bring(recipe: Recipe, screen: RunDisplay | None = None) -> list[str]:
    """Run up to finetune; return the files of its result."""
    execution.run(recipe, "finetune", display=screen)
    folder = execution.work_folder(recipe) / "finetune"
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def report(recipe: Recipe) -> dict[str, object]:
    """Return the report of the finetune stage."""
    found = json.loads((execution.work_folder(recipe) / "finetune" / "stage.json").read_text())
    return dict(found["report"])


def test_adapter_is_trained_again_only_for_changes(tmp_path: Path) -> None:
    """A second run does not train again, another seed does, and the first seed gives the same bytes again."""
    recipe = written(tmp_path, "llama", SETTINGS)
    tiny_decoder.checkpoint(tmp_path / "m")
    left = bring(recipe)
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(left)
    weights = execution.work_folder(recipe) / "finetune" / "adapter" / "adapter_model.safetensors"
    first, when = weights.read_bytes(), weights.stat().st_mtime_ns
    bring(recipe)
    assert when == weights.stat().st_mtime_ns
    bring(written(tmp_path, "llama", SETTINGS | {"seed": 2}))
    assert first != weights.read_bytes()
    bring(written(tmp_path, "llama", SETTINGS))
    assert first == weights.read_bytes()
    assert ("lora", 18) == (report(recipe)["method"], sum(report(recipe)["rows"].values()))


def test_trained_encoder_is_a_complete_checkpoint(tmp_path: Path) -> None:
    """A trained encoder is left as a complete checkpoint with weights, configuration and tokenizer."""
    recipe = written(tmp_path, "onnx", {"method": "full", "epochs": 1})
    tiny_encoder.checkpoint(tmp_path / "m")
    left = bring(recipe)
    assert {"checkpoint/config.json", "checkpoint/model.safetensors", "checkpoint/tokenizer.json"} <= set(left)
    assert 1 == len(report(recipe)["epochs"])


def test_interrupted_training_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    """An interrupted training leaves no result, and the next run gives the weights of a training without
    interruption."""
    recipe = written(tmp_path / "stopped", "llama", SETTINGS)
    tiny_decoder.checkpoint(tmp_path / "stopped" / "m")

    def stop(what: str, done: int, _total: int) -> None:
        if what.startswith("training: epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(recipe, RunDisplay(progress=stop))
    folder = execution.work_folder(recipe)
    assert not (folder / "finetune").exists()
    bring(recipe)
    other = written(tmp_path / "through", "llama", SETTINGS)
    tiny_decoder.checkpoint(tmp_path / "through" / "m")
    bring(other)
    name = Path("finetune", "adapter", "adapter_model.safetensors")
    assert (folder / name).read_bytes() == (execution.work_folder(other) / name).read_bytes()


def test_training_progress_is_reported(tmp_path: Path) -> None:
    """Progress shows the frozen layers first and then each training step; the last line has the validation accuracy."""
    recipe = written(tmp_path, "llama", SETTINGS)
    tiny_decoder.checkpoint(tmp_path / "m")
    said: list[tuple[str, int, int]] = []
    bring(recipe, RunDisplay(progress=lambda *line: said.append(line)))
    trained = [line for line in said if line[0].startswith("training: epoch")]
    frozen = [line for line in said if line[0].startswith("running the frozen layers once")]
    assert said.index(frozen[-1]) < said.index(trained[0])
    assert trained[-1][1] == trained[-1][2]
    assert [done for _, done, _ in trained] == list(range(1, len(trained) + 1))
    assert "validation accuracy" in trained[-1][0]


def test_finetune_settings_are_read_from_the_recipe(tmp_path: Path) -> None:
    """The keys under `finetune` in recipe.yaml are read as settings of the training."""
    written(tmp_path, "llama", SETTINGS)
    assert ("lora", 2, 1) == (
        (settings := recipes.read(tmp_path).finetune).method,
        settings.rank,
        settings.layers_from,
    )

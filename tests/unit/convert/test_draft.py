"""The files that `edge-convert init` writes, and the keys in docs/recipe-yaml.md."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from convert.cli import app, init
from convert.cli.init import ScaffoldRequest, advise, recipe_text, runtime_of, task_text
from convert.pipeline import recipe
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import Recipe
from edge_agent.errors import InvalidRequest
from edge_agent.formats import record_schema

ROOT = Path(__file__).parents[3]
CASES = [
    (ScaffoldRequest("a", "classify", ("refund", 'a "b"')), "onnx"),
    (ScaffoldRequest("a", "classify", runtime="llama"), "llama"),
    (ScaffoldRequest("a", "extract", ("item",)), "onnx"),
    (ScaffoldRequest("a", "extract", ("item", "size"), runtime="llama"), "llama"),
    (ScaffoldRequest("a", "generate"), "llama"),
    (ScaffoldRequest("a", "embed"), "onnx"),
    (ScaffoldRequest("a", "redact", ("NAME", "CITY")), "onnx"),
]


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every key of a model, with a dot between a section and its keys."""
    found = []
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
        found += keys_of(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return found


@pytest.mark.parametrize(("wanted", "runtime"), CASES)
def test_drafted_recipe_and_task_are_valid(tmp_path: Path, wanted: ScaffoldRequest, runtime: str):
    """The drafted recipe and task are read without changes, for the advised or the requested runtime."""
    (tmp_path / "recipe.yaml").write_text(recipe_text(wanted))
    (tmp_path / "task.yaml").write_text(task_text(wanted))
    written = recipe.read(tmp_path)
    assert runtime_of(wanted) == runtime
    assert written.finetune is not None
    assert (written.finetune.method == "lora") == (runtime == "llama")
    task = tasks.of(tmp_path)
    assert (task.name, task.kind) == ("a", wanted.kind)
    assert tasks.read(tmp_path / "task.yaml")["runtime"] == runtime
    if task.record_schema is not None:
        assert record_schema.fields(task.record_schema) == list(wanted.labels)
        assert written.data.format == "prompt-completion"
    elif wanted.kind == "extract":
        assert task.labels == ("O", "B-item", "I-item")
    elif wanted.kind == "redact":
        assert task.labels == ("O", "B-NAME", "I-NAME", "B-CITY", "I-CITY")
        assert written.redaction == recipe.RedactionTargetSection(missed_max=0.05)
        assert written.data.format == "text-spans"
    elif wanted.labels:
        assert task.labels == wanted.labels


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        ("classify", "refund", "at least 2 labels; refund is only one"),
        ("classify", "", "label 1 of 1 is empty"),
        ("classify", "refund,,price", "label 2 of 3 is empty"),
        ("classify", "refund,price,", "label 3 of 3 is empty"),
        ("extract", "item, item", "label item appears twice"),
        ("generate", "refund,price", "has no labels"),
    ],
)
def test_invalid_labels_are_refused(kind, written: str, said: str):
    """`edge-convert init` refuses labels that no task of the kind can have, so the first stage of a run does not fail
    on them."""
    with pytest.raises(InvalidRequest, match=said):
        init.labels_of(written, kind)


def test_labels_are_stripped_of_spaces():
    """An extract task can have a single field; without --labels the draft gets placeholders."""
    assert ("refund", "not now") == init.labels_of(" refund , not now", "classify")
    assert ("item",) == init.labels_of("item", "extract")
    assert () == init.labels_of(None, "classify")


@pytest.mark.parametrize("wanted", [case[0] for case in CASES])
def test_commented_out_keys_have_their_defaults(tmp_path: Path, wanted: ScaffoldRequest):
    """If every commented-out key is enabled, the recipe has the same meaning."""
    text = recipe_text(wanted)
    whole = []
    for line in text.splitlines():
        bare = line.replace("# ", "", 1)
        key = bare.strip().partition(":")[0]
        named = key in {name.rpartition(".")[2] for name in keys_of(Recipe)} or bare in (
            "export:",
            "quantize:",
            "budget:",
            "privacy:",
        )
        given = ("base", "gguf", "onnx", "importance", "outliers")
        chosen = key not in given and not (key == "adapter" and "separate" not in bare)
        whole.append(bare if line.strip().startswith("# ") and named and chosen else line)
    (tmp_path / "recipe.yaml").write_text(text)
    left = recipe.read(tmp_path).model_dump()
    (tmp_path / "recipe.yaml").write_text("\n".join(whole))
    assert recipe.read(tmp_path).model_dump() == left
    assert "export" in yaml.safe_load("\n".join(whole))


def test_draft_and_page_name_every_recipe_key():
    """docs/recipe-yaml.md and the drafted recipe have every key of the model, and the page has no other."""
    document = (ROOT / "docs" / "recipe-yaml.md").read_text()
    drafted = recipe_text(CASES[0][0])
    keys = keys_of(Recipe)
    assert [key for key in keys if f"`{key}`" not in document] == []
    assert [key for key in keys if f"{key.rpartition('.')[2]}:" not in drafted] == []
    rows = [line.split("`")[1] for line in document.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(keys)


def test_runtime_that_does_not_serve_the_kind_is_refused():
    """The error names the runtime that serves the kind, with the reason."""
    served = "classify, decide, embed, extract, redact"
    with pytest.raises(InvalidRequest, match=f"runtime onnx serves {served}, not generate") as raised:
        recipe_text(ScaffoldRequest("a", "generate", runtime="onnx"))
    assert "Use runtime llama. Only a decoder writes text." in raised.value.remedy


def test_advised_runtime_fits_the_kind_of_task():
    """classify, extract and embed get runtime onnx, and generate gets llama."""
    assert [advise(kind).runtime for kind in ("classify", "extract", "generate", "embed")] == [
        "onnx", "onnx", "llama", "onnx",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["my-task", "1234", "0x1f", "on", "null", "2026-12-01", "2026-13-45"])
def test_task_has_the_name_of_its_folder(tmp_path: Path, name: str):
    """This also holds for a name that YAML would read as a number, a date or a boolean."""
    done = CliRunner().invoke(app, ["init", str(tmp_path / name)])
    assert (0, name) == (done.exit_code, tasks.of(tmp_path / name).name), done.output

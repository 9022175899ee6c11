"""convert/export/: what is refused before it comes out wrong, and the converter's setting up."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from convert.export import export_stage, gguf_export, onnx_export
from convert.export.gguf_export import GgufConverter
from convert.pipeline.recipe import read
from convert.pipeline.stage import StageJob
from convert.training import checkpoint_loading
from edge_agent.errors import FileMissing, HashMismatch, InvalidRequest, ModelLoadFailed, RequirementUnmet
from tests.support import recipes, tiny_decoder, tiny_models

ROOT = Path(__file__).parents[4]
NOWHERE = GgufConverter(Path("/nowhere"), Path("/nowhere"))


def quiet(_what: str, _done: int, _total: int) -> None:
    """Draw nothing."""


def edited(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def decoder(folder: Path, **changes: Any) -> Path:
    """Write the tiny decoder, with changes in its config.json."""
    edited(tiny_decoder.checkpoint(folder) / "config.json", **changes)
    return folder


def adapter(folder: Path, **config: Any) -> Path:
    """Write what the export reads of an adapter first."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "bias": "none", **config}))
    return folder


def says(folder: Path, words: str, code: int = 1) -> GgufConverter:
    """Return a converter whose script only says something and ends with that code."""
    folder.mkdir()
    (folder / gguf_export.HF_SCRIPT).write_text(f"import sys\nprint({words!r}, file=sys.stderr)\nsys.exit({code})\n")
    return GgufConverter(folder, folder)


GEMMA = {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}
LAYERS = ["sliding_attention"] * 5 + ["full_attention"]
REFUSED = {
    "an encoder": ({"architectures": ["BertForSequenceClassification"]}, "serves decoders; the source is BertFor"),
    "query scalar": ({**GEMMA, "query_pre_attn_scalar": 64}, "query_pre_attn_scalar 64 and heads of 16"),
    "layers": ({**GEMMA, "layer_types": LAYERS[::-1]}, r"with global attention in layers \[1\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_model_that_llama_cpp_gets_wrong_is_refused(tmp_path: Path, case: str) -> None:
    """What the converter would take and llama.cpp compute otherwise never reaches it."""
    config, said = REFUSED[case]
    checkpoint = decoder(tmp_path / "m", **config)
    with pytest.raises(InvalidRequest, match=said) as caught:
        gguf_export.export(gguf_export.GgufExport(checkpoint), NOWHERE, tmp_path, quiet)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "config",
    [{"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {"q_proj": 3}}, {"bias": "all"}, {"lora_bias": True}],
)
def test_adapter_that_llama_cpp_scales_otherwise_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    """llama.cpp multiplies with alpha / rank and knows nothing else; merging is the way out."""
    how = gguf_export.GgufExport(decoder(tmp_path / "m"), adapter(tmp_path / "a", **config))
    with pytest.raises(InvalidRequest, match=r"llama\.cpp does not support") as caught:
        gguf_export.export(how, NOWHERE, tmp_path, quiet)
    assert "adapter: merged" in caught.value.remedy


FAILURES = {
    "pre-tokenizer": (
        "NotImplementedError: BPE pre-tokenizer was not recognized",
        InvalidRequest,
        "this tokenizer's pre-tokenizer",
    ),
    "architecture": ("ERROR:hf-to-gguf:Model Foo is not supported", InvalidRequest, "not know the architecture Llama"),
    "tokenizer file": ("FileNotFoundError: tokenizer.model", InvalidRequest, "misses a file of this model's tokenizer"),
    "anything else": ("noise\nKeyError: 'n_ctx'\n", ModelLoadFailed, "converter failed: KeyError: 'n_ctx'"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_of_the_converter_are_told_by_cause(tmp_path: Path, case: str) -> None:
    """A known cause has its remedy; otherwise its last line is passed on."""
    words, error, said = FAILURES[case]
    with pytest.raises(error, match=said) as caught:
        gguf_export.to_gguf(says(tmp_path / "tool", words), decoder(tmp_path / "m"), tmp_path / "base.gguf")
    assert caught.value.remedy


def test_converter_that_leaves_no_file_has_failed(tmp_path: Path) -> None:
    """Success is a file, not an exit code."""
    with pytest.raises(ModelLoadFailed, match="converter failed"):
        gguf_export.to_gguf(says(tmp_path / "tool", "done", code=0), decoder(tmp_path / "m"), tmp_path / "base.gguf")


def test_converter_that_is_not_set_up_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which command to run, once; a checkout that is none is named."""
    monkeypatch.setenv(gguf_export.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(RequirementUnmet) as caught:
        gguf_export.find()
    assert "edge-convert setup" in caught.value.remedy
    with pytest.raises(FileMissing, match=r"has no convert_hf_to_gguf\.py"):
        gguf_export.find(tmp_path)
    tool = says(tmp_path / "checkout", "")
    assert GgufConverter(tool.scripts, tool.scripts / "gguf-py") == gguf_export.find(tmp_path / "checkout")


def test_setup_takes_the_pinned_archive_only(tmp_path: Path) -> None:
    """An archive of other bytes, or none, is refused before anything is unpacked, and leaves nothing."""
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    with pytest.raises(HashMismatch, match="is not the source archive"):
        gguf_export.setup(tmp_path / "cache", tmp_path / "other.tar.gz")
    with pytest.raises(FileMissing):
        gguf_export.setup(tmp_path / "cache", tmp_path / "none.tar.gz")
    assert [] == list((tmp_path / "cache").iterdir())


def test_converter_is_of_the_release_that_the_agent_runs() -> None:
    """The archive's version is the pin of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"llama-cpp-python=={gguf_export.VERSION}" in project["dependencies"]


def exported(folder: Path, task: str) -> None:
    """Run the stage on `folder/prepare/checkpoint` with the sections of a task.yaml."""
    recipes.recipe_of(folder)
    (folder / "task.yaml").write_text(task)
    (folder / "out").mkdir()
    export_stage.run(StageJob(read(folder), folder / "out", {"prepare": folder / "prepare"}, quiet))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("kind: classify, labels: [price, refund, other]", "outputs are refund, price, other; the task's labels are"),
        ("kind: classify, labels: [refund, price]", "outputs are refund, price, other; the task's labels are"),
        (
            "kind: classify, labels: [refund, price, other], limits: {input_tokens_max: 513}",
            "allows 513 tokens; the model has 512 positions",
        ),
        ("kind: generate, limits: {input_tokens_max: 9, output_tokens_max: 9}", "an encoder cannot do 'generate'"),
    ],
)
def test_task_must_fit_the_model(tmp_path: Path, task: str, said: str) -> None:
    """Labels in another order would be answered wrongly, and too long inputs fail on the site."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    whole = f"version: 1.0.0\nruntime: onnx\ntask: {{name: t, {task}}}\n"
    with pytest.raises(InvalidRequest, match=said):
        exported(tmp_path, whole)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_model_whose_outputs_are_not_one_label_is_refused(tmp_path: Path, problem: str) -> None:
    """Softmax over the outputs of such a model would be served as probabilities, and they are none."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    edited(tmp_path / "prepare" / "checkpoint" / "config.json", problem_type=problem)
    with pytest.raises(InvalidRequest, match=f"problem_type '{problem}'"):
        exported(
            tmp_path,
            "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: classify, labels: [refund, price, other]}\n",
        )


def test_echo_has_nothing_to_export(tmp_path: Path) -> None:
    """Only the runtimes with a model have a format."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    with pytest.raises(InvalidRequest, match="not echo"):
        exported(tmp_path, "version: 1.0.0\nruntime: echo\ntask: {name: t, kind: embed}\n")


@pytest.mark.slow
def test_roberta_counts_positions_from_behind_the_padding(tmp_path: Path) -> None:
    """514 rows of its position table hold 511 tokens, where padding is token 2."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "roberta", "embed")
    with pytest.raises(InvalidRequest, match="allows 512 tokens; the model has 511 positions"):
        exported(tmp_path, "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: embed}\n")


def test_positions_are_counted_as_each_architecture_counts_them() -> None:
    """Those of RoBERTa's kin begin behind the padding token; where a model says nothing there is no limit."""
    table = {"max_position_embeddings": 514, "pad_token_id": 1}
    assert [514, 512, 512] == [
        checkpoint_loading.positions_of({"model_type": kind, **table}) for kind in ("bert", "roberta", "xlm-roberta")
    ]
    assert 0 == checkpoint_loading.positions_of({"model_type": "modernbert"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "camembert", "ibert", "mpnet", "roberta", "roberta-prelayernorm"])
def test_a_model_reads_as_many_tokens_as_it_has_positions(kind: str) -> None:
    """And not one more: the count is that of the model's own code."""
    import torch  # noqa: PLC0415 - it takes seconds to load
    import transformers  # noqa: PLC0415

    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "max_position_embeddings": 34}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    positions = checkpoint_loading.positions_of(model.config.to_dict())
    assert (1, positions) == model(input_ids=torch.full((1, positions), 5)).last_hidden_state.shape[:2]
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, positions + 1), 5))


def test_outputs_without_names_are_counted_from_zero() -> None:
    """transformers leaves names out where they are the default ones."""
    assert ["a", "b"] == checkpoint_loading.labels_of({"id2label": {"1": "b", "0": "a"}})
    assert ["LABEL_0", "LABEL_1"] == checkpoint_loading.labels_of({})


def test_architecture_that_optimum_does_not_know_is_refused(tmp_path: Path) -> None:
    """The error names the architecture."""
    tiny_decoder.checkpoint(tmp_path / "m")
    edited(tmp_path / "m" / "config.json", num_labels=3)
    with pytest.raises((InvalidRequest, ModelLoadFailed)):
        onnx_export.export(tmp_path / "m", None, "sequence", tmp_path)

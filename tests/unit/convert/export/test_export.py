"""The export stage: refusal of models and tasks that would be served wrongly, and setup of the GGUF converter."""

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
    """Ignore progress."""


def edited(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def decoder(folder: Path, **changes: Any) -> Path:
    """Write the tiny decoder, with changes in its config.json."""
    edited(tiny_decoder.checkpoint(folder) / "config.json", **changes)
    return folder


def adapter(folder: Path, **config: Any) -> Path:
    """Write the configuration that the export reads from an adapter."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "bias": "none", **config}))
    return folder


def says(folder: Path, words: str, code: int = 1) -> GgufConverter:
    """Return a converter whose script prints these words and exits with that code."""
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
def test_model_that_llama_cpp_computes_wrongly_is_refused(tmp_path: Path, case: str) -> None:
    """A model that the converter would accept but llama.cpp would compute differently is refused with a remedy."""
    config, said = REFUSED[case]
    checkpoint = decoder(tmp_path / "m", **config)
    with pytest.raises(InvalidRequest, match=said) as caught:
        gguf_export.export(gguf_export.GgufExport(checkpoint), NOWHERE, tmp_path, quiet)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "config",
    [{"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {"q_proj": 3}}, {"bias": "all"}, {"lora_bias": True}],
)
def test_adapter_that_llama_cpp_cannot_apply_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    """An adapter that needs more than scaling by alpha / rank is refused for GGUF, with merging as the remedy."""
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
def test_converter_failure_is_reported_by_cause(tmp_path: Path, case: str) -> None:
    """A converter failure with a known cause has its own message and remedy; otherwise the message has the last line of
    the output."""
    words, error, said = FAILURES[case]
    with pytest.raises(error, match=said) as caught:
        gguf_export.to_gguf(says(tmp_path / "tool", words), decoder(tmp_path / "m"), tmp_path / "base.gguf")
    assert caught.value.remedy


def test_converter_without_output_file_has_failed(tmp_path: Path) -> None:
    """A converter that exits with code 0 but writes no file has failed."""
    with pytest.raises(ModelLoadFailed, match="converter failed"):
        gguf_export.to_gguf(says(tmp_path / "tool", "done", code=0), decoder(tmp_path / "m"), tmp_path / "base.gguf")


def test_missing_converter_is_reported_with_the_setup_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the converter is not set up, the error names `edge-convert setup`; a folder that is not a llama.cpp checkout
    is refused by name."""
    monkeypatch.setenv(gguf_export.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(RequirementUnmet) as caught:
        gguf_export.find()
    assert "edge-convert setup" in caught.value.remedy
    with pytest.raises(FileMissing, match=r"has no convert_hf_to_gguf\.py"):
        gguf_export.find(tmp_path)
    tool = says(tmp_path / "checkout", "")
    assert GgufConverter(tool.scripts, tool.scripts / "gguf-py") == gguf_export.find(tmp_path / "checkout")


def test_setup_accepts_only_the_pinned_archive(tmp_path: Path) -> None:
    """`edge-convert setup` refuses an archive with another hash, or a missing one, before it unpacks anything, and
    leaves no files."""
    (tmp_path / "other.tar.gz").write_bytes(b"other")
    with pytest.raises(HashMismatch, match="is not the source archive"):
        gguf_export.setup(tmp_path / "cache", tmp_path / "other.tar.gz")
    with pytest.raises(FileMissing):
        gguf_export.setup(tmp_path / "cache", tmp_path / "none.tar.gz")
    assert [] == list((tmp_path / "cache").iterdir())


def test_converter_matches_the_llama_cpp_release_of_the_agent() -> None:
    """The version of the converter's source archive is the llama-cpp-python version pinned in pyproject.toml."""
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
    """A task is refused if its labels differ from the model's outputs in number or order, its inputs can exceed the
    model's positions, or the model cannot do its kind."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    whole = f"version: 1.0.0\nruntime: onnx\ntask: {{name: t, {task}}}\n"
    with pytest.raises(InvalidRequest, match=said):
        exported(tmp_path, whole)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_multi_label_or_regression_model_is_refused(tmp_path: Path, problem: str) -> None:
    """A model whose problem_type is not single-label classification is refused, because a softmax over its outputs
    would not be probabilities."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    edited(tmp_path / "prepare" / "checkpoint" / "config.json", problem_type=problem)
    with pytest.raises(InvalidRequest, match=f"problem_type '{problem}'"):
        exported(
            tmp_path,
            "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: classify, labels: [refund, price, other]}\n",
        )


def test_echo_runtime_cannot_be_exported(tmp_path: Path) -> None:
    """The export of a task with `runtime: echo` is refused, because that runtime has no model."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "bert")
    with pytest.raises(InvalidRequest, match="not echo"):
        exported(tmp_path, "version: 1.0.0\nruntime: echo\ntask: {name: t, kind: embed}\n")


@pytest.mark.slow
def test_roberta_positions_exclude_the_padding_offset(tmp_path: Path) -> None:
    """A RoBERTa with 514 rows of positions and padding token 2 accepts 511 tokens, so a task that allows 512 is
    refused."""
    tiny_models.encoder(tmp_path / "prepare" / "checkpoint", "roberta", "embed")
    with pytest.raises(InvalidRequest, match="allows 512 tokens; the model has 511 positions"):
        exported(tmp_path, "version: 1.0.0\nruntime: onnx\ntask: {name: t, kind: embed}\n")


def test_position_count_follows_the_architecture() -> None:
    """In RoBERTa and XLM-RoBERTa positions start after the padding token, in BERT at 0; 0 means that the model states
    no limit."""
    table = {"max_position_embeddings": 514, "pad_token_id": 1}
    assert [514, 512, 512] == [
        checkpoint_loading.positions_of({"model_type": kind, **table}) for kind in ("bert", "roberta", "xlm-roberta")
    ]
    assert 0 == checkpoint_loading.positions_of({"model_type": "modernbert"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "camembert", "ibert", "mpnet", "roberta", "roberta-prelayernorm"])
def test_model_accepts_exactly_its_number_of_positions(kind: str) -> None:
    """The model's own code accepts `positions_of` tokens and fails with one more."""
    import torch  # noqa: PLC0415 - it takes seconds to load
    import transformers  # noqa: PLC0415

    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "max_position_embeddings": 34}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    positions = checkpoint_loading.positions_of(model.config.to_dict())
    assert (1, positions) == model(input_ids=torch.full((1, positions), 5)).last_hidden_state.shape[:2]
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, positions + 1), 5))


def test_outputs_without_names_get_default_names() -> None:
    """Labels are in the order of their numbers, and a model without `id2label` has LABEL_0 and LABEL_1, as in
    transformers."""
    assert ["a", "b"] == checkpoint_loading.labels_of({"id2label": {"1": "b", "0": "a"}})
    assert ["LABEL_0", "LABEL_1"] == checkpoint_loading.labels_of({})


def test_onnx_export_of_decoder_as_classifier_is_refused(tmp_path: Path) -> None:
    """The ONNX export refuses to export a decoder checkpoint as a sequence classifier, and names the weights that it
    lacks."""
    tiny_decoder.checkpoint(tmp_path / "m")
    edited(tmp_path / "m" / "config.json", num_labels=3)
    with pytest.raises(ModelLoadFailed, match=r"lacks 1 weight that the task needs, such as score\.weight"):
        onnx_export.export(tmp_path / "m", None, "sequence", tmp_path)

"""The finetune stage on tiny random models with real tokenizers."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from convert.data.data_row import DataRow
from convert.dataset.dataset_files import write
from convert.dataset.selection import DatasetSelection
from convert.decoder.label_scores import task_tokens
from convert.pipeline.recipe import FinetuneSection
from convert.pipeline.stage import Report, StageJob
from convert.training import encoder_trainer, finetune_stage, lora
from convert.training.decoder_trainer import DecoderData, DecoderExampleEncoder, DecoderTrainer
from edge_agent.errors import InvalidRequest, ModelLoadFailed
from edge_agent.formats.manifest import PromptTemplate, TaskSpec
from tests.support import corrected_records, pos_intents, tiny_decoder, tiny_encoder, tiny_models
from tests.support.recipes import recipe_of, text_label

INTENTS = ("refund", "price", "stock", "hours")
TASK = TaskSpec(name="t", kind="classify", labels=INTENTS, prompt=PromptTemplate(template="Message: {input}\nIntent:"))
EXAMPLES = [example for example in pos_intents.train() if example[1] in INTENTS]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the prepare stage leaves it, with a decoder."""
    folder = tmp_path_factory.mktemp("decoder")
    tiny_decoder.checkpoint(folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the prepare stage leaves it, with an encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny_encoder.checkpoint(folder / "checkpoint")
    return folder


def job(folder: Path, prepared: Path, settings: dict[str, object], **changed: Any) -> StageJob:
    """Return the job of a recipe with these `finetune` settings; `changed` goes to recipe_of, and may name `task`."""
    folder.mkdir(parents=True, exist_ok=True)
    task = changed.pop("task", {"name": "t", "kind": "classify", "labels": list(INTENTS)})
    task = {"limits": {"input_tokens_max": 40, "output_tokens_max": 20}, **task}  # the tiny encoder has 64 positions
    runtime = "llama" if "lora" == settings.get("method") else "onnx"
    files = {"train": text_label(*EXAMPLES)} | changed
    recipe = recipe_of(folder, sections=f"finetune: {json.dumps(settings)}" if settings else "", **files)
    (folder / "task.yaml").write_text(json.dumps({"version": "1.0.0", "runtime": runtime, "task": task}))
    (folder / "out").mkdir()
    return StageJob(recipe, folder / "out", {"prepare": prepared}, lambda *_: None)


LORA = {"method": "lora", "rank": 4, "learning_rate": 0.01, "epochs": 6, "layers_from": 1}


@pytest.fixture(scope="module")
def tuned(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Train an adapter once; return the stage's folder and report."""
    made = job(tmp_path_factory.mktemp("tuned"), decoder, LORA)
    return made.out, finetune_stage.run(made)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return peft.utils.load_peft_weights(str(folder / "adapter"), device="cpu")


def test_adapter_training_lowers_the_loss(tuned: tuple[Path, Report]) -> None:
    """Adapter training lowers the loss by 30% and validates better than guessing, and the report has rows, settings and
    versions."""
    _, report = tuned
    losses = [epoch["train_loss"] for epoch in report["epochs"]]
    assert losses[-1] < 0.7 * losses[0]
    assert report["validation_accuracy"] > 1 / len(INTENTS)
    assert {"train": 39, "validation": 4, "too_long": 0} == report["rows"]
    assert ("lora", 1, 0.01) == (report["method"], report["seed"], report["learning_rate"])
    assert {"torch", "transformers", "tokenizers", "peft"} == set(report["versions"])
    assert 0 < report["trainable_parameters"] < report["parameters"]
    json.dumps(report)


def test_adapter_is_a_peft_directory(tuned: tuple[Path, Report], decoder: Path) -> None:
    """The adapter covers the requested layers, PEFT loads it over the base, merging gives the same logits, and its
    configuration has no path of this machine."""
    out, report = tuned
    assert {"adapter_config.json", "adapter_model.safetensors"} == {file.name for file in (out / "adapter").iterdir()}
    assert str(decoder) not in (out / "adapter" / "adapter_config.json").read_text()
    assert not any(".layers.0." in name for name in weights(out))
    assert sum(value.numel() for value in weights(out).values()) == report["trainable_parameters"]
    base = AutoModelForCausalLM.from_pretrained(decoder / "checkpoint")
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        bare = base(ids).logits
        loaded = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
        adapted = loaded(ids).logits
        merged = loaded.merge_and_unload()(ids).logits
    assert not torch.allclose(bare, adapted, atol=1e-2)
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)


def test_same_seed_gives_the_same_weights(tuned: tuple[Path, Report], decoder: Path, tmp_path: Path) -> None:
    """On one machine the same seed gives identical weights and another seed gives others; the caller's random state is
    not changed."""
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    again, other = job(tmp_path / "a", decoder, LORA), job(tmp_path / "b", decoder, {**LORA, "seed": 2, "epochs": 1})
    finetune_stage.run(again)
    assert expected == torch.rand(1)
    finetune_stage.run(other)
    first, second, third = weights(tuned[0]), weights(again.out), weights(other.out)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(("bytes_max", "tolerance"), [(lora.HIDDEN_BYTES_MAX, 2e-2), (400, 1e-4)])
def test_cached_frozen_layers_give_the_same_gradients(tmp_path: Path, bytes_max: int, tolerance: float) -> None:
    """Losses and gradients with cached frozen layers equal those of the whole model within the precision of bfloat16,
    or to the last digits if the cache has no room for the rows of a batch."""
    found = []
    for cut in (0, 2):
        torch.manual_seed(5)
        model = lora.add_adapter(tiny_decoder.model(), FinetuneSection(method="lora", rank=2, layers_from=2))
        tokens = task_tokens(TASK, tiny_decoder.tokenizer())
        lessons, _ = DecoderExampleEncoder(TASK, tokens).encode(
            [DataRow(text, label=label) for text, label in EXAMPLES], 200
        )
        halves = lora.FrozenPrefixCache(model, cut, tmp_path, bytes_max)
        learner = DecoderTrainer(model, tokens, DecoderData(lessons, lessons[:3]), 0.01, halves)
        learner.prepare(lambda *_: None)
        assert halves.bytes_on_disk <= bytes_max
        torch.manual_seed(6)
        loss = learner.loss(range(8))
        loss.backward()
        trained = learner.groups()[0]["params"]
        found.append([loss.detach(), *(weight.grad for weight in trained), torch.tensor(learner.validate().loss)])
    for whole, halves_ in zip(*found, strict=True):
        assert float((whole - halves_).norm()) <= tolerance * float(whole.norm()) + 1e-6


def tensor_bytes() -> int:
    """Return the number of bytes of all tensors in this process."""
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def test_hidden_states_are_cached_in_an_unnamed_file(tmp_path: Path) -> None:
    """Hidden states are cached with two bytes per number in an unnamed file, and none of them stays in memory, whatever
    the number of rows."""
    model = tiny_decoder.model()
    rows = [tuple(range(3, 3 + length)) for length in range(40, 90)]
    halves = lora.FrozenPrefixCache(model, 1, tmp_path)
    before = tensor_bytes()
    assert len(rows) == list(halves.prepare(rows))[-1]
    assert sum(map(len, rows)) * model.config.hidden_size * 2 == halves.bytes_on_disk
    assert tensor_bytes() - before < len(rows[-1]) * model.config.hidden_size * 4
    assert [] == list(tmp_path.iterdir())


def test_hidden_state_cache_stops_at_its_limit(tmp_path: Path) -> None:
    """The cache stores whole rows up to its limit in bytes, and the other rows are computed when they are requested."""
    model = tiny_decoder.model()
    rows = [tuple(range(3, 13)), tuple(range(3, 23)), tuple(range(3, 33))]
    limit = 30 * model.config.hidden_size * 2 + 1
    whole, halves = lora.FrozenPrefixCache(model, 0, tmp_path), lora.FrozenPrefixCache(model, 1, tmp_path, limit)
    assert [2] == list(halves.prepare(rows))
    assert limit - 1 == halves.bytes_on_disk
    with torch.inference_mode():
        torch.testing.assert_close(whole.logits(rows, 2), halves.logits(rows, 2))


def test_cache_that_does_not_fit_is_an_os_error(tmp_path: Path) -> None:
    """The cache file is allocated before it is mapped, so missing space is an OSError and not a signal."""
    limited = (
        "import resource, pathlib, sys; from convert.training import lora; from tests.support import tiny_decoder;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "halves = lora.FrozenPrefixCache(tiny_decoder.model(), 1, pathlib.Path(sys.argv[1]));"
        "list(halves.prepare([tuple(range(3, 90))]))"
    )
    ended = subprocess.run([sys.executable, "-c", limited, tmp_path], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].startswith("OSError: [Errno 27] File too large")
    assert 1 == ended.returncode


def test_generate_trains_alike_on_prompts_and_conversations(decoder: Path, tmp_path: Path) -> None:
    """A generate task learns its completions, with the same losses from prompts and from conversations of one
    question."""
    generate = {
        "name": "t",
        "kind": "generate",
        "prompt": {"chat": True},
        "limits": {"input_tokens_max": 40, "output_tokens_max": 8},
    }
    pairs = [(text, f"{label}!") for text, label in EXAMPLES[:16]]
    plain = [{"prompt": text, "completion": said} for text, said in pairs]
    turns = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": said}]}
        for text, said in pairs
    ]
    reports = []
    for format_, rows in (("prompt-completion", plain), ("messages", turns)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        settings = {**LORA, "epochs": 3}
        made = job(tmp_path / format_, decoder, settings, task=generate, format_=format_, train=lines)
        reports.append(finetune_stage.run(made))
    losses = [[epoch["train_loss"] for epoch in report["epochs"]] for report in reports]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("method", ["full", "head"])
def test_encoder_learns_to_classify(encoder: Path, tmp_path: Path, method: str) -> None:
    """Training lowers the loss, and the checkpoint has the task's labels and the tokenizer; with method `head` the body
    does not change."""
    settings = {
        "method": method,
        "epochs": 8,
        "learning_rate": 0.02 if method == "head" else 0.01,
        "patience_epochs": 8,
    }
    made = job(tmp_path, encoder, settings)
    report = finetune_stage.run(made)
    losses = [epoch["train_loss"] for epoch in report["epochs"]]
    assert losses[-1] < 0.9 * losses[0]
    model = AutoModelForSequenceClassification.from_pretrained(made.out / "checkpoint")
    assert dict(enumerate(INTENTS)) == model.config.id2label
    body = AutoModelForSequenceClassification.from_pretrained(encoder / "checkpoint").bert.encoder.state_dict()
    same = [torch.equal(value, body[name]) for name, value in model.bert.encoder.state_dict().items()]
    assert all(same) == (method == "head")
    ids = AutoTokenizer.from_pretrained(encoder / "checkpoint")("How much is this?")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(made.out / "checkpoint")("How much is this?")["input_ids"]


CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_sentence_encoder_starts_from_a_fitted_head(encoder: Path, tmp_path: Path) -> None:
    """The head of a sentence encoder is fitted to its mean token vectors first, so its first epoch has a lower loss."""
    shutil.copytree(encoder, tmp_path / "prepared")
    config = tmp_path / "prepared" / "checkpoint" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"classifier_pooling": "mean", **CALM}))
    made = job(tmp_path / "job", tmp_path / "prepared", {"method": "full", "epochs": 1})
    report = finetune_stage.run(made)
    plain = finetune_stage.run(job(tmp_path / "plain", encoder, {"method": "full", "epochs": 1}))
    assert (True, False) == (report["head_fitted_first"], plain["head_fitted_first"])
    assert (4e-5, 1e-4) == (report["learning_rate"], plain["learning_rate"])
    assert report["epochs"][0]["train_loss"] < 0.8 * plain["epochs"][0]["train_loss"]
    assert "mean" == json.loads((made.out / "checkpoint" / "config.json").read_text())["classifier_pooling"]


@pytest.mark.slow
def test_rows_longer_than_the_positions_of_roberta_are_left_out(tmp_path: Path) -> None:
    """With 514 rows of positions and padding token 2, RoBERTa trains on rows of up to 511 tokens; rows of 512 and more
    are counted as too long."""
    tiny_models.encoder(tmp_path / "prepared" / "checkpoint", "roberta")
    long = [("a" + " a" * (tokens - 1), "refund") for tokens in (511, 512, 513, 514)]
    settings = {"method": "head", "epochs": 1, "tokens_max": 514}
    made = job(tmp_path / "job", tmp_path / "prepared", settings, train=text_label(*EXAMPLES, *long))
    assert 3 == finetune_stage.run(made)["rows"]["too_long"]


def test_encoder_learns_to_tag_words(encoder: Path, tmp_path: Path) -> None:
    """Training an extract task halves the loss and counts no span inside a word."""
    names = ("milk", "bread", "cheese", "apples", "coffee")
    rows = [
        {"text": text, "spans": [{"start": text.index(name), "end": text.index(name) + len(name), "label": "item"}]}
        for name in names
        for text in (f"two {name} please", f"I want {name}", f"Is there any {name} left?")
    ]
    task = {"name": "t", "kind": "extract", "labels": ["O", "B-item", "I-item"]}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    settings = {"method": "full", "epochs": 10, "learning_rate": 0.01, "patience_epochs": 10}
    made = job(tmp_path, encoder, settings, task=task, format_="text-spans", train=lines)
    report = finetune_stage.run(made)
    assert report["epochs"][-1]["train_loss"] < 0.5 * report["epochs"][0]["train_loss"]
    assert 0 == report["spans_inside_words"]
    model = AutoModelForTokenClassification.from_pretrained(made.out / "checkpoint")
    assert {0: "O", 1: "B-item", 2: "I-item"} == model.config.id2label


@pytest.mark.slow
def test_encoder_trains_on_corrected_records(encoder: Path, tmp_path: Path) -> None:
    """Rows that `dataset` makes from corrected records are all used for training, without rows that are too long or
    spans inside words."""
    write(
        DatasetSelection(corrected_records.collected(tmp_path), "pos-intent", "reviewed"),
        "text-spans",
        tmp_path / "data",
    )
    recipe = corrected_records.recipe_over(tmp_path)
    (tmp_path / "out").mkdir()
    report = finetune_stage.run(StageJob(recipe, tmp_path / "out", {"prepare": encoder}, lambda *_: None))
    rows = report["rows"]
    assert (6, 0, 0) == (rows["train"] + rows["validation"], rows["too_long"], report["spans_inside_words"])


def test_head_with_the_same_labels_is_kept(encoder: Path, tmp_path: Path) -> None:
    """Training a checkpoint with the same labels starts from its head, and other labels give a new head."""
    first = job(tmp_path / "a", encoder, {"method": "full", "epochs": 1})
    finetune_stage.run(first)
    head = AutoModelForSequenceClassification.from_pretrained(first.out / "checkpoint").classifier.weight
    same = encoder_trainer.classifier(str(first.out / "checkpoint"), TASK, "full")
    assert torch.equal(head, same.classifier.weight)
    fewer = encoder_trainer.classifier(
        str(first.out / "checkpoint"), TASK.model_copy(update={"labels": INTENTS[:3]}), "full"
    )
    assert (3, 16) == tuple(fewer.classifier.weight.shape)


def test_recipe_without_finetune_skips_training(decoder: Path, tmp_path: Path) -> None:
    """Without `finetune` in the recipe the stage leaves no files and reports why it was skipped."""
    made = job(tmp_path, decoder, {})
    assert {"skipped": "the recipe has no 'finetune'"} == finetune_stage.run(made)
    assert [] == list(made.out.iterdir())


@pytest.mark.parametrize(
    ("settings", "changed", "said"),
    [
        ({"method": "lora", "layers_from": 3}, {}, "layers_from is 3, but the model has 3 layers"),
        ({"method": "lora", "targets": ["q_proj", "query"]}, {}, "no linear layer 'query'"),
        ({"method": "lora", "tokens_max": 8}, {}, "have more than 8 tokens"),
        ({"method": "lora"}, {"train": text_label(*EXAMPLES[:12])}, "labels have no training row, such as"),
        ({"method": "lora", "class_weights": "balanced"}, {}, "'finetune.class_weights' is for"),
        ({"method": "lora", "margin_weight": 0.5}, {}, "'finetune.margin_weight' is for"),
        (
            {"method": "lora"},
            {"task": {"name": "t", "kind": "classify", "labels": INTENTS, "limits": {"input_tokens_max": 99_999}}},
            "the task allows 99999 tokens; the model has 512 positions",
        ),
    ],
)
def test_invalid_training_settings_are_refused(
    decoder: Path, tmp_path: Path, settings: dict[str, object], changed: dict[str, Any], said: str
) -> None:
    """Settings or rows that cannot be trained are refused with the key and a remedy."""
    with pytest.raises(InvalidRequest, match=said) as caught:
        finetune_stage.run(job(tmp_path, decoder, settings, **changed))
    assert caught.value.remedy


def test_source_with_an_adapter_is_not_trained(tuned: tuple[Path, Report], decoder: Path, tmp_path: Path) -> None:
    """Training an adapter is refused if the source has one already, because two cannot be served together."""
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "checkpoint").symlink_to(decoder / "checkpoint")
    (tmp_path / "prepared" / "adapter").symlink_to(tuned[0] / "adapter")
    with pytest.raises(InvalidRequest, match="the source has an adapter already"):
        finetune_stage.run(job(tmp_path / "job", tmp_path / "prepared", LORA))


def test_encoder_without_all_body_weights_is_refused(encoder: Path, tmp_path: Path) -> None:
    """An encoder that lacks weights below the head is refused, because transformers would initialize them at random."""
    shutil.copytree(encoder / "checkpoint", tmp_path / "prepared" / "checkpoint")
    file = tmp_path / "prepared" / "checkpoint" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layer.1." not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ModelLoadFailed, match="lacks 16 weights below the head"):
        finetune_stage.run(job(tmp_path / "job", tmp_path / "prepared", {"method": "full"}))


def test_method_must_suit_the_runtime(decoder: Path, tmp_path: Path) -> None:
    """Method `full` is refused for runtime `llama`."""
    made = job(tmp_path, decoder, {"method": "full"})
    (tmp_path / "task.yaml").write_text((tmp_path / "task.yaml").read_text().replace("onnx", "llama"))
    with pytest.raises(InvalidRequest, match="'full' does not make a model for runtime 'llama'"):
        finetune_stage.run(made)


def test_decoder_is_refused_for_full_training(decoder: Path, tmp_path: Path) -> None:
    """Method `full` refuses a decoder checkpoint, from which transformers would silently make a classifier."""
    with pytest.raises(InvalidRequest, match="is a decoder"):
        finetune_stage.run(job(tmp_path, decoder, {"method": "full"}))

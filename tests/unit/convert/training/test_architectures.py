"""Training on each supported architecture, with tiny random models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import tokenizers
import torch
import transformers

from convert.data.data_row import DataRow
from convert.decoder.label_scores import TaskTokens, joint_log_probabilities, task_tokens
from convert.pipeline.recipe import FinetuneSection
from convert.training import lora
from convert.training.decoder_trainer import DecoderData, DecoderExampleEncoder, DecoderTrainer, TrainingExample
from convert.training.encoder_objective import EncodedRow, objective_of
from convert.training.encoder_trainer import EncoderTrainer, RowEncoder, classifier
from convert.training.lora import FrozenPrefixCache
from convert.training.training_loop import TrainingSettings, train
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import PromptTemplate, TaskSpec
from tests.support import models, pos_intents, tiny_decoder

LABELS = ("refund", "price", "opening hours", "opening soon")
"""Two of them share their first tokens."""
TASK = TaskSpec(name="t", kind="classify", labels=LABELS, prompt=PromptTemplate(template="Message: {input}\nIntent:"))
RENAMED = {"refund": "refund", "price": "price", "hours": "opening hours", "stock": "opening soon"}
ROWS = [DataRow(text, label=RENAMED[label]) for text, label in pos_intents.train() if label in RENAMED]

SIZES = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """One architecture."""

    config: type[Any]
    more: dict[str, Any]

    def model(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return transformers.AutoModelForCausalLM.from_config(self.config(**(SIZES | self.more))).eval()


FAMILIES = {
    "llama": Family(transformers.LlamaConfig, {}),
    "mistral": Family(transformers.MistralConfig, {"sliding_window": 8}),
    "qwen2": Family(transformers.Qwen2Config, {}),
    "qwen3": Family(transformers.Qwen3Config, {"head_dim": 8}),
    "gemma": Family(transformers.GemmaConfig, {"head_dim": 8}),
    "gemma2": Family(transformers.Gemma2Config, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}),
    "granite": Family(transformers.GraniteConfig, {"embedding_multiplier": 12.0}),
    "gemma3": Family(
        transformers.Gemma3TextConfig,
        {
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "smollm3": Family(transformers.SmolLM3Config, {"no_rope_layer_interval": 2}),
    "phi3": Family(transformers.Phi3Config, {"sliding_window": None}),
}


def tokens() -> TaskTokens:
    return task_tokens(TASK, tiny_decoder.tokenizer())


def lessons(count: int = len(ROWS)) -> list[TrainingExample]:
    return DecoderExampleEncoder(TASK, tokens()).encode(ROWS[:count], 200)[0]


def adapted(family: str, **settings: Any) -> Any:
    """Return a model with an adapter that changes its results."""
    model = lora.add_adapter(FAMILIES[family].model(), FinetuneSection(**({"method": "lora", "rank": 2} | settings)))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_lower_layers_give_the_same_logits(family: str, tmp_path: Path) -> None:
    """For each architecture and cut, cached lower layers give the logits of the whole adapted model within the
    precision of bfloat16, which has 8 binary digits."""
    for first in (1, 2):
        model = adapted(family, layers_from=first)
        read = [lesson.prompt for lesson in lessons(5)]
        whole, halves = FrozenPrefixCache(model, 0, tmp_path), FrozenPrefixCache(model, first, tmp_path)
        assert [5] == list(halves.prepare(read))
        assert [] == list(whole.prepare(read))
        with torch.inference_mode():
            expected = whole.logits(read, 2)
            assert float((expected - halves.logits(read, 2)).norm()) <= 2**-6 * float(expected.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_covers_linear_layers_from_layers_from(family: str) -> None:
    """Each linear layer from `layers_from` on is adapted, and neither lower layers nor embeddings nor the output layer
    are trained."""
    model = adapted(family, layers_from=1)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name and ".layers.0." not in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)
    expected = set(lora.linear_names(FAMILIES[family].model()))
    assert expected == {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert {"o_proj", "down_proj"} <= expected


@pytest.mark.parametrize("family", FAMILIES)
def test_label_scores_equal_those_of_whole_sequences(family: str) -> None:
    """For each architecture, sliding windows, shared caches and labels with a common prefix do not change a label's
    score."""
    model, asked = adapted(family), tokens()
    text = ROWS[0].text
    (joint,) = joint_log_probabilities(model, asked, [text])
    for path, score in zip(asked.labels, joint, strict=True):
        prompt = asked.prompt(text)
        with torch.inference_mode():
            steps = model(torch.tensor([prompt + path])).logits[0].float().log_softmax(-1)
        expected = sum(float(steps[len(prompt) - 1 + at, token]) for at, token in enumerate(path))
        assert pytest.approx(expected, abs=1e-3) == score


@pytest.mark.slow
def test_training_improves_labels_of_several_tokens() -> None:
    """Training lowers the validation loss by a quarter and raises the accuracy above 50%, although it never computes
    all labels."""
    torch.manual_seed(0)
    model = lora.add_adapter(FAMILIES["llama"].model(), FinetuneSection(method="lora", rank=4))
    every = lessons()
    learner = DecoderTrainer(model, tokens(), DecoderData(every, every[::4]), 0.01, FrozenPrefixCache(model, 0, Path()))
    before = learner.validate()
    trained = train(learner, TrainingSettings(epochs=15, batch_rows=8, patience_epochs=15, seed=1), lambda *_: None)
    after = learner.validate()
    assert after.loss < 0.75 * before.loss
    assert after.accuracy > max(before.accuracy, 0.5)
    assert after.accuracy == trained.report()["validation_accuracy"]


def test_saved_adapter_scores_like_the_model(tmp_path: Path) -> None:
    """An adapter that was saved and read again gives the scores of the model that was saved."""
    model = adapted("llama", layers_from=1)
    size = lora.save(model, tmp_path / "adapter")
    assert size == sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir())
    again = peft.PeftModel.from_pretrained(FAMILIES["llama"].model(), tmp_path / "adapter")
    texts = [row.text for row in ROWS[:3]]
    expected = joint_log_probabilities(model, tokens(), texts)
    assert expected == pytest.approx(joint_log_probabilities(again, tokens(), texts), abs=1e-5)


def test_unsupported_decoder_is_refused() -> None:
    """GPT-2 is refused because its layers are stored differently, and the remedy names supported families."""
    small = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=600, n_positions=64)
    with pytest.raises(InvalidRequest, match="GPT2LMHeadModel is not supported") as caught:
        lora.add_adapter(transformers.GPT2LMHeadModel(small), FinetuneSection(method="lora"))
    assert "llama" in caught.value.remedy


# --- encoders ---------------------------------------------------------------------------------------------------------

BODY = {
    "vocab_size": 30522,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 66,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**BODY)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**BODY)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(vocab_size=30522, dim=16, hidden_dim=32, n_layers=2, n_heads=2)
    ),
}


@pytest.mark.parametrize("family", ENCODERS)
def test_encoder_head_learns_and_ignores_padding(family: str, tmp_path: Path) -> None:
    """For each encoder architecture, a row's logits do not depend on padding, and training only the head lowers the
    loss."""
    torch.manual_seed(0)
    ENCODERS[family]().save_pretrained(tmp_path)
    model = classifier(str(tmp_path), TASK, "head")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.minilm_dir())
    if family == "distilbert":  # its tokenizer knows no segments
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    parts = RowEncoder(tokenizer, TASK, 64).encode(ROWS)
    learner = EncoderTrainer(model, tokenizer, (parts, parts), 0.02, objective_of(TASK))
    model.eval()
    with torch.inference_mode():
        alone = model(torch.tensor([parts.items[0].inputs["input_ids"]])).logits
        beside = learner.answers(parts.items[:6])[:1]
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-3)
    before = learner.validate()
    train(learner, TrainingSettings(epochs=6, batch_rows=8, patience_epochs=6, seed=1), lambda *_: None)
    assert learner.validate().loss < before.loss
    assert all(
        name.startswith(("classifier", "head", "pre_classifier")) or ".pooler." in name for name in trained(model)
    )


def trained(model: Any) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


@pytest.mark.parametrize(("method", "rates"), [("full", {0.001, 0.005}), ("head", {0.001})])
def test_learning_rates_and_decay_by_parameter_group(method: str, rates: set[float], tmp_path: Path) -> None:
    """With `full` the head has five times the learning rate of the body, with `head` the rate of the recipe; only
    matrices have weight decay."""
    ENCODERS["bert"]().save_pretrained(tmp_path)
    model = classifier(str(tmp_path), TASK, method)
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.minilm_dir())
    parts = RowEncoder(tokenizer, TASK, 64).encode(ROWS[:4])
    groups = EncoderTrainer(model, tokenizer, (parts, parts), 0.001, objective_of(TASK)).groups()
    assert rates == {group["lr"] for group in groups}
    assert len(trained(model)) == sum(len(group["params"]) for group in groups)
    assert all((weight.ndim > 1) == (group["weight_decay"] > 0) for group in groups for weight in group["params"])


def test_outliers_are_added_to_the_batches(tmp_path: Path) -> None:
    """Over an epoch each outlier is used once, and a batch has at most one outlier for four rows."""
    torch.manual_seed(0)
    ENCODERS["bert"]().save_pretrained(tmp_path)
    model = classifier(str(tmp_path), TASK, "head")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.minilm_dir())
    reading = RowEncoder(tokenizer, TASK, 64)
    parts, strange = reading.encode(ROWS[:16]), reading.encode_outliers([DataRow(f"stranger {n}") for n in range(4)])
    asked: list[int] = []

    class RecordingTrainer(EncoderTrainer):
        def answers(self, items: Sequence[EncodedRow]) -> Any:
            asked.append(sum(not item.targets for item in items))
            return super().answers(items)

    learner = RecordingTrainer(model, tokenizer, (parts, parts), 0.02, objective_of(TASK), strange)
    for at in range(0, 16, 2):
        learner.loss(range(at, at + 2))
    assert 4 == sum(asked)
    crowd = RecordingTrainer(model, tokenizer, (parts, parts), 0.02, objective_of(TASK), strange * 30)
    asked.clear()
    crowd.loss(range(8))
    assert [0, 2] == asked


@pytest.mark.parametrize("kind", ["classify", "extract"])
def test_special_token_text_is_tokenized_as_served(kind: str) -> None:
    """Training tokenizes `[SEP]` in a text as the agent does: as characters and not as a separator."""
    text = "the sign says [SEP] and [MASK], what does it cost"
    served = tokenizers.Tokenizer.from_file(str(models.minilm_dir() / "tokenizer.json"))
    served.encode_special_tokens = True
    served.no_padding()
    labels = {"classify": LABELS, "extract": ("O", "B-x", "I-x")}[kind]
    task = TaskSpec(name="t", kind=kind, labels=labels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.minilm_dir())
    [item] = RowEncoder(tokenizer, task, 64).encode([DataRow(text, label="price" if kind == "classify" else "")]).items
    assert served.encode(text).ids == item.inputs["input_ids"]
    assert 1 == item.inputs["input_ids"].count(tokenizer.sep_token_id)


def test_rows_too_long_for_an_encoder_are_counted(tmp_path: Path) -> None:
    """A row with too many tokens is left out and counted, and training is refused if all rows are too long."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(models.minilm_dir())
    rows = [DataRow("How much", label="price"), DataRow("why " * 50, label="refund")]
    assert (1, 1) == (len((found := RowEncoder(tokenizer, TASK, 20).encode(rows)).items), found.too_long)
    with pytest.raises(InvalidRequest, match="all 1 training rows have more than 20 tokens"):
        RowEncoder(tokenizer, TASK, 20).encode(rows[1:])

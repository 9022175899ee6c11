"""Tokenizers built from the vocabulary of a GGUF file, compared with llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from convert import probe
from convert.prepare import gguf_source as tokenizers
from convert.quantize import gguf_files
from convert.verify import divergence
from edge_agent.errors import InvalidRequest
from tests.support import models, tiny_decoder, tiny_gguf

# What cuts texts differently: digits alone, in threes or with letters; contractions; white space before words.
TEXTS = (
    *divergence.TEXTS,
    "1234567 12 345a6 ٣٤٥",
    "I'LL we'Re it'S",
    "\t\tx\r\n\r\n  y \u3000z",
    "a_b-c/d\\e",
    "Ωmega ǅ ⅷ ²³",
)


def facts_of(path: Path) -> dict[str, Any]:
    """Return what llama.cpp reports on this file and the test texts."""
    return probe.ask("convert.probe.llama_probe", {"model": str(path), "texts": list(TEXTS)}).facts


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2"])
def test_each_pre_tokenizer_splits_like_llama_cpp(tmp_path: Path, pre: str) -> None:
    """With each supported pre-tokenizer, the built tokenizer gives llama.cpp's tokens for all texts."""
    path = tiny_gguf.write(tmp_path / "tiny.gguf", pre=pre)
    built = tokenizers.build_tokenizer(gguf_files.read_fields(path))
    assert "" == divergence.difference(facts_of(path), built, TEXTS)


def test_texts_distinguish_the_pre_tokenizers(tmp_path: Path) -> None:
    """The test texts distinguish the pre-tokenizers, so that the comparison with llama.cpp can fail."""
    path = tiny_gguf.write(tmp_path / "tiny.gguf", pre="smollm")
    facts, fields = facts_of(path), gguf_files.read_fields(path)
    for pre in ("gpt-2", "llama-bpe"):
        other = tokenizers.build_tokenizer({**fields, "tokenizer.ggml.pre": pre})
        assert "llama.cpp splits" in divergence.difference(facts, other, TEXTS)


def test_begin_token_of_the_file_is_added(tmp_path: Path) -> None:
    """If the GGUF file sets a begin token, the built tokenizer puts it before each text."""
    path = tiny_gguf.write(tmp_path / "tiny.gguf", begin=True)
    built = tokenizers.build_tokenizer(gguf_files.read_fields(path))
    assert "" == divergence.difference(facts_of(path), built, TEXTS)
    assert built.bos_token_id == built("hi")["input_ids"][0]


@pytest.mark.slow
def test_special_tokens_are_those_of_the_file() -> None:
    """Begin, end, padding and unknown tokens are those of the file, and without a padding token the end token is
    used."""
    fields = gguf_files.read_fields(models.smollm2_path())
    built = tokenizers.build_tokenizer(fields)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    assert {**names, "pad_token": "<|im_end|>"} == built.special_tokens_map
    assert (49152, 8192) == (len(built), built.model_max_length)
    del fields["tokenizer.ggml.padding_token_id"]
    assert built.eos_token == tokenizers.build_tokenizer(fields).pad_token


@pytest.mark.slow
def test_smollm2_tokenizer_splits_like_llama_cpp() -> None:
    """The tokenizer built from SmolLM2's 49,152 tokens gives llama.cpp's tokens for all texts."""
    path = models.smollm2_path()
    assert "" == divergence.difference(facts_of(path), tokenizers.build_tokenizer(gguf_files.read_fields(path)), TEXTS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer is 'llama'"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer is 'bert'"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "pre-tokenizer 'deepseek-llm'"),
        ({"tokenizer.ggml.pre": None}, "pre-tokenizer None"),
    ],
)
def test_unsupported_vocabulary_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """A vocabulary that cannot be rebuilt exactly is refused, and the remedy names the original checkpoint."""
    fields = gguf_files.read_fields(tiny_gguf.write(tmp_path / "tiny.gguf"))
    with pytest.raises(InvalidRequest, match=said) as caught:
        tokenizers.build_tokenizer({**fields, **changes})
    assert "checkpoint that the GGUF was made from" in caught.value.remedy


def test_nfc_tokenizer_is_compared_on_composed_texts() -> None:
    """A tokenizer that composes characters is compared on composed texts, because llama.cpp does not compose."""
    plain, composing = tiny_decoder.tokenizer(), tiny_decoder.tokenizer()
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    assert (False, True) == (divergence.composes(plain), divergence.composes(composing))
    assert ["e\u0301"] == divergence.texts_for(plain, ["e\u0301"])
    assert ["\u00e9"] == divergence.texts_for(composing, ["e\u0301"])


def test_control_token_text_is_compared_as_plain_text() -> None:
    """The comparison reports a difference if llama.cpp reads the text of a control token in an input as that token."""
    tokenizer = tiny_decoder.tokenizer()
    end = tokenizer.eos_token_id
    facts = {"plain": [[end]], "written": [[end]], "add_bos": False, "special_ids": {"bos": 1, "eos": end}}
    said = divergence.difference({**facts, "chat_template": tokenizer.chat_template}, tokenizer, ["<|im_end|>"])
    assert f"into [{end}]" in said

"""The size check of a tokenizer.json before it is parsed: a file over a limit is refused with the count and the
limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.engine.runtimes import onnx_graph
from edge_agent.engine.runtimes.onnx_graph import TOKENIZER_BYTES, UNIGRAM_TOKEN_BYTES, tokenizer_bytes
from edge_agent.errors import ModelLoadFailed
from tests.support import bert_onnx, models


def written(folder: Path, content: bytes) -> str:
    path = folder / "tokenizer.json"
    path.write_bytes(content)
    return str(path)


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(ModelLoadFailed) as caught:
        onnx_graph.check_tokenizer_file(written(folder, content))
    return caught.value.message


def test_real_tokenizers_pass(tmp_path: Path) -> None:
    """The tokenizers of MiniLM and of the tests pass, and their memory is estimated from the size of the file."""
    for path in (str(models.minilm_dir() / "tokenizer.json"), written(tmp_path, bert_onnx.tiny_tokenizer())):
        assert tokenizer_bytes(path) == onnx_graph.check_tokenizer_file(path)


def test_unigram_memory_is_estimated_from_token_bytes(tmp_path: Path) -> None:
    """In a Unigram tokenizer each byte of a token takes a trie node with a hash map; escaped quotes count, too."""
    tokens = ["x" * 1000, 'say "hello"']
    data = {"model": {"type": "Unigram", "vocab": [[each, -1.0] for each in tokens]}}
    path = written(tmp_path, json.dumps(data).encode())
    more = onnx_graph.check_tokenizer_file(path) - tokenizer_bytes(path)
    assert 1011 * UNIGRAM_TOKEN_BYTES <= more <= 1100 * UNIGRAM_TOKEN_BYTES


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    """Nesting one level over the limit is refused, for arrays and objects; brackets within strings do not count."""
    limit = onnx_graph.TOKENIZER_NESTING_MAX
    assert f"{limit + 1} levels of nesting; the limit is {limit}" in refusal(tmp_path, b'[{"a":' * limit)
    onnx_graph.check_tokenizer_file(written(tmp_path, b'["' + b"[" * 1000 + b'"]'))


def test_too_long_string_is_refused(tmp_path: Path) -> None:
    """A string over the limit is refused, also one that does not end and consists of escaped quotes."""
    limit = onnx_graph.TEXT_BYTES_MAX
    assert "bytes in one text" in refusal(tmp_path, b'["' + b"x" * limit + b'"]')
    assert "bytes in one text" in refusal(tmp_path, b'["' + b'\\"' * limit)


def test_too_large_a_file_is_refused_unread(tmp_path: Path) -> None:
    """A file over the size limit is refused by its size; a sparse file, which takes no disk space, would otherwise be
    read as zeros."""
    path = Path(written(tmp_path, b"{}"))
    with path.open("r+b") as file:
        file.truncate(onnx_graph.FILE_BYTES_MAX + 1)
    with pytest.raises(ModelLoadFailed, match=f"has {onnx_graph.FILE_BYTES_MAX + 1} bytes; the limit is"):
        onnx_graph.check_tokenizer_file(str(path))


def test_damaged_tokenizer_is_left_to_the_library(tmp_path: Path) -> None:
    """Invalid, truncated and empty JSON pass the check; a missing file is refused with the reason."""
    for content in (b"", b"\xff\x00", b'{"a": [', b"]]]]", b'"\\'):
        assert TOKENIZER_BYTES <= onnx_graph.check_tokenizer_file(written(tmp_path, content))
    with pytest.raises(ModelLoadFailed, match="tokenizer gone cannot be read: No such file"):
        onnx_graph.check_tokenizer_file(str(tmp_path / "gone"))

"""Encoders as the agent serves them: tokenizers, words and tags, pooling and heads, on checkpoints in PyTorch."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edge_agent.engine.runtimes import onnx_graph


def served_tokenizer(file: Path) -> Tokenizer:
    """Open a tokenizer as the agent does. Raises ModelLoadFailed."""
    return onnx_graph.open_tokenizer(str(file))

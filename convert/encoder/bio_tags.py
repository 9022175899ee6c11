"""Turns spans of a text into tags of a token classifier, word by word as the agent decodes them.

The words are those of edge_agent/engine/runtimes/onnx_outputs.py, by its own code: a word has the tag of its first
token, B-x where a span begins and I-x where it continues. The other tokens of a word are neither trained nor read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import BatchEncoding

from convert.data.data_row import TextSpan
from edge_agent.engine.runtimes.onnx_outputs import word_spans

UNREAD = -100
"""The tag of a token that is not read; losses of PyTorch ignore this value."""


@dataclass(frozen=True)
class TokenTags:
    """The tags of one text."""

    tags: tuple[int, ...]
    """For each token an index into the task's labels, or UNREAD."""
    misfits: int
    """Spans that begin or end inside a word: the agent can only find them together with more of the text."""


def tag_tokens(text: str, encoding: BatchEncoding, spans: Sequence[TextSpan], labels: Sequence[str]) -> TokenTags:
    """Tag one encoded text. `encoding` holds one row and was made with offsets.

    Raises KeyError if the labels lack a tag; the rows of a recipe are checked before.
    """
    index = dict(zip(labels, range(len(labels)), strict=True))
    tags = [UNREAD] * len(encoding["input_ids"])
    words = word_spans(text, encoding.word_ids(), encoding["offset_mapping"])
    previous: TextSpan | None = None
    for word in words:
        span = next((each for each in spans if each.start < word.end and word.start < each.end), None)
        tags[word.token] = index[_tag(span, previous)]
        previous = span
    starts, ends = {word.start for word in words}, {word.end for word in words}
    return TokenTags(tuple(tags), sum(span.start not in starts or span.end not in ends for span in spans))


def _tag(span: TextSpan | None, previous: TextSpan | None) -> str:
    if span is None:
        return "O"
    return f"{'I' if span is previous else 'B'}-{span.label}"

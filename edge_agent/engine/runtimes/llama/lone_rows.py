"""Whether a lone row has the bits that it has in company: measured for the weights and the build, not assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.engine.runtimes.llama.llama_context import LlamaContext, Logits, TokenRows
from edge_agent.errors import ModelFailed

LONE_CELLS_MAX = 256
"""Among so many cells a lone row takes the attention kernel of all others."""
PADDING_TOKEN = 0
_PROBE_TOKENS = 8


def probe_lone_rows(context: LlamaContext, cells: int, sequences: Sequence[int], vocabulary: int) -> tuple[bool, bool]:
    """Tell whether a row of these weights has the same logits alone as beside a padding row.

    First where there are few cells, then among more than LONE_CELLS_MAX, if the context has so many. `sequences` are
    empty, 34 or more, and empty afterwards.
    """
    row, padding, *others = sequences
    tokens = [number % vocabulary for number in range(_PROBE_TOKENS)]
    copies = others[: LONE_CELLS_MAX // _PROBE_TOKENS]
    same = False
    try:
        context.decode([TokenRows(row, 0, tokens, logits=0)])
        same = _same_beside(context, row, padding, tokens)
        if not same or cells <= LONE_CELLS_MAX + _PROBE_TOKENS + 1:
            return same, same
        state = bytes(context.save(row))
        for copy in copies:
            context.restore(copy, state)
        return True, _same_beside(context, row, padding, tokens)
    except ModelFailed:  # the first answer says what is wrong with it
        return same, False
    finally:
        for sequence in (row, padding, *copies):
            context.drop(sequence)


def _same_beside(context: LlamaContext, row: int, padding: int, tokens: list[int]) -> bool:
    """Tell whether the row behind these tokens comes out the same alone and beside a padding row."""
    asked = TokenRows(row, len(tokens), tokens[-1:], logits=1)
    found: list[Logits] = []
    for beside in ([], [TokenRows(padding, 0, [PADDING_TOKEN], logits=0)]):
        context.decode([asked, *beside])
        found.append(context.logits(0).copy())
        context.drop(row, len(tokens))
    context.drop(padding)
    return np.array_equal(found[0], found[1])

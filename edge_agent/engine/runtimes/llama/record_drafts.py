"""The likely continuation of a task's records, learnt from earlier ones. Pure: nothing here decides what is written.

The records of one task are alike: the same keys, the same century. The tokens that mostly followed the last ORDER
tokens are computed together with the tokens that are due (a *draft*). Where the model agrees, their steps are saved
(speculative decoding, Leviathan et al. 2023, with an n-gram table in place of a small model). Rows do not depend on
other rows, so the record is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

ORDER = 3
DRAFT_MAX = 12
"""Tokens in one draft."""
WORTH, WORTH_ALONE = 0.2, 0.5
"""A draft goes on while it is right so often: a row beside others costs a fifth of a step. Its first token has to be
right more often where one row would be computed alone: on processors with AMX that takes half as long as two."""
CONTEXTS_MAX = 1024
"""Of a task: 0.4 MB. The oldest leaves first."""
_FIRST, _LEAST, _RATE = 0.35, 0.3, 0.2
"""The chance of what was seen once; the one below which another token takes its place, and has to earn its own; how
much each record tells."""

DraftContext = tuple[int, ...]


class RecordDrafts:
    """The records of one task: after which tokens comes which, and how often that was right."""

    def __init__(self) -> None:
        """Start with nothing learnt."""
        self._next: dict[DraftContext, tuple[int, float]] = {}

    def learn(self, tokens: Sequence[int], start: int) -> None:
        """Take note of a record: the tokens from `start` on, and what they stand behind."""
        for at in range(max(start, ORDER), len(tokens)):
            context, token = tuple(tokens[at - ORDER : at]), tokens[at]
            known, chance = self._next.get(context, (token, _FIRST))
            if context in self._next:
                chance += _RATE * ((known == token) - chance)
            if context not in self._next and len(self._next) == CONTEXTS_MAX:
                del self._next[next(iter(self._next))]
            self._next[context] = (known if chance > _LEAST else token, chance)

    def after(self, tokens: Sequence[int], most: int = DRAFT_MAX, *, alone: bool = False) -> list[int]:
        """Return what probably follows these tokens, `most` tokens at most; mostly nothing. `alone`: behind one row."""
        context, chance = tuple(tokens[-ORDER:]), 1.0
        draft: list[int] = []  # a call of list[int] costs ten times as much, in each step
        while len(draft) < most and context in self._next:
            token, right = self._next[context]
            chance *= right
            if chance < (WORTH_ALONE if alone and not draft else WORTH):
                break
            draft.append(token)
            context = (*context[1:], token)
        return draft

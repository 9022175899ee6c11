"""Which settings of llama.cpp suit this processor: what is kept of what was tried, and what is remembered. Pure.

A setting that takes less time is kept only if the same text still has the same meaning (its logits move by no more than
TOLERANCE, and the likeliest token stays), and if they are the same to the last bit however the text is cut, whatever is
computed beside it, and wherever its cells lie: thresholds are set once, at the central team (decisions 0003 and 0036).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import llama_cpp

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.step_costs import ROWS_BLOCK, ROWS_GROUP

_NOISE = -0.1
"""A setting that takes the place of another takes less time, by more than a tenth: less is noise."""
TOLERANCE = 0.5
"""How far a logit may move. Kernels of different processors differ by half of that."""
ROWS = (256, 128, 64)
"""In a batch that computes no score."""
NEIGHBOURS = "scores would depend on what else is computed"
SAME, OTHERS, DEPENDENT = "the same", "others", "neighbours"
"""How scores come out of larger steps; `neighbours`: out of small ones, too, as what else is computed will have it."""
FILLED = ((15, 16), (30, 32))
"""Rows of two steps each: where the second takes less time by a twentieth, rows are multiplied in groups."""
_LESS = 0.95


@dataclass(frozen=True)
class TuningLimits:
    """What trying may cost."""

    seconds: float = 2.5
    """Nothing more is tried once it would take longer."""
    share: float = 0.7
    """Of the processor time of its threads that the child has to get: with less, other programs would be measured."""


@dataclass(frozen=True)
class TuningTrial:
    """What one setting did."""

    seconds: float
    """Of the work that all are measured by."""
    moved: float = 0.0
    """The most by which a logit moved."""
    same_token: bool = True
    independent: bool = True
    """The same bits in company, in pieces and in other cells."""


@dataclass(frozen=True)
class TunedSettings:
    """A shape with the settings that suit, and where they come from."""

    shape: ContextShape
    key: str
    """What they hold for: for anything else they are measured again."""
    source: str
    """measured, remembered, put off or off."""
    notes: str = ""
    """What was tried and not kept."""
    bulk_scores: str = ""
    """SAME, OTHERS or DEPENDENT: what comes out of bulk steps, beside small ones; empty = not measured."""
    thread_scores: str = ""
    """Likewise what comes out of steps of other numbers of threads, beside those of all threads."""

    def details(self) -> dict[str, str]:
        """Return what status shows, and what the daemon hands in at the next load."""
        return {
            "threads": str(self.shape.threads),
            "flash_attention": "on" if self.shape.flash else "off",
            "bulk_rows": str(self.shape.rows),
            "row_groups": str(self.shape.groups),
            **({"bulk_scores": self.bulk_scores} if self.bulk_scores else {}),
            **({"thread_scores": self.thread_scores} if self.thread_scores else {}),
            "tuned": self.source,
            "tuned_for": self.key,
            "tuning": self.notes,
        }


def score_variance(tuned: TunedSettings, quantization: str, code: str) -> str:
    """Return why scores of these weights depend on what else `code` computes; empty = it was measured that they do not.

    What could not be measured is not promised.
    """
    said = f"scores of {quantization} weights depend on what else is computed by llama.cpp's code for {code}"
    if not tuned.bulk_scores:
        return f"whether {said} was not measured: {tuned.notes}"
    return said if tuned.bulk_scores == DEPENDENT else ""


def trial_verdict(usual: float, trial: TuningTrial) -> str:
    """Return why a setting is not kept, against the seconds of the best so far; empty = it is."""
    share = trial.seconds / usual - 1
    if share > _NOISE:
        return f"{share:+.0%} time"
    if not trial.same_token or trial.moved > TOLERANCE:
        return f"{share:+.0%} time, refused: logits would move by {trial.moved:.2f}"
    if not trial.independent:
        return f"{share:+.0%} time, refused: {NEIGHBOURS}"
    return ""


def measured_scores(settings: Mapping[str, str], name: str) -> str:
    """Return what was found out of scores; empty = it was not, or somebody has edited it."""
    found = settings.get(name, "")
    return found if found in (SAME, OTHERS, DEPENDENT) else ""


def row_groups(seconds: Sequence[tuple[float, float]]) -> int:
    """Return how rows are multiplied, by what the steps of FILLED took, the smaller ones first."""
    first, second = (more < _LESS * few for few, more in seconds)
    return (ROWS_GROUP if second else ROWS_BLOCK) if first else 0


def tuning_key(spec: LoadRequest, shape: ContextShape, processor: str) -> str:
    """Name what settings hold for, beside the weights."""
    given = f"{spec.threads} threads, {shape.kv_type}, {shape.rows} rows"
    return f"llama-cpp-python {llama_cpp.__version__}, {processor}, {given}"


def remembered_shape(settings: Mapping[str, str], key: str, shape: ContextShape) -> ContextShape | None:
    """Return the shape with settings that were measured before; None = not for this, or not within what is given."""
    threads, rows = (settings.get(name, "") for name in ("threads", "bulk_rows"))
    if settings.get("tuned_for") != key or not (threads.isdecimal() and rows.isdecimal()):
        return None
    if not (1 <= int(threads) <= shape.threads and 1 <= int(rows) <= shape.rows):
        return None
    flash = settings.get("flash_attention") != "off"
    groups = next((each for each in (ROWS_GROUP, ROWS_BLOCK) if settings.get("row_groups") == str(each)), 0)
    return replace(shape, threads=int(threads), rows=int(rows), flash=flash, groups=groups)

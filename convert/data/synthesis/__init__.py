"""Has a large model write more training texts: a description of the task and examples go out, rows come back.

Answers are untrusted input. An answer that is not the requested JSON is dropped and counted, and so is a row that is
malformed, that resembles an existing row, or that is in any split of the recipe. No text of the calibration or the test
split ever leaves. Each row is marked `"synthetic": true` with the model's name; row_files.py refuses such rows outside
the training split.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from convert.data import row_files
from convert.data.row_files import DataRow
from convert.data.synthesis.generation import GenerationRequest, RejectedRow, SimilarityIndex, messages, rows_of
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import Progress

EXAMPLES_MAX = 8
FRUITLESS_REQUESTS_MAX = 5
"""The work ends after this many answers in a row without a new row."""


@dataclass(frozen=True)
class ModelReply:
    """The answer of a model."""

    text: str
    tokens: int
    """Of the request and the answer together, as the server counts them."""


Ask = Callable[[list[dict[str, str]], int], ModelReply]
"""Called with chat messages and a number that makes each request different. Raises EdgeAgentError."""


@dataclass(frozen=True)
class SynthesisRequest:
    """The request, and its limits."""

    about: str
    """Description of the task for the model."""
    rows: int
    tokens_max: int
    """Spend limit: no further request when so many tokens, request and answer, are used."""
    seed: int = 1
    there: tuple[str, ...] = ()
    """Texts of an earlier run, which are not accepted again."""
    rows_a_request: int = 10


@dataclass
class SynthesisResult:
    """The result so far."""

    model: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    """As they are written to the file."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason: how many answers or rows."""
    requests: int = 0
    tokens: int = 0
    fruitless: int = 0
    """Answers in a row without a new row."""
    stopped: str = ""
    """Why there are fewer rows than requested; empty if there are enough."""


def synthesize(
    recipe: Recipe, wanted: SynthesisRequest, model: str, ask: Ask, progress: Progress
) -> Iterator[SynthesisResult]:
    """Ask until there are enough rows or a limit is reached; yield the result so far after each answer.

    Raises what `data.rows` and `ask` raise.
    """
    task = tasks.of(recipe.path(recipe.task))
    rows = row_files.rows(recipe, "train")
    known = SimilarityIndex([*_texts(recipe), *wanted.there])
    chance = random.Random(wanted.seed)  # noqa: S311 - a choice of examples, no secret
    found = SynthesisResult(model)
    labels = itertools.cycle(task.labels or ("",)) if task.kind == "classify" else itertools.repeat("")
    while not _done(found, wanted):
        label = next(labels)
        progress(f"asking {model}, {found.tokens} tokens so far", len(found.rows), wanted.rows)
        count = min(wanted.rows_a_request, wanted.rows - len(found.rows))
        request = GenerationRequest(
            task, recipe.data.format, wanted.about, label, _examples(rows, label, chance), count
        )
        _take(found, request, ask(messages(request), found.requests), known)
        yield found
    yield found


def _texts(recipe: Recipe) -> Iterator[str]:
    """Yield the texts of all splits, which are not accepted as new rows."""
    for split in filter(partial(getattr, recipe.data), row_files.SPLITS):
        yield from (row.text for row in row_files.rows(recipe, split))


def _examples(rows: Sequence[DataRow], label: str, chance: random.Random) -> list[DataRow]:
    able = [row for row in rows if row.label == label and not row.synthetic]
    return chance.sample(able, min(EXAMPLES_MAX, len(able)))


def _done(found: SynthesisResult, wanted: SynthesisRequest) -> bool:
    """Return whether there are enough rows or a limit is reached, and record which one."""
    if len(found.rows) >= wanted.rows:
        return True
    if found.fruitless >= FRUITLESS_REQUESTS_MAX:
        found.stopped = f"{found.fruitless} answers in a row brought no new row"
    elif found.tokens >= wanted.tokens_max:
        found.stopped = f"{found.tokens} tokens are used; the limit is {wanted.tokens_max}"
    return bool(found.stopped)


def _take(found: SynthesisResult, request: GenerationRequest, reply: ModelReply, known: SimilarityIndex) -> None:
    """Add the rows of an answer that are whole and new; count the others."""
    before = len(found.rows)
    found.requests += 1
    found.tokens += reply.tokens
    for row in rows_of(reply.text, request):
        if isinstance(row, RejectedRow):
            found.dropped[row.reason] += 1
        elif not known.add(row.text):
            found.dropped["resembles an existing row"] += 1
        else:
            by = {"label_source": "teacher", "labeled_by": found.model[: row_files.LABELED_BY_CHARS_MAX]}
            found.rows.append({**row.plain, "synthetic": True, "model": found.model, **by})
    found.fruitless = 0 if len(found.rows) > before else found.fruitless + 1


def summary(found: SynthesisResult, wanted: SynthesisRequest, where: str) -> list[str]:
    """Return the result in sentences."""
    rows, requests = len(found.rows), found.requests
    said = [f"Wrote {rows} rows by {found.model} to {where}: {requests} requests, {found.tokens} tokens."]
    said += [f"Dropped {count}: {reason}." for reason, count in sorted(found.dropped.items())]
    if found.stopped:
        said.append(f"Stopped before {wanted.rows} rows: {found.stopped}.")
    return said


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of JSONL."""
    return json.dumps(row, ensure_ascii=False) + "\n"

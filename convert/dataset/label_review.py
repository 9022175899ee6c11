"""Ranks likely label errors of collected examples, and writes them as JSON and as Label Studio tasks.

Labels that are likely wrong are found by confident learning (Northcutt, Jiang & Chuang 2021, arXiv 1911.00068). A
linear classifier is fitted on four fifths of the rows and judges the others, five times: no row is judged by a model
that saw its label, or the label of a row of its family. Then, as in the paper:

- the self-confidence of a row is the probability of the label that it has; a label's threshold is the mean
  self-confidence of its rows;
- the confident label of a row is the most probable one among the labels whose threshold its probability reaches. The
  counts of given and confident labels, scaled to the rows of each given label, estimate how many labels are wrong;
- rows are ranked by self-confidence, the lowest first, and the estimated number of them is listed.

It assumes that a label is confused with another one independently of the text, and that most labels are right. The list
is for review by an expert: it contains rare wordings of right labels, and misses errors in most rows of a kind.

It ranks the selected examples (`selection.choose`) of every label source: at most ROWS_MAX, the newest. Their texts
become vectors by an encoder's checkpoint, or by letters and words without one (`ngram_vectors`).
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
from scipy import sparse

from convert.data import splits
from convert.dataset import label_studio, selection
from convert.dataset.dataset_files import INTERFACE_NAME, LABEL_ERRORS_NAME, TASKS_NAME, replace_folder
from convert.dataset.example_scope import open_examples
from convert.dataset.selection import DatasetSelection
from convert.encoder import logistic_regression
from convert.pipeline.stage import Progress, load_module
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import FILE_MODE
from edge_agent.errors import InvalidRequest

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
ROWS_MIN = 100
DECAY = 1.5e-2
"""Weight decay, stronger than for a served classifier, because a close fit would repeat the wrong labels."""


@dataclass(frozen=True)
class SuspectLabel:
    """A row whose label is likely wrong."""

    row: int
    given: str
    suggested: str
    """The most probable of the other labels."""
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors:
    """The rows whose labels were judged, ranked by how probable the label is."""

    judged: int
    """Rows of labels with at least FOLDS families."""
    unjudged: int
    estimated: int
    """Labels that are likely wrong."""
    agreement: float
    """Share of the judged rows whose label the other folds' classifier predicts."""
    ranked: tuple[SuspectLabel, ...]
    """Every judged row, the least probable label first."""

    @property
    def suspects(self) -> list[SuspectLabel]:
        """The estimated number of rows, and only rows for which another label is more probable."""
        return [each for each in self.ranked[: self.estimated] if each.suggested_probability > each.given_probability]


def find(
    vectors: Callable[[], npt.ArrayLike], given: Sequence[str], families: Sequence[str], seed: str = "1"
) -> LabelErrors | None:
    """Rank labels; None with fewer than ROWS_MIN rows that can be judged, or one label.

    Args:
        vectors: returns [rows, size]; called only if there are enough rows.
        given: [rows], labels.
        families: [rows]; rows that share one stay together.
        seed: for dividing the families.
    """
    rows = _judgeable_rows(given, families)
    labels = sorted({given[row] for row in rows})
    if len(rows) < ROWS_MIN or len(labels) < 2:
        return None
    numbers = {label: number for number, label in enumerate(labels)}
    truth = np.array([numbers[given[row]] for row in rows])
    folds = _deal_folds([labels[number] for number in truth], [families[row] for row in rows], seed)
    probabilities = _out_of_fold(np.asarray(vectors(), np.float64)[rows], truth, folds, len(labels))
    given_probabilities = probabilities[np.arange(len(truth)), truth]
    others = probabilities.copy()
    others[np.arange(len(truth)), truth] = -1.0
    best = others.argmax(axis=1)
    ranked = tuple(
        SuspectLabel(
            int(rows[index]),
            labels[truth[index]],
            labels[best[index]],
            float(given_probabilities[index]),
            float(others[index, best[index]]),
        )
        for index in np.lexsort((given_probabilities - others.max(axis=1), given_probabilities))
    )
    agreement = float((given_probabilities > others.max(axis=1)).mean())
    return LabelErrors(len(rows), len(given) - len(rows), _estimate_errors(probabilities, truth), agreement, ranked)


def _judgeable_rows(given: Sequence[str], families: Sequence[str]) -> Integers:
    """Return the rows whose label has enough families for every fold."""
    known = defaultdict[str, set[str]](set)
    for label, family in zip(given, families, strict=True):
        known[label].add(family)
    return np.array([row for row, label in enumerate(given) if len(known[label]) >= FOLDS], np.int64)


def _deal_folds(given: Sequence[str], families: Sequence[str], seed: str) -> Integers:
    """Return the fold of each row: each label is spread over the folds, and each family is in one."""
    rows = defaultdict[str, list[int]](list)
    for row, family in enumerate(families):
        rows[family].append(row)
    by_label = defaultdict[str, dict[str, list[int]]](dict)
    for family, members in rows.items():
        label = Counter(given[row] for row in members).most_common(1)[0][0]
        by_label[label][family] = members
    folds, shares = np.zeros(len(given), np.int64), {str(fold): 1 / FOLDS for fold in range(FOLDS)}
    for label in sorted(by_label):
        for fold, members_of_fold in splits.deal_groups(by_label[label], f"{seed} {label}", shares).items():
            folds[members_of_fold] = int(fold)
    return folds


def _out_of_fold(vectors: Floats, truth: Integers, folds: Integers, labels: int) -> Floats:
    probabilities = np.zeros((len(truth), labels))
    for fold in range(FOLDS):
        in_fold = folds == fold
        classifier = logistic_regression.fit(vectors[~in_fold], truth[~in_fold], labels, DECAY)
        probabilities[in_fold] = np.exp(classifier.log_probabilities(vectors[in_fold]))
    return probabilities


def _estimate_errors(probabilities: Floats, truth: Integers) -> int:
    """Estimate the number of wrong labels from the counts of given and confident labels, scaled to the rows of each."""
    labels = probabilities.shape[1]
    thresholds = np.array([probabilities[truth == label, label].mean() for label in range(labels)])
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    is_confident = reached.max(axis=1) >= 0
    joint = np.zeros((labels, labels))
    np.add.at(joint, (truth[is_confident], reached.argmax(axis=1)[is_confident]), 1)
    scaled = joint * (np.bincount(truth, minlength=labels) / np.maximum(joint.sum(axis=1), 1))[:, None]
    return round(float(scaled.sum() - np.trace(scaled)))


ROWS_MAX = 20_000
METHOD = "confident learning (Northcutt, Jiang & Chuang 2021), out of fold, ranked by self-confidence"
_CHOSEN = """
    SELECT e.site, e.prediction_id, e.input, coalesce({right}, e.output) AS given, e.output, e.cluster
    FROM chosen c JOIN examples e USING (site, prediction_id)
    WHERE e.kind IN ('classify', 'decide') AND given <> ''
    ORDER BY e.moment DESC, e.site, e.prediction_id LIMIT $limit
"""


class LabelledExample(NamedTuple):
    """One example, with the label that a training row of it has."""

    site: str
    prediction_id: str
    text: str
    given: str
    output: str
    """The answer of the site."""
    cluster: str


class RankedRow(NamedTuple):
    """An example with a likely wrong label, and the reasons."""

    site: str
    prediction_id: str
    text: str
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float
    output: str

    @property
    def reason(self) -> str:
        """Return the reason in words."""
        return (
            f"Labelled '{self.given}'. A classifier trained on the other examples gives that label"
            f" {self.given_probability:.0%}, and '{self.suggested}' {self.suggested_probability:.0%}."
        )


@dataclass(frozen=True)
class RankedLabels:
    """The likely label errors of one task."""

    task: str
    vectors: str
    """The vectors of the texts: `n-grams`, or the name of the encoder."""
    judged: int
    unjudged: int
    """Examples of labels with fewer than five different texts."""
    estimated: int
    """Estimated number of wrong labels."""
    agreement: float
    labels: tuple[str, ...]
    rows: tuple[RankedRow, ...]
    """The estimated number of examples, the least probable label first."""

    def plain(self, rows_max: int) -> dict[str, Any]:
        """Return it for JSON, with at most `rows_max` rows."""
        content = {**asdict(self), "method": METHOD, "rows": [row._asdict() for row in self.rows[:rows_max]]}
        del content["labels"]
        return {"schema": "edge-agent/label-errors/v1", **content}


def rank(choice: DatasetSelection, encoder: Path | None, progress: Progress) -> RankedLabels | None:
    """Rank the labels of the training set of a selection; None if it has too few, or does not classify.

    Raises:
        FileMissing: nothing was collected of the task.
        ModelLoadFailed: the encoder's checkpoint does not load.
    """
    with duckdb.connect() as connection:
        open_examples(connection, choice.collected, choice.task, choice.scope)
        selection.choose(connection, choice)
        query = _CHOSEN.format(right=selection.right_answer(choice.purpose))
        rows = [LabelledExample(*row) for row in connection.execute(query, {"limit": ROWS_MAX}).fetchall()]
    vectors = partial(_vectors, [row.text for row in rows], encoder, progress)
    errors = find(vectors, [row.given for row in rows], [row.cluster for row in rows], choice.seed)
    if errors is None:
        return None
    return RankedLabels(
        choice.task,
        encoder.name if encoder else "n-grams",
        errors.judged,
        errors.unjudged,
        errors.estimated,
        round(errors.agreement, 4),
        tuple(sorted({row.given for row in rows} | {row.output for row in rows if row.output})),
        tuple(_ranked_rows(rows, errors)),
    )


def write_report(ranking: RankedLabels, path: Path, rows_max: int) -> None:
    """Write label-errors.json, whole or not at all."""
    content = json.dumps(ranking.plain(rows_max), ensure_ascii=False, indent=1) + "\n"
    atomic_files.write_atomically(path, content.encode(), FILE_MODE)


def write_tasks(ranking: RankedLabels | None, out: Path, rows_max: int, *, force: bool = False) -> int:
    """Write a folder for Label Studio: tasks with the reasons, the labelling interface, and the report.

    Returns the number of tasks. Raises InvalidRequest if there is nothing to review, or `out` exists.
    """
    if ranking is None or not ranking.rows:
        message = "no label is likely wrong" if ranking else f"fewer than {ROWS_MIN} labels can be judged"
        raise InvalidRequest(message, remedy="Collect more; 'edge-convert assess' counts the examples.")
    with replace_folder(out, TASKS_NAME, force=force) as folder:
        tasks = [_task(row, ranking.task) for row in ranking.rows[:rows_max]]
        (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / INTERFACE_NAME).write_text(label_studio.interface(ranking.labels, reasons=True), encoding="utf-8")
        write_report(ranking, folder / LABEL_ERRORS_NAME, rows_max)
        return len(tasks)


def _ranked_rows(rows: list[LabelledExample], errors: LabelErrors) -> Iterator[RankedRow]:
    for each in errors.suspects:
        row = rows[each.row]
        probabilities = round(each.given_probability, 4), round(each.suggested_probability, 4)
        yield RankedRow(row.site, row.prediction_id, row.text, each.given, each.suggested, *probabilities, row.output)


def _vectors(texts: list[str], encoder: Path | None, progress: Progress) -> npt.ArrayLike:
    if encoder is None:
        return ngram_vectors(texts)
    embeddings = load_module("convert.encoder.sentence_embeddings")
    vectors: npt.ArrayLike = embeddings.sentence_vectors(encoder, texts, progress)
    return vectors


def _task(row: RankedRow, task: str) -> dict[str, Any]:
    """Return a task for Label Studio with the current label selected, so that every change is a decision."""
    data = {
        "input": row.text,
        "output": row.output,
        "site": row.site,
        "prediction_id": row.prediction_id,
        "task": task,
        "reason": row.reason,
        "given_label": row.given,
        "suggested_label": row.suggested,
        "given_probability": row.given_probability,
        "suggested_probability": row.suggested_probability,
    }
    return label_studio.label_task_of(data, row.given, row.given_probability)


VECTOR_SIZE = 192
TEXT_CHARACTERS_MAX = 2000
_BUCKETS = 2**17
_PASSES, _SPARE, _SEED = 2, 16, 1
_WORD = re.compile(r"\w+")


def ngram_vectors(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Turn texts into vectors without a model: hashed pieces of words and pairs of words, weighted and reduced.

    Pieces of two to four letters inside words, words, and pairs of neighbouring words are counted by a hash; rare ones
    weigh more (tf-idf), and a truncated singular value decomposition (Halko, Martinsson & Tropp 2011, by random
    projection) leaves VECTOR_SIZE numbers. It ignores meaning, so an encoder's vectors are better if there is one.

    Returns:
        [texts, VECTOR_SIZE or fewer], of length one; a text without a letter or digit is all zeros.
    """
    counts = _weigh_counts(_count_pieces(texts))
    vectors = counts @ _directions(counts, min(VECTOR_SIZE, *counts.shape))
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _count_pieces(texts: Sequence[str]) -> sparse.csr_array:
    starts, buckets, counts = [0], list[int](), list[float]()
    for text in texts:
        pieces = Counter(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % _BUCKETS for piece in _pieces(text))
        buckets += pieces.keys()
        counts += pieces.values()
        starts.append(len(buckets))
    matrix = sparse.csr_array((np.log1p(counts), buckets, starts), shape=(len(texts), _BUCKETS))
    return matrix[:, np.unique(matrix.indices)]


def _pieces(text: str) -> Iterator[str]:
    words = _WORD.findall(text[:TEXT_CHARACTERS_MAX].casefold())
    yield from words
    yield from map(" ".join, itertools.pairwise(words))
    for word in words:
        delimited = f"<{word}>"
        yield from (delimited[start : start + size] for size in (2, 3, 4) for start in range(len(delimited) - size + 1))


def _weigh_counts(counts: sparse.csr_array) -> sparse.csr_array:
    text_counts = np.bincount(counts.indices, minlength=counts.shape[1])
    weights = counts * np.log((1 + counts.shape[0]) / (1 + text_counts))
    lengths = np.sqrt(np.asarray((weights * weights).sum(axis=1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ weights)


def _directions(counts: sparse.csr_array, size: int) -> npt.NDArray[np.float64]:
    """Return [buckets, size]: about the right singular vectors of the largest singular values."""
    width = min(size + _SPARE, *counts.shape)
    basis = np.random.default_rng(_SEED).standard_normal((counts.shape[1], width))
    for _ in range(_PASSES):
        basis = np.linalg.qr(counts.T @ np.linalg.qr(counts @ basis)[0])[0]
    values, rotation = np.linalg.eigh((counts @ basis).T @ (counts @ basis))
    return np.asarray(basis @ rotation[:, np.argsort(-values)[:size]])

"""Fits the out-of-distribution score on the training texts of an encoder, and adds it to the candidates.

    found = fit(job, task, exported, tokenizer)       # None: the graph or the recipe has nothing to fit it on
    found.put_into(candidate)

Other rows calibrate the gate later. The vectors come from the float32 graph, and every candidate gets the same nodes,
in float32, after its quantized ones.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from tokenizers import Tokenizer

from convert import probe
from convert.data import row_files
from convert.data.question_rows import main_question, rows_of
from convert.data.row_files import DataRow
from convert.pipeline.stage import Report, StageJob
from convert.quantize import ood_graph
from convert.quantize.ood_graph import Detector, Floats
from edge_agent.formats.manifest import TaskSpec

ROWS_MAX = 8192
ROWS_MIN = 20
SIZE_BYTES_MAX = 1_000_000
RANK_MAX = 384
"""Principal components that are whitened, at most half of all directions; see docs/decisions/0063."""
CENTROIDS_MAX, ROWS_A_CENTROID = 256, 8
_ROUNDS = 12
"""Of k-means."""
_SHRINKAGE = 1e-3
"""Added to every variance, of their mean: a direction that hardly varies must not decide alone."""


@dataclass(frozen=True)
class Fitted:
    """A detector, and the tensors of the graph that it reads."""

    layers: tuple[str, ...]
    detector: Detector
    rows: int

    def put_into(self, weights: Path) -> bool:
        """Add the score to a graph in place; False if the graph lacks the tensors."""
        model = onnx.load(weights)
        if not ood_graph.append(model, self.layers, self.detector):
            return False
        onnx.save(model, weights)
        return True

    def report(self) -> Report:
        """Return the fitted sizes, for the report."""
        return {
            "rows": self.rows,
            "classes": len(self.detector.classes),
            "centroids": len(self.detector.centroids),
            "rank": int(self.detector.whitening.shape[1]),
            "layers": len(self.layers),
            "size_bytes": self.detector.size_bytes,
        }


def fit(job: StageJob, task: TaskSpec, exported: Path, tokenizer: Path) -> Fitted | None:
    """Fit a detector; None if there is nothing to fit it on.

    Raises:
        ModelLoadFailed: onnxruntime cannot compute the graph.
        As `row_files.rows`.
    """
    if not job.recipe.data.train or task.kind == "redact":
        return None  # a redaction model reads every text: none is held up as out-of-distribution
    model = onnx.load(exported)
    layers = ood_graph.find(model, task.kind)
    rows = _drawn(row_files.rows(job.recipe, "train"))
    if not layers or len(rows) < ROWS_MIN:
        return None
    job.progress("reading the training texts", 0, len(rows))
    vectors = _vectors(model, layers, [row.text for row in rows], tokenizer)
    return Fitted(layers, fitted(vectors, _classes(task, rows)), len(rows))


def _classes(task: TaskSpec, rows: Sequence[DataRow]) -> npt.NDArray[np.str_]:
    """Return the label of each row; of several questions, that of the main one, empty where a row does not answer
    it."""
    question = main_question(task)
    if question is None or task.kind == "classify":
        return np.array([row.label for row in rows])
    labels = {place: row.label for place, row in rows_of(task, question, rows)}
    return np.array([labels.get(place, "") for place in range(len(rows))])


def fitted(vectors: Floats, labels: npt.NDArray[np.str_]) -> Detector:
    """Fit a detector on vectors [rows, width] and the label of each; rows without labels are one class."""
    found, places = np.unique(labels, return_inverse=True)
    centre = vectors.mean(axis=0).astype(np.float64)
    centred = vectors - centre
    means = np.stack([centred[places == place].mean(axis=0) for place in range(len(found))])
    within = centred - means[places]
    shrinkage = _SHRINKAGE * float((within**2).mean())
    lengths, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    middles = _centroids(_unit(centred))
    rank = _rank_of(vectors.shape[1], len(found) + len(middles))
    whitening, variances = whiten(within, directions[:, -rank:], shrinkage)
    # Coordinates in the space, of length 1 there, times what whitening divides by.
    inside = _unit(middles @ whitening * np.sqrt(variances)) * np.sqrt(variances)
    return Detector(
        centre.astype(np.float32),
        whitening.astype(np.float32),
        variances.astype(np.float32),
        float(lengths[:-rank].mean()) + shrinkage,
        (means @ whitening).astype(np.float32),
        inside.astype(np.float32),
    )


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _centroids(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centroids of unit vectors by spherical k-means, of length 1; the first rows are the start."""
    found = directions[: min(CENTROIDS_MAX, max(1, len(directions) // ROWS_A_CENTROID))].copy()
    for _ in range(_ROUNDS):
        nearest = (directions @ found.T).argmax(axis=1)
        for place in np.unique(nearest):
            found[place] = directions[nearest == place].sum(axis=0)
        found = _unit(found)
    return found


def whiten(
    within: npt.NDArray[np.float64], space: npt.NDArray[np.float64], shrinkage: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the whitening of differences from class means within a space, and the variance of each direction.

    Args:
        within: [rows, width], the differences.
        space: [width, rank], orthonormal.
        shrinkage: added to each variance.

    Returns:
        whitening [width, rank], which gives the differences unit covariance; variances [rank].
    """
    inner = within @ space
    variances, directions = np.linalg.eigh(inner.T @ inner / len(inner))
    variances = variances + shrinkage
    return space @ (directions / np.sqrt(variances)), variances


def _rank_of(width: int, points: int) -> int:
    """Return the number of directions that fit into SIZE_BYTES_MAX, with so many class means and centroids."""
    halves_max = (SIZE_BYTES_MAX - 4 * (width + points)) // 2
    return max(1, min(width // 2, RANK_MAX, halves_max // (width + points + 2)))


def _drawn(rows: Sequence[DataRow]) -> list[DataRow]:
    """Return at most ROWS_MAX rows, chosen by a hash of their texts: alike whatever the order of the file."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.key.encode()).hexdigest())[:ROWS_MAX]


def _vectors(model: onnx.ModelProto, layers: Sequence[str], texts: Sequence[str], tokenizer: Path) -> Floats:
    """Return the vector of each text, one at a time, as it is served."""
    served = Tokenizer.from_file(str(tokenizer))
    served.no_truncation()
    served.no_padding()
    served.encode_special_tokens = True
    inputs = [list(served.encode(text).ids) for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.onnx")
        ood_graph.vectors_only(model, layers)
        onnx.save(model, path)
        answer = probe.ask("convert.probe.onnx_probe", {"model": str(path), "inputs": inputs})
    return np.asarray(answer.arrays["outputs"].reshape(len(texts), -1), np.float32)
